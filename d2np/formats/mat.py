"""One ``IMAGE.d2-net`` for each image, as the published ``extract_features.py`` writes it for MATLAB.

A MATLAB 5 file, uncompressed, with the same arrays as in :mod:`npz <d2np.formats.npz>`; MATLAB knows no
vectors, so ``scores`` is a row, (1, N). Written by scipy, read by :mod:`matlab5 <d2np.formats.matlab5>`.
"""

from __future__ import annotations

import os
from typing import Any

from ..atomic import replacing
from ..errors import FormatError
from ..extras import require
from ..features import Features
from ..streams import Capped, opened
from . import matlab5
from .matlab5 import MAGIC
from .npz import EXTENSION

__all__ = ["EXTENSION", "MAGIC", "is_complete", "library", "read", "write"]

_ARRAYS = ("keypoints", "scores", "descriptors")


def library() -> Any:
    """:mod:`scipy.io`.

    Raises
    ------
    FormatError
        If it is missing.
    """
    return require("scipy.io", "MATLAB files need", "mat", FormatError)


def write(path: str | os.PathLike[str], features: Features) -> None:
    """Write the features of one image, all of the file or nothing; a link is replaced by the file.

    Raises
    ------
    FormatError
        If the file cannot be written, or scipy is missing.
    """
    scipy_io = library()
    try:
        with replacing(path, follow=False) as stream:
            scipy_io.savemat(stream, {name: getattr(features, name) for name in _ARRAYS})
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
        with opened(path) as stream:
            arrays = matlab5.arrays(Capped(stream), _ARRAYS)
        scores = arrays["scores"].reshape(-1)
        return Features(arrays["keypoints"], scores, arrays["descriptors"], image_size)
    except KeyError as error:
        raise FormatError(f"{name}: not a feature file: it has no {error.args[0]}") from None
    except OSError as error:
        raise FormatError(f"{name}: cannot be read: {error.strerror or error}") from None
    except FormatError as error:
        raise FormatError(f"{name}: not a feature file: {error}") from None


def is_complete(path: str | os.PathLike[str]) -> bool:
    """Whether this is a whole feature file. Its arrays' headers are read, not the arrays."""
    try:
        with opened(path) as stream:
            shapes = matlab5.shapes(Capped(stream), _ARRAYS)
    except (FormatError, OSError):
        return False
    count = shapes.get("keypoints", (0,))[0]
    # Of no scores scipy makes (0, 0).
    scores = (1, count) if count else (0, 0)
    return shapes == {"keypoints": (count, 3), "scores": scores, "descriptors": (count, 512)}
