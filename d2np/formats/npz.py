"""One ``IMAGE.d2-net`` for each image, as the published ``extract_features.py`` writes it.

A NumPy archive of ``keypoints`` (N, 3) with x, y, scale, ``scores`` (N,) and ``descriptors`` (N, 512).
"""

from __future__ import annotations

import io
import os
import zipfile
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import streams
from ..atomic import replacing
from ..errors import FormatError
from ..features import DESCRIPTOR_SIZE, Features

EXTENSION = ".d2-net"
"""Comes behind the image's whole name: ``house.jpg.d2-net``."""

MAGIC = b"PK\x03\x04"
"""What such a file begins with."""

_ARRAYS = ("keypoints", "scores", "descriptors")
# Features hardly get smaller when they are compressed. What is this much smaller was made to fill the memory.
_MOST_COMPRESSED = 100
_ALWAYS_READ = 1 << 20
_LONGEST_HEADER = 10_240  # NumPy reads 10,000


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
    """Read the features of one image.

    Parameters
    ----------
    path : str or path
    image_size : (int, int)
        (width, height) of the image, which the file does not tell.

    Raises
    ------
    FormatError
        If it is no such file.
    """
    name = os.fspath(path)
    try:
        with streams.opened(path) as stream, streams.archive(stream) as archive:
            members = _members(archive, os.path.getsize(path))
            arrays = {key: _array(archive, member) for key, member in members.items()}
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
            _members(archive, os.path.getsize(path))
    # A damaged archive raises almost anything.
    except Exception:
        return False
    return True


def _members(archive: zipfile.ZipFile, file_size: int) -> dict[str, zipfile.ZipInfo]:
    """The arrays' members of the archive, once what is said of their sizes and shapes fits."""
    members = {name: archive.getinfo(f"{name}.npy") for name in _ARRAYS}
    for name, member in members.items():
        # The other decompressors give all that a few bytes unpack to, whatever size was asked for.
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"{name} is compressed by another method than deflate")
        if member.file_size > _ALWAYS_READ + _MOST_COMPRESSED * file_size:
            raise ValueError(
                f"{name} has {member.file_size:,} bytes, far more than the file's {file_size:,}: refused"
            )
    shapes = {name: _shape(archive, name, member) for name, member in members.items()}
    (count, *_) = (*shapes["keypoints"], 0)
    expected = {"keypoints": (count, 3), "scores": (count,), "descriptors": (count, DESCRIPTOR_SIZE)}
    for name, shape in expected.items():
        if shapes[name] != shape:
            raise ValueError(f"{name} must have the shape {shape}, found {shapes[name]}")
    return members


def _shape(archive: zipfile.ZipFile, name: str, member: zipfile.ZipInfo) -> tuple[int, ...]:
    """The shape of an array of numbers, which its size fits."""
    with archive.open(member) as packed:
        stream = io.BytesIO(packed.read(_LONGEST_HEADER))
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    if dtype.kind not in "biuf":
        raise ValueError(f"{name} must be an array of numbers")
    size = member.file_size - stream.tell()
    if prod(shape) * dtype.itemsize != size:
        raise ValueError(f"{name} has {size:,} bytes, which do not fit its shape {shape}")
    return shape


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray[Any]:
    with archive.open(member) as stream:
        values: NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
    return values
