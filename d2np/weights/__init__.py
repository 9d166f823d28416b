"""Where weights come from: names, HDF5 of d2np and Keras, PyTorch checkpoints, safetensors, ONNX files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import WeightsError
from . import catalogue, sniff
from .parameters import Provenance, check

if TYPE_CHECKING:
    from types import ModuleType

    from . import fetch, onnx

__all__ = ["Provenance", "check", "fetch", "load", "onnx", "save"]

if not TYPE_CHECKING:  # which would then believe in any name

    def __getattr__(name: str) -> ModuleType:
        if name not in ("fetch", "onnx"):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return import_module(f"{__name__}.{name}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def load(source: str | os.PathLike[str]) -> tuple[dict[str, NDArray[np.float32]], Provenance]:
    """Load the arrays of a D2-Net.

    Parameters
    ----------
    source : str or path
        One of the names in :data:`d2np.weights.catalogue.NAMES`, or a file: HDF5 written by d2np or
        by Keras, a PyTorch checkpoint, safetensors, or the network as an ONNX file (which needs the extra
        ``onnx``). What a file is, is told
        by its content.

    Returns
    -------
    arrays : dict of str to float32 arrays
        ``"conv1_1/weight"`` (64, 3, 3, 3), ``"conv1_1/bias"`` (64,), ... in network order, as
        :func:`check` returns them.
    provenance : Provenance
        The file; for HDF5 and ONNX written by d2np, the file it was converted from.

    Raises
    ------
    WeightsError
        If the source cannot be read or does not hold the weights of a D2-Net.
    """
    path = catalogue.resolve(source)
    try:
        with open(path, "rb") as stream:
            return _read(stream, path)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror or error}") from None


def save(
    path: str | os.PathLike[str], arrays: Mapping[str, ArrayLike], provenance: Provenance | None = None
) -> None:
    """Write weights as HDF5, all of the file or nothing.

    Parameters
    ----------
    path : str or path
        The file to write. Its folder must exist, except for d2np's own cache folder, which is made.
    arrays : mapping of str to array_like
        What :func:`check` accepts.
    provenance : Provenance, optional
        Recorded in the file. Without one, the sum of the arrays themselves is recorded.

    Raises
    ------
    WeightsError
        If the arrays are not those of a D2-Net, or the file cannot be written.
    """
    from . import hdf5

    checked = check(arrays)
    try:
        target = Path(os.fsdecode(path))
    except TypeError:
        raise WeightsError(f"weights are saved to a path, got {type(path).__name__}") from None
    if target.suffix.lower() == ".onnx":
        raise WeightsError(f"{target}: weights are saved as HDF5; d2np.weights.onnx.write writes ONNX")
    _make_cache_folder(target.parent)
    hdf5.write(target, checked, provenance or Provenance.of_arrays(checked))


def _read(stream: BinaryIO, path: Path) -> tuple[dict[str, NDArray[np.float32]], Provenance]:
    head = stream.read(sniff.HEAD_SIZE)
    stream.seek(0)
    kind = sniff.kind(head)
    if kind == "hdf5":
        from . import hdf5

        arrays, recorded = hdf5.read(stream)
        return check(arrays), recorded or Provenance(path.name, _digest(stream), "Keras HDF5")
    if kind in ("zip", "legacy"):
        from . import torch_checkpoint

        arrays, format, preprocessing = torch_checkpoint.read(stream)
        return check(arrays), Provenance(path.name, _digest(stream), format, preprocessing=preprocessing)
    if kind == "safetensors":
        from . import safetensors

        arrays, preprocessing = safetensors.read(stream)
        return check(arrays), Provenance(
            path.name, _digest(stream), "safetensors", preprocessing=preprocessing
        )
    if kind == "onnx":
        from . import onnx

        arrays, provenance = onnx.read(stream, path)
        return check(arrays), provenance
    raise WeightsError(
        f"{sniff.describe(head, path.name)}; expected weights as HDF5 written by d2np or Keras, as a PyTorch "
        "checkpoint, as safetensors or as ONNX"
    )


def _digest(stream: BinaryIO, algorithm: str = "sha256") -> str:
    # Not for security: MD5 may be locked otherwise, and is compared with a published sum only.
    digest = hashlib.new(algorithm, usedforsecurity=algorithm != "md5")
    stream.seek(0)
    while block := stream.read(2**20):
        digest.update(block)
    return digest.hexdigest()


def _make_cache_folder(folder: Path) -> None:
    try:
        if folder == catalogue.cache_folder():
            folder.mkdir(parents=True, exist_ok=True)
    except (WeightsError, OSError):
        return  # writing into it then says why it cannot be used
