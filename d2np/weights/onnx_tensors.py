"""Numbers of an ONNX file: kept in the tensor itself, in one of several ways, or in a file beside it.

Shapes and sizes are checked before anything is read or allocated.
"""

from __future__ import annotations

import os
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import WeightsError
from ..layers import PARAMETER_SHAPES
from .parameters import shortened

_LARGEST_FILE_BESIDE = 128 << 20
_MOST_CONSTANTS = 16


class Values:
    """Reads the tensors of one file.

    Parameters
    ----------
    kinds : onnx.TensorProto
        For the numbers that stand for element types.
    path : Path
        The file.
    """

    def __init__(self, kinds: Any, path: Path) -> None:
        self._kinds = kinds
        self._path = path
        self._beside: dict[str, Path] = {}
        # Type of an element as stored, and the field that may hold them one by one.
        self._elements: dict[int, tuple[str, str]] = {
            kinds.FLOAT: ("<f4", "float_data"),
            kinds.DOUBLE: ("<f8", "double_data"),
            kinds.FLOAT16: ("<f2", "int32_data"),
            kinds.BFLOAT16: ("<u2", "int32_data"),
        }

    @property
    def beside(self) -> tuple[Path, ...]:
        """The files beside the ONNX file that were read."""
        return tuple(self._beside.values())

    def parameter(self, name: str, tensor: Any) -> NDArray[Any]:
        """One of the network's arrays.

        Parameters
        ----------
        name : str
            ``"conv1_1/weight"`` and so on.
        tensor : onnx.TensorProto

        Raises
        ------
        WeightsError
            If the tensor has another shape, holds no floating-point numbers, too few, or too many.
        """
        expected = PARAMETER_SHAPES[name]
        if tuple(tensor.dims[:8]) != expected:
            raise WeightsError(f"{name}: expected shape {expected}, found {shape_of(tensor)}")
        if tensor.data_type not in self._elements:
            raise WeightsError(
                f"{name}: expected floating-point values, found {self.type_name(tensor.data_type)}"
            )
        stored, field = self._elements[tensor.data_type]
        size = prod(expected) * np.dtype(stored).itemsize
        if tensor.data_location == self._kinds.EXTERNAL:
            flat = np.frombuffer(self._read_beside(name, tensor, size), stored)
        elif len(single := getattr(tensor, field)):
            if len(single) != prod(expected):
                raise WeightsError(f"{name}: expected {prod(expected)} values, found {len(single)}")
            flat = _from_fields(single, field, stored)
        else:
            data = tensor.raw_data
            if len(data) != size:
                raise WeightsError(f"{name}: expected {size} bytes, found {len(data)}")
            flat = np.frombuffer(data, stored)
        if tensor.data_type == self._kinds.BFLOAT16:
            flat = (flat.astype(np.uint32) << 16).view(np.float32)
        return flat.reshape(expected).astype(flat.dtype.newbyteorder("="))

    def few(self, tensor: Any) -> NDArray[np.float64] | None:
        """A small constant of any real type, or None if this is none."""
        kinds = self._kinds
        elements = {
            **self._elements,
            kinds.INT64: ("<i8", "int64_data"),
            kinds.INT32: ("<i4", "int32_data"),
        }
        if tensor.data_type not in elements or tensor.data_type == kinds.BFLOAT16 or len(tensor.dims) > 8:
            return None
        shape = tuple(tensor.dims)
        if not 0 < prod(shape) <= _MOST_CONSTANTS:
            return None
        stored, field = elements[tensor.data_type]
        single = getattr(tensor, field)
        flat = _from_fields(single, field, stored) if len(single) else np.frombuffer(tensor.raw_data, stored)
        return flat.reshape(shape).astype(np.float64) if flat.size == prod(shape) else None

    def is_floating(self, data_type: object) -> bool:
        """Whether elements of that type are among those that are read."""
        return data_type in self._elements

    def type_name(self, data_type: int) -> str:
        """``INT8`` and the like."""
        known = {number: name for name, number in self._kinds.DataType.items()}
        return known.get(data_type, f"the unknown type {data_type}")

    def _read_beside(self, name: str, tensor: Any, size: int) -> bytes:
        entries = {entry.key: entry.value for entry in tensor.external_data[:16]}
        location = entries.get("location", "")
        path = self._find_beside(name, location)
        offset = _whole_number(name, entries.get("offset", "0"))
        length = _whole_number(name, entries.get("length", str(size)))
        if length != size:
            raise WeightsError(f"{name}: expected {size} bytes in {shortened(location)}, found {length}")
        with open(path, "rb") as stream:
            stream.seek(offset)
            data = stream.read(size)
        if len(data) != size:
            raise WeightsError(
                f"{name}: {shortened(location)} is truncated: expected {size} bytes from byte {offset}, "
                f"found {len(data)}"
            )
        return data

    def _find_beside(self, name: str, location: str) -> Path:
        """The file that holds values, which must lie in the folder of the ONNX file."""
        if location in self._beside:
            return self._beside[location]
        told = shortened(location)
        if not location or "\0" in location or os.path.isabs(location):
            raise WeightsError(f"{name}: expected the name of a file beside this one, found {told!r}")
        path = self._path.parent / location
        real = Path(os.path.realpath(path))
        # Download caches are full of links, from a folder of names into one of contents.
        folders = (Path(os.path.realpath(self._path.parent)), Path(os.path.realpath(self._path)).parent)
        if not any(real.is_relative_to(folder) for folder in folders):
            raise WeightsError(f"{name}: its values are in {told!r}, which leads out of the file's folder")
        if not real.is_file():
            raise WeightsError(
                f"{name}: its values are in a file of their own, {told!r}, which must lie beside this one; "
                "there is none"
            )
        if real.stat().st_size > _LARGEST_FILE_BESIDE:
            raise WeightsError(
                f"{name}: its values are in {told!r}, which has {real.stat().st_size:,} bytes; "
                f"at most {_LARGEST_FILE_BESIDE:,} are read"
            )
        self._beside[location] = path
        return path


def shape_of(tensor: Any) -> str:
    """A tensor's shape as a message tells it."""
    dimensions = [str(size) for size in tensor.dims[:8]]
    if len(tensor.dims) > 8:
        return f"{len(tensor.dims)} dimensions"
    return f"({', '.join(dimensions)}{',' if len(dimensions) == 1 else ''})"


def _from_fields(single: Any, field: str, stored: str) -> NDArray[Any]:
    """Numbers kept one by one; those of 16 bits stand in fields of 32, as bit patterns."""
    if field == "int32_data" and np.dtype(stored).itemsize == 2:
        return np.array(single, np.int32).astype(np.uint16).view(stored)
    return np.array(single, stored)


def _whole_number(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise WeightsError(f"{name}: expected a place in a file, found {shortened(text)!r}")
    return int(text)
