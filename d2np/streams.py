"""Files that may come from anyone, for libraries that believe what they read."""

from __future__ import annotations

import errno
import io
import os
import stat
import sys
import zipfile
from math import prod
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

IS_A_PIPE = "a pipe or a device, not a file"
_NO_WAITING = getattr(os, "O_NONBLOCK", 0)
_LARGEST_DIRECTORY = 1 << 20  # a file of weights has some 25 entries of about 80 bytes


def opened(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a file to be read. Nobody is waited for who may write into a pipe.

    Raises
    ------
    OSError
        If it cannot be opened, or is no file.
    """
    try:
        stream = open(path, "rb", opener=lambda name, flags: os.open(name, flags | _NO_WAITING))  # noqa: SIM115
    except ValueError as error:  # a NUL character in the path
        raise OSError(errno.EINVAL, str(error), os.fspath(path)) from None
    if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        stream.close()
        raise OSError(errno.EINVAL, IS_A_PIPE, os.fspath(path))
    return stream


def read(path: str | os.PathLike[str]) -> bytes:
    """Return the content of a file (see :func:`opened`), or of standard input for ``-``."""
    if path == "-":
        return sys.stdin.buffer.read()
    with opened(path) as stream:
        return stream.read()


def is_pipe(path: str | os.PathLike[str]) -> bool:
    """Return whether there is something that is neither a file nor a folder."""
    return os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path))


class Capped:
    """A binary file of which nobody gets more than there is, or can have more room made for it.

    Python makes room for as many bytes as it is asked for, and libraries ask for as many as a header says.

    Parameters
    ----------
    stream : seekable binary file

    Attributes
    ----------
    size : int
        Of the file, in bytes.
    most : int or None
        How many bytes may be read at once.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.most: int | None = None
        place = stream.tell()
        self.size = stream.seek(0, os.SEEK_END)
        stream.seek(place)

    def read(self, count: int = -1) -> bytes:
        left = max(0, self.size - self._stream.tell())
        count = left if count is None or count < 0 else min(count, left)
        if self.most is not None and count > self.most:
            raise ValueError(f"{count:,} bytes are too many at once")
        return self._stream.read(count)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True


def archive(stream: BinaryIO, largest_directory: int = _LARGEST_DIRECTORY) -> zipfile.ZipFile:
    """Open a zip archive of which the table of contents is small, and no member larger than the file.

    Raises
    ------
    Exception
        Of almost any kind, if the file is something else.
    """
    capped = Capped(stream)
    capped.most = largest_directory
    opened = zipfile.ZipFile(capped)
    capped.most = None
    if any(member.compress_size > capped.size for member in opened.infolist()):
        raise zipfile.BadZipFile("a part of it is larger than the whole file")
    return opened


def read_array(archive: zipfile.ZipFile, member: str, kinds: str) -> NDArray[Any]:
    """Read an array of some of NumPy's kinds, whose checksum is right, without running any code.

    Raises
    ------
    Exception
        Of almost any kind, if the member is something else.
    """
    content = archive.read(member)
    stream = io.BytesIO(content)
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    size = prod(shape)
    if dtype.kind not in kinds or size * dtype.itemsize != len(content) - stream.tell():
        raise ValueError(f"{member} is no array of its size")
    values = np.frombuffer(content, dtype, size, stream.tell()) if size else np.empty(0, dtype)
    return values.reshape(shape, order="F" if fortran else "C")
