"""One job at a time."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any


class Lock:
    """A file that one process holds at a time. What ends the process lets go of it.

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
            If it cannot be opened.
        """
        while self._stream is None:
            stream = open(self.path, "ab", buffering=0)  # noqa: SIM115
            try:
                _lock(stream.fileno())
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
        if remove:
            with suppress(OSError):
                self.path.unlink()
        stream.close()

    @property
    def held(self) -> bool:
        """Whether this lock holds the file."""
        return self._stream is not None


def _lock(handle: int) -> None:
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        return
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
