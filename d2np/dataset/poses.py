"""Where images were taken: from a COLMAP model, or from the GPS positions in their EXIF data."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from ..errors import FormatError, ImageError
from ..extras import require
from ..formats.colmap import quiet
from ..formats.hloc import one_line
from ..images.messages import reading
from ..images.names import inside, near
from ..images.open import open_file

Places = dict[str, tuple[NDArray[np.float64], NDArray[np.float64] | None]]
"""By names of images, where they were taken (3,), and the direction they look in (3,), if it is known."""

_MODEL = ("images.bin", "images.txt")
_EARTH = 6_371_000.0


def read(path: str | os.PathLike[str], names: Iterable[str]) -> Places:
    """Return where images were taken, as far as that is told.

    Parameters
    ----------
    path : path
        The folder of a COLMAP model, binary or text, in whose units places are then; or else a folder of
        images with GPS positions in their EXIF data: metres, from the centre of the Earth. The altitude is
        left out, as it is in COLMAP's spatial matcher: it is far less exact.
    names : iterable of str
        Of the images, in the model or in the folder.

    Raises
    ------
    FormatError
        If there is no such folder, the model cannot be read, or pycolmap is missing.
    """
    folder = Path(path)
    if folder.name in _MODEL and folder.is_file():
        folder = folder.parent
    if not folder.is_dir():
        meant = "" if folder.exists() else near(folder)
        raise FormatError(
            f"{folder}: the folder of a COLMAP model or of images is expected, and this is none{meant}"
        )
    if any((folder / name).exists() for name in _MODEL):
        return _of_model(folder, frozenset(names))
    found = {name: place for name in names if (place := _by_gps(folder, name)) is not None}
    return {name: (place, None) for name, place in found.items()}


def _of_model(folder: Path, names: frozenset[str]) -> Places:
    pycolmap = require("pycolmap", "COLMAP models need", "colmap", FormatError)
    try:
        with quiet(pycolmap):
            model = pycolmap.Reconstruction(str(folder))
    except (ValueError, RuntimeError, OSError) as error:
        raise FormatError(f"{folder} is not a COLMAP model: {one_line(error)}") from None
    return {
        image.name: (image.projection_center(), image.viewing_direction())
        for image in model.images.values()
        if image.name in names and image.has_pose
    }


def _by_gps(folder: Path, name: str) -> NDArray[np.float64] | None:
    """Return the point of the Earth's surface at which an image was taken, if its EXIF data tells it."""
    with suppress(ImageError), reading(name), open_file(inside(folder, name)) as image:
        if isinstance(image, Image.Image):
            tags = image.getexif().get_ifd(ExifTags.IFD.GPSInfo)
            north = _angle(tags, ExifTags.GPS.GPSLatitude, ExifTags.GPS.GPSLatitudeRef, "S")
            east = _angle(tags, ExifTags.GPS.GPSLongitude, ExifTags.GPS.GPSLongitudeRef, "W")
            # Not a number is in no range.
            if abs(north) <= math.pi / 2 and abs(east) <= math.pi:
                flat = math.cos(north)
                return _EARTH * np.array([flat * math.cos(east), flat * math.sin(east), math.sin(north)])
    return None


def _angle(tags: Any, value: int, reference: int, negative: str) -> float:
    """Return an angle of degrees, minutes and seconds in radians; NaN where there is none."""
    try:
        degrees, minutes, seconds = map(float, tags[value])
        sign = -1 if str(tags.get(reference, "")).strip("\0 ").upper() == negative else 1
    # EXIF data may hold anything.
    except (KeyError, TypeError, ValueError, ArithmeticError):
        return math.nan
    return sign * math.radians(degrees + minutes / 60 + seconds / 3600)
