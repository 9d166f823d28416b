"""Rows of TIFF files that Pillow does not read, or that are too large to be read whole: through tifffile."""

from __future__ import annotations

import io
import math
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL.JpegImagePlugin import JpegImageFile

from ..errors import ImageError
from ..extras import require

MOST_BYTES_PER_PIXEL = 16
"""No image within the limit on pixels needs more: four channels of four bytes."""

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""How TIFF files begin: little and big endian; the last two are BigTIFF, for files above 4 GB."""

_ALWAYS_READ = 16 << 20
_GREY_INVERTED, _GREY, _RGB, _YCBCR = 0, 1, 2, 6
_JPEG = 7
# None, LZW, JPEG, Deflate, PackBits, LZMA, Zstandard. Others hold files of their own, and say themselves how
# large they are.
_COMPRESSIONS = (1, 5, _JPEG, 8, 32773, 32946, 34925, 50000)


def as_16_bits(values: NDArray[Any], name: str) -> NDArray[np.uint16]:
    """Return integers of other types as uint16; raise an ImageError unless they are in its range."""
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise ImageError(
            f"{name}: {values.dtype} values from {low} to {high} have no known range: bring the image to "
            "0..255"
        )
    return values.astype(np.uint16)


class TiffRows:
    """The first page of a TIFF file, of which no more is decoded than the rows asked for need.

    Strips and tiles, compressed or not; grey, RGB or RGBA of 8 or 16 bits, or floats. Uncompressed pages that
    lie in one piece are mapped into memory; of others whole rows of strips or tiles are decoded.

    Parameters
    ----------
    file : stream
        The file, which stays open as long as rows are read.
    name : str
        What it is called in messages.

    Attributes
    ----------
    size : (int, int)
        (width, height) in pixels.
    shape : (int, int[, int])
        Rows, columns, and samples per pixel unless the page is grey.
    dtype : numpy.dtype
    chunks : (int,)
        Rows of a strip or tile, which are decoded at once; 1 where any row can be read alone.
    orientation : int
        As EXIF counts: 1 is upright.

    Raises
    ------
    ImageError
        If tifffile is missing, or the file holds another kind of image.
    Exception
        Of almost any kind, if the file is damaged.
    """

    def __init__(self, file: BinaryIO, name: str) -> None:
        purpose = f"{name}: TIFF files that are large, or that Pillow does not read, need"
        tifffile = require("tifffile", purpose, "tiff", ImageError)
        file.seek(0)
        self.name = name
        self._file = tifffile.TiffFile(file)
        page = self._page = self._file.pages[0]
        orientation = getattr(page.tags.get("Orientation"), "value", 1)
        self.orientation = int(orientation) if isinstance(orientation, int) else 1
        height, width = int(page.imagelength), int(page.imagewidth)
        # What stands behind the colours, such as an alpha channel, is left out.
        self._colours = 1 if page.photometric in (_GREY_INVERTED, _GREY) else 3
        # Colours of JPEG strips come out of the decoder as RGB.
        kinds = (_GREY_INVERTED, _GREY, _RGB, *([_YCBCR] if page.compression == _JPEG else []))
        if (
            page.photometric not in kinds
            or page.compression not in _COMPRESSIONS
            or (page.imagedepth, page.tiledepth) != (1, 1)
            or page.dtype is None
            or not isinstance(page.bitspersample, int)
            or min(height, width, len(page.dataoffsets)) < 1
            or page.samplesperpixel < self._colours
        ):
            kind = ", ".join(
                str(getattr(value, "name", value)) for value in (page.photometric, page.compression)
            )
            raise ImageError(
                f"{name} is a TIFF of a kind that is not read ({kind}, {page.bitspersample} bits): save it "
                "as grey or RGB of 8 or 16 bits, with the compression Deflate, LZW or none"
            )
        stored = self._stored = np.dtype(page.dtype)
        self._bits = page.bitspersample if stored.kind in "bu" else 8 * stored.itemsize
        self._wide = stored in (np.int16, np.int32, np.uint32)
        self.dtype = np.dtype(np.uint16 if self._wide else np.uint8 if stored.kind == "b" else stored)
        self._inverted = page.photometric == _GREY_INVERTED and stored.kind in "bu"
        self._separate = page.planarconfig == 2 and page.samplesperpixel > 1
        self.size = (width, height)
        self.shape = (height, width, 3) if self._colours == 3 else (height, width)
        self._tile = (
            (page.tilelength, page.tilewidth) if page.is_tiled else (min(page.rowsperstrip, height), width)
        )
        # The limit on the image's size must not be got round by its strips and tiles.
        unpacked = math.prod(self._tile) * (1 if self._separate else page.samplesperpixel) * stored.itemsize
        if unpacked > max(MOST_BYTES_PER_PIXEL * height * width, _ALWAYS_READ):
            raise ImageError(f"{name} has strips or tiles that are far larger than the image")
        self._mapped: NDArray[Any] | None = None
        self.chunks = (min(self._tile[0], height),)
        if page.is_memmappable:
            self.chunks = (1,)
            planes = page.asarray(out="memmap", squeeze=False)[:, 0]
            self._mapped = np.moveaxis(planes, 0, 2).reshape(height, width, -1)

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        """Return rows, from a multiple of a strip's or tile's height on.

        Raises
        ------
        ImageError
            If a strip or tile is damaged or missing.
        """
        try:
            mapped = self._mapped
            found = (
                self._decoded(rows.start, rows.stop) if mapped is None else mapped[rows, :, : self._colours]
            )
        except ImageError:
            raise
        except Exception as error:  # decoders raise almost anything
            raise ImageError(f"{self.name} is damaged from row {rows.start} on: {error}") from error
        if self._wide:
            found = as_16_bits(found, self.name)
        else:
            found = found.astype(self.dtype, copy=False)  # a mapped file may have the other byte order
            if self._bits < 8 * self.dtype.itemsize:  # white is white
                factor = np.iinfo(self.dtype).max / (2**self._bits - 1)
                found = np.rint(found * np.float32(factor)).astype(self.dtype)
        if self._inverted:
            found = np.iinfo(self.dtype).max - found
        return found if self._colours == 3 else found[:, :, 0]

    def _decoded(self, first: int, last: int) -> NDArray[Any]:
        """Decode all strips or tiles that lie in some rows; what is left out of the file is zeros."""
        height, width = self.shape[:2]
        rows, columns = self._tile
        found = np.zeros((last - first, width, self._colours), self._stored)
        across, down = math.ceil(width / columns), math.ceil(height / rows)
        for plane in range(self._colours if self._separate else 1):
            begin = plane * down * across
            for index in range(begin + first // rows * across, begin + math.ceil(last / rows) * across):
                tile, (_, _, top, left, _), _ = self._page.decode(
                    self._data(index), index, jpegtables=self._page.jpegtables
                )
                if tile is not None:
                    target = found[top - first :, left : left + columns, plane : plane + tile.shape[3]]
                    target[: tile.shape[1]] = tile[0, : target.shape[0], : target.shape[1], : target.shape[2]]
        return found

    def _data(self, index: int) -> bytes | None:
        """Return what the file has of a strip or tile."""
        offset, count = self._page.dataoffsets[index], self._page.databytecounts[index]
        if not count:
            return None
        self._file.filehandle.seek(offset)
        data: bytes = self._file.filehandle.read(count)
        if len(data) < count:
            raise ImageError(f"{self.name} is damaged: it is cut short")
        if self._page.compression == _JPEG:
            rows, columns = self._tile
            width, height = JpegImageFile(io.BytesIO(data)).size
            if width > columns or height > rows:
                raise ImageError(
                    f"{self.name} is damaged: its data hold an image of {width} x {height} px where "
                    f"{columns} x {rows} px belong"
                )
        return data
