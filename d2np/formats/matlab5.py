"""Arrays of plain numbers in MATLAB 5 files that may come from anyone.

What ``scipy.io.savemat`` writes, and MATLAB with ``-v6`` or, compressed, with ``-v7``. A file is a header of
128 bytes and then one element after the other. An element is a tag (4 bytes for its type, 4 for its size),
its bytes, and zeros up to a multiple of 8 bytes; four bytes or less may be in the tag itself. A variable is
an element of type ``MATRIX``, made of four more: its class and flags, its shape, its name, and its numbers in
Fortran's order. An element of type ``COMPRESSED`` is a variable packed by zlib.

Each size that a file claims is compared with what is there before it is used. scipy's own reader, which is
written in C, may end the process on a damaged file.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Collection, Iterator
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import FormatError
from ..streams import Capped

__all__ = ["MAGIC", "arrays", "shapes"]

MAGIC = b"MATLAB 5.0 MAT-file"
"""What such a file begins with."""

_HEADER = 128
_LITTLE_ENDIAN = b"\0\1IM"  # version 1.0, and how the two letters look
_TAG = struct.Struct("<II")
_INT8, _INT32, _UINT32, _MATRIX, _COMPRESSED = 1, 5, 6, 14, 15
_NUMBERS = {
    number: np.dtype(kind)
    for number, kind in (
        *((1, "i1"), (2, "u1"), (3, "<i2"), (4, "<u2"), (5, "<i4"), (6, "<u4")),
        *((7, "<f4"), (9, "<f8"), (12, "<i8"), (13, "<u8")),
    )
}
# Cells, structures, objects, texts, sparse arrays; then double, single, int8 to uint64.
_CLASSES, _NUMERIC_CLASSES = range(1, 16), range(6, 16)
_LOGICAL, _COMPLEX = 0x02, 0x08
_MOST_AXES = 32
_LONGEST_NAME = 1024
_MOST_BYTES = 1 << 40  # even an array without elements is not shaped for more
# Features hardly get smaller when they are compressed. What is this much smaller was made to fill the memory.
_MOST_COMPRESSED = 100
_ALWAYS_READ = 1 << 20
_PIECE = 1 << 14


def shapes(stream: Capped, names: Collection[str]) -> dict[str, tuple[int, ...]]:
    """The shapes of some variables, as far as the file has them; their numbers are not read.

    Parameters
    ----------
    stream : Capped
        The file, at its beginning.
    names : collection of str

    Raises
    ------
    FormatError
        As :func:`arrays`, but for what only shows as numbers are unpacked.
    """
    return {variable.name: variable.shape for variable, _ in _variables(stream, names)}


def arrays(stream: Capped, names: Collection[str]) -> dict[str, NDArray[Any]]:
    """Some variables, as far as the file has them; others are passed over.

    Parameters
    ----------
    stream : Capped
        The file, at its beginning.
    names : collection of str

    Returns
    -------
    dict of str to array
        Of the type in which the numbers are kept: MATLAB keeps whole numbers in fewer bytes.

    Raises
    ------
    FormatError
        If it is of another format or damaged, has a variable twice, or one of them is not of real numbers.
    """
    return {variable.name: _values(variable, element) for variable, element in _variables(stream, names)}


class _Variable(NamedTuple):
    """What is said of a variable before its numbers."""

    name: str
    shape: tuple[int, ...]
    kind: np.dtype[Any]
    small: bytes | None  # the numbers, if they are in the tag


class _Element:
    """A top-level element, unpacked if need be: never more of it at once than is asked for."""

    def __init__(self, stream: Capped, size: int, packed: bool) -> None:
        self._stream = stream
        self._left = size
        self._unpacker = zlib.decompressobj() if packed else None
        self.size = size
        self.place = 0

    def read(self, count: int) -> bytes:
        """So many bytes, neither more nor less."""
        found = self._take(count) if self._unpacker is None else self._unpack(count)
        if len(found) != count:
            raise FormatError("it is cut short or damaged")
        self.place += count
        return found

    def finish(self) -> None:
        """Make sure that nothing is left, and that the checksum of what was unpacked is right."""
        if self._unpacker is not None and (self._unpack(1) or not self._unpacker.eof):
            raise FormatError("it is cut short or damaged")

    def _take(self, count: int) -> bytes:
        found = self._stream.read(min(count, self._left))
        self._left -= len(found)
        return found

    def _unpack(self, count: int) -> bytes:
        assert self._unpacker is not None
        found = bytearray()
        try:
            while len(found) < count and not self._unpacker.eof:
                packed = self._unpacker.unconsumed_tail or self._take(_PIECE)
                piece = self._unpacker.decompress(packed, count - len(found))
                if not packed and not piece:
                    break
                found += piece
        except zlib.error as error:
            raise FormatError(f"it is damaged: {error}") from None
        return bytes(found)


def _variables(stream: Capped, names: Collection[str]) -> Iterator[tuple[_Variable, _Element]]:
    """Those of some names, each with its element, in which its numbers come next."""
    header = stream.read(_HEADER)
    if not header.startswith(MAGIC) or len(header) < _HEADER:
        raise FormatError("it does not begin as MATLAB 5 files do: in MATLAB, save it with -v6 or -v7")
    if not header.endswith(_LITTLE_ENDIAN):
        raise FormatError("expected a little-endian MATLAB 5 file of version 1.0")
    seen: set[str] = set()
    place = _HEADER
    while place < stream.size:
        stream.seek(place)
        tag = stream.read(_TAG.size)
        if len(tag) < _TAG.size:
            raise FormatError("it is cut short or damaged")
        kind, size = _TAG.unpack(tag)
        following = place + _TAG.size + size
        if kind not in (_MATRIX, _COMPRESSED):
            raise FormatError(f"it holds an element of type {kind}, expected arrays")
        if following > stream.size:
            raise FormatError("it is cut short or damaged")
        if kind == _MATRIX:
            stream.seek(place)
            element = _Element(stream, _TAG.size + size, packed=False)
        else:
            element = _Element(stream, size, packed=True)
        variable = _begun(element, names)
        if variable is not None:
            if variable.name in seen:
                raise FormatError(f"it has {variable.name} twice")
            seen.add(variable.name)
            yield variable, element
        place = following


def _begun(element: _Element, names: Collection[str]) -> _Variable | None:
    """What is said of a variable, or None if it is another one."""
    kind, size = _TAG.unpack(element.read(_TAG.size))
    if kind != _MATRIX:
        raise FormatError(f"it holds an element of type {kind}, expected an array")
    end = _TAG.size + size
    flags = _part(element, _UINT32, 8, 8)
    variable_class, marks = flags[0], flags[1]
    if variable_class not in _CLASSES:
        raise FormatError(f"it holds a variable of class {variable_class}, expected arrays")
    axes = _part(element, _INT32, 8, 4 * _MOST_AXES)
    name = _part(element, _INT8, 0, _LONGEST_NAME).decode("latin-1")
    if name not in names:
        return None
    if variable_class not in _NUMERIC_CLASSES or marks & (_LOGICAL | _COMPLEX):
        raise FormatError(f"{name} must be an array of real numbers")
    number, count, small = _tag(element)
    if number not in _NUMBERS:
        raise FormatError(f"{name} must be an array of real numbers")
    shape = _shape(name, axes, _NUMBERS[number].itemsize)
    if count != prod(shape) * _NUMBERS[number].itemsize:
        raise FormatError(f"{name} has {count:,} bytes, which do not fit its shape {shape}")
    if element.place + (0 if small is not None else count + -count % 8) != end:
        raise FormatError(f"{name} has another size than the file says")
    if count > _ALWAYS_READ + _MOST_COMPRESSED * element.size:
        raise FormatError(f"{name} has {count:,} bytes, far more than the file's {element.size:,}: refused")
    return _Variable(name, shape, _NUMBERS[number], small)


def _shape(name: str, axes: bytes, item_size: int) -> tuple[int, ...]:
    shape = tuple(np.frombuffer(axes, "<i4").tolist()) if len(axes) % 4 == 0 else (-1,)
    # NumPy has no arrays of some sizes, even if they have no elements.
    if min(shape) < 0 or prod(max(edge, 1) for edge in shape) * item_size > _MOST_BYTES:
        raise FormatError(f"{name} has an impossible shape")
    return shape


def _values(variable: _Variable, element: _Element) -> NDArray[Any]:
    size = prod(variable.shape) * variable.kind.itemsize
    content = variable.small
    if content is None:
        content = element.read(size)
        element.read(-size % 8)
    element.finish()
    # In C's order, and to be written to.
    return np.frombuffer(content, variable.kind).reshape(variable.shape, order="F").copy()


def _part(element: _Element, number: int, least: int, most: int) -> bytes:
    """The bytes of a part of a variable that must be of this type."""
    found, count, small = _tag(element)
    if found != number or not least <= count <= most:
        raise FormatError("it is damaged: a variable does not begin as it should")
    if small is not None:
        return small
    content = element.read(count)
    element.read(-count % 8)
    return content


def _tag(element: _Element) -> tuple[int, int, bytes | None]:
    """Type and size of a part, and the part itself if it is in its tag."""
    tag = element.read(_TAG.size)
    number, count = _TAG.unpack(tag)
    if number >> 16 == 0:
        return number, count, None
    count = number >> 16
    if count > 4:
        raise FormatError("it is damaged: more than four bytes in a tag")
    return number & 0xFFFF, count, tag[4 : 4 + count]
