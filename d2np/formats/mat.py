"""One ``IMAGE.d2-net`` for each image, as the published ``extract_features.py`` writes it for MATLAB.

A MATLAB 5 file, uncompressed, with the same arrays as in :mod:`npz <d2np.formats.npz>`; MATLAB knows no
vectors, so ``scores`` is a row, (1, N). Written and read by SciPy, whose reader trusts the file: read only
files that you, or somebody whom you trust, have made.
"""

from __future__ import annotations

import os
from typing import Any

from ..atomic import writing
from ..errors import FormatError
from ..extras import require
from ..features import Features
from .npz import ARRAYS, EXTENSION, reading

__all__ = ["EXTENSION", "MAGIC", "is_complete", "library", "read", "write"]

MAGIC = b"MATLAB 5.0 MAT-file"
"""The first bytes of such a file."""


def library() -> Any:
    """Return :mod:`scipy.io`.

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
        If the file cannot be written, or SciPy is missing.
    """
    scipy_io = library()
    with writing(path, follow=False) as stream:
        scipy_io.savemat(stream, {name: getattr(features, name) for name in ARRAYS})


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
        If it is no such file, or SciPy is missing.
    """
    scipy_io = library()
    with reading(path) as stream:
        arrays = scipy_io.loadmat(stream, variable_names=ARRAYS)
        return Features(arrays["keypoints"], arrays["scores"].ravel(), arrays["descriptors"], image_size)


def is_complete(path: str | os.PathLike[str]) -> bool:
    """Return whether this is a whole feature file. The arrays' headers are read, not the arrays.

    Raises
    ------
    FormatError
        If SciPy is missing.
    """
    scipy_io = library()
    try:
        with reading(path) as stream:
            names = {name for name, *_ in scipy_io.whosmat(stream)}
            # SciPy passes over the values. Behind the last ones it steps back by the byte that it looked for.
            end = stream.tell()
            return names.issuperset(ARRAYS) and end < stream.seek(0, os.SEEK_END)
    except FormatError:
        return False
