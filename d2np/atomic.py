"""Files that are there as a whole or not at all, and what a file system may not have."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
"""Errors of file systems that have no file locks: NFS without lockd, some of Lustre, some of FUSE."""


@contextmanager
def replacing(path: str | os.PathLike[str], *, follow: bool = True) -> Iterator[BinaryIO]:
    """Open a stream whose content becomes the file when the block ends well, and is deleted otherwise.

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
