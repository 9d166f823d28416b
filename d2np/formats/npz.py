"""One ``IMAGE.d2-net`` for each picture, as the published ``extract_features.py`` writes it.

A NumPy archive of ``keypoints`` (N, 3) with x, y, scale, ``scores`` (N,) and ``descriptors`` (N, 512).
"""

from __future__ import annotations

import os
import zipfile
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import streams
from ..atomic import replacing
from ..errors import FormatError
from ..features import Features

EXTENSION = ".d2-net"
"""Comes behind the picture's whole name: ``house.jpg.d2-net``."""

MAGIC = b"PK\x03\x04"
"""What such a file begins with."""

_ARRAYS = ("keypoints", "scores", "descriptors")
# Features hardly get smaller when they are compressed. What is this much smaller was made to fill the memory.
_MOST_COMPRESSED = 100
_ALWAYS_READ = 1 << 20


def write(path: str | os.PathLike[str], features: Features) -> None:
    """Write the features of one image, all of the file or nothing; a link is replaced by the file.

    Raises
    ------
    FormatError
        If the file cannot be written.
    """
    try:
        with replacing(path, follow=False) as stream:
            np.savez(stream, **{name: getattr(features, name) for name in _ARRAYS})
    except OSError as error:
        raise FormatError(f"{os.fspath(path)}: cannot be written: {error.strerror or error}") from None


def read(path: str | os.PathLike[str], image_size: tuple[int, int]) -> Features:
    """Read the features of one picture.

    Parameters
    ----------
    path : str or path
    image_size : (int, int)
        (width, height) of the picture, which the file does not tell.

    Raises
    ------
    FormatError
        If it is no such file.
    """
    name = os.fspath(path)
    try:
        with streams.opened(path) as stream, streams.archive(stream) as archive:
            arrays = {key: _array(archive, key, os.path.getsize(path)) for key in _ARRAYS}
    except KeyError as error:
        raise FormatError(f"{name}: not a feature file: {error.args[0]}") from None
    except OSError as error:
        raise FormatError(f"{name}: cannot be read: {error.strerror or error}") from None
    # A damaged archive raises almost anything.
    except Exception as error:
        raise FormatError(f"{name}: not a feature file: {' '.join(str(error).split())}") from None
    return Features(arrays["keypoints"], arrays["scores"], arrays["descriptors"], image_size)


def is_complete(path: str | os.PathLike[str]) -> bool:
    """Whether this is a whole feature file. Its arrays' headers are read, not the arrays."""
    try:
        with streams.opened(path) as stream, streams.archive(stream) as archive:
            shapes = {name: _header(archive, name)[0] for name in _ARRAYS}
    # A damaged archive raises almost anything.
    except Exception:
        return False
    count = shapes["scores"][0]
    return shapes == {"keypoints": (count, 3), "scores": (count,), "descriptors": (count, 512)}


def _header(archive: zipfile.ZipFile, name: str) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """Shape and type of an array, and how many bytes of its part of the archive are in front of it."""
    with archive.open(f"{name}.npy") as stream:
        version = np.lib.format.read_magic(stream)
        read = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = read(stream)
        return shape, dtype, stream.tell()


def _array(archive: zipfile.ZipFile, name: str, file_size: int) -> NDArray[Any]:
    """An array, whose type and size are checked before it is read."""
    shape, dtype, start = _header(archive, name)
    member = archive.getinfo(f"{name}.npy")
    if dtype.kind not in "biuf" or min(shape, default=0) < 0:
        raise ValueError(f"{name} must be an array of numbers")
    if prod(shape) * dtype.itemsize != member.file_size - start:
        raise ValueError(f"{name} has {member.file_size - start:,} bytes, which do not fit its shape {shape}")
    if member.file_size > _ALWAYS_READ + _MOST_COMPRESSED * file_size:
        raise ValueError(
            f"{name} has {member.file_size:,} bytes, far more than the file's {file_size:,}: refused"
        )
    with archive.open(member) as stream:
        values: NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
    return values
