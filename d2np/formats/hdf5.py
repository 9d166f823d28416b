"""Values of HDF5 files that may come from anyone.

What a file says of a value (its type, size, how and where it is kept) is looked at before it is read.
Values of variable length are neither read nor written: HDF5 finds them through a heap of the file, and if
that is damaged it may never return (HDF5 2.0).
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import chunks
from ..errors import FormatError

_LONGEST_TEXT = 60_000  # an attribute ends at 64 kB
_PLAIN = "biuf"
# Any other filter could make HDF5 load a plug-in.
_FILTERS = {chunks.DEFLATE, chunks.SHUFFLE, chunks.FLETCHER32, chunks.LZF}
# Features hardly get smaller when they are compressed. What is this much smaller was made to fill the memory.
_MOST_COMPRESSED = 100
_ALWAYS_READ = 1 << 20


def read_text(holder: Any, name: str) -> str | None:
    """A text that a group or file has as an attribute, or None if it has none or something else of that name.

    Parameters
    ----------
    holder : h5py.Group
    name : str
    """
    if name not in holder.attrs:
        return None
    attribute = holder.attrs.get_id(name)
    if attribute.shape != () or attribute.dtype.kind != "S" or attribute.dtype.itemsize > _LONGEST_TEXT:
        return None
    # By itself h5py would ask for the value twice.
    value = np.zeros((), attribute.dtype)
    attribute.read(value)
    return value.item().decode("utf-8", "surrogateescape")


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
        If a link is met, or an array that is kept in another file: HDF5 would open what these name, with the
        user's rights, and wait for ever where that is a pipe. It would do so for an array's shape already.
    """
    import h5py

    found = group
    for part in name.split("/"):
        link = found.get(part, getlink=True) if isinstance(found, h5py.Group) else None
        if link is None:
            return None
        if not isinstance(link, h5py.HardLink):
            path = f"{found.name.rstrip('/')}/{part}"
            raise FormatError(
                f"{found.file.filename}: {path} is a link to somewhere else: put a copy in its place"
            )
        found = found[part]
    if isinstance(found, h5py.Dataset):
        properties = found.id.get_create_plist()
        if properties.get_layout() == h5py.h5d.VIRTUAL or properties.get_external_count():
            raise FormatError(f"{found.name}: keeps its values in another file, expected them in this one")
    return found


def read_array(group: Any, name: str) -> NDArray[Any]:
    """An array of plain numbers that a group holds.

    Parameters
    ----------
    group : h5py.Group
    name : str

    Raises
    ------
    FormatError
        If it is something else, is kept in another file (see :func:`find`), or would take far more memory
        than the file does.
    """
    import h5py

    dataset = find(group, name)
    told = f"{group.name}/{name}"
    if not isinstance(dataset, h5py.Dataset) or dataset.shape is None:
        raise FormatError(f"{told}: expected an array of numbers")
    if dataset.dtype.kind not in _PLAIN:
        raise FormatError(f"{told}: expected an array of numbers, found {dataset.dtype}")
    filters = {number for number, *_ in chunks.filters(dataset)}
    if not filters <= _FILTERS:
        raise FormatError(
            f"{told}: expected gzip or LZF compression or none, found filters {sorted(filters)}"
        )
    size = prod(dataset.shape) * dataset.dtype.itemsize
    chunk = prod(dataset.chunks or ()) * dataset.dtype.itemsize
    held = min(dataset.id.get_storage_size(), dataset.file.id.get_filesize())
    if max(size, chunk) > _ALWAYS_READ + _MOST_COMPRESSED * held:
        raise FormatError(
            f"{told}: {size:,} bytes in chunks of {chunk:,}, of which the file holds {held:,}: refused"
        )
    try:
        chunks.check(dataset)
    except ValueError as error:
        raise FormatError(f"{told}: {error}") from None
    values: NDArray[Any] = dataset[()]
    return values
