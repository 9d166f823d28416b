"""Whether an image is still what it was: when its features were extracted, or when it could not be read.

A stamp is a JSON text with what tells one content of a file from another: its size in bytes and the time of
its last change in nanoseconds, and the SHA-256 of its content where that was asked for. Of a file at a URL it
is the size, and a tag or a time, as far as these are told. Where the image has a mask, the stamp has the same
of that under ``mask``, or null if there is no such file.

The images that failed are listed in ``OUT.failed.txt``, a line ``name<TAB>reason<TAB>state`` each. The state
is what the image was like when it was tried, as JSON: size and times of a file, what is told of a URL, or
that nothing is there. An image on the list that is still like that would fail again. Without a state, as
where a file was missing or a server did not answer, it is tried again.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from .. import streams
from ..atomic import replacing
from ..images.names import printable
from ..images.remote import NO_FILE, RemoteFile
from .archives import telling
from .listing import Entry

_CHECKSUM = "sha256"
_ESCAPES = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"}
_ESCAPED = str.maketrans(_ESCAPES)
_PLAIN = {escape: plain for plain, escape in _ESCAPES.items()}


def stamp_of(entry: Entry, *, checksum: bool = False) -> str | None:
    """Return the stamp of an image as it is now, or None if it cannot be looked at.

    Parameters
    ----------
    entry : Entry
    checksum : bool
        Read the whole file, for its SHA-256.
    """
    try:
        told = _looked_at(entry, "size", "mtime_ns")
        if checksum:
            told[_CHECKSUM] = _sha256(entry.path)
            if entry.mask is not None and told["mask"]:
                told["mask"][_CHECKSUM] = _sha256(entry.mask)
    except (OSError, ValueError):  # of these is ImageError
        return None
    return json.dumps(told)


def with_checksum(stamp: str | None, entry: Entry) -> str | None:
    """Return the stamp with the checksum of the image, or as it is if the image has changed since."""
    found = stamp_of(entry, checksum=True)
    return found if stamp_of(entry) == stamp else stamp


def has_checksum(stamp: str | None) -> bool:
    """Return whether the checksum is in the stamp."""
    return stamp is not None and f'"{_CHECKSUM}"' in stamp


def is_same(recorded: str | None, now: str | None) -> bool:
    """Return whether two stamps are of one content: by the checksums where both have one, else by the rest.

    A stamp that is missing fits any other: nothing is known that speaks against it.
    """
    if not recorded or not now or recorded == now:
        return True
    try:
        before, after = dict(json.loads(recorded)), dict(json.loads(now))
        masks = [dict(told.pop("mask", None) or {}) for told in (before, after)]
    except (ValueError, TypeError, RecursionError):
        return False
    return _is_alike(before, after) and _is_alike(*masks)


def _is_alike(before: dict[str, Any], after: dict[str, Any]) -> bool:
    sums = before.pop(_CHECKSUM, None), after.pop(_CHECKSUM, None)
    return bool(sums[0] == sums[1] if all(sums) else before == after)


class Failures:
    """Images that failed before, and those that fail now.

    Parameters
    ----------
    path : Path, optional
        The list; without one nothing is remembered.
    retry : bool
        Forget what failed before.

    Raises
    ------
    FormatError
        If there is a list that cannot be read.
    """

    def __init__(self, path: Path | None, *, retry: bool = False) -> None:
        self.path = path
        self._listed: dict[str, str] = {}
        self._seen: dict[str, str | None] = {}
        if path is not None and not retry:
            self._read(path)

    def known(self, entry: Entry) -> str | None:
        """Return why an image failed before, or None if it did not, or has changed since."""
        reason, _, state = self._listed.get(_line_of(entry.name), "").partition("\t")
        if not state or state != _state_of(entry):
            return None
        return re.sub(r"\\[\\tnr]", lambda escape: _PLAIN[escape[0]], reason)

    def watched(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        """Yield images to be tried, and note what each is like when its turn comes."""
        for entry in entries:
            # What is at a URL changes as a whole: it is early enough to ask once it has failed.
            if self.path is not None and not isinstance(entry.path, RemoteFile):
                self._seen[entry.name] = _state_of(entry)
            yield entry

    def begin(self, known: Iterable[Entry]) -> None:
        """Have the list hold just these of those that were known; the file is removed if there are none.

        Raises
        ------
        FormatError
            If it cannot be written.
        """
        listed = {name: self._listed[name] for name in (_line_of(entry.name) for entry in known)}
        if self.path is None or (listed and listed == self._listed):
            return
        with telling(f"{self.path}: cannot be written"):
            if not listed:
                self.path.unlink(missing_ok=True)
                return
            with replacing(self.path) as stream:
                stream.write("".join(f"{name}\t{line}\n" for name, line in listed.items()).encode())

    def add(self, entry: Entry, reason: str) -> None:
        """Append an image to the list, at once.

        Raises
        ------
        FormatError
            If it cannot be written.
        """
        if self.path is None:
            return
        state = self._seen.get(entry.name) or _state_of(entry)
        told = [_line_of(entry.name), _line_of(reason), *([state] if state else [])]
        with telling(f"{self.path}: cannot be written"), open(self.path, "ab", buffering=0) as stream:
            stream.write(("\t".join(told) + "\n").encode())
            os.fsync(stream.fileno())

    def done(self, entry: Entry) -> None:
        """Forget what an image was like."""
        self._seen.pop(entry.name, None)

    def _read(self, path: Path) -> None:
        text = ""
        with telling(f"{path}: cannot be read"), suppress(FileNotFoundError):
            text = streams.read(path).decode("utf-8", "replace")
        # The last line may have been cut off.
        for line in text.split("\n")[:-1]:
            name, tab, rest = line.partition("\t")
            if tab:
                self._listed[name] = rest


def _looked_at(entry: Entry, *told: str) -> dict[str, Any]:
    """Return what the system tells of a file and its mask, or the file system of a URL of one there."""
    path = entry.path
    found: dict[str, Any] = path.version() if isinstance(path, RemoteFile) else _stat(path, told)
    if entry.mask is not None:
        found["mask"] = _stat(entry.mask, told) if entry.mask.is_file() else None
    return found


def _stat(path: Path, told: Iterable[str]) -> dict[str, int]:
    found = os.stat(path)
    return {name: getattr(found, f"st_{name}") for name in told}


def _state_of(entry: Entry) -> str | None:
    """Return what an image is like now; None if that cannot be found out."""
    try:
        # A change of its name or its permissions may be what was missing.
        return json.dumps(_looked_at(entry, "size", "mtime_ns", "ctime_ns"))
    except (OSError, ValueError) as error:  # of these is ImageError
        # To try a file that is missing costs nothing, but a server need not be asked for it twice.
        return json.dumps({"missing": True}) if str(error).endswith(NO_FILE) else None


def _line_of(text: str) -> str:
    """Return a text as it is within a line of the list; bytes that are no text are written as ``\\xff``."""
    plain = text.translate(_ESCAPED).encode("utf-8", "surrogateescape")
    return printable(plain.decode("utf-8", "backslashreplace"))


def _sha256(path: Path | RemoteFile) -> str:
    if isinstance(path, RemoteFile):
        return path.sha256()
    digest = hashlib.sha256()
    with streams.opened(path) as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
