"""Rows of TIFF files that Pillow does not read, or that are too large to be read whole: through tifffile."""

from __future__ import annotations

import math
import os
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from .errors import ImageError
from .extras import require

# Little and big endian; the last two are BigTIFF, for files above 4 GB.
_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_GREY_INVERTED, _GREY, _RGB, _YCBCR = 0, 1, 2, 6
_JPEG = (6, 7)


def is_tiff(file: str | os.PathLike[str] | BinaryIO) -> bool:
    """Whether the file begins as TIFF files do."""
    try:
        return first_bytes(file, 4) in _SIGNATURES
    except OSError:
        return False


def first_bytes(file: str | os.PathLike[str] | BinaryIO, count: int) -> bytes:
    """What a file begins with; one that is open is read from its beginning."""
    if isinstance(file, (str, os.PathLike)):
        with open(file, "rb") as stream:
            return stream.read(count)
    file.seek(0)
    return file.read(count)


class TiffRows:
    """The first page of a TIFF file, of which no more is decoded than the rows asked for need.

    Strips and tiles, compressed or not; grey, RGB or RGBA of 8 or 16 bits, or floats. Uncompressed pages that
    lie in one piece are mapped into memory; of others whole rows of strips or tiles are decoded.

    Parameters
    ----------
    file : path or stream
        The file, or its content.
    name : str, optional
        What it is called in messages; by default its path.

    Attributes
    ----------
    shape : (int, int[, int])
        Rows, columns, and samples per pixel unless the page is grey.
    dtype : numpy.dtype
    step : int
        Rows of a strip or tile: what is decoded at once. 1 where any row can be read alone.
    orientation : int
        As EXIF counts: 1 is upright.

    Raises
    ------
    ImageError
        If tifffile is missing, or the file is damaged or holds another kind of picture.
    """

    def __init__(self, file: str | os.PathLike[str] | BinaryIO, name: str | None = None) -> None:
        self.name = name or (os.fspath(file) if isinstance(file, (str, os.PathLike)) else "the TIFF")
        purpose = f"{self.name}: TIFF files that are large, or that Pillow does not read, need"
        tifffile = require("tifffile", purpose, "tiff", ImageError)
        if not isinstance(file, (str, os.PathLike)):
            file.seek(0)
        try:
            self._file = tifffile.TiffFile(file)
        except Exception as error:  # tifffile raises almost anything on a damaged file
            raise self._unreadable(error) from error
        try:
            self._open()
        except ImageError:
            self.close()
            raise
        except Exception as error:
            self.close()
            raise self._unreadable(error) from error

    def _open(self) -> None:
        page: Any = self._file.pages[0]
        self._page = page
        self.orientation = int(getattr(page.tags.get("Orientation"), "value", 1))
        # Colours of JPEG strips come out of the decoder as RGB.
        kinds = (_GREY_INVERTED, _GREY, _RGB, *([_YCBCR] if page.compression in _JPEG else []))
        if page.photometric not in kinds or page.imagedepth != 1:
            raise ImageError(
                f"{self.name} holds a picture of a kind that is not read by rows "
                f"({getattr(page.photometric, 'name', page.photometric)}): save it as grey or RGB"
            )
        if page.dtype is None or page.bitspersample != page.dtype.itemsize * 8:
            raise ImageError(
                f"{self.name} has {page.bitspersample} bits per sample: save it with 8 or 16 bits"
            )
        self.dtype: np.dtype[Any] = np.dtype(page.dtype)
        self._inverted = page.photometric == _GREY_INVERTED and self.dtype.kind == "u"
        # What stands behind the colours, such as an alpha channel, is left out.
        self._colours = 1 if page.photometric in (_GREY_INVERTED, _GREY) else 3
        height, width = int(page.imagelength), int(page.imagewidth)
        if min(height, width, len(page.dataoffsets)) < 1 or page.samplesperpixel < self._colours:
            raise ImageError(f"{self.name} cannot be read as a picture: its size or its data are missing")
        self.shape = (height, width, 3) if self._colours == 3 else (height, width)
        self._separate = page.planarconfig == 2 and page.samplesperpixel > 1
        self._mapped: NDArray[Any] | None = None
        if page.is_final and self._file.filehandle.is_file:
            self._mapped = self._map()
            self.step = 1
        else:
            self.step = min(int(page.tilelength if page.is_tiled else page.rowsperstrip), height)
            self._across = math.ceil(width / page.tilewidth) if page.is_tiled else 1
            # The limit on the picture's size must not be got round by its tiles.
            if page.is_tiled and page.tilewidth * page.tilelength > max(4 * height * width, 1 << 24):
                raise ImageError(f"{self.name} has tiles that are far larger than the picture")
            self._down = math.ceil(height / self.step)
            self._jpeg: dict[str, Any] = {}
            if page.compression in _JPEG:
                self._jpeg = {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader}

    def _map(self) -> NDArray[Any]:
        height, width = self.shape[:2]
        samples = self._page.samplesperpixel
        if self._page.dataoffsets[0] + height * width * samples * self.dtype.itemsize > os.path.getsize(
            self.name
        ):
            raise ImageError(f"{self.name} is cut short")
        mapped: NDArray[Any] = np.memmap(
            self.name,
            self.dtype.newbyteorder(self._file.byteorder),
            "r",
            self._page.dataoffsets[0],
            (samples, height, width) if self._separate else (height, width, samples),
        )
        return np.moveaxis(mapped, 0, 2) if self._separate else mapped

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        """Rows from a multiple of ``step`` on.

        Raises
        ------
        ImageError
            If a strip or tile is damaged or missing.
        """
        first, last = rows.start, rows.stop
        if self._mapped is not None:
            found = self._mapped[first:last, :, : self._colours]
        else:
            found = np.zeros((last - first, self.shape[1], self._colours), self.dtype)
            for band in range(first // self.step, math.ceil(last / self.step)):
                self._decode(band, found[band * self.step - first :])
        if self._inverted:
            found = np.iinfo(self.dtype).max - found
        return found if self._colours == 3 else found[:, :, 0]

    def _decode(self, band: int, target: NDArray[Any]) -> None:
        """One row of tiles, or one strip, into the rows it covers, or as many of them as there are."""
        for plane in range(self._colours if self._separate else 1):
            for column in range(self._across):
                index = (plane * self._down + band) * self._across + column
                tile, left = self._tile(index, band)
                if tile is None:
                    continue  # left out of the file: nothing but zeros
                rows = min(tile.shape[0], len(target))
                columns = min(tile.shape[1], target.shape[1] - left)
                channels = slice(plane, plane + 1) if self._separate else slice(0, self._colours)
                inside = tile[:rows, :columns, : 1 if self._separate else self._colours]
                target[:rows, left : left + columns, channels] = inside

    def _tile(self, index: int, band: int) -> tuple[NDArray[Any] | None, int]:
        """A strip or tile (rows, columns, samples), and the column where it begins."""
        handle = self._file.filehandle
        try:
            offset, count = self._page.dataoffsets[index], self._page.databytecounts[index]
            data = None
            if count:
                with handle.lock:
                    handle.seek(offset)
                    data = handle.read(count)
                if len(data) < count:
                    raise ImageError("the file is cut short")
            tile, position, _ = self._page.decode(data, index, **self._jpeg)
            return (None if tile is None else tile[0]), int(position[3])
        except Exception as error:  # decoders raise almost anything on damaged data
            raise ImageError(
                f"{self.name} is damaged, or compressed in a way that is not read, at row "
                f"{band * self.step}: {error or type(error).__name__}"
            ) from error

    def close(self) -> None:
        """Close the file."""
        self._mapped = None
        self._file.close()

    def __enter__(self) -> TiffRows:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _unreadable(self, error: Exception) -> ImageError:
        return ImageError(f"{self.name} cannot be read as a TIFF: {error or type(error).__name__}")
