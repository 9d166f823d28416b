"""Loads weights from files of any kind, and saves them as HDF5."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import WeightsError
from . import catalogue, h5, onnx, safetensors, sniff, torch_checkpoint
from .parameters import Provenance, check, reason

_READERS = {
    "HDF5": h5.read,
    "PyTorch": torch_checkpoint.read,
    "safetensors": safetensors.read,
    "ONNX": onnx.read,
}


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
            return read(stream, path)
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
    checked = check(arrays)
    try:
        target = Path(os.fsdecode(path))
    except TypeError:
        raise WeightsError(f"weights are saved to a path, got {type(path).__name__}") from None
    if target.suffix.lower() == ".onnx":
        raise WeightsError(f"{target}: weights are saved as HDF5; d2np.weights.onnx.write writes ONNX")
    # Where the cache folder cannot be made, writing into it says why.
    with contextlib.suppress(WeightsError, OSError):
        if target.parent == catalogue.cache_folder():
            target.parent.mkdir(parents=True, exist_ok=True)
    h5.write(target, checked, provenance or Provenance.of_arrays(checked))


def read(stream: BinaryIO, path: Path) -> tuple[dict[str, NDArray[np.float32]], Provenance]:
    """Read the arrays of a D2-Net from an open file, as :func:`load` does.

    Parameters
    ----------
    stream : seekable binary file
        At its beginning.
    path : Path
        Its name is recorded.

    Raises
    ------
    WeightsError
        If the file does not hold the weights of a D2-Net.
    """
    head = stream.read(sniff.HEAD_SIZE)
    stream.seek(0)
    container = sniff.container(head)
    if container is None:
        raise WeightsError(
            f"{sniff.describe(head)}; expected weights as HDF5 written by d2np or Keras, as a "
            "PyTorch checkpoint, as safetensors or as ONNX"
        )
    try:
        arrays, provenance = _READERS[container](stream, path)
        return check(arrays), provenance
    except Exception as error:
        raise WeightsError(reason(error)) from None
