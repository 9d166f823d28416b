"""Reads PyTorch checkpoints of a D2-Net or a VGG16 without PyTorch, and without running any code in them.

Two formats exist. The legacy one (before PyTorch 1.6, and what the published files use) is a row of
pickles - magic number, version, machine, the object, the keys of its storages - followed by the storages
themselves, each a 64-bit count and its bytes, little-endian. The newer one is an uncompressed zip archive
with the object in ``NAME/data.pkl`` and each storage in ``NAME/data/KEY``.

In both, the pickle holds no numbers but describes tensors: a storage, an offset into it, shape and strides.
Shapes, strides and sizes are checked before anything is allocated.
"""

from __future__ import annotations

import io
import os
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from .. import streams
from ..errors import WeightsError
from ..options import Preprocessing
from . import inert_pickle, state_dict
from .inert_pickle import LARGEST_PICKLE, OPAQUE, Global
from .parameters import Provenance, StoredArray, from_bfloat16, listed, shortened

_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
_LEGACY_VERSION = 1001

# Of bfloat16 NumPy has no type: these are the bits.
_TYPES = {
    **{"Float": "<f4", "Double": "<f8", "Half": "<f2", "BFloat16": "<u2"},
    **{
        "Long": "<i8",
        "Int": "<i4",
        "Short": "<i2",
        "Char": "i1",
        "Byte": "u1",
        "Bool": "u1",
        "Untyped": "u1",
    },
}
_STORAGES = {
    f"{module}.{kind}Storage": kind for module in ("torch", "torch.cuda", "torch.storage") for kind in _TYPES
}

# Beside tensors, the names that optimisers, settings and histories of training need. None is ever imported.
_HARMLESS = """
    torch.device torch.float16 torch.float32 torch.float64 torch.bfloat16 torch.uint8 torch.int8 torch.int16
    torch.int32 torch.int64 torch.bool torch.strided torch.contiguous_format torch.Size
    builtins.bytes builtins.bytearray builtins.complex builtins.set builtins.frozenset builtins.object
    __builtin__.bytes __builtin__.bytearray __builtin__.complex __builtin__.set __builtin__.frozenset
    __builtin__.object
    numpy.dtype numpy.ndarray numpy.core.multiarray.scalar numpy.core.multiarray._reconstruct
    numpy._core.multiarray.scalar numpy._core.multiarray._reconstruct
    numpy.core.numeric._frombuffer numpy._core.numeric._frombuffer
    _codecs.encode copy_reg._reconstructor copyreg._reconstructor argparse.Namespace
    collections.defaultdict collections.deque collections.Counter
"""


@dataclass(frozen=True)
class _Storage:
    """A run of numbers in the file: its key, the kind and the number of its elements."""

    key: str
    kind: str
    count: int

    @property
    def size(self) -> int:
        """Return the number of bytes."""
        return self.count * np.dtype(_TYPES[self.kind]).itemsize


@dataclass(frozen=True)
class _Tensor:
    """A view of a storage. Offset and strides count elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def cut(self, data: bytes) -> NDArray[Any]:
        """Return the tensor's elements, given the bytes of its storage."""
        storage = self.storage
        if len(data) != storage.size:
            raise WeightsError(f"truncated, expected {shortened(storage.size)} bytes, found {len(data)}")
        steps = ((n - 1) * stride for n, stride in zip(self.shape, self.strides, strict=True))
        if self.offset + sum(steps) >= storage.count:
            raise WeightsError(f"reaches beyond its storage of {storage.count} elements")
        flat = np.frombuffer(data, _TYPES[storage.kind])[self.offset :]
        strides = tuple(stride * flat.itemsize for stride in self.strides)
        view = as_strided(flat, self.shape, strides, writeable=False)
        return from_bfloat16(view) if storage.kind == "BFloat16" else view


def read(stream: BinaryIO, path: Path) -> tuple[dict[str, NDArray[Any]], Provenance]:
    """Read the arrays of a D2-Net or a VGG16 from a PyTorch checkpoint.

    Parameters
    ----------
    stream : seekable binary file
        At its beginning. Legacy or zip format; a state dict, or a training checkpoint with one under
        ``model`` or ``state_dict``. For the names in it see :mod:`d2np.weights.state_dict`.
    path : Path
        Where it is.

    Returns
    -------
    arrays : dict of str to arrays
        ``"conv1_1/weight"`` ... in network order, in the type that the file holds (bfloat16 as float32).
    provenance : Provenance
        The file.

    Raises
    ------
    WeightsError
        If the file wants anything run, or does not hold the arrays of a D2-Net.
    Exception
        Of almost any kind, if the file is damaged.
    """
    is_zip = stream.read(1) == b"P"
    stream.seek(0)
    arrays, preprocessing = _read_zip(stream) if is_zip else _read_legacy(stream)
    format = f"PyTorch checkpoint ({'zip' if is_zip else 'legacy'})"
    return arrays, Provenance.of_file(stream, path, format, preprocessing)


# --- the objects that a pickle describes -----------------------------------------------------------------


def _read_pickle(stream: BinaryIO) -> tuple[object, dict[str, _Storage]]:
    """Return the object in a pickle, and every storage that it mentions by its key."""
    storages: dict[str, _Storage] = {}

    def storage(identifier: object) -> _Storage:
        match identifier:
            case ("storage", Global(name), str(key), str(), int(count), *view) if (
                name in _STORAGES and _are_counts(count) and view in ([], [None])
            ):
                found = _Storage(key, _STORAGES[name], count)
                if storages.setdefault(key, found) == found:
                    return found
        raise WeightsError("its pickle is malformed: a reference to something that is no storage")

    return inert_pickle.read(stream, _FUNCTIONS, storage), storages


def _are_counts(*values: object) -> bool:
    return all(type(value) is int and value >= 0 for value in values)  # a bool is an int to isinstance


def _tensor(storage: object, offset: Any, shape: object, strides: object, *_: object) -> _Tensor:
    match (storage, shape, strides):
        case (_Storage(), tuple(), tuple()) if len(shape) == len(strides):
            if _are_counts(offset, *shape, *strides):
                return _Tensor(storage, offset, shape, strides)
    raise WeightsError("its pickle is malformed: a tensor without storage, offset, shape and strides")


_FUNCTIONS: dict[str, Callable[..., object]] = {
    **dict.fromkeys([*_STORAGES, *_HARMLESS.split()], lambda *_: OPAQUE),
    "collections.OrderedDict": lambda *_: {},
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": lambda data, *_: data,
    "torch._utils._rebuild_parameter_with_state": lambda data, *_: data,
}


def _arrays(
    checkpoint: object, read_storage: Callable[[_Storage], bytes]
) -> tuple[dict[str, NDArray[Any]], Preprocessing]:
    """Return the arrays of the network in a checkpoint, and the preprocessing that they were trained with."""
    if not isinstance(checkpoint, dict):
        raise WeightsError("expected a state dict of a D2-Net, found a single object")
    inner = (checkpoint.get(key) for key in ("model", "state_dict"))
    state = next((value for value in inner if isinstance(value, dict)), checkpoint)

    def read(tensor: _Tensor) -> NDArray[Any]:
        return tensor.cut(read_storage(tensor.storage))

    return state_dict.read_network(
        {
            name: StoredArray(name, tensor.shape, partial(read, tensor))
            for name, tensor in state.items()
            if isinstance(tensor, _Tensor)
        }
    )


# --- the two formats -------------------------------------------------------------------------------------


def _read_zip(stream: BinaryIO) -> tuple[dict[str, NDArray[Any]], Preprocessing]:
    with streams.archive(stream) as archive:
        names = archive.namelist()
        pickles = [name for name in names if name == "data.pkl" or name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise WeightsError(
                "is a zip archive but not a PyTorch checkpoint: expected one data.pkl in it, "
                f"found {listed(names) or 'nothing'}"
            )
        prefix = pickles[0].removesuffix("data.pkl")
        checkpoint, _ = _read_pickle(io.BytesIO(_member(archive, pickles[0], LARGEST_PICKLE)))
        if f"{prefix}byteorder" in names and _member(archive, f"{prefix}byteorder", 16) != b"little":
            raise WeightsError("expected numbers in little-endian byte order, found another one")
        return _arrays(
            checkpoint,
            lambda storage: _member(archive, f"{prefix}data/{storage.key}", storage.size),
        )


def _member(archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    """Read a member of the archive, whose size is checked first."""
    if name not in archive.NameToInfo:
        raise WeightsError(f"truncated or incomplete: it lacks the part {shortened(name)}")
    member = archive.getinfo(name)
    if member.compress_type != zipfile.ZIP_STORED or not member.file_size == member.compress_size <= limit:
        raise WeightsError(
            f"its part {shortened(name)} is compressed, which PyTorch never does, or has more than the "
            f"{limit:,} bytes that are read"
        )
    return archive.read(member)


def _read_legacy(stream: BinaryIO) -> tuple[dict[str, NDArray[Any]], Preprocessing]:
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    # A copy of the beginning bounds what a pickle can make us read.
    head = io.BytesIO(stream.read(LARGEST_PICKLE))
    for expected in (_MAGIC_NUMBER, _LEGACY_VERSION):
        if _read_pickle(head)[0] != expected:
            raise WeightsError(f"not a PyTorch checkpoint: expected the number {expected} at its beginning")
    _read_pickle(head)  # sizes of C types on the machine that wrote the file; nothing depends on them
    checkpoint, storages = _read_pickle(head)
    listed_keys, _ = _read_pickle(head)
    # What is no text may take forever to compare.
    keys = [key for key in listed_keys if isinstance(key, str)] if isinstance(listed_keys, list) else []
    if set(keys) != storages.keys():
        raise WeightsError("its pickle is malformed: its storages are not those that its tensors need")
    places, place = {}, head.tell()
    for key in keys:
        places[key] = place
        place += 8 + storages[key].size
    if place > size:
        raise WeightsError(f"truncated: the file ends at byte {size:,}, before the last of its storages")

    def read_storage(storage: _Storage) -> bytes:
        stream.seek(places[storage.key])
        (count,) = struct.unpack("<q", stream.read(8))
        if count != storage.count:
            raise WeightsError(f"damaged: expected a storage of {storage.count} elements, found {count}")
        return stream.read(storage.size)

    return _arrays(checkpoint, read_storage)
