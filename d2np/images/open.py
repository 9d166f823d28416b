"""Images: open what users hold, check it, and read it by rows.

The network asks for the rows it needs next, and no more of the image is held where that can be: arrays in
memory or in files, and large TIFF files, are read piece by piece. Other files are decoded whole, and so is
every image that has to be shrunk first.
"""

from __future__ import annotations

import io
import math
import os
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, TypeAlias, TypeGuard

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps
from PIL.TiffImagePlugin import TiffImageFile

from .. import streams
from ..errors import ImageError
from ..extras import require
from ..options import OptionChanges, Options, chosen
from . import pixels
from .messages import reading
from .raw import RawImage, is_raw
from .remote import RemoteFile
from .tiff import MOST_BYTES_PER_PIXEL, SIGNATURES, TiffRows, as_16_bits

if TYPE_CHECKING:
    from typing_extensions import Unpack


class SupportsArray(Protocol):
    """An array of another library, or one of which parts can be read from a file, as of HDF5."""

    def __array__(self) -> NDArray[Any]: ...


ImageLike: TypeAlias = (
    "str | os.PathLike[str] | bytes | BinaryIO | Image.Image | NDArray[Any] | SupportsArray"
)
"""A path, the content of a file or the file opened in binary mode, a PIL image, or an array (H, W[, 3 | 4])
uint8, uint16 or float in 0..255, in memory or in a file (``numpy.memmap``, an h5py dataset). Arrays of other
libraries are those that NumPy converts (``__array__``, DLPack)."""

# What Pillow may open, wherever it is told to: its other readers start programs (EPS), open again whatever
# they hold (IPTC), or are little used and so little tested. MPO opens as JPEG; HEIF is what
# pillow-heif registers, an extra. TGA has no signature, so it comes last.
FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "AVIF", "HEIF", "BMP", "GIF", "JPEG2000", "PPM", "TGA")

# How files of HEIF begin, after four bytes, among them those that may hold AVIF as well.
_HEIF_BRANDS = ("heic", "heix", "heim", "heis", "hevc", "hevx", "hevm", "hevs", "mif1", "msf1")
_HEIF = tuple(f"ftyp{brand}".encode() for brand in _HEIF_BRANDS)

Encoded: TypeAlias = "str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO"

# What else may be in a file.
_MOST_BYTES_AROUND = 64 << 20
_PIECE = 1 << 20
# The decoder of AVIF decodes frames of up to 268 million pixels, whatever size the file tells.
_AVIF_LIMIT = 1 << 26
# Of a TIFF that Pillow decodes, however small the image is.
_PIXELS_OF_A_TILE = 1 << 22
# Of a TIFF: none, CCITT, LZW, JPEG, PackBits, Deflate; not every Pillow has others.
_PACKBITS = 32773
_BY_PILLOW = (1, 2, 3, 4, 5, 6, 7, 8, _PACKBITS, 32946)
_ORIENTATION = ExifTags.Base.Orientation
# How many rows are remembered where rows can be read only many at once: the levels of a pyramid read the same
# image at places that lie this far apart.
_REMEMBERED = 256
# Rows looked at together where all of an image is looked through.
_LOOKED_AT = 64


def open_image(
    image: ImageLike, options: Options | None = None, **changes: Unpack[OptionChanges]
) -> NDArray[np.uint8] | NDArray[np.float32]:
    """Return any image as an (H, W, 3) array, red first, in 0..255, of its own size.

    Parameters
    ----------
    image : path, bytes, binary file, PIL.Image, array or HDF5 dataset
        Bytes and files hold an encoded image; a file is read from its beginning, and left open. Arrays of
        other libraries count if NumPy can convert them. Arrays are (H, W), (H, W, 1), (H, W, 3) or (H, W, 4):
        grey, grey, RGB, RGB with an alpha channel that is left out. uint8; float in 0..255; or uint16, of
        which the full range 0..65535 is brought to 0..255.
    options, **changes
        See :class:`d2np.Options`, of which ``orient``, ``stretch`` and ``max_pixels`` count.

    Returns
    -------
    (H, W, 3) uint8 or float32
        uint8 where the image has eight bits per channel.

    Raises
    ------
    ImageError
        If it cannot be read, or is empty, of another shape or type, not finite, or out of range.
    OptionError
        If an option makes no sense.
    """
    options = chosen(options, **changes)
    with open_source(image, replace(options, max_edge=None, max_sum_edges=None)) as source:
        return source.read(0, source.given[0])


def open_rgb(
    image: ImageLike, options: Options | None = None, **changes: Unpack[OptionChanges]
) -> NDArray[np.uint8]:
    """Return an image as :func:`open_image` does, rounded to uint8: for looking at."""
    found = open_image(image, options, **changes)
    if found.dtype == np.uint8:
        return found  # type: ignore[return-value]
    return np.clip(np.rint(found), 0, 255).astype(np.uint8)


def open_source(
    image: ImageLike | Source, options: Options | None = None, **changes: Unpack[OptionChanges]
) -> Source:
    """Open an image to be read by rows.

    An image that is larger than ``max_edge`` or ``max_sum_edges`` allow is read whole and shrunk. With both
    of them None, arrays in files (``numpy.memmap``, h5py datasets) and TIFF files above Pillow's limit, or of
    a kind that Pillow does not read, are never read whole, except for a compressed strip or tile that is as
    large as the image. Of these, values are checked as they are read.

    Whether floats lie in 0..1 instead of 0..255 can only be seen from all of them: they are looked through
    from the top until one is above 1, which is in the first rows of nearly every image.

    Parameters
    ----------
    image
        See :func:`open_image`. What is a source already is returned as it is, whatever the options: it was
        opened ahead of its use.
    options, **changes
        See :class:`d2np.Options`.

    Returns
    -------
    Source
        To be closed, or used as a context manager.

    Raises
    ------
    ImageError
        If it is no image, or too large, or would shrink to nothing.
    OptionError
        If an option has a value that makes no sense.
    """
    options = chosen(options, **changes)
    if isinstance(image, Source):
        return image
    name = name_of(image)
    with ExitStack() as stack:
        if is_encoded(image):
            opened = stack.enter_context(open_file(image, options.max_pixels))
            with reading(name):
                stored = _decoded(opened, options.orient, name, as_stored=True)
            if isinstance(stored, np.ndarray):
                stack.close()
        else:
            with reading(name):
                stored = _decoded(image, options.orient, name)
        source = Source(stored, name, options)
        source.opened = stack.pop_all()
    return source


def open_mask(image: Encoded, options: Options) -> NDArray[np.bool_]:
    """Return where an image is not black, as (H, W) bool.

    Parameters
    ----------
    image : path, bytes or binary file
    options : Options
        ``orient`` and ``max_pixels`` count.

    Raises
    ------
    ImageError
        If it cannot be read, or is too large.
    """
    name = name_of(image)
    with open_file(image, options.max_pixels) as opened, reading(name):
        stored = _decoded(opened, options.orient, name, as_stored=True)
        rows = np.asarray(stored[0 : stored.shape[0]])
    return np.asarray(rows[..., :3].any(axis=2) if rows.ndim == 3 else rows != 0)


class Source:
    """An image as the network sees it, by rows. May be read by several threads.

    Parameters
    ----------
    stored : array-like (H, W[, 3 | 4])
        Anything with a shape and a type of which rows can be cut: an array, in memory or in a file, or a
        :class:`~d2np.images.tiff.TiffRows`.
    name : str
        What the image is called in messages.
    options : Options
        An image that is larger than they allow is read whole and shrunk.

    Attributes
    ----------
    given : (int, int)
        Height and width of the image as given, in pixels.
    shape : (int, int)
        Height and width as the network sees it.
    on_read : callable or None
        Called with the number of rows whenever some have been read.
    opened : ExitStack or None
        What is to be closed with the source.
    """

    on_read: Callable[[int], object] | None = None
    opened: ExitStack | None = None

    def __init__(self, stored: Any, name: str, options: Options) -> None:
        self._stored, self._name, self._stretch = stored, name, options.stretch
        self._lock = threading.Lock()
        self._levels, self._range = pixels.Levels(), pixels.FULL
        self._shrunk: NDArray[Any] | None = None
        pixels.check_form(stored.shape, stored.dtype, name)
        height, width = self.given = self.shape = (int(stored.shape[0]), int(stored.shape[1]))
        # Rows that are decoded at once, those of a strip, tile or chunk.
        chunks = getattr(stored, "chunks", None)
        self._step = int(chunks[0]) if isinstance(chunks, tuple) and chunks else 1
        # One piece may reach into the next, so two are kept however large they are.
        # The cache must not refer to this source, which would keep the image until Python looks for cycles.
        self._piece = lru_cache(max(2, math.ceil(_REMEMBERED / self._step)))(partial(_fetched, stored, name))
        self._floats = np.issubdtype(stored.dtype, np.floating)
        if self._floats:
            self._refuse_fractions()
        if self._stretch:
            for rows in self._all_rows():
                self._levels.add(rows)
            self._range = self._levels.range
        if pixels.network_size(width, height, options) != (width, height):
            self._shrunk = pixels.shrink(self._checked(0, height), options)
            self.shape = (self._shrunk.shape[0], self._shrunk.shape[1])
            # What it was shrunk from is not kept, nor does the cache keep it.
            self._stored, self._piece = None, lru_cache(0)(partial(_fetched, None, name))

    def read(self, first: int, last: int) -> NDArray[Any]:
        """Return rows ``first`` to ``last`` (not included) of the image as the network sees it.

        Returns
        -------
        (last - first, width, 3) uint8 or float32
            Red first, 0..255. Not to be written to.

        Raises
        ------
        ImageError
            If these rows cannot be read, or hold values that are not finite or out of range.
        """
        found = self._shrunk[first:last] if self._shrunk is not None else self._checked(first, last)
        if self.on_read is not None:
            self.on_read(last - first)
        return found

    def turned(self, turns: int) -> Callable[[int, int], NDArray[Any]]:
        """Return a :meth:`read` of the image turned anticlockwise by so many quarters; it holds all of it."""
        found = self._checked(0, self.shape[0]) if self._shrunk is None else self._shrunk
        whole = np.rot90(found, turns)

        def read(first: int, last: int) -> NDArray[Any]:
            if self.on_read is not None:
                self.on_read(last - first)
            return np.ascontiguousarray(whole[first:last])

        return read

    def close(self) -> None:
        """Close what :func:`open_source` has opened."""
        if not self._stretch:
            self._levels.remark(self._name)
        self._piece.cache_clear()
        if self.opened is not None:
            self.opened.close()

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _checked(self, first: int, last: int) -> NDArray[Any]:
        rows = self._cut(first, last)
        if self._floats and rows.size:
            pixels.check_floats(rows, self._name)
        if not self._stretch:
            with self._lock:
                self._levels.add(rows)
        return pixels.as_rgb(rows, self._range)

    def _refuse_fractions(self) -> None:
        lowest, highest = math.inf, -math.inf
        for rows in self._all_rows():
            low, high = pixels.check_floats(rows, self._name)
            lowest, highest = min(lowest, low), max(highest, high)
            if lowest < 0 or highest > 1:
                return
        if highest > 0:  # not black
            raise ImageError(
                f"{self._name} looks like values in 0..1 (its largest is {highest:g}): multiply it by 255, "
                "the network takes 0..255"
            )

    def _all_rows(self) -> Iterator[NDArray[Any]]:
        height = self.given[0]
        return (self._cut(first, min(first + _LOOKED_AT, height)) for first in range(0, height, _LOOKED_AT))

    def _cut(self, first: int, last: int) -> NDArray[Any]:
        """Return rows as they are stored."""
        if self._step == 1 or first >= last:
            return _fetched(self._stored, self._name, first, last)
        starts = range(first // self._step * self._step, last, self._step)
        with self._lock:
            parts = [
                self._piece(top, min(top + self._step, self.given[0]))[max(first - top, 0) : last - top]
                for top in starts
            ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _fetched(stored: Any, name: str, first: int, last: int) -> NDArray[Any]:
    with reading(name):
        return np.asarray(stored[first:last])


def is_encoded(image: object) -> TypeGuard[Encoded]:
    """Return whether this is a path, or the content of a file or a file, not pixels."""
    if isinstance(image, memoryview):
        return image.ndim == 1
    return isinstance(image, (str, os.PathLike, bytes, bytearray)) or callable(getattr(image, "read", None))


def name_of(image: object) -> str:
    """Return what an image is called in messages: its path, if it has one."""
    if isinstance(image, (str, os.PathLike)):
        return os.fsdecode(image)
    name = getattr(image, "name", None) or getattr(image, "filename", None)
    return name if isinstance(name, str) and name else "the image"


def to_array(thing: Any, name: str) -> NDArray[Any]:
    """Return an array of any library as NumPy's.

    Raises
    ------
    ImageError
        If it cannot be converted, as where it is in the memory of a graphics processor.
    """
    only_dlpack = hasattr(thing, "__dlpack__") and not hasattr(thing, "__array__")
    with reading(name):
        return np.from_dlpack(thing) if only_dlpack else np.asarray(thing)


@contextmanager
def open_file(image: Encoded, max_pixels: int | None = None) -> Iterator[Image.Image | TiffRows]:
    """Open an image's file, of which only the head is read.

    Parameters
    ----------
    image : path, bytes or binary file
        A :class:`~d2np.images.remote.RemoteFile` and an open file are read whole.
    max_pixels : int, optional
        See :class:`d2np.Options`.

    Yields
    ------
    PIL.Image or TiffRows
        TiffRows where Pillow does not read the TIFF, or would not without ``max_pixels``.

    Raises
    ------
    ImageError
        If there is no such file, or it is no image, or too large.
    """
    name, allowed = name_of(image), most_pixels(max_pixels)
    with ExitStack() as stack:
        with reading(name):
            file = stack.enter_context(_stream(image, name, max_pixels))
            opened = _reader(file, name)
            width, height = opened.size
            count = width * height
            if count > allowed:
                raise ImageError(
                    f"{name} is too large to open unasked: {width} x {height} = {count} px, above the limit "
                    f"of {allowed} that guards against files made to fill the memory; to read it, raise the "
                    f"limit with max_pixels={count} (--max-pixels {count} on the command line)"
                )
            if getattr(opened, "format", None) == "AVIF" and allowed < _AVIF_LIMIT:
                raise ImageError(
                    f"{name} is an AVIF image, which is not opened where max_pixels is below {_AVIF_LIMIT}: "
                    "its decoder decodes up to 268 million pixels whatever the file says; convert it to PNG"
                )
        yield opened


def _stream(image: Encoded, name: str, max_pixels: int | None) -> BinaryIO:
    if isinstance(image, RemoteFile):
        return io.BytesIO(image.read(most_bytes(max_pixels)))
    if isinstance(image, (str, os.PathLike)):
        return streams.opened(image)
    if isinstance(image, (bytes, bytearray, memoryview)):
        return io.BytesIO(image)
    most = most_bytes(max_pixels)
    found = bytearray()
    # A pipe is read from where it is; one that is closed says so again.
    with suppress(AttributeError, OSError, ValueError):
        image.seek(0)
    while len(found) <= most and (piece := image.read(_PIECE)):
        found += piece
    if len(found) > most:
        raise ImageError(f"{name} is too large: it has more than {most:.0f} bytes")
    return io.BytesIO(found)


def _reader(file: BinaryIO, name: str) -> Image.Image | TiffRows:
    """Open an image with Pillow, or as a TIFF of which Pillow would not read all, or too much at once.

    RAW images are opened by LibRaw, behind an image of Pillow's.
    """
    if is_raw(name):
        return RawImage(file, name)
    prefix = file.read(16)
    is_tiff = prefix[:4] in SIGNATURES
    try:
        opened = _open_with_pillow(file, prefix, name)
        if not isinstance(opened, TiffImageFile) or _is_plain(opened):
            return opened
    except Exception:
        if not is_tiff:
            raise
    return TiffRows(file, name)


def _is_plain(image: TiffImageFile) -> bool:
    """Return whether Pillow reads this TIFF file, and reads it rightly.

    Of more than eight bits it inverts no grey, takes planes and compressed floats for something else, and
    knows nothing between 8 and 16 bits; signed integers may become unsigned ones. It decodes tiles of any
    size.
    """
    tag = image.tag_v2.get
    bits, compression, edges = set(tag(258, (1,))), tag(259, 1), (tag(322, 0), tag(323, 0))
    count = math.prod(image.size)
    return (
        set(tag(339, (1,))) == {1}
        and (max(bits) <= 8 or (bits == {16} and tag(262) != 0 and tag(284) != 2))
        and compression in _BY_PILLOW
        and (compression != _PACKBITS or tag(317, 1) == 1)
        and all(isinstance(edge, int) for edge in edges)
        and math.prod(edges) <= max(count, _PIXELS_OF_A_TILE)
        and count <= most_pixels()
    )


def most_bytes(max_pixels: int | None) -> float:
    """Return how many bytes the file of an image that is not too large may have."""
    return MOST_BYTES_PER_PIXEL * most_pixels(max_pixels) + _MOST_BYTES_AROUND


def most_pixels(max_pixels: int | None = None) -> float:
    """Return above how many pixels files are refused: by default where Pillow refuses them."""
    if max_pixels is not None:
        return max_pixels
    return math.inf if Image.MAX_IMAGE_PIXELS is None else 2 * Image.MAX_IMAGE_PIXELS


def _open_with_pillow(file: BinaryIO, prefix: bytes, name: str) -> Image.Image:
    """Open one of :data:`FORMATS` without the limit of ``Image.open``, which is one for all threads."""
    Image.init()
    for format in (known for known in FORMATS if known in Image.OPEN):
        factory, accept = Image.OPEN[format]
        fits = accept is None or accept(prefix)
        if not fits or isinstance(fits, str):  # a text says why it does not
            continue
        try:
            file.seek(0)
            return factory(file, "")
        except (SyntaxError, IndexError, TypeError, struct.error):
            continue  # it only looked like this format
    if "HEIF" not in Image.OPEN and prefix[4:12] in _HEIF:
        library = require(
            "pillow_heif", f"{name}: images in HEIF (HEIC) need", "heif", ImageError, "pillow-heif"
        )
        library.register_heif_opener()
        return _open_with_pillow(file, prefix, name)
    raise ImageError(f"{name} is not an image in a format that d2np reads")


def _decoded(image: Any, orient: bool, name: str, *, as_stored: bool = False) -> Any:
    """Return what rows can be cut of: an array, or TiffRows that need not be turned.

    A PIL image is decoded; ``as_stored`` if Pillow is to turn no TIFF.
    """
    if isinstance(image, Image.Image):
        return _from_pil(image, orient, name, as_stored)
    if isinstance(image, TiffRows):
        if not orient or image.orientation == 1:
            return image
        if math.prod(image.size) > most_pixels():
            raise ImageError(
                f"{name} is too large to be turned as its orientation {image.orientation} says: "
                "turn it first, or leave orient out"
            )
        return pixels.turned(image[0 : image.shape[0]], image.orientation)
    if isinstance(getattr(image, "dtype", None), np.dtype) and hasattr(image, "__getitem__"):
        return image
    return to_array(image, name)


def _from_pil(image: Image.Image, orient: bool, name: str, as_stored: bool) -> NDArray[Any]:
    # Pillow turns TIFF files, and only these, when it loads them.
    is_tiff = isinstance(image, TiffImageFile)
    turn = image.getexif().get(_ORIENTATION, 1) if is_tiff and as_stored and not orient else 1
    size = image.size
    if isinstance(image, TiffImageFile):
        # Where Pillow knows a path it may map the file, as if its rows and columns were turned already.
        image.filename = ""
    image.load()
    if sorted(image.size) != sorted(size):
        raise ImageError(f"{name} is damaged: its image has another size than its header says")
    if orient and not is_tiff:
        image = ImageOps.exif_transpose(image)
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow warns where transparency is dropped at once
    deep = image.mode in ("I", "F") or image.mode.startswith("I;16")
    if image.mode not in ("RGB", "L") and not deep:
        image = image.convert("RGB")
    array = np.asarray(image)
    # Grey of more than eight bits; Pillow opens 16-bit files as ``I;16`` or, older ones, as ``I``.
    if deep and image.mode != "F":
        array = as_16_bits(array, name)
    # Quarter turns undo each other; all other orientations undo themselves.
    return array if turn == 1 else pixels.turned(array, {6: 8, 8: 6}.get(turn, turn))
