"""Writes PyTorch checkpoints byte by byte, without PyTorch, so that tests of reading them need none.

``legacy`` and ``zipped`` give the bytes of the two formats for any object; tensors in it are
:class:`Tensor`, and :class:`Call` stands for anything else that a pickle can be made to call.
"""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
INDICES = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21)
LAYERS = (
    *("conv1_1", "conv1_2", "conv2_1", "conv2_2", "conv3_1", "conv3_2", "conv3_3"),
    *("conv4_1", "conv4_2", "conv4_3"),
)
PUBLISHED = "dense_feature_extraction.model."
STORAGES = {
    "f4": "FloatStorage",
    "f8": "DoubleStorage",
    "f2": "HalfStorage",
    "i8": "LongStorage",
    "u2": "BFloat16Storage",
}


@dataclass(frozen=True)
class Global:
    """A class or function that the pickle mentions by name; it need not exist."""

    module: str
    name: str

    def __call__(self) -> None:
        """Only what can be called passes for a function when pickled."""


@dataclass
class Call:
    """An object that the pickle makes by calling something, and perhaps by setting its state."""

    function: Global
    arguments: tuple[Any, ...] = ()
    state: Any = None

    def __reduce_ex__(self, protocol: Any) -> Any:
        reduced = (self.function, self.arguments)
        return reduced if self.state is None else (*reduced, self.state)


@dataclass(eq=False)
class Storage:
    """The numbers that tensors share. ``count`` may claim more than there are."""

    values: np.ndarray
    location: str = "cpu"
    module: str = "torch"
    count: int | None = None
    view: Any = None
    key: str = field(default="", init=False)

    def identifier(self, legacy: bool) -> tuple[Any, ...]:
        kind = Global(self.module, STORAGES[self.values.dtype.str[1:]])
        count = self.values.size if self.count is None else self.count
        identifier = ("storage", kind, self.key, self.location, count)
        return (*identifier, self.view) if legacy else identifier


def tensor(values: Any, *, shape: Any = None, strides: Any = None, offset: Any = 0, **options: Any) -> Call:
    """A contiguous tensor of an array's values; or any view of a :class:`Storage`."""
    if isinstance(values, Storage):
        storage = values
    else:
        shape = values.shape if shape is None else shape
        storage = Storage(np.ascontiguousarray(values).reshape(-1), **options)
    if strides is None:
        strides = tuple(int(np.prod(shape[axis + 1 :])) for axis in range(len(shape)))
    hooks: OrderedDict[str, Any] = OrderedDict()
    return Call(
        Global("torch._utils", "_rebuild_tensor_v2"), (storage, offset, tuple(shape), strides, False, hooks)
    )


def parameter(values: Any, **options: Any) -> Call:
    """A tensor as a trainable parameter."""
    hooks: OrderedDict[str, Any] = OrderedDict()
    return Call(Global("torch._utils", "_rebuild_parameter"), (tensor(values, **options), True, hooks))


def repeated(value: float, shape: tuple[int, ...], dtype: str = "<f4") -> Call:
    """A tensor all of whose elements are the same one: makes files of a few kilobytes."""
    return tensor(Storage(np.full(1, value, dtype)), shape=shape, strides=(0,) * len(shape))


def state_dict(tensors: dict[str, Any], prefix: str = PUBLISHED) -> OrderedDict[str, Any]:
    """``"conv1_1/weight"`` ... by their published names."""
    names = {layer: str(index) for layer, index in zip(LAYERS, INDICES, strict=True)}
    state: OrderedDict[str, Any] = OrderedDict()
    for name, value in tensors.items():
        layer, part = name.split("/")
        state[f"{prefix}{names[layer]}.{part}"] = value
    return state


class _Pickler(pickle._Pickler):  # type: ignore[misc]
    """Python's own pickler, for which names are just written and storages are persistent identifiers."""

    dispatch: ClassVar[dict[Any, Any]] = dict(pickle._Pickler.dispatch)  # type: ignore[attr-defined]

    def __init__(self, stream: Any, protocol: int, legacy: bool, storages: dict[str, Storage]) -> None:
        super().__init__(stream, protocol=protocol)
        self.legacy = legacy
        self.storages = storages

    def persistent_id(self, value: Any) -> Any:
        if not isinstance(value, Storage):
            return None
        if self.storages.get(value.key) is not value:
            # Legacy keys are addresses in memory, those of the zip format are counted.
            value.key = str(94757629632608 + 64 * len(self.storages) if self.legacy else len(self.storages))
            self.storages[value.key] = value
        return value.identifier(self.legacy)

    def save_name(self, value: Global) -> None:
        if self.proto >= 4:
            self.save(value.module)
            self.save(value.name)
            self.write(pickle.STACK_GLOBAL)
        else:
            self.write(pickle.GLOBAL + f"{value.module}\n{value.name}\n".encode())
        self.memoize(value)

    dispatch[Global] = save_name


def pickled(value: Any, legacy: bool, protocol: int = 2) -> tuple[bytes, dict[str, Storage]]:
    """The pickle of an object and the storages that it refers to by key."""
    stream = io.BytesIO()
    storages: dict[str, Storage] = {}
    _Pickler(stream, protocol, legacy, storages).dump(value)
    return stream.getvalue(), storages


def legacy(value: Any, protocol: int = 2) -> bytes:
    """A checkpoint as PyTorch before 1.6 wrote it."""
    body, storages = pickled(value, True, protocol)
    return legacy_around(body, storages, protocol)


def legacy_around(body: bytes, storages: dict[str, Storage] | None = None, protocol: int = 2) -> bytes:
    """A legacy checkpoint around a pickle that is given."""
    storages = storages or {}
    system = {
        "protocol_version": 1001,
        "little_endian": True,
        "type_sizes": {"short": 2, "int": 4, "long": 4},
    }
    keys = sorted(storages)
    parts = [pickle.dumps(part, protocol) for part in (MAGIC_NUMBER, 1001, system)]
    parts += [body, pickle.dumps(keys, protocol)]
    for key in keys:
        storage = storages[key]
        count = storage.values.size if storage.count is None else storage.count
        parts.append(struct.pack("<q", min(count, 2**63 - 1)))
        parts.append(storage.values.astype(storage.values.dtype.newbyteorder("<")).tobytes())
    return b"".join(parts)


def zipped(value: Any, protocol: int = 2, **options: Any) -> bytes:
    """A checkpoint as PyTorch since 1.6 writes it."""
    body, storages = pickled(value, False, protocol)
    return zipped_around(body, storages, **options)


def zipped_around(
    body: bytes,
    storages: dict[str, Storage] | None = None,
    *,
    prefix: str = "archive/",
    byte_order: str | None = "little",
    compression: int = zipfile.ZIP_STORED,
    without: str | None = None,
    extra: dict[str, bytes] | None = None,
) -> bytes:
    """A zip checkpoint around a pickle that is given."""
    members = {"data.pkl": body}
    if byte_order is not None:
        members["byteorder"] = byte_order.encode()
    order = ">" if byte_order == "big" else "<"
    for key, storage in (storages or {}).items():
        members[f"data/{key}"] = storage.values.astype(storage.values.dtype.newbyteorder(order)).tobytes()
    members["version"] = b"3\n"
    members.update(extra or {})
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, data in members.items():
            if name != without:
                archive.writestr(prefix + name, data)
    return stream.getvalue()
