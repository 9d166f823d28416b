"""Files that are there as a whole or not at all, and locks, which a file system may not have."""

from __future__ import annotations

import errno
import logging
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from .errors import Error, FormatError

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
"""Errors of file systems that have no file locks: NFS without lockd, some of Lustre, some of FUSE."""


@contextmanager
def replacing(path: str | os.PathLike[str], *, follow: bool = True) -> Iterator[BinaryIO]:
    """Yield a stream that becomes the file when the block ends well, and leaves nothing when it does not.

    Parameters
    ----------
    path : str or path
        A file that is there already is replaced.
    follow : bool
        A link stays one, and the file it leads to is replaced, as is right for a path that a user names.
        Otherwise the link itself is replaced.

    Raises
    ------
    OSError
        If the file cannot be written there.
    """
    if "\0" in os.fspath(path):
        raise OSError(errno.EINVAL, "no file can have a NUL in its name", os.fspath(path))
    folder, name = os.path.split(os.path.realpath(path) if follow else path)
    target = Path(os.path.realpath(folder), name)
    # A device or pipe would be replaced by a file.
    if target.exists() and not target.is_file() and not target.is_symlink():
        raise OSError(None, "there is something that is no file", os.fspath(path))
    # In the same folder, since only a rename within one file system is atomic.
    temporary = target.with_name(f".{target.name[:80]}.{secrets.token_hex(8)}")
    try:
        with open(temporary, "xb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, target)
        sync_folder(target.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def writing(
    path: str | os.PathLike[str], *, follow: bool = True, error: type[Error] = FormatError
) -> Iterator[BinaryIO]:
    """Do as :func:`replacing` does, but say in one sentence of ours that a file cannot be written.

    Raises
    ------
    Error
        If it cannot; of the class ``error``.
    """
    try:
        with replacing(path, follow=follow) as stream:
            yield stream
    except OSError as problem:
        raise error(f"{os.fspath(path)}: cannot be written: {problem.strerror or problem}") from None


def sync_folder(folder: Path) -> None:
    """Have the disk write which files a folder holds, where the system can do that."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        return
    finally:
        os.close(handle)


def locks_wanted() -> bool | None:
    """Return what HDF5's variable ``HDF5_USE_FILE_LOCKING`` asks for; None for locks where they work."""
    wanted = os.environ.get("HDF5_USE_FILE_LOCKING", "")
    return {"TRUE": True, "1": True, "FALSE": False, "0": False}.get(wanted)


class Lock:
    """A file that one process holds at a time. The system releases it when the process ends.

    On a file system without locks any number of processes hold it, and a warning is logged on ``d2np``.
    ``HDF5_USE_FILE_LOCKING`` counts as it does for HDF5: with FALSE there are no locks, with TRUE they must
    work.

    Parameters
    ----------
    path : Path
        The file, created where it is missing; its folder must be there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle: int | None = None

    @property
    def held(self) -> bool:
        """Whether this lock holds the file."""
        return self._handle is not None

    def take(self) -> bool:
        """Hold the file; False if another process, or another lock of this one, does.

        Raises
        ------
        OSError
            If it cannot be opened, or is a link or a pipe.
        FormatError
            If locks do not work there, though ``HDF5_USE_FILE_LOCKING`` asks for them.
        """
        while self._handle is None:
            handle = os.open(self.path, _LOCK_FLAGS, 0o666)
            try:
                self._lock(handle)
                # Whoever held it may have removed it meanwhile.
                if os.path.samestat(os.fstat(handle), os.stat(self.path)):
                    self._handle = handle
            except FileNotFoundError:
                continue
            except (BlockingIOError, PermissionError):
                return False
            finally:
                if self._handle is None:
                    os.close(handle)
        return True

    def release(self, *, remove: bool = False) -> None:
        """Release the file, if it is held; with ``remove`` delete it."""
        handle, self._handle = self._handle, None
        if handle is None:
            return
        removed = remove and self._removed()
        _unlock(handle)
        os.close(handle)
        if remove and not removed:
            # Windows deletes no open file.
            self._removed()

    def _removed(self) -> bool:
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
                self._removed()
                raise FormatError(
                    f"{self.path.parent}: file locks do not work there, and HDF5_USE_FILE_LOCKING asks for "
                    "them: unset it, or write elsewhere"
                ) from None
            logging.getLogger("d2np").warning(
                "%s: file locks do not work there: two jobs must not write to one output at a time",
                self.path.parent,
            )


# The file itself is opened, and not what a link leads to; nobody is waited for who may read from a pipe.
_LOCK_FLAGS = (
    os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
)


def _lock(handle: int) -> None:
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        return
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _unlock(handle: int) -> None:
    """Unlock what is closed next, on Windows, which may otherwise take its time."""
    with suppress(ImportError, OSError):
        import msvcrt

        msvcrt.locking(handle, msvcrt.LK_UNLCK, 1)  # type: ignore[attr-defined]
