"""Whether the bytes of an array in an HDF5 file are there, before HDF5 reads them.

HDF5 believes that what it unpacks from a file is as long as it should be. Where less comes out, it goes on
into the memory that happens to be behind it (HDF5 2.0): what was there becomes numbers of the array, or the
process ends.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from itertools import product
from math import prod
from typing import Any

DEFLATE, SHUFFLE, FLETCHER32, LZF = 1, 2, 3, 32000
"""Numbers of the filters that are known here."""

_MOST_CHUNKS = 1 << 16
_CHECKSUM = 4


def filters(dataset: Any) -> list[tuple[Any, ...]]:
    """The filters of an array in the order in which they were applied, each with its number first."""
    properties = dataset.id.get_create_plist()
    return [properties.get_filter(index) for index in range(properties.get_nfilters())]


def check(dataset: Any) -> None:
    """See that every piece of an array is as long as it should be, once it is unpacked.

    Parameters
    ----------
    dataset : h5py.Dataset
        With no other filters than those known here, in chunks that are not too large to be unpacked.

    Raises
    ------
    ValueError
        If one is not. Pieces that the file does not have are none: they are read as zeros.
    """
    import h5py

    layout = dataset.id.get_create_plist().get_layout()
    item_size = dataset.id.get_type().get_size()
    if layout != h5py.h5d.CHUNKED:
        held = dataset.id.get_storage_size()
        missing = layout == h5py.h5d.CONTIGUOUS and held == 0
        if held != prod(dataset.shape) * item_size and not missing:
            raise ValueError(f"its {held:,} bytes do not fit its shape {dataset.shape}")
        return
    size = prod(dataset.chunks) * item_size
    starts = [range(0, edge, step) for edge, step in zip(dataset.shape, dataset.chunks, strict=True)]
    if prod(map(len, starts)) > _MOST_CHUNKS:
        raise ValueError(f"it is in {prod(map(len, starts)):,} chunks: refused, repack it in larger ones")
    applied = filters(dataset)
    file_size = dataset.file.id.get_filesize()
    for place in product(*starts):
        info = dataset.id.get_chunk_info_by_coord(place)
        if info.byte_offset is None:
            continue
        if info.size > file_size:
            raise ValueError(f"the chunk at {place} claims more bytes than the file has")
        skipped, packed = dataset.id.read_direct_chunk(place)
        # Without filters HDF5 makes up what is missing.
        found = _unpacked_size(packed[: info.size], applied, skipped, size)
        if found != size:
            raise ValueError(f"the chunk at {place} unpacks to {found:,} bytes, expected {size:,}")


def _unpacked_size(packed: bytes, applied: Sequence[tuple[Any, ...]], skipped: int, size: int) -> int:
    """How long a chunk is once it is unpacked, or some length above ``size`` if it is longer than that.

    The filters are listed as they were applied; ``skipped`` has a bit for each that this chunk does without.
    """
    for index, (number, _, settings, _) in reversed(list(enumerate(applied))):
        if skipped >> index & 1 or number == SHUFFLE:
            continue
        if number == FLETCHER32:
            packed = packed[: max(0, len(packed) - _CHECKSUM)]
        elif number == DEFLATE:
            packed = _inflated(packed, size + _CHECKSUM)
        elif number == LZF:
            # The room that it makes is told by the file.
            if len(settings) < 3 or settings[2] > size + _CHECKSUM:
                raise ValueError("its settings of LZF do not fit its chunks")
            packed = bytes(min(_lzf_size(packed), size + _CHECKSUM + 1))
        else:
            raise ValueError(f"it has the unknown filter {number}")
    return len(packed)


def _inflated(packed: bytes, most: int) -> bytes:
    """What was packed by zlib, or its beginning, more than ``most`` bytes, if it is longer than that."""
    unpacker = zlib.decompressobj()
    try:
        found = unpacker.decompress(packed, most + 1)
    except zlib.error as error:
        raise ValueError(f"a chunk is damaged: {error}") from None
    if len(found) <= most and not unpacker.eof:
        raise ValueError("a chunk is damaged: it is cut short")
    return found


def _lzf_size(packed: bytes) -> int:
    """How many bytes LZF unpacks to: it has runs of bytes as they are, and references to earlier ones."""
    place = size = 0
    while place < len(packed):
        control = packed[place]
        if control < 1 << 5:
            place += control + 2
            size += control + 1
        elif control >> 5 < 7:
            place += 2
            size += (control >> 5) + 2
        else:
            size += 7 + 2 + (packed[place + 1] if place + 1 < len(packed) else 0)
            place += 3
    if place > len(packed):
        raise ValueError("a chunk is damaged: it is cut short")
    return size
