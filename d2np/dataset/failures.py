"""The list of pictures that could not be done: ``OUT.failed.txt``, a line ``name<TAB>reason`` for each.

The time of the file's last change is when the job began that wrote it. A picture on the list that has not
changed since then would fail again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .. import streams
from ..atomic import replacing
from ..errors import FormatError
from ..names import printable
from .listing import Entry

_ESCAPED = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


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
        self._since = 0
        self._now = time.time_ns()
        if path is not None and not retry:
            self._read(path)

    def known(self, entry: Entry) -> str | None:
        """Why a picture failed before, or None if it did not, has changed since, or is not there."""
        reason = self._listed.get(_line_of(entry.name))
        if reason is None:
            return None
        try:
            found = os.stat(entry.path)
        except (OSError, ValueError):
            return None
        # A change of its name or its permissions may be what was missing.
        return reason if max(found.st_mtime_ns, found.st_ctime_ns) < self._since else None

    def begin(self, known: Iterable[tuple[Entry, str]]) -> None:
        """Have the list hold just these; the file is removed if there are none.

        Raises
        ------
        FormatError
            If it cannot be written.
        """
        listed = {_line_of(entry.name): _line_of(reason) for entry, reason in known}
        if self.path is None or (listed and listed == self._listed):
            return
        try:
            if listed:
                with replacing(self.path) as stream:
                    stream.write("".join(f"{name}\t{reason}\n" for name, reason in listed.items()).encode())
                self._date()
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
        try:
            with open(self.path, "ab", buffering=0) as stream:
                stream.write(f"{_line_of(entry.name)}\t{_line_of(reason)}\n".encode())
                os.fsync(stream.fileno())
            self._date()
        except OSError as error:
            raise self._unwritten(error) from None

    def _read(self, path: Path) -> None:
        try:
            text = streams.read(path).decode("utf-8", "replace")
            self._since = path.stat().st_mtime_ns
        except FileNotFoundError:
            return
        except OSError as error:
            raise FormatError(f"{path}: cannot be read: {error.strerror or error}") from None
        # The last line may have been cut off.
        for line in text.split("\n")[:-1]:
            name, tab, reason = line.partition("\t")
            if tab:
                self._listed[name] = reason

    def _date(self) -> None:
        os.utime(self.path, ns=(self._now, self._now))  # type: ignore[arg-type]

    def _unwritten(self, error: OSError) -> FormatError:
        return FormatError(f"{self.path}: cannot be written: {error.strerror or error}")


def _line_of(text: Any) -> str:
    """A text within a line of the list; bytes that are no text are written as ``\\xff``."""
    plain = str(text).translate(_ESCAPED).encode("utf-8", "surrogateescape")
    return printable(plain.decode("utf-8", "backslashreplace"))
