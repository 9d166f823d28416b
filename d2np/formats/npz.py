"""One ``IMAGE.d2-net`` for each image, as the published ``extract_features.py`` writes it.

A NumPy archive of ``keypoints`` (N, 3) with x, y, scale, ``scores`` (N,) and ``descriptors`` (N, 512).
"""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from typing import BinaryIO

import numpy as np

from .. import streams
from ..atomic import writing
from ..errors import FormatError
from ..features import DESCRIPTOR_SIZE, Features

EXTENSION = ".d2-net"
"""Comes behind the image's whole name: ``house.jpg.d2-net``."""

MAGIC = b"PK\x03\x04"
"""The first bytes of such a file."""

ARRAYS = ("keypoints", "scores", "descriptors")
"""The arrays of a ``.d2-net`` file."""

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
    with writing(path, follow=False) as stream:
        np.savez(stream, **{name: getattr(features, name) for name in ARRAYS})


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
    with reading(path) as stream:
        _check(stream)
        stream.seek(0)
        with np.load(stream, allow_pickle=False) as arrays:
            return Features(arrays["keypoints"], arrays["scores"], arrays["descriptors"], image_size)


def is_complete(path: str | os.PathLike[str]) -> bool:
    """Return whether this is a whole feature file. Its arrays' headers are read, not the arrays."""
    try:
        with reading(path) as stream:
            _check(stream)
    except FormatError:
        return False
    return True


@contextmanager
def reading(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a ``.d2-net`` file; whatever goes wrong with it becomes an error of ours.

    Raises
    ------
    FormatError
        If it cannot be opened, or the block finds that it is no feature file.
    """
    name = os.fspath(path)
    try:
        with streams.opened(path) as stream:
            yield stream
    except KeyError as error:
        raise FormatError(f"{name}: not a feature file: it has no {error.args[0]}") from None
    except OSError as error:
        raise FormatError(f"{name}: cannot be read: {error.strerror or error}") from None
    # A damaged file raises almost anything.
    except Exception as error:
        raise FormatError(f"{name}: not a feature file: {' '.join(str(error).split())}") from None


def _check(stream: BinaryIO) -> None:
    """Find out whether what the archive tells of the arrays' sizes and shapes fits, before any is read."""
    shapes = {}
    with streams.archive(stream) as archive:
        file_size = os.fstat(stream.fileno()).st_size
        for name in ARRAYS:
            member = archive.NameToInfo[f"{name}.npy"]
            # The other decompressors give all that a few bytes unpack to, whatever size was asked for.
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"{name} is compressed by another method than deflate")
            if member.file_size > _ALWAYS_READ + _MOST_COMPRESSED * file_size:
                raise ValueError(
                    f"{name} has {member.file_size:,} bytes, far more than the file's {file_size:,}: refused"
                )
            with archive.open(member) as packed:
                header = io.BytesIO(packed.read(_LONGEST_HEADER))
            is_first = np.lib.format.read_magic(header) == (1, 0)
            read = np.lib.format.read_array_header_1_0 if is_first else np.lib.format.read_array_header_2_0
            shapes[name], _, dtype = read(header)
            size = member.file_size - header.tell()
            if dtype.kind not in "biuf" or prod(shapes[name]) * dtype.itemsize != size:
                raise ValueError(
                    f"{name} has {size:,} bytes, which do not fit its shape {shapes[name]} of {dtype}"
                )
    count = prod(shapes["scores"])
    expected = {"keypoints": (count, 3), "scores": (count,), "descriptors": (count, DESCRIPTOR_SIZE)}
    if shapes != expected:
        raise ValueError(f"the shapes must be {expected}, found {shapes}")
