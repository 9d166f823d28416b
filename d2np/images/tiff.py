"""Rows of TIFF files that Pillow does not read, or that are too large to be read whole: through tifffile."""

from __future__ import annotations

import math
import os
import re
import struct
from contextlib import ExitStack
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ..errors import ImageError
from ..extras import require

MOST_BYTES_PER_PIXEL = 16
"""No image within the limit on pixels needs more: four channels of four bytes."""

_ALWAYS_READ = 16 << 20
# Little and big endian; the last two are BigTIFF, for files above 4 GB.
_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_SIZ = re.compile(rb"\xff\x4f\xff\x51")
_GREY_INVERTED, _GREY, _RGB, _YCBCR = 0, 1, 2, 6
_JPEG = (6, 7, 33007, 34892)
# Strips and tiles that are files of their own, and say themselves how large they are.
_JPEG_2000 = (33003, 33004, 33005, 34712)
_LERC, _WEBP = 34887, 50001
_IMAGES = (_LERC, _WEBP, 22610, 34927, 34933, 34934, 50002, 52546)  # WebP, JPEG XR, PNG, JPEG XL
_OTHERS = (1, 2, 3, 4, 5, 8, 32773, 32946, 34925, 34926, 50000, 50013)
_COMPRESSIONS = (*_JPEG, *_JPEG_2000, *_IMAGES, *_OTHERS)


def is_tiff(file: str | os.PathLike[str] | BinaryIO) -> bool:
    """Return whether the file begins as TIFF files do."""
    try:
        return first_bytes(file, 4) in _SIGNATURES
    except (OSError, ValueError):  # a NUL character in the path
        return False


def first_bytes(file: str | os.PathLike[str] | BinaryIO, count: int) -> bytes:
    """Return the first bytes of a file; one that is open is read from its beginning."""
    if isinstance(file, (str, os.PathLike)):
        with open(file, "rb") as stream:
            return stream.read(count)
    file.seek(0)
    return file.read(count)


def as_16_bits(values: NDArray[Any], name: str) -> NDArray[np.uint16]:
    """Return integers of other types as uint16; raise an ImageError unless they are in its range."""
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise ImageError(
            f"{name}: {values.dtype} values from {low} to {high} have no known range: bring the image to "
            "0..255"
        )
    return values.astype(np.uint16)


def _jpeg_size(data: bytes) -> tuple[int, int, int]:
    """Return the rows, columns and components that a JPEG file says it has."""
    position = 2
    while data[position] == 0xFF:
        marker = data[position + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            rows, columns, components = struct.unpack_from(">HHB", data, position + 5)
            return rows, columns, components
        if marker == 0xFF or marker == 0x01 or 0xD0 <= marker <= 0xD7:  # without a length
            position += 1 if marker == 0xFF else 2
        else:
            position += 2 + struct.unpack_from(">H", data, position + 2)[0]
    raise ImageError("the size of a JPEG file in it cannot be found")


def _jpeg_2000_size(data: bytes) -> tuple[int, int, int]:
    """Return the rows, columns and components that a JPEG 2000 file says it has.

    If what looks like a head is there more than once, the largest counts.
    """
    heads = [struct.unpack_from(">4I16xH", data, head.end() + 4) for head in re.finditer(_SIZ, data)]
    if not heads:
        raise ImageError("the size of a JPEG 2000 file in it cannot be found")
    right, bottom, left, top, components = np.array(heads, np.int64).T
    return int((bottom - top).max()), int((right - left).max()), int(components.max())


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
        If tifffile is missing, or the file is damaged or holds another kind of image.
    """

    def __init__(self, file: str | os.PathLike[str] | BinaryIO, name: str | None = None) -> None:
        self.name = name or (os.fspath(file) if isinstance(file, (str, os.PathLike)) else "the TIFF")
        purpose = f"{self.name}: TIFF files that are large, or that Pillow does not read, need"
        tifffile = require("tifffile", purpose, "tiff", ImageError)
        if not isinstance(file, (str, os.PathLike)):
            file.seek(0)
        with ExitStack() as stack:
            try:
                self._file = stack.enter_context(tifffile.TiffFile(file))
                self._open(self._file.pages[0])
            except Exception as error:  # tifffile raises almost anything on a damaged file
                is_ours = isinstance(error, ImageError)
                problem = error if is_ours else f"cannot be read as a TIFF: {error or type(error).__name__}"
                raise ImageError(f"{self.name} {problem}") from error
            stack.pop_all()

    def _open(self, page: Any) -> None:
        self._page = page
        orientation = getattr(page.tags.get("Orientation"), "value", 1)
        self.orientation = int(orientation) if isinstance(orientation, int) else 1
        # Colours of JPEG strips come out of the decoder as RGB.
        kinds = (_GREY_INVERTED, _GREY, _RGB, *([_YCBCR] if page.compression in _JPEG else []))
        for value, known, what, advice in (
            (page.photometric, kinds, "holds an image of a kind", "as grey or RGB"),
            (page.imagedepth, (1,), "holds an image of a depth", "as a flat one"),
            (page.compression, _COMPRESSIONS, "is compressed in a way", "with another compression"),
        ):
            if value not in known:
                raise ImageError(
                    f"{what} that is not read ({getattr(value, 'name', value)}): save it {advice}"
                )
        if page.dtype is None or not isinstance(page.bitspersample, int):
            raise ImageError(f"has {page.bitspersample} bits per sample: save it with 8 or 16 bits")
        stored = np.dtype(page.dtype)
        self._stored = stored
        self._bits = page.bitspersample if stored.kind in "bu" else 8 * stored.itemsize
        self._wide = stored in (np.int16, np.int32, np.uint32)
        self.dtype = np.dtype(np.uint16 if self._wide else np.uint8 if stored.kind == "b" else stored)
        self._inverted = page.photometric == _GREY_INVERTED and stored.kind in "bu"
        # What stands behind the colours, such as an alpha channel, is left out.
        self._colours = 1 if page.photometric in (_GREY_INVERTED, _GREY) else 3
        height, width = int(page.imagelength), int(page.imagewidth)
        if min(height, width, len(page.dataoffsets)) < 1 or page.samplesperpixel < self._colours:
            raise ImageError("cannot be read as an image: its size or its data are missing")
        self.size = (width, height)
        self.shape = (height, width, 3) if self._colours == 3 else (height, width)
        self._separate = page.planarconfig == 2 and page.samplesperpixel > 1
        self._mapped: NDArray[Any] | None = None
        step = 1
        if page.is_final and self._bits == 8 * stored.itemsize and self._file.filehandle.is_file:
            self._mapped = self._map()
        else:
            step = min(int(page.tilelength if page.is_tiled else page.rowsperstrip), height)
            self._across = math.ceil(width / page.tilewidth) if page.is_tiled else 1
            self._down = math.ceil(height / step)
        self.chunks = (step,)
        # The limit on the image's size must not be got round by its strips and tiles.
        unpacked = math.prod(self._expected(0)) * stored.itemsize
        if page.tiledepth != 1 or unpacked > max(MOST_BYTES_PER_PIXEL * height * width, _ALWAYS_READ):
            raise ImageError("has strips or tiles that are far larger than the image")
        tables = {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader}
        self._jpeg: dict[str, Any] = tables if page.compression in _JPEG else {}

    def _map(self) -> NDArray[Any]:
        height, width = self.shape[:2]
        samples = self._page.samplesperpixel
        shape = (samples, height, width) if self._separate else (height, width, samples)
        try:
            mapped: NDArray[Any] = np.memmap(
                self.name,
                self._stored.newbyteorder(self._file.byteorder),
                "r",
                self._page.dataoffsets[0],
                shape,
            )
        except ValueError:
            raise ImageError("is cut short") from None
        return np.moveaxis(mapped, 0, 2) if self._separate else mapped

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        """Return rows, from a multiple of a strip's or tile's height on.

        Raises
        ------
        ImageError
            If a strip or tile is damaged or missing.
        """
        first, last = rows.start, rows.stop
        if self._mapped is not None:
            found = self._mapped[first:last, :, : self._colours]
        else:
            step = self.chunks[0]
            found = np.zeros((last - first, self.shape[1], self._colours), self._stored)
            for band in range(first // step, math.ceil(last / step)):
                self._decode(band, found[band * step - first :])
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

    def _decode(self, band: int, target: NDArray[Any]) -> None:
        """Decode one row of tiles, or one strip, into the rows it covers, or as many of them as there are."""
        for plane in range(self._colours if self._separate else 1):
            channels = slice(plane, plane + 1) if self._separate else slice(0, self._colours)
            for column in range(self._across):
                try:
                    tile = self._tile((plane * self._down + band) * self._across + column, band)
                except Exception as error:  # decoders raise almost anything on damaged data
                    raise ImageError(
                        f"{self.name} is damaged, or compressed in a way that is not read, at row "
                        f"{band * self.chunks[0]}: {error or type(error).__name__}"
                    ) from error
                if tile is not None:  # what is left out of the file is zeros
                    left = column * self._page.tilewidth
                    covered = target[:, left : left + tile.shape[1], channels]
                    rows, columns, samples = covered.shape
                    covered[: tile.shape[0]] = tile[:rows, :columns, :samples]

    def _tile(self, index: int, band: int) -> NDArray[Any] | None:
        """Return a strip or tile (rows, columns, samples); None if the file has none of its data."""
        page, handle = self._page, self._file.filehandle
        offset, count = page.dataoffsets[index], page.databytecounts[index]
        if not count:
            return None
        with handle.lock:
            handle.seek(offset)
            data = handle.read(count)
        if len(data) < count:
            raise ImageError("the file is cut short")
        if page.compression in _IMAGES:
            return self._image(data, band)
        self._check_size(data)
        tile, _, _ = page.decode(data, index, **self._jpeg)
        return None if tile is None else tile[0]

    def _expected(self, band: int) -> tuple[int, int, int]:
        """Return rows, columns and samples of a strip or tile."""
        page, samples = self._page, 1 if self._separate else self._page.samplesperpixel
        if page.is_tiled:
            return page.tilelength, page.tilewidth, samples
        height, width = self.shape[:2]
        return min(page.rowsperstrip, height - band * page.rowsperstrip), width, samples

    def _image(self, data: bytes, band: int) -> NDArray[Any]:
        """Decode a strip or tile that is an image file, into memory of the size that it should have.

        imagecodecs compares the size in the file's head with that before it decodes anything.
        """
        from tifffile import TIFF

        rows, columns, samples = self._expected(band)
        tile = np.empty((rows, columns, samples) if samples > 1 else (rows, columns), self._stored)
        options = {"hasalpha": True} if self._page.compression == _WEBP and samples == 4 else {}
        TIFF.DECOMPRESSORS[self._page.compression](data, out=tile, **options)
        tile = tile.reshape(rows, columns, samples)
        # As tifffile has it: image files know no predictor, but LERC is none of them.
        if self._page.predictor != 1 and self._page.compression not in TIFF.IMAGE_COMPRESSIONS:
            tile = TIFF.UNPREDICTORS[self._page.predictor](tile, axis=-2)
        return tile

    def _check_size(self, data: bytes) -> None:
        """Fail if a JPEG or JPEG 2000 file in a strip or tile has more pixels than that may have."""
        compression = self._page.compression
        if compression in _JPEG:
            rows, columns, samples = _jpeg_size((self._jpeg["jpegheader"] or b"") + data)
        elif compression in _JPEG_2000:
            rows, columns, samples = _jpeg_2000_size(data)
        else:
            return
        expected = self._expected(0)
        if rows > expected[0] or columns > expected[1] or samples > self._page.samplesperpixel:
            raise ImageError(
                f"its data hold an image of {columns} x {rows} px where {expected[1]} x {expected[0]} px "
                "belong"
            )

    def close(self) -> None:
        """Close the file."""
        self._mapped = None
        self._file.close()

    def __enter__(self) -> TiffRows:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
