"""RAW images of cameras, developed by LibRaw as a camera would. Needs the extra ``raw``.

Most of them begin like TIFF files, of which other programs see a small preview only. So what is one is told
by the name of the file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePath
from typing import Any

from PIL import ExifTags, Image, ImageFile

from ..errors import ImageError
from ..extras import require

EXTENSIONS = (
    *(".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".fff", ".iiq", ".kdc", ".mef", ".mos"),
    *(".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f"),
)

# LibRaw's numbers of quarter turns, and those of EXIF.
_ORIENTATIONS = {3: 3, 5: 8, 6: 6}


def is_raw(name: str) -> bool:
    """Return whether a file has the name of a RAW image."""
    return PurePath(name).suffix.lower() in EXTENSIONS


class RawImage(ImageFile.ImageFile):
    """A RAW image of which the head has been read; it is developed when it is loaded.

    With the white balance of the camera, brightness by LibRaw's default, and not turned.
    """

    format = "RAW"
    format_description = "RAW image of a camera"

    def _open(self) -> None:
        library = require("rawpy", f"{os.fsdecode(self.filename)}: RAW images need", "raw", ImageError)
        self._raw, self._error = None, library.LibRawError
        with self._told():
            self._raw = library.imread(self.fp)
        sizes = self._raw.sizes
        self._mode, self._size = "RGB", (sizes.iwidth, sizes.iheight)
        self._orientation = _ORIENTATIONS.get(sizes.flip, 1)

    def load(self) -> Any:
        """Develop the image, once."""
        if self._raw is not None:
            with self._told(), self._raw as raw:
                developed = Image.fromarray(raw.postprocess(use_camera_wb=True, user_flip=0))
            self._raw, self._size, self.im = None, developed.size, developed.im
        return Image.Image.load(self)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except self._error as error:
            reason = error.args[0]
            raise OSError(reason.decode() if isinstance(reason, bytes) else reason) from None

    def getexif(self) -> Image.Exif:
        """Return the orientation alone."""
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = self._orientation
        return exif
