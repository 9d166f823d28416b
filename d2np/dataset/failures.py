"""The list of images that could not be done: ``OUT.failed.txt``, a line ``name<TAB>reason<TAB>state`` each.

The state is what the image was like when it was tried, as JSON: size and times of a file, what is told of a
URL, or that nothing is there. An image on the list that is still like that would fail again. Without a state,
as where a file was missing or a server did not answer, it is tried again.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from .. import streams
from ..atomic import replacing
from ..errors import FormatError
from ..images.names import printable
from ..images.remote import NO_FILE, RemoteFile
from .listing import Entry

_ESCAPES = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"}
_ESCAPED = str.maketrans(_ESCAPES)
_PLAIN = {escape: plain for plain, escape in _ESCAPES.items()}


class Failures:
    """What failed before, and what fails now.

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
        listed = self._listed.get(_line_of(entry.name))
        if listed is None:
            return None
        reason, _, state = listed.partition("\t")
        if not state or state != _state_of(entry):
            return None
        return re.sub(r"\\[\\tnr]", lambda escape: _PLAIN[escape[0]], reason)

    def watched(self, entries: Iterable[Entry]) -> list[Entry]:
        """Return images to be tried, as a list that notes what each is like when it comes to it."""
        return _Watched(entries, self._watch)

    def _watch(self, entry: Entry) -> None:
        # What is at a URL changes as a whole: it is early enough to ask once it has failed.
        if self.path is not None and not isinstance(entry.path, RemoteFile):
            self._seen[entry.name] = _state_of(entry)

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
        try:
            if listed:
                with replacing(self.path) as stream:
                    stream.write("".join(f"{name}\t{line}\n" for name, line in listed.items()).encode())
            else:
                self.path.unlink(missing_ok=True)
        except OSError as error:
            raise self._unwritten(error) from None

    def add(self, entry: Entry, reason: str) -> None:
        """Put one more on the list, at once.

        Raises
        ------
        FormatError
            If it cannot be written.
        """
        if self.path is None:
            return
        state = self._seen.get(entry.name) or _state_of(entry)
        told = [_line_of(entry.name), _line_of(reason), *([state] if state else [])]
        try:
            with open(self.path, "ab", buffering=0) as stream:
                stream.write(("\t".join(told) + "\n").encode())
                os.fsync(stream.fileno())
        except OSError as error:
            raise self._unwritten(error) from None

    def done(self, entry: Entry) -> None:
        """Forget what an image was like."""
        self._seen.pop(entry.name, None)

    def _read(self, path: Path) -> None:
        try:
            text = streams.read(path).decode("utf-8", "replace")
        except FileNotFoundError:
            return
        except OSError as error:
            raise FormatError(f"{path}: cannot be read: {error.strerror or error}") from None
        # The last line may have been cut off.
        for line in text.split("\n")[:-1]:
            name, tab, rest = line.partition("\t")
            if tab:
                self._listed[name] = rest

    def _unwritten(self, error: OSError) -> FormatError:
        return FormatError(f"{self.path}: cannot be written: {error.strerror or error}")


class _Watched(list[Entry]):
    """Entries of which each is shown to somebody before it is handed out."""

    def __init__(self, entries: Iterable[Entry], show: Callable[[Entry], None]) -> None:
        super().__init__(entries)
        self._show = show

    def __iter__(self) -> Iterator[Entry]:
        for entry in super().__iter__():
            self._show(entry)
            yield entry


def _state_of(entry: Entry) -> str | None:
    """Return what an image is like now; None if that cannot be found out."""
    state: dict[str, int | str | bool]
    try:
        if isinstance(entry.path, RemoteFile):
            state = dict(entry.path.version())
        else:
            found = os.stat(entry.path)
            # A change of its name or its permissions may be what was missing.
            times = {"mtime_ns": found.st_mtime_ns, "ctime_ns": found.st_ctime_ns}
            state = {"size": found.st_size, **times}
    except (OSError, ValueError) as error:  # of these is ImageError
        # To try a file that is missing costs nothing, but a server need not be asked for it twice.
        if not str(error).endswith(NO_FILE):
            return None
        state = {"missing": True}
    return json.dumps(state)


def _line_of(text: Any) -> str:
    """A text within a line of the list; bytes that are no text are written as ``\\xff``."""
    plain = str(text).translate(_ESCAPED).encode("utf-8", "surrogateescape")
    return printable(plain.decode("utf-8", "backslashreplace"))
