"""How large the frames in AVIF files are: libavif decodes these whatever the file says of its size."""

from __future__ import annotations

import struct
from collections.abc import Iterator

MOST = 1 << 28
"""Pixels of a frame that libavif decodes at most."""

_SEQUENCE_HEADER = 1
# Of boxes, pieces and units: an image has few, and who makes up a file can have a million of them.
_MOST_PARTS = 10_000


def most_pixels(data: bytes) -> int:
    """Return how many pixels the frames of an AVIF file may have.

    Parameters
    ----------
    data : bytes
        All of the file.

    Returns
    -------
    int
        :data:`MOST` where that is not known: of sequences, and of files that are damaged or made up.
    """
    try:
        return min(MOST, max(_sizes(data)))
    except (ValueError, IndexError, struct.error):
        return MOST


def _sizes(data: bytes) -> Iterator[int]:
    kinds: dict[int, bytes] = {}
    places: list[tuple[int, list[memoryview]]] = []
    for kind, box in _boxes(data):
        if kind in (b"moov", b"moof"):
            raise ValueError("a sequence")
        if kind == b"meta":
            inside = list(_boxes(box[4:]))
            values = b"".join(content for name, content in inside if name == b"idat")
            for name, content in inside:
                if name == b"iinf":
                    kinds.update(_kinds(content))
                elif name == b"iloc":
                    places += _places(content, (memoryview(data), memoryview(values)))
    images = [pieces for item, pieces in places if kinds.get(item) == b"av01"]
    if sum(len(piece) for pieces in images for piece in pieces) > 2 * len(data):
        raise ValueError("pieces that overlap")
    for pieces in images:
        yield from _frames(b"".join(pieces))


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    place = 0
    for _ in range(_MOST_PARTS):
        if place == len(data):
            return
        size, kind = struct.unpack_from(">I4s", data, place)
        head = 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, place + 8)
            head = 16
        end = place + size if size else len(data)
        if not place + head <= end <= len(data):
            raise ValueError("a box that does not fit")
        yield kind, data[place + head : end]
        place = end
    raise ValueError("too many boxes")


def _kinds(box: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the numbers and types of the items."""
    for kind, entry in _boxes(box[6 if box[0] == 0 else 8 :]):
        if kind != b"infe" or entry[0] not in (2, 3):
            raise ValueError("an item of an unknown kind")
        wide = entry[0] == 3
        (number,) = struct.unpack_from(">I" if wide else ">H", entry, 4)
        place = 10 if wide else 8
        yield number, entry[place : place + 4]


def _places(box: bytes, holders: tuple[memoryview, memoryview]) -> Iterator[tuple[int, list[memoryview]]]:
    """Yield the numbers of the items, and the pieces of their content."""
    version, place, found = box[0], 4, 0

    def number(size: int) -> int:
        nonlocal place
        place += size
        if place > len(box):
            raise ValueError("it is cut short")
        return int.from_bytes(box[place - size : place], "big")

    sizes = number(2)
    offset, length, base, index = (sizes >> shift & 15 for shift in (12, 8, 4, 0))
    for _ in range(number(4 if version == 2 else 2)):
        item = number(4 if version == 2 else 2)
        holder = holders[number(2) & 15 if version else 0]
        number(2)
        begin, pieces = number(base), []
        for _ in range(number(2)):
            number(index if version else 0)
            first, count = begin + number(offset), number(length)
            pieces.append(holder[first : first + count if count else None])
            found += 1
            if found > _MOST_PARTS:
                raise ValueError("too many pieces")
        yield item, pieces


def _frames(data: bytes) -> Iterator[int]:
    """Yield the sizes that the sequence headers of AV1 data allow."""
    place = 0
    for _ in range(_MOST_PARTS):
        if place >= len(data):
            return
        head = data[place]
        place += 2 if head & 4 else 1
        size = len(data) - place
        if head & 2:
            size = shift = 0
            more = 0x80
            while more and shift < 64:
                size |= (data[place] & 0x7F) << shift
                more = data[place] & 0x80
                shift += 7
                place += 1
        if head >> 3 & 15 == _SEQUENCE_HEADER:
            yield _frame(data[place : place + size])
        place += size
    raise ValueError("too many units")


def _frame(header: bytes) -> int:
    bits = "".join(f"{byte:08b}" for byte in header[:64])
    place = 0

    def number(count: int) -> int:
        nonlocal place
        place += count
        return int(bits[place - count : place], 2)

    number(4)
    is_reduced = number(1)
    if is_reduced:
        number(5)
    else:
        if number(1):
            raise ValueError("with times, as videos have them")
        delays = number(1)
        for _ in range(number(5) + 1):
            number(12)
            if number(5) > 7:
                number(1)
            if delays and number(1):
                number(4)
    across, down = number(4) + 1, number(4) + 1
    # Elsewhere a frame may have another size than this, as far as the bits go.
    return (number(across) + 1) * (number(down) + 1) if is_reduced else 1 << across + down
