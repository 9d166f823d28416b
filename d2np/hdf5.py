"""Values of HDF5 files that may come from anyone: weights, features, matches.

What a file says of a value (its type, size, how and where it is kept) is checked before the value is read:

- Links out of the file, and arrays that are kept in another one, are refused. HDF5 would open what these
  name, with the user's rights, and wait for ever where that is a pipe; for an array's shape already.
- Values of variable length are neither read nor written. HDF5 finds them through a heap of the file, and if
  that is damaged it may never return (HDF5 2.0).
- Other filters than gzip and shuffle are refused: they could make HDF5 load a plug-in.
- Each chunk is unpacked here first, and its length compared. HDF5 believes that what it unpacks is as long as
  it should be. Where less comes out, it goes on into the memory behind it (HDF5 2.0): what was there becomes
  numbers of the array, or the process ends.
"""

from __future__ import annotations

import zlib
from itertools import product
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import FormatError

_DEFLATE, _SHUFFLE = 1, 2  # as HDF5 numbers its filters
_MOST_CHUNKS = 1 << 16
_LONGEST_TEXT = 60_000  # an attribute ends at 64 kB
# Features hardly get smaller when they are compressed. What is this much smaller was made to fill the memory.
_MOST_COMPRESSED = 100
_ALWAYS_READ = 1 << 20


def read_attribute(holder: Any, name: str) -> str | int | None:
    """Return a text or a whole number that is an attribute; None if there is none, or something else.

    Parameters
    ----------
    holder : h5py.Group or h5py.Dataset
    name : str
    """
    if name not in holder.attrs:
        return None
    attribute = holder.attrs.get_id(name)
    if attribute.shape != () or attribute.dtype.kind not in "Siu" or attribute.dtype.itemsize > _LONGEST_TEXT:
        return None
    # By itself h5py would ask for the value twice.
    value = np.zeros((), attribute.dtype)
    attribute.read(value)
    found: bytes | int = value.item()
    return found.decode("utf-8", "surrogateescape") if isinstance(found, bytes) else found


def read_text(holder: Any, name: str) -> str | None:
    """Return a text that is an attribute; None if there is none, or something else."""
    found = read_attribute(holder, name)
    return found if isinstance(found, str) else None


def read_numbers(holder: Any, name: str, shape: tuple[int, ...]) -> NDArray[np.float64] | None:
    """Return an attribute of finite numbers of this shape; None if there is none, or something else."""
    if name not in holder.attrs:
        return None
    attribute = holder.attrs.get_id(name)
    if attribute.shape != shape or attribute.dtype.kind not in "iuf":
        return None
    values = np.zeros(shape, attribute.dtype)
    attribute.read(values)
    return values.astype(np.float64) if np.isfinite(values).all() else None


def write_text(holder: Any, name: str, text: str) -> None:
    """Give a group or file a text as an attribute.

    Parameters
    ----------
    holder : h5py.Group
    name, text : str
    """
    import h5py

    encoded = text.encode("utf-8", "surrogateescape")
    holder.attrs.create(name, encoded, dtype=h5py.string_dtype("utf-8", max(len(encoded), 1)))


def find(group: Any, name: str) -> Any:
    """Return what a group holds under a name, or None. What is kept in another file is never looked for.

    Parameters
    ----------
    group : h5py.Group
    name : str
        With slashes between the names of groups that hold each other.

    Raises
    ------
    FormatError
        If a link is met, or an array that is kept in another file.
    """
    import h5py

    found = group
    for part in name.split("/"):
        link = found.get(part, getlink=True) if isinstance(found, h5py.Group) else None
        if link is None:
            return None
        if not isinstance(link, h5py.HardLink):
            raise FormatError(f"{_place(found, part)}: is a link to somewhere else, put a copy in its place")
        found = found[part]
    if isinstance(found, h5py.Dataset) and (found.is_virtual or found.external):
        raise FormatError(
            f"{_place(group, name)}: keeps its values in another file, expected them in this one"
        )
    return found


def read_array(group: Any, name: str, shape: tuple[int, ...] | None = None) -> NDArray[Any]:
    """Read an array of plain numbers.

    Parameters
    ----------
    group : h5py.Group
    name : str
    shape : tuple of int, optional
        What its shape must be. Without one, the array may not take far more memory than the file does.

    Raises
    ------
    FormatError
        If it is something else, is kept in another file (see :func:`find`), or is damaged.
    """
    import h5py

    place = _place(group, name)
    dataset = find(group, name)
    if not isinstance(dataset, h5py.Dataset):
        raise FormatError(f"{place}: expected an array of numbers")
    if shape is not None and dataset.shape != shape:
        raise FormatError(f"{place}: expected shape {shape}, found {dataset.shape}")
    if dataset.shape is None or dataset.dtype.kind not in "biuf":
        raise FormatError(f"{place}: expected an array of numbers, found {dataset.dtype}")
    filters = _filters(dataset)
    if not {_DEFLATE, _SHUFFLE}.issuperset(filters):
        raise FormatError(
            f"{place}: expected gzip compression or none, found filters {filters}: h5repack -f NONE IN OUT "
            "unpacks it"
        )
    size = prod(dataset.shape) * dataset.dtype.itemsize
    chunk = prod(dataset.chunks or ()) * dataset.dtype.itemsize
    held = min(dataset.id.get_storage_size(), dataset.file.id.get_filesize())
    allowed = _ALWAYS_READ + (_MOST_COMPRESSED * held if shape is None else size)
    if max(size, chunk) > allowed:
        raise FormatError(
            f"{place}: {size:,} bytes in chunks of {chunk:,}, of which the file holds {held:,}: refused"
        )
    try:
        _check_chunks(dataset, filters)
    except (ValueError, zlib.error) as error:
        raise FormatError(f"{place}: {error}") from None
    values: NDArray[Any] = dataset[()]
    return values


def _place(group: Any, name: str) -> str:
    return f"{group.name.rstrip('/')}/{name}".lstrip("/")


def _filters(dataset: Any) -> list[int]:
    """Return the numbers of an array's filters in the order in which they were applied."""
    properties = dataset.id.get_create_plist()
    return [properties.get_filter(index)[0] for index in range(properties.get_nfilters())]


def _check_chunks(dataset: Any, filters: list[int]) -> None:
    """Raise ValueError or zlib.error unless every chunk of an array unpacks to the length it should have.

    Chunks that the file does not have are no error: they are read as zeros.
    """
    import h5py

    # As the file has it, which may be less than NumPy's.
    item_size = dataset.id.get_type().get_size()
    if dataset.chunks is None:
        held = dataset.id.get_storage_size()
        missing = held == 0 and dataset.id.get_create_plist().get_layout() == h5py.h5d.CONTIGUOUS
        if held != dataset.size * item_size and not missing:
            raise ValueError(f"its {held:,} bytes do not fit its shape {dataset.shape}")
        return
    size = prod(dataset.chunks) * item_size
    starts = [range(0, edge, step) for edge, step in zip(dataset.shape, dataset.chunks, strict=True)]
    if prod(map(len, starts)) > _MOST_CHUNKS:
        raise ValueError(f"it is in {prod(map(len, starts)):,} chunks: refused, repack it in larger ones")
    file_size = dataset.file.id.get_filesize()
    for place in product(*starts):
        info = dataset.id.get_chunk_info_by_coord(place)
        if info.byte_offset is None:
            continue
        if info.size > file_size:
            raise ValueError(f"the chunk at {place} claims more bytes than the file has")
        # Has a bit for each filter that this chunk does without.
        skipped, packed = dataset.id.read_direct_chunk(place)
        packed = packed[: info.size]
        for index, number in enumerate(filters):
            if number == _DEFLATE and not skipped >> index & 1:
                packed = _inflated(packed, size)
        if len(packed) != size:
            raise ValueError(f"the chunk at {place} unpacks to {len(packed):,} bytes, expected {size:,}")


def _inflated(packed: bytes, most: int) -> bytes:
    """Unpack what zlib packed, or its beginning, more than ``most`` bytes, if it is longer than that."""
    unpacker = zlib.decompressobj()
    found = unpacker.decompress(packed, most + 1)
    if len(found) <= most and not unpacker.eof:
        raise ValueError("a chunk is cut short")
    return found
