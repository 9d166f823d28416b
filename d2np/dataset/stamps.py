"""Whether an image is still the one that was worked on.

A stamp is a JSON text with what tells one content of a file from another: its size in bytes and the time of
its last change in nanoseconds, and the SHA-256 of its content where that was asked for. Of a file at a URL it
is the size, and a tag or a time, as far as these are told.
"""

from __future__ import annotations

import hashlib
import json
import os

from ..images.remote import RemoteFile
from ..streams import opened
from .listing import Entry

_CHECKSUM = "sha256"


def stamp_of(entry: Entry, *, checksum: bool = False) -> str | None:
    """The stamp of an image as it is now, or None if it cannot be looked at.

    Parameters
    ----------
    entry : Entry
    checksum : bool
        Read the whole file, for its SHA-256.
    """
    try:
        told: dict[str, int | str]
        if isinstance(entry.path, RemoteFile):
            told = entry.path.version()
        else:
            found = os.stat(entry.path)
            told = {"size": found.st_size, "mtime_ns": found.st_mtime_ns}
        if checksum:
            told[_CHECKSUM] = _sha256(entry)
    except (OSError, ValueError):  # of these is ImageError
        return None
    return json.dumps(told)


def with_checksum(stamp: str | None, entry: Entry) -> str | None:
    """The stamp with the checksum of the image, or as it is if it is no longer that of the image."""
    found = stamp_of(entry, checksum=True)
    return found if stamp_of(entry) == stamp else stamp


def has_checksum(stamp: str | None) -> bool:
    """Whether the checksum is in the stamp."""
    return stamp is not None and f'"{_CHECKSUM}"' in stamp


def is_same(recorded: str | None, now: str | None) -> bool:
    """Whether two stamps are of one content: by the checksums where both have one, else by all the rest.

    A stamp that is missing fits any other: nothing is known that speaks against it.
    """
    if not recorded or not now or recorded == now:
        return True
    try:
        before, after = dict(json.loads(recorded)), dict(json.loads(now))
    except (ValueError, TypeError, RecursionError):
        return False
    if before.get(_CHECKSUM) and after.get(_CHECKSUM):
        return bool(before[_CHECKSUM] == after[_CHECKSUM])
    before.pop(_CHECKSUM, None)
    after.pop(_CHECKSUM, None)
    return before == after


def _sha256(entry: Entry) -> str:
    if isinstance(entry.path, RemoteFile):
        return entry.path.sha256()
    digest = hashlib.sha256()
    with opened(entry.path) as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
