"""One ``IMAGE.d2-net`` for each image, as the published ``extract_features.py`` writes it.

A NumPy archive of ``keypoints`` (N, 3) with x, y, scale, ``scores`` (N,) and ``descriptors`` (N, 512).
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import numpy as np

from .. import streams
from ..atomic import writing
from ..errors import FormatError
from ..features import Features

EXTENSION = ".d2-net"
"""Comes behind the image's whole name: ``house.jpg.d2-net``."""

MAGIC = b"PK\x03\x04"
"""The first bytes of such a file."""

ARRAYS = ("keypoints", "scores", "descriptors")
"""The arrays of a ``.d2-net`` file."""


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
    with reading(path) as stream, _archive(stream) as archive:
        keypoints, scores, descriptors = (
            streams.read_array(archive, f"{name}.npy", "biuf").copy() for name in ARRAYS
        )
        return Features(keypoints, scores, descriptors, image_size)


def is_complete(path: str | os.PathLike[str]) -> bool:
    """Return whether this is a whole feature file. Its table of contents is read, not the arrays."""
    try:
        with reading(path) as stream, _archive(stream):
            return True
    except FormatError:
        return False


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
    except OSError as error:
        raise FormatError(f"{name}: cannot be read: {error.strerror or error}") from None
    # A damaged file raises almost anything.
    except Exception as error:
        raise FormatError(f"{name}: not a feature file: {' '.join(str(error).split())}") from None


def _archive(stream: BinaryIO) -> zipfile.ZipFile:
    """Open an archive that has the arrays, none of them compressed: the file is as large as they are."""
    archive = streams.archive(stream)
    for name in ARRAYS:
        if archive.getinfo(f"{name}.npy").compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"{name} is compressed, which numpy.savez does not do")
    return archive
