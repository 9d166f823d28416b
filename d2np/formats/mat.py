"""One ``IMAGE.d2-net`` for each picture, as the published ``extract_features.py`` writes it for MATLAB.

A MATLAB 5 file, uncompressed, with the same arrays as in :mod:`npz <d2np.formats.npz>`; MATLAB knows no
vectors, so ``scores`` is a row, (1, N).
"""

from __future__ import annotations

import os
from typing import Any, Literal

from ..atomic import replacing
from ..errors import FormatError
from ..extras import require
from ..features import Features
from ..streams import Capped
from .npz import EXTENSION

__all__ = ["EXTENSION", "MAGIC", "is_complete", "library", "read", "write"]

MAGIC = b"MATLAB 5.0 MAT-file"
"""What such a file begins with."""

_ARRAYS = ("keypoints", "scores", "descriptors")
_HEADER = 128
_MATRIX = 14  # what stands before an array that is not compressed
_NUMBERS = ("single", "double", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)))


def library() -> Any:
    """:mod:`scipy.io`.

    Raises
    ------
    FormatError
        If it is missing.
    """
    return require("scipy.io", "MATLAB files need", "mat", FormatError)


def write(path: str | os.PathLike[str], features: Features) -> None:
    """Write the features of one picture, all of the file or nothing.

    Raises
    ------
    FormatError
        If the file cannot be written, or scipy is missing.
    """
    scipy_io = library()
    try:
        with replacing(path) as stream:
            scipy_io.savemat(stream, {name: getattr(features, name) for name in _ARRAYS})
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
        If it is no such file, or scipy is missing.
    """
    scipy_io = library()
    name = os.fspath(path)
    try:
        with open(path, "rb") as file:
            stream = Capped(file)
            _check(scipy_io, stream)
            arrays = scipy_io.loadmat(stream, variable_names=_ARRAYS)
        scores = arrays["scores"].reshape(-1)
        return Features(arrays["keypoints"], scores, arrays["descriptors"], image_size)
    except KeyError as error:
        raise FormatError(f"{name}: not a feature file: it has no {error.args[0]}") from None
    except OSError as error:
        raise FormatError(f"{name}: cannot be read: {error.strerror or error}") from None
    except FormatError as error:
        raise FormatError(f"{name}: not a feature file: {error}") from None
    # scipy raises almost anything on a damaged file.
    except Exception as error:
        raise FormatError(f"{name}: not a feature file: {' '.join(str(error).split())}") from None


def is_complete(path: str | os.PathLike[str]) -> bool:
    """Whether this is a whole feature file. Its arrays' headers are read, not the arrays."""
    scipy_io = library()
    try:
        with open(path, "rb") as stream:
            shapes = _check(scipy_io, Capped(stream))
    # scipy raises almost anything on a damaged file.
    except Exception:
        return False
    count, _ = shapes.get("keypoints", (0, 0))
    # Of no scores scipy makes (0, 0).
    scores = (1, count) if count else (0, 0)
    return shapes == {"keypoints": (count, 3), "scores": scores, "descriptors": (count, 512)}


def _check(scipy_io: Any, stream: Capped) -> dict[str, tuple[int, ...]]:
    """The shapes of the arrays in a file, which is left at its beginning.

    Raises
    ------
    ValueError
        If it is of another format, cut short or compressed, or one of our arrays does not hold numbers.
    """
    if stream.read(len(MAGIC)) != MAGIC:
        raise ValueError("it does not begin as MATLAB 5 files do")
    # ``whosmat`` does not look whether the file ends where its last array does.
    stream.seek(_HEADER - 2)
    order: Literal["little", "big"] = "little" if stream.read(2) == b"IM" else "big"
    place = _HEADER
    while place < stream.size:
        stream.seek(place)
        kind, size = (int.from_bytes(stream.read(4), order) for _ in range(2))
        if kind != _MATRIX:
            raise ValueError("it is compressed, or holds something else than arrays: save it with -v6")
        place += 8 + size
    if place != stream.size:
        raise ValueError("it is cut short")
    stream.seek(0)
    listed = [entry for entry in scipy_io.whosmat(stream) if entry[0] in _ARRAYS]
    shapes = {name: shape for name, shape, _ in listed}
    if len(shapes) < len(listed) or any(kind not in _NUMBERS for _, _, kind in listed):
        raise ValueError(f"{', '.join(_ARRAYS)} must be arrays of numbers")
    stream.seek(0)
    return shapes
