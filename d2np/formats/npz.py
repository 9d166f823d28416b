"""One ``IMAGE.d2-net`` for each picture, as the published ``extract_features.py`` writes it.

A NumPy archive of ``keypoints`` (N, 3) with x, y, scale, ``scores`` (N,) and ``descriptors`` (N, 512).
"""

from __future__ import annotations

import os
import zipfile
from typing import Any

import numpy as np

from ..atomic import replacing
from ..errors import FormatError
from ..features import Features

EXTENSION = ".d2-net"
"""Comes behind the picture's whole name: ``house.jpg.d2-net``."""

MAGIC = b"PK\x03\x04"
"""What such a file begins with."""

_ARRAYS = ("keypoints", "scores", "descriptors")


def write(path: str | os.PathLike[str], features: Features) -> None:
    """Write the features of one picture, all of the file or nothing.

    Raises
    ------
    FormatError
        If the file cannot be written.
    """
    try:
        with replacing(path) as stream:
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
        # NumPy would leave a file that it opened itself open when it is none of its own.
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in _ARRAYS}
    except KeyError as error:
        raise FormatError(f"{name}: not a feature file: {error.args[0]}") from None
    except OSError as error:
        raise FormatError(f"{name}: cannot be read: {error.strerror or error}") from None
    except (ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise FormatError(f"{name}: not a feature file: {error}") from None
    return Features(arrays["keypoints"], arrays["scores"], arrays["descriptors"], image_size)


def is_complete(path: str | os.PathLike[str]) -> bool:
    """Whether this is a whole feature file. Its arrays' headers are read, not the arrays."""
    try:
        with zipfile.ZipFile(path) as archive:
            shapes = {name: _shape(archive, name) for name in _ARRAYS}
    # A damaged archive raises almost anything.
    except Exception:
        return False
    count = shapes["scores"][0]
    return shapes == {"keypoints": (count, 3), "scores": (count,), "descriptors": (count, 512)}


def _shape(archive: zipfile.ZipFile, name: str) -> Any:
    with archive.open(f"{name}.npy") as stream:
        version = np.lib.format.read_magic(stream)
        if version == (1, 0):
            return np.lib.format.read_array_header_1_0(stream)[0]
        return np.lib.format.read_array_header_2_0(stream)[0]
