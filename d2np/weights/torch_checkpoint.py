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
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from ..errors import WeightsError
from ..images import streams
from ..layers import PARAMETER_SHAPES
from ..options import Preprocessing
from . import inert_pickle, state_dict
from .inert_pickle import LARGEST_PICKLE, OPAQUE, Global
from .parameters import DAMAGE, listed, shortened

_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
_LEGACY_VERSION = 1001

_BFLOAT16 = "bfloat16"
_ELEMENTS = {
    "FloatStorage": "f4",
    "DoubleStorage": "f8",
    "HalfStorage": "f2",
    "BFloat16Storage": _BFLOAT16,
    "LongStorage": "i8",
    "IntStorage": "i4",
    "ShortStorage": "i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "u1",
    "UntypedStorage": "u1",
    "_UntypedStorage": "u1",
    "QInt8Storage": "i1",
    "QUInt8Storage": "u1",
    "QInt32Storage": "i4",
    "ComplexFloatStorage": "c8",
    "ComplexDoubleStorage": "c16",
}
_STORAGE_TYPES = {
    f"{module}.{name}": code
    for module in ("torch", "torch.cuda", "torch.storage")
    for name, code in _ELEMENTS.items()
}

# What a damaged or hostile file may set off in zipfile, struct, NumPy and the code below.
_DAMAGE = (*DAMAGE, zipfile.BadZipFile, zlib.error, struct.error)


@dataclass(frozen=True)
class _Storage:
    """A run of numbers in the file: its key, the kind and the number of its elements."""

    key: str
    element: str
    count: int

    @property
    def size(self) -> int:
        """Bytes."""
        return self.count * self.element_size

    @property
    def element_size(self) -> int:
        return 2 if self.element == _BFLOAT16 else np.dtype(self.element).itemsize


@dataclass(frozen=True)
class _Tensor:
    """A view of a storage. Offset and strides count elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read(stream: BinaryIO) -> tuple[dict[str, NDArray[Any]], str, Preprocessing]:
    """Read the arrays of a D2-Net or a VGG16 from a PyTorch checkpoint.

    Parameters
    ----------
    stream : seekable binary file
        At its beginning. Legacy or zip format; a state dict, or a training checkpoint with one under
        ``model`` or ``state_dict``. For the names in it see :mod:`d2np.weights.state_dict`.

    Returns
    -------
    arrays : dict of str to arrays
        ``"conv1_1/weight"`` ... in network order, in the type that the file holds (bfloat16 as float32).
    format : str
        ``"PyTorch checkpoint (zip)"`` or ``"PyTorch checkpoint (legacy)"``.
    preprocessing : {"caffe", "torch"}
        What the weights were trained with.

    Raises
    ------
    WeightsError
        If the file is damaged, wants anything run, or does not hold the arrays of a D2-Net.
    """
    signature = stream.read(1)
    stream.seek(0)
    try:
        if signature == b"P":
            arrays, preprocessing = _read_zip(stream)
            return arrays, "PyTorch checkpoint (zip)", preprocessing
        arrays, preprocessing = _read_legacy(stream)
        return arrays, "PyTorch checkpoint (legacy)", preprocessing
    except WeightsError:
        raise
    except _DAMAGE as error:
        raise WeightsError(
            f"damaged or truncated PyTorch checkpoint ({type(error).__name__}: {shortened(str(error))})"
        ) from None


# --- what the pickle describes ---------------------------------------------------------------------------


def _read_pickle(stream: BinaryIO) -> tuple[object, dict[str, _Storage]]:
    """The object in a pickle, and every storage that it mentions by its key."""
    storages: dict[str, _Storage] = {}

    def storage(identifier: object) -> _Storage | _View:
        match identifier:
            case ("storage", Global(name), str(key), str(), int(count), *view) if (
                name in _STORAGE_TYPES and _is_count(count) and len(view) <= 1
            ):
                found = _Storage(key, _STORAGE_TYPES[name], count)
            case _:
                raise WeightsError("its pickle is malformed: a reference to something that is no storage")
        if storages.setdefault(key, found) != found:
            raise WeightsError(f"its pickle is malformed: two descriptions of the storage {shortened(key)}")
        match view:
            case [] | [None]:
                return found
            case [(str(), int(start), int(length))] if (
                _is_count(start) and _is_count(length) and start + length <= count
            ):
                return _View(found, start)
        raise WeightsError("its pickle is malformed: a view beyond its storage")

    return inert_pickle.read(stream, _FUNCTIONS, storage), storages


@dataclass(frozen=True)
class _View:
    """A part of another storage, as the oldest legacy files may have."""

    storage: _Storage
    start: int


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0  # a bool is an int to isinstance


def _tensor(storage: object, offset: object, shape: object, strides: object, *_: object) -> _Tensor:
    root, start = (storage.storage, storage.start) if isinstance(storage, _View) else (storage, 0)
    match (root, offset, shape, strides):
        case (_Storage(), int(), tuple(), tuple()) if all(map(_is_count, (offset, *shape, *strides))):
            return _Tensor(root, start + offset, shape, strides)
    raise WeightsError("its pickle is malformed: a tensor without storage, offset, shape and strides")


def _parameter(data: object, *_: object) -> object:
    return data


def _dictionary(*arguments: object) -> dict[object, object]:
    """An OrderedDict. Python 2 passes its items as one list of pairs; Python 3 sets them afterwards."""
    match arguments:
        case ():
            return {}
        case (list(pairs),):
            return {pair[0]: pair[1] for pair in pairs if len(pair) == 2 and isinstance(pair[0], str)}
    raise WeightsError("its pickle is malformed: a dictionary made from something else")


def _size(*arguments: object) -> object:
    match arguments:
        case (tuple(shape),):
            return shape
    return OPAQUE


def _nothing(*_: object) -> object:
    return OPAQUE


# The only names that tensors, optimisers and argparse need. None of them is ever imported.
_FUNCTIONS: dict[str, Callable[..., object]] = {
    **dict.fromkeys(_STORAGE_TYPES, _nothing),
    **{
        f"torch.{name}": _nothing
        for name in (
            "device",
            *("float16", "float32", "float64", "bfloat16", "complex64", "complex128", "bool"),
            *("uint8", "int8", "int16", "int32", "int64", "strided", "contiguous_format"),
        )
    },
    **{
        f"{module}.{name}": _nothing
        for module in ("builtins", "__builtin__")
        for name in ("bytes", "bytearray", "complex", "set", "frozenset", "object", "slice", "range")
    },
    **{
        f"{package}.multiarray.{name}": _nothing
        for package in ("numpy.core", "numpy._core")
        for name in ("scalar", "_reconstruct")
    },
    "numpy.core.numeric._frombuffer": _nothing,
    "numpy._core.numeric._frombuffer": _nothing,
    "numpy.dtype": _nothing,
    "numpy.ndarray": _nothing,
    "_codecs.encode": _nothing,  # how protocol 2 writes bytes
    "copy_reg._reconstructor": _nothing,  # how protocol 0 and 1 write instances
    "copyreg._reconstructor": _nothing,
    "argparse.Namespace": _nothing,
    "collections.defaultdict": _nothing,
    "collections.deque": _nothing,
    "collections.Counter": _nothing,
    "collections.OrderedDict": _dictionary,
    "torch.Size": _size,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
}


# --- which of its tensors are the network's --------------------------------------------------------------


# The 20 tensors by our names, in network order, each with its name in the file.
_Network = dict[str, tuple[str, _Tensor]]


def _network(checkpoint: object) -> tuple[_Network, Preprocessing]:
    """Return the network's tensors, checked, and the preprocessing that they were trained with."""
    if not isinstance(checkpoint, dict):
        kind = "tensor" if isinstance(checkpoint, _Tensor) else type(checkpoint).__name__.lower()
        raise WeightsError(f"expected a state dict of a D2-Net, found a single object ({kind})")
    inner = (checkpoint.get(key) for key in ("model", "state_dict"))
    state = next((value for value in inner if isinstance(value, dict)), checkpoint)
    tensors = {
        name: value for name, value in state.items() if isinstance(name, str) and isinstance(value, _Tensor)
    }

    if not tensors:
        found = f"no tensors but the keys {listed(state)}" if state else "an empty dictionary"
        raise WeightsError(f"expected a state dict of a D2-Net, found {found}")
    names, preprocessing = state_dict.network(tensors)
    for name, ours in names.items():
        _check_tensor(name, ours, tensors[name])
    return {ours: (name, tensors[name]) for name, ours in names.items()}, preprocessing


def _check_tensor(name: str, ours: str, tensor: _Tensor) -> None:
    expected = PARAMETER_SHAPES[ours]
    if tensor.shape != expected:
        sizes = ", ".join(map(_number, tensor.shape[:8]))
        found = f"({sizes})" if len(tensor.shape) <= 8 else f"{len(tensor.shape)} dimensions"
        raise WeightsError(f"{ours} ({name}): expected shape {expected}, found {found}")
    if len(tensor.strides) != len(expected):
        raise WeightsError(f"{ours} ({name}): shape {expected} with {len(tensor.strides)} strides")
    last = tensor.offset + sum((n - 1) * stride for n, stride in zip(expected, tensor.strides, strict=True))
    if last >= tensor.storage.count:
        raise WeightsError(
            f"{ours} ({name}): reaches up to element {_number(last)} of a storage "
            f"of {_number(tensor.storage.count)}"
        )


def _number(value: int) -> str:
    return str(value) if value < 2**64 else "more than 2**64"


def _cut(data: bytes, tensor: _Tensor, byte_order: str) -> NDArray[Any]:
    """The tensor's elements as an array of its own; :func:`_check_tensor` has checked its bounds."""
    storage = tensor.storage
    bfloat16 = storage.element == _BFLOAT16
    dtype = np.dtype("u2" if bfloat16 else storage.element).newbyteorder(byte_order)  # type: ignore[arg-type]
    flat = np.frombuffer(data, dtype)[tensor.offset :]
    strides = tuple(stride * dtype.itemsize for stride in tensor.strides)
    view = as_strided(flat, tensor.shape, strides, writeable=False)
    if bfloat16:
        return (view.astype(np.uint32) << 16).view(np.float32)
    return view.astype(dtype.newbyteorder("="), order="C")


def _load(
    network: _Network, read_storage: Callable[[_Storage, str], bytes], byte_order: str = "<"
) -> dict[str, NDArray[Any]]:
    """Read the storages, each once, and cut the arrays from them."""
    users: dict[str, list[str]] = {}
    for ours, (_, tensor) in network.items():
        users.setdefault(tensor.storage.key, []).append(ours)
    arrays: dict[str, NDArray[Any]] = {}
    for sharing in users.values():
        name, tensor = network[sharing[0]]
        data = read_storage(tensor.storage, name)
        for ours in sharing:
            arrays[ours] = _cut(data, network[ours][1], byte_order)
    return {ours: arrays[ours] for ours in network}


# --- the two formats -------------------------------------------------------------------------------------


def _read_zip(stream: BinaryIO) -> tuple[dict[str, NDArray[Any]], Preprocessing]:
    try:
        archive = streams.archive(stream)
    except (zipfile.BadZipFile, ValueError) as error:
        raise WeightsError(
            f"truncated or damaged PyTorch checkpoint: the zip archive's table of contents, "
            f"at the end of the file, cannot be read ({shortened(str(error))})"
        ) from None
    with archive:
        names = archive.namelist()
        pickles = [name for name in names if name == "data.pkl" or name.endswith("/data.pkl")]
        if "model.weights.h5" in names:
            raise WeightsError("is a whole model of Keras 3: unpack model.weights.h5 from it and give that")
        if len(pickles) != 1:
            raise WeightsError(
                f"is a zip archive but not a PyTorch checkpoint: expected one data.pkl in it, "
                f"found {listed(names) if names else 'nothing'}"
            )
        prefix = pickles[0][: -len("data.pkl")]
        if prefix + "constants.pkl" in names:
            raise WeightsError("is a TorchScript program; expected a checkpoint that holds a state dict")
        pickle = _member(archive, pickles[0], "its pickle", LARGEST_PICKLE)
        network, preprocessing = _network(_read_pickle(io.BytesIO(pickle))[0])
        byte_order = "<"
        if prefix + "byteorder" in names:
            byte_order = _byte_order(_member(archive, prefix + "byteorder", "its byte order", 16))

        def read_storage(storage: _Storage, name: str) -> bytes:
            return _member(archive, f"{prefix}data/{storage.key}", name, storage.size, exact=True)

        return _load(network, read_storage, byte_order), preprocessing


def _byte_order(record: bytes) -> str:
    if record not in (b"little", b"big"):
        raise WeightsError(
            f"expected byte order little or big, found {shortened(record.decode('ascii', 'replace'))}"
        )
    return "<" if record == b"little" else ">"


def _member(archive: zipfile.ZipFile, name: str, what: str, limit: int, exact: bool = False) -> bytes:
    """A member of the archive, whose size is checked before it is read."""
    try:
        member = archive.getinfo(name)
    except KeyError:
        raise WeightsError(
            f"truncated or incomplete: it lacks the part {shortened(name)}, which holds {what}"
        ) from None
    if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
        raise WeightsError(f"{what}: its part of the zip archive is compressed; PyTorch never does that")
    if exact and member.file_size != limit:
        raise WeightsError(
            f"{what}: truncated, expected {_number(limit)} bytes in the zip archive, found {member.file_size}"
        )
    if member.file_size > limit:
        raise WeightsError(f"{what}: {member.file_size} bytes are too large; at most {limit} are read")
    try:
        data = archive.read(member)
    except _DAMAGE as error:
        raise WeightsError(
            f"{what}: its part of the zip archive is truncated or damaged "
            f"({type(error).__name__}: {shortened(str(error))})"
        ) from None
    if len(data) != member.file_size:
        raise WeightsError(f"{what}: truncated, expected {member.file_size} bytes, found {len(data)}")
    return data


def _read_legacy(stream: BinaryIO) -> tuple[dict[str, NDArray[Any]], Preprocessing]:
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    # A copy of the beginning bounds what a pickle can make us read.
    head = io.BytesIO(stream.read(LARGEST_PICKLE))
    for what, expected in (("magic number", _MAGIC_NUMBER), ("protocol version", _LEGACY_VERSION)):
        found = _read_pickle(head)[0]
        if found != expected:
            raise WeightsError(f"not a PyTorch checkpoint: expected the {what} {expected} at its beginning")
    _read_pickle(head)  # sizes of C types on the machine that wrote the file; nothing depends on them
    checkpoint, storages = _read_pickle(head)
    network, preprocessing = _network(checkpoint)
    keys = _keys(_read_pickle(head)[0])
    places = _places(stream, head.tell(), size, keys, storages, network)

    def read_storage(storage: _Storage, name: str) -> bytes:
        if storage.key not in places:
            raise WeightsError(f"{name}: its storage {shortened(storage.key)} is missing")
        stream.seek(places[storage.key])
        data = stream.read(storage.size)
        if len(data) != storage.size:
            raise WeightsError(f"{name}: truncated, expected {storage.size} bytes, found {len(data)}")
        return data

    return _load(network, read_storage), preprocessing


def _keys(found: object) -> list[str]:
    match found:
        case list(keys) if all(isinstance(key, str) for key in keys) and len(set(keys)) == len(keys):
            return keys
    raise WeightsError("its pickle is malformed: expected a list of storage keys")


def _places(
    stream: BinaryIO,
    position: int,
    size: int,
    keys: Iterable[str],
    storages: dict[str, _Storage],
    network: _Network,
) -> dict[str, int]:
    """Where in the file each storage begins. Only the counts in front of them are read."""
    users = {tensor.storage.key: name for name, tensor in network.values()}
    places = {}
    for key in keys:
        name = users.get(key, "an array that the network does not need")
        if key not in storages:
            raise WeightsError(f"its pickle is malformed: unknown storage {shortened(key)}")
        stream.seek(position)
        header = stream.read(8)
        if len(header) != 8:
            raise WeightsError(f"truncated: the file ends before {name}")
        (count,) = struct.unpack("<q", header)
        storage = storages[key]
        if count != storage.count:
            raise WeightsError(
                f"damaged: {name} should have a storage of {_number(storage.count)} elements, found {count}"
            )
        places[key] = position + 8
        position += 8 + storage.size
        if position > size:
            raise WeightsError(
                f"truncated: the file ends inside {name} (at byte {size} of at least {_number(position)})"
            )
    return places
