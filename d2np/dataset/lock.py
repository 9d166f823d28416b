"""One job at a time."""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..atomic import NO_LOCKS, locks_wanted
from ..errors import FormatError


class Lock:
    """A file that one process holds at a time. What ends the process lets go of it.

    On a file system without locks any number of processes hold it, and a warning is logged on ``d2np``.
    ``HDF5_USE_FILE_LOCKING`` counts as it does for HDF5: with FALSE there are no locks, with TRUE they must
    work.

    Parameters
    ----------
    path : Path
        The file, made where it is missing; its folder must be there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stream: Any = None

    def take(self) -> bool:
        """Hold the file; False if another process, or another lock of this one, does.

        Raises
        ------
        OSError
            If it cannot be opened, or is a link or a pipe.
        FormatError
            If locks do not work there, though ``HDF5_USE_FILE_LOCKING`` asks for them.
        """
        while self._stream is None:
            stream = open(self.path, "ab", buffering=0, opener=_opened)  # noqa: SIM115
            try:
                self._lock(stream.fileno())
                # Whoever held it may have removed it meanwhile.
                still_there = os.path.samestat(os.fstat(stream.fileno()), os.stat(self.path))
            except FileNotFoundError:
                still_there = False
            except (BlockingIOError, PermissionError):
                stream.close()
                return False
            except BaseException:
                stream.close()
                raise
            if still_there:
                self._stream = stream
            else:
                stream.close()
        return True

    def release(self, *, remove: bool = False) -> None:
        """Let go of it, if it is held; with ``remove`` the file goes too."""
        stream, self._stream = self._stream, None
        if stream is None:
            return
        if remove and not self._unlinked():
            # Windows deletes no open file; and none that somebody else has opened by then.
            stream.close()
            self._unlinked()
        stream.close()

    def _unlinked(self) -> bool:
        with suppress(OSError):
            self.path.unlink()
            return True
        return False

    def _lock(self, handle: int) -> None:
        wanted = locks_wanted()
        if wanted is False:
            return
        try:
            _lock(handle)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            if wanted:
                self._unlinked()
                raise FormatError(
                    f"{self.path.parent}: file locks do not work there, and HDF5_USE_FILE_LOCKING asks for "
                    "them: unset it, or write elsewhere"
                ) from None
            logging.getLogger("d2np").warning(
                "%s: file locks do not work there: two jobs must not write to one output at a time",
                self.path.parent,
            )

    @property
    def held(self) -> bool:
        """Whether this lock holds the file."""
        return self._stream is not None


def _opened(path: str, flags: int) -> int:
    """Open the file itself, and not what a link leads to; nobody is waited for who may read from a pipe."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0), 0o666)


def _lock(handle: int) -> None:
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        return
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
