"""Shards: files to which records are added one after the other, each safe as soon as it is written.

A record is a name, plain values, and arrays: the features of an image, or the matches of a pair. A file is::

    magic               8 bytes
    length of header    4 bytes, little-endian, as all numbers here
    length of arrays    8 bytes
    header              JSON: {"name": ..., "values": {...}, "arrays": [[name, number type, shape], ...]}
    CRC-32              4 bytes, of all the above
    arrays              their bytes, one array after the other, each in C order
    CRC-32              4 bytes, of the arrays

A shard is only ever written to at its end, so that whatever ends a job (a kill, a full disk, a power cut)
damages its last record at most; where that could not be cut off again, others may follow. Readers leave out
what is damaged, and go on with the next record, which they find by its magic. Headers can be read without the
arrays, which makes a list of what a shard holds cheap.

>>> with ShardWriter("000001.shard") as writer:
...     place = writer.append(Record("a.jpg", {"keypoints": 3}, {"scores": numpy.ones(3)}))
>>> with open("000001.shard", "rb") as stream:
...     [place.name for place in scan(stream)], read(stream, place.offset).arrays["scores"]
(['a.jpg'], array([1., 1., 1.]))

What is too large for one record is split into pieces: records of its name, one right behind the other, with
the values ``{"piece": 1}``, ``{"piece": 2}``, …, and at last a record that tells how many they are,
``{"pieces": 2, ...}``, beside everything that is told once. Only with that last one does any of it count; see
:func:`wholes`.

To write a shard elsewhere than into a local file, call :func:`write` on any binary stream.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..atomic import sync_folder
from ..errors import FormatError

EXTENSION = ".shard"

PIECE = "piece"
"""The value of a record that is a piece of something larger: which one, from 1 on."""

PIECES = "pieces"
"""The value of the record that ends such pieces: how many there are."""

_MAGIC = b"d2npREC\x01"
_START = struct.Struct("<8sIQ")
_CRC = struct.Struct("<I")
_MOST_HEADER = 1 << 20
# Of damaged records so many are passed over, and their arrays read, in lengths of the file: who makes up a
# file can have each of them hold all the others.
_MOST_DAMAGED = 1000
_MOST_IN_VAIN = 4
_BLOCK = 1 << 20
_NUMBERS = "biuf"
_MOST_AXES = 8
_MOST_BYTES = 1 << 60


@dataclass(frozen=True)
class Record:
    """What is kept under one name.

    Attributes
    ----------
    name : str
        Bytes that are no text may be in it, as Python has them in file names.
    values : mapping
        What JSON can hold.
    arrays : mapping of str to array
        Of booleans, integers or floats.
    """

    name: str
    values: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)


class Place(NamedTuple):
    """Where a record is in its shard, and what it is about.

    Attributes
    ----------
    offset, length : int
        In bytes; the next record begins at their sum.
    name : str
    values : dict
    """

    offset: int
    length: int
    name: str
    values: dict[str, Any]


def write(stream: BinaryIO, record: Record) -> int:
    """Write a record to a stream; returns how many bytes that were.

    Raises
    ------
    OSError
        If it cannot be written. A part of it may have been.
    TypeError
        If a value or an array is of a kind that records do not hold.
    """
    # Little-endian, whatever the machine.
    arrays = {
        key: np.asarray(array, array.dtype.newbyteorder("<"), order="C")
        for key, array in record.arrays.items()
    }
    if unfit := [key for key, array in arrays.items() if array.dtype.kind not in _NUMBERS]:
        raise TypeError(f"array {unfit[0]!r} of {record.name!r}: {arrays[unfit[0]].dtype} is no plain number")
    listed = [[key, array.dtype.str, list(array.shape)] for key, array in arrays.items()]
    header = json.dumps({"name": record.name, "values": dict(record.values), "arrays": listed}).encode()
    size = sum(array.nbytes for array in arrays.values())
    head = _START.pack(_MAGIC, len(header), size) + header
    # Memory views of arrays without elements cannot be cast.
    bodies = [array.reshape(-1).view(np.uint8).data for array in arrays.values() if array.size]
    crc = 0
    for body in bodies:
        crc = zlib.crc32(body, crc)
    parts: list[Any] = [head + _CRC.pack(zlib.crc32(head)), *bodies, _CRC.pack(crc)]
    for part in parts:
        _write_all(stream, part)
    return len(head) + size + 2 * _CRC.size


def read(stream: BinaryIO, offset: int) -> Record:
    """Read the record that begins at this offset; its arrays are not to be written to.

    Raises
    ------
    FormatError
        If there is no whole record.
    """
    header = _header_at(stream, offset)
    arrays = _read_arrays(stream, header)
    if arrays is None:
        raise FormatError(f"the arrays of {header.place.name!r} are damaged")
    return Record(header.place.name, header.place.values, arrays)


def read_between(stream: BinaryIO, first: int, end: int) -> Iterator[Record]:
    """Read the records from one offset to another, one after the other.

    Raises
    ------
    FormatError
        If one is not whole.
    """
    while first < end:
        yield read(stream, first)
        first += _header_at(stream, first).place.length


def scan(stream: BinaryIO, *, verify: bool = False) -> Iterator[Place]:
    """The places of the records that are whole, from the first to the last.

    Parameters
    ----------
    stream : binary stream
        That can be sought in, such as a file.
    verify : bool
        Read and check the arrays of all records. By default those only that no other record follows at once,
        since no others can be half-written; damage that came later is found out when a record is read.
    """
    end = _end(stream)
    offset: int | None = 0
    header = _read_header(stream, 0, end)
    damaged = in_vain = 0
    while offset is not None and damaged < _MOST_DAMAGED and in_vain <= _MOST_IN_VAIN * end:
        if header is None:
            damaged += 1
            offset = _next_magic(stream, offset + 1)
            header = None if offset is None else _read_header(stream, offset, end)
            continue
        behind = offset + header.place.length
        following = _read_header(stream, behind, end)
        is_whole = (following is not None and not verify) or _read_arrays(stream, header) is not None
        if is_whole:
            yield header.place
        else:
            in_vain += header.size
        if is_whole or following is not None:
            offset, header = behind, following
        else:
            # If it is torn, the next one begins before its end.
            header = None


class Whole(NamedTuple):
    """Where something whole is in its shard: a record, or pieces and the record that ends them.

    Attributes
    ----------
    offset : int
        Of the first record.
    place : Place
        Of the last record, or the only one, which tells what this is about.
    """

    offset: int
    place: Place

    @property
    def end(self) -> int:
        """Where the next record begins."""
        return self.place.offset + self.place.length


def wholes(places: Iterable[Place]) -> Iterator[Whole]:
    """What the records of a shard, one after the other, make up; pieces without their end are left out."""
    first: Place | None = None
    count = 0
    for place in places:
        number, pieces = place.values.get(PIECE), place.values.get(PIECES)
        if number == 1:
            first, count = place, 1
        elif first is not None and place.name == first.name and number == count + 1:
            count += 1
        else:
            if number is None and not pieces:
                yield Whole(place.offset, place)
            elif number is None and first is not None and (place.name, pieces) == (first.name, count):
                yield Whole(first.offset, place)
            first = None


class ShardWriter:
    """Adds records to a new shard.

    Parameters
    ----------
    path : path
        There must be no such file yet.
    sync_every : float
        How many seconds may pass between two calls that have the disk write what it holds back. Each record
        is safe from a kill once it is appended, and with 0, the default, from a power cut as well; with more,
        those of the last seconds may then be lost.

    Raises
    ------
    OSError
        If the file cannot be made.
    """

    def __init__(self, path: str | os.PathLike[str], *, sync_every: float = 0.0) -> None:
        self.path = Path(path)
        self.size = 0
        self._sync_every = sync_every
        self._synced = monotonic()
        # Nothing may be held back in a buffer of this process.
        self._stream: Any = open(self.path, "xb", buffering=0)  # noqa: SIM115
        sync_folder(self.path.parent)

    def append(self, record: Record) -> Place:
        """Add a record, which is safe once this returns.

        Raises
        ------
        OSError
            If it cannot be written. The shard then ends before it, and can be added to again.
        """
        try:
            length = write(self._stream, record)
            if monotonic() - self._synced >= self._sync_every:
                self.sync()
        except BaseException:
            self._cut_off()
            raise
        place = Place(self.size, length, record.name, dict(record.values))
        self.size += length
        return place

    @contextmanager
    def all_or_none(self) -> Iterator[None]:
        """What is appended in this block is cut off again unless the block ends well."""
        before = self.size
        try:
            yield
        except BaseException:
            self.size = before
            self._cut_off()
            raise

    def sync(self) -> None:
        """Have the disk write what it holds back."""
        os.fsync(self._stream.fileno())
        self._synced = monotonic()

    def close(self) -> None:
        """Let go of the file; one without any record is removed."""
        if self._stream.closed:
            return
        try:
            if self.size and self._sync_every:
                self.sync()
        finally:
            self._stream.close()
            if not self.size:
                self.path.unlink(missing_ok=True)

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _cut_off(self) -> None:
        # Where even this fails, readers still see that the last record is not whole.
        try:
            self._stream.truncate(self.size)
            self._stream.seek(self.size)
        except (OSError, ValueError):
            return


class _Header(NamedTuple):
    place: Place
    arrays: list[tuple[str, np.dtype[Any], tuple[int, ...]]]
    start: int
    """Where the arrays begin."""
    size: int
    """How many bytes they are."""


def _next_magic(stream: BinaryIO, offset: int) -> int | None:
    """Where a record may begin, from this offset on."""
    stream.seek(offset)
    window = b""
    while block := stream.read(_BLOCK):
        window += block
        if (found := window.find(_MAGIC)) >= 0:
            return offset + found
        # Its beginning may be the end of this block.
        offset += max(0, len(window) - len(_MAGIC) + 1)
        window = window[-len(_MAGIC) + 1 :]
    return None


def _header_at(stream: BinaryIO, offset: int) -> _Header:
    header = _read_header(stream, offset, _end(stream))
    if header is None:
        raise FormatError(f"no whole record at byte {offset}")
    return header


def _read_header(stream: BinaryIO, offset: int, end: int) -> _Header | None:
    """What a record says of itself, or None if none begins there that the file is long enough for."""
    stream.seek(offset)
    start = stream.read(_START.size)
    if len(start) < _START.size:
        return None
    magic, header_size, size = _START.unpack(start)
    length = _START.size + header_size + size + 2 * _CRC.size
    # Before anything of that size is asked for.
    if magic != _MAGIC or header_size > _MOST_HEADER or offset + length > end:
        return None
    text = stream.read(header_size)
    crc = stream.read(_CRC.size)
    if len(crc) < _CRC.size or _CRC.unpack(crc)[0] != zlib.crc32(start + text):
        return None
    try:
        told = json.loads(text)
        arrays = [
            (str(key), np.dtype(kind), tuple(int(edge) for edge in shape))
            for key, kind, shape in told["arrays"]
        ]
        place = Place(offset, length, str(told["name"]), dict(told["values"]))
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError, SyntaxError, Warning):
        return None
    # Even without elements, arrays of such sizes cannot be.
    plain = all(
        kind.kind in _NUMBERS
        and len(shape) <= _MOST_AXES
        and all(edge >= 0 for edge in shape)
        and kind.itemsize * prod(edge for edge in shape if edge) <= _MOST_BYTES
        for _, kind, shape in arrays
    )
    if not plain or sum(kind.itemsize * prod(shape) for _, kind, shape in arrays) != size:
        return None
    return _Header(place, arrays, offset + _START.size + header_size + _CRC.size, size)


def _read_arrays(stream: BinaryIO, header: _Header) -> dict[str, NDArray[Any]] | None:
    """The arrays of a record, or None if they are damaged."""
    stream.seek(header.start)
    body = stream.read(header.size)
    crc = stream.read(_CRC.size)
    if len(crc) < _CRC.size or _CRC.unpack(crc)[0] != zlib.crc32(body):
        return None
    found = {}
    offset = 0
    for key, kind, shape in header.arrays:
        count = prod(shape)
        found[key] = np.frombuffer(body, kind, count, offset).reshape(shape)
        offset += count * kind.itemsize
    return found


def _write_all(stream: BinaryIO, part: bytes | memoryview) -> None:
    # Where the disk is nearly full, only a beginning is taken at first.
    rest = memoryview(part)
    while len(rest):
        rest = rest[stream.write(rest) :]


def _end(stream: BinaryIO) -> int:
    return stream.seek(0, os.SEEK_END)
