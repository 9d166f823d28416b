"""Images: open, check, resize, preprocess.

What users hold becomes one thing, (H, W, 3) in 0..255, red first; then what the network takes.
"""

from __future__ import annotations

import io
import math
import os
import struct
from contextlib import suppress
from importlib.util import find_spec
from numbers import Real
from typing import Any, BinaryIO, Protocol, TypeAlias, TypeGuard, cast

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from ..errors import ImageError, OptionError
from ..layers import CAFFE_MEAN, TORCH_DEVIATION, TORCH_MEAN
from ..options import Preprocessing, check
from ..streams import IS_A_PIPE, is_pipe
from . import avif
from .messages import LOGGER, ONCE, reading
from .remote import RemoteFile
from .tiff import MOST_BYTES_PER_PIXEL, TiffRows, as_16_bits, first_bytes, is_tiff


class SupportsArray(Protocol):
    """An array of another library."""

    def __array__(self) -> NDArray[Any]: ...


class Dataset(Protocol):
    """An array of which parts can be read from a file, such as an HDF5 dataset."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> Any: ...
    @property
    def ndim(self) -> int: ...
    def __getitem__(self, key: Any, /) -> Any: ...


ImageLike: TypeAlias = (
    "str | os.PathLike[str] | bytes | BinaryIO | Image.Image | NDArray[Any] | Dataset | SupportsArray"
)
"""A path, the content of a file or the file opened in binary mode, a PIL image, or an array (H, W[, 3 | 4])
uint8, uint16 or float in 0..255, in memory or in a file (``numpy.memmap``, an h5py dataset). Arrays of other
libraries are those that NumPy converts (``__array__``, DLPack)."""

# What Pillow may open, wherever it is told to: its other readers start programs (EPS), open again whatever
# they hold (IPTC), or are little used and so little tested. MPO opens as JPEG; HEIF is there where
# pillow-heif has registered it. TGA has no signature, so it comes last.
FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "AVIF", "HEIF", "BMP", "GIF", "JPEG2000", "PPM", "TGA")

Encoded: TypeAlias = "str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO"

# What else may be in a file.
_MOST_BYTES_AROUND = 64 << 20
_PIECE = 1 << 20
_FRAME_MAY_BE = 4
# Of a TIFF that Pillow decodes, however small the image is.
_PIXELS_OF_A_TILE = 1 << 22
FULL = (0, 65535)
"""The largest value of 16 bits."""
# An image that uses fewer grey levels of 255 is remarked on.
_FEW_LEVELS = 16
# Of a TIFF: none, CCITT, LZW, JPEG, Deflate; not every Pillow has others.
_PACKBITS = 32773
_BY_PILLOW = (1, 2, 3, 4, 5, 6, 7, 8, _PACKBITS, 32946)
_ORIENTATION = ExifTags.Base.Orientation


def open_image(
    image: ImageLike, *, orient: bool = False, stretch: bool = False, max_pixels: int | None = None
) -> NDArray[np.uint8] | NDArray[np.float32]:
    """Any image as an (H, W, 3) array, red first, in 0..255.

    Parameters
    ----------
    image : path, bytes, binary file, PIL.Image, array or HDF5 dataset
        Bytes and files hold an encoded image; a file is read from its beginning, and left open. Arrays of
        other libraries count if NumPy can convert them. Arrays are (H, W), (H, W, 1), (H, W, 3) or (H, W, 4):
        grey, grey, RGB, RGB with an alpha channel that is left out. uint8; float in 0..255; or uint16, of
        which the full range 0..65535 is brought
        to 0..255.
    orient : bool
        Turn the image as its EXIF orientation says. Off by default, as in COLMAP and hloc. Arrays have
        no orientation, and a PIL image of a TIFF file is one that Pillow has turned already.
    stretch : bool
        Spread the values that a 16-bit image uses over the full range, but for one pixel in a thousand at
        each end: thermal and scientific cameras leave most of it empty. Others are as they are.
    max_pixels : int, optional
        Files with more pixels are refused before they are decoded: a small file may unpack to one that fills
        the memory. By default where Pillow refuses them, at twice ``PIL.Image.MAX_IMAGE_PIXELS``.

    Returns
    -------
    (H, W, 3) uint8 or float32
        uint8 where the image has eight bits per channel.

    Raises
    ------
    ImageError
        If it cannot be read, or is empty, of another shape or type, not finite, or out of range.
    OptionError
        If ``max_pixels`` makes no sense.
    """
    given = known(image)
    if is_encoded(given):
        return load(open_file(given, max_pixels), orient, name_of(given), stretch)
    if isinstance(given, Image.Image):
        name = getattr(given, "filename", "") or "the image"
        with reading(name):
            return _from_pil(given, orient, name, stretch)
    if isinstance(given, np.ndarray):
        return _from_array(given, "the image array", stretch)
    dataset, name = cast("Dataset", given), "the image dataset"
    check_form(dataset.shape, dataset.dtype, name)
    return _from_array(to_array(dataset[:], name), name, stretch)


def open_rgb(
    image: ImageLike, *, orient: bool = False, stretch: bool = False, max_pixels: int | None = None
) -> NDArray[np.uint8]:
    """Like :func:`open_image`, rounded to uint8: for looking at."""
    pixels = open_image(image, orient=orient, stretch=stretch, max_pixels=max_pixels)
    if pixels.dtype == np.uint8:
        return pixels  # type: ignore[return-value]
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def is_dataset(thing: object) -> TypeGuard[Dataset]:
    """Whether this is an array in a file, by what it can do: h5py need not be there."""
    if not all(hasattr(thing, name) for name in ("shape", "dtype", "ndim", "__getitem__")):
        return False
    try:
        np.dtype(thing.dtype)  # type: ignore[attr-defined]
    except TypeError:  # of another library
        return False
    return True


def is_encoded(image: object) -> TypeGuard[Encoded]:
    """Whether this is a path, or the content of a file or a file, not pixels."""
    if isinstance(image, memoryview):
        return image.ndim == 1
    return isinstance(image, (str, os.PathLike, bytes, bytearray)) or callable(getattr(image, "read", None))


def name_of(image: Encoded) -> str:
    """Return what an encoded image is called in messages: its path, if it has one."""
    if isinstance(image, (str, os.PathLike)):
        return os.fsdecode(image)
    name = getattr(image, "name", None)
    return name if isinstance(name, str) else "the encoded image"


def known(image: Any) -> Encoded | Image.Image | NDArray[Any] | Dataset:
    """An image in one of the forms that d2np reads; arrays of other libraries become NumPy's.

    Raises
    ------
    ImageError
        If it is no image at all, or cannot be converted.
    """
    if is_encoded(image) or isinstance(image, (Image.Image, np.ndarray)) or is_dataset(image):
        return image
    if not isinstance(image, memoryview) and not any(
        hasattr(image, name) for name in ("__array__", "__array_interface__", "__dlpack__")
    ):
        raise ImageError(
            "an image is a path, bytes, a binary file, a PIL image, an array or an HDF5 dataset; got "
            f"{type(image).__name__}"
        )
    return to_array(image, "the image")


def to_array(thing: Any, name: str) -> NDArray[Any]:
    """An array of any library as NumPy's.

    Raises
    ------
    ImageError
        If it cannot be converted, as where it is in the memory of a graphics processor.
    """
    only_dlpack = hasattr(thing, "__dlpack__") and not hasattr(thing, "__array__")
    try:
        return np.from_dlpack(thing) if only_dlpack else np.asarray(thing)
    # Libraries raise almost anything.
    except Exception as error:
        raise ImageError(
            f"{name}: NumPy cannot convert this {type(thing).__name__}, which must be an array in the CPU's "
            f"memory: {error or type(error).__name__}"
        ) from error


def open_file(image: Encoded, max_pixels: int | None = None) -> Image.Image | TiffRows:
    """Open an image's file, of which only the head is read.

    Parameters
    ----------
    image : path, bytes or binary file
        A :class:`~d2np.images.remote.RemoteFile` and an open file are read whole.
    max_pixels : int, optional
        See :func:`open_image`.

    Returns
    -------
    PIL.Image or TiffRows
        To be closed. TiffRows where Pillow does not read the TIFF, or would not without ``max_pixels``.

    Raises
    ------
    ImageError
        If there is no such file, or it is no image, or too large.
    OptionError
        If ``max_pixels`` makes no sense.
    """
    if max_pixels is not None and (
        isinstance(max_pixels, bool) or not hasattr(max_pixels, "__index__") or max_pixels < 1
    ):
        raise OptionError(
            f"max_pixels must be a whole number from 1 up, or None for Pillow's limit; got {max_pixels!r}"
        )
    name = name_of(image)
    if isinstance(image, (str, os.PathLike)) and is_pipe(image):
        raise ImageError(f"{name} is {IS_A_PIPE}")
    limit = pixels_by_default()
    allowed = limit if max_pixels is None else max_pixels
    opened: Image.Image | TiffRows
    with reading(name):
        file = _content(image, name, max_pixels)
        try:
            opened = _open_with_pillow(file, name)
        except FileNotFoundError:
            raise ImageError(f"{name}: there is no such file") from None
        except IsADirectoryError:
            raise ImageError(f"{name} is a folder, not an image") from None
        except Image.DecompressionBombError as error:
            # WebP, for one, which holds no more than 16383 x 16383 px.
            raise ImageError(
                f"{name} is too large, and Pillow's reader of this format has a limit that only "
                f"PIL.Image.MAX_IMAGE_PIXELS raises: {error}"
            ) from None
        # Pillow's readers raise almost anything on a damaged file.
        except Exception as error:
            if not is_tiff(file):
                if isinstance(error, UnidentifiedImageError):
                    raise ImageError(f"{name} is not an image in a format that d2np reads") from None
                raise ImageError(f"{name} cannot be read as an image: {error}") from error
            opened = TiffRows(file, name)
        size = (opened.shape[1], opened.shape[0]) if isinstance(opened, TiffRows) else opened.size
        if size[0] * size[1] > allowed:
            opened.close()
            raise _too_large(
                name, size, "Pillow's limit" if max_pixels is None else f"the limit of {allowed}"
            )
        if getattr(opened, "format", None) == "AVIF":
            _check_frames(file, name, allowed)
        if isinstance(opened, TiffImageFile) and (size[0] * size[1] > limit or _misread(opened)):
            if isinstance(file, str):  # what is in memory would be closed with it
                opened.close()
            opened = TiffRows(file, name)
    return opened


def _check_frames(file: str | BinaryIO, name: str, allowed: float) -> None:
    """Fail if AVIF's decoder might decode far more than the size that the file tells."""
    # Sizes are known up to a power of two, or not at all; the decoder's own limit is near the one by default.
    most = _FRAME_MAY_BE * allowed
    if most < avif.MOST and (found := avif.most_pixels(first_bytes(file, -1))) > most:
        raise ImageError(
            f"{name} may be too large: whatever size it tells, a frame in it can have {found} px, far above "
            f"the limit of {allowed}: save it anew as a still image, or raise max_pixels (--max-pixels)"
        )


def _misread(image: TiffImageFile) -> bool:
    """Whether Pillow would read this TIFF file wrongly, or fail only when it is to decode it.

    Of more than eight bits it inverts no grey, takes planes and compressed floats for something else, and
    knows nothing between 8 and 16 bits; signed integers may become unsigned ones. It decodes tiles of any
    size.
    """
    tag = image.tag_v2.get
    bits, signs, predictor = set(tag(258, (1,))), set(tag(339, (1,))), tag(317, 1)
    misread = max(bits) > 8 and (bits not in ({16}, {32}) or tag(262) == 0 or tag(284) == 2)
    compression, edges = tag(259, 1), (tag(322, 0), tag(323, 0))
    return (
        misread
        or 2 in signs
        or (compression not in _BY_PILLOW and find_spec("tifffile") is not None)
        or (compression == _PACKBITS and predictor != 1)
        or (compression in (6, 7) and bits != {8})
        or (compression != 1 and bits == {32})
        or not all(isinstance(edge, int) for edge in edges)
        or math.prod(edges) > max(math.prod(image.size), _PIXELS_OF_A_TILE)
    )


def _content(image: Encoded, name: str, max_pixels: int | None) -> str | BinaryIO:
    """A path, or a file in memory."""
    if isinstance(image, RemoteFile):
        return io.BytesIO(image.read(most_bytes(max_pixels)))
    if isinstance(image, (str, os.PathLike)):
        if "\0" in name:
            raise ImageError(f"{name!r} is no path: it holds a NUL character")
        return name
    if isinstance(image, (bytes, bytearray, memoryview)):
        return io.BytesIO(image)
    most = most_bytes(max_pixels)
    found = bytearray()
    # A pipe is read from where it is; one that is closed says so again.
    with suppress(AttributeError, OSError, ValueError):
        image.seek(0)
    try:
        while len(found) <= most and (piece := image.read(_PIECE)):
            found += piece
    # Anything may call itself a file.
    except Exception as error:
        raise ImageError(
            f"{name} cannot be read as a file that is open in binary mode: {error or type(error).__name__}"
        ) from error
    if len(found) > most:
        raise ImageError(f"{name} is too large: it has more than {most:.0f} bytes")
    return io.BytesIO(found)


def most_bytes(max_pixels: int | None) -> float:
    """How long the file of an image that is not too large may be."""
    allowed = pixels_by_default() if max_pixels is None else max_pixels
    return MOST_BYTES_PER_PIXEL * allowed + _MOST_BYTES_AROUND


def pixels_by_default() -> float:
    """Above how many pixels files are refused where nothing is said: where Pillow does it."""
    return math.inf if Image.MAX_IMAGE_PIXELS is None else 2 * Image.MAX_IMAGE_PIXELS


def _too_large(name: str, size: tuple[int, int], limit: str) -> ImageError:
    pixels = size[0] * size[1]
    return ImageError(
        f"{name} is too large to open unasked: {size[0]} x {size[1]} = {pixels} px, above {limit} that "
        f"guards against files made to fill the memory; to read it, raise the limit with max_pixels={pixels} "
        f"(--max-pixels {pixels} on the command line)"
    )


def _open_with_pillow(file: str | BinaryIO, name: str) -> Image.Image:
    """Open one of :data:`FORMATS` without the limit of ``Image.open``, which is one for all threads."""
    prefix = first_bytes(file, 16)
    Image.init()
    for format in FORMATS:
        if format not in Image.OPEN:
            continue
        factory, accept = Image.OPEN[format]
        fits = accept is None or accept(prefix)
        if not fits or isinstance(fits, str):  # a text says why it does not
            continue
        try:
            if not isinstance(file, str):
                file.seek(0)
            # A stream's name may be that of another file, which must not be opened instead.
            return factory(file, name if isinstance(file, str) else "")  # type: ignore[arg-type]
        except (SyntaxError, IndexError, TypeError, struct.error):
            continue  # it only looked like this format
    raise UnidentifiedImageError(name)


def load(opened: Image.Image | TiffRows, orient: bool, name: str, stretch: bool = False) -> NDArray[Any]:
    """All of a file's image as :func:`open_image` returns it; the file is closed."""
    with opened, reading(name):
        if not isinstance(opened, TiffRows):
            return _from_pil(opened, orient, name, stretch, file=True)
        if orient and opened.orientation != 1 and opened.shape[0] * opened.shape[1] > pixels_by_default():
            raise ImageError(
                f"{name} is too large to be turned as its orientation {opened.orientation} says: "
                "turn it first, or leave orient out"
            )
        image = _from_array(opened[0 : opened.shape[0]], name, stretch)
        return _turned(image, opened.orientation) if orient else image


def _turned(image: NDArray[Any], orientation: int) -> NDArray[Any]:
    """As ``ImageOps.exif_transpose`` does it, for arrays."""
    if orientation in (5, 6, 7, 8):
        image = image.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return np.ascontiguousarray(image)


def _from_pil(
    image: Image.Image, orient: bool, name: str, stretch: bool, *, file: bool = False
) -> NDArray[Any]:
    """The array of a PIL image; of that of a ``file`` as it is stored there."""
    try:
        size, turn = image.size, 1
        if isinstance(image, TiffImageFile):
            # Where Pillow knows a path it may map the file, as if its rows and columns were turned already.
            image.filename = ""
            # Pillow turns TIFF files, and only these, when it loads them.
            turn = image.getexif().get(_ORIENTATION, 1) if file and not orient else 1
        image.load()
        if sorted(image.size) != sorted(size):
            raise ImageError(f"{name} is damaged: its image has another size than its header says")
        if orient and not isinstance(image, TiffImageFile):
            image = ImageOps.exif_transpose(image)
        if image.mode in ("I", "F") or image.mode.startswith("I;16"):
            array = _from_array(_deep_grey(image, name), name, stretch)
        else:
            if image.mode == "P" and "transparency" in image.info:
                image = image.convert("RGBA")  # Pillow warns where transparency is dropped at once
            if image.mode != "RGB":
                image = image.convert("RGB")
            array = _from_array(np.asarray(image), name, stretch)
        # Quarter turns undo each other; all other orientations undo themselves.
        return array if turn == 1 else _turned(array, {6: 8, 8: 6}.get(turn, turn))
    except ImageError:
        raise
    # As above: decoders.
    except Exception as error:
        raise ImageError(f"{name} cannot be read as an image: {error or type(error).__name__}") from error


def _deep_grey(image: Image.Image, name: str) -> NDArray[Any]:
    """Grey of more than eight bits; Pillow opens 16-bit files as ``I;16`` or, older ones, as ``I``."""
    values = np.asarray(image)
    return values if image.mode == "F" else as_16_bits(values, name)


def _from_array(array: NDArray[Any], name: str, stretch: bool) -> NDArray[Any]:
    check_form(array.shape, array.dtype, name)
    if np.issubdtype(array.dtype, np.floating):
        low, high = check_floats(array, name)
        refuse_fractions(low, high, name)
    levels = Levels()
    levels.add(array)
    if not stretch:
        levels.remark(name)
    return as_rgb(array, levels.range if stretch else FULL)


class Levels:
    """Which values a 16-bit image uses. Other images have none here."""

    def __init__(self) -> None:
        self._counts: NDArray[np.int64] | None = None

    def add(self, rows: NDArray[Any]) -> None:
        """Count the values of some rows."""
        if rows.dtype.kind == "u" and rows.dtype.itemsize == 2:
            colours = rows[:, :, :3] if rows.ndim == 3 else rows
            counts = np.bincount(colours.ravel(), minlength=1 << 16)
            self._counts = counts if self._counts is None else self._counts + counts

    @property
    def range(self) -> tuple[int, int]:
        """The lowest and highest value, but for one pixel in a thousand at each end: dead and hot ones."""
        if self._counts is None:
            return FULL
        below = np.cumsum(self._counts)
        low, high = np.searchsorted(below, [0.001 * below[-1], 0.999 * below[-1]])
        return (int(low), int(high)) if low < high else FULL

    def remark(self, name: str) -> None:
        """Say once if so few values are used that few keypoints will be found."""
        low, high = self.range
        if high - low < _FEW_LEVELS * 257:
            LOGGER.warning(
                "%s: its 16-bit values go from %d to %d, which is %.1f of 255 grey levels, where few "
                "keypoints may be found; stretch=True (--stretch on the command line) spreads the values of "
                "such images over the full range",
                *(name, low, high, (high - low) / 257),
                extra=ONCE,
            )


def check_form(shape: tuple[int, ...], dtype: Any, name: str) -> None:
    """Fails unless arrays of this shape and type are images."""
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] not in (1, 3, 4)):
        first = len(shape) == 3 and shape[0] in (1, 3, 4)
        advice = ": bring the channels to the end with numpy.moveaxis(image, 0, -1)" if first else ""
        raise ImageError(f"{name} must have shape (H, W), (H, W, 3) or (H, W, 4); got {shape}{advice}")
    if 0 in shape:
        raise ImageError(f"{name} is empty: its shape is {shape}")
    dtype = np.dtype(dtype).newbyteorder("=")
    if dtype not in (np.uint8, np.uint16) and dtype.kind != "f":
        advice = ""
        if dtype.kind in "biu":
            advice = (
                ": multiply it by 255.0 / WHITE, where WHITE is the value of full brightness (1 for bool, "
                "255 for 8 bits, 4095 for 12 bits)"
            )
        raise ImageError(f"{name} must be uint8, uint16 or float in 0..255; got {dtype}{advice}")


def check_floats(array: NDArray[Any], name: str) -> tuple[float, float]:
    """The smallest and the largest colour of floats, or of some rows; fails unless they may be in 0..255."""
    colours = array[..., :3] if array.ndim == 3 else array
    low, high = float(colours.min()), float(colours.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ImageError(f"{name} holds values that are not finite (NaN or infinity)")
    # Some room beyond 0..255, for what resampling overshoots.
    if low < -255 or high > 510:
        raise ImageError(f"{name} must hold values in 0..255; they go from {low:g} to {high:g}")
    return low, high


def refuse_fractions(low: float, high: float, name: str) -> None:
    """Fails where the extremes of a whole image, that is not black, show that it is one in 0..1."""
    if low >= 0 and 0 < high <= 1:
        raise ImageError(
            f"{name} looks like values in 0..1 (its largest is {high:g}): multiply it by 255, the network "
            "takes 0..255"
        )


def as_rgb(array: NDArray[Any], levels: tuple[int, int] = FULL) -> NDArray[Any]:
    """Rows of a checked array as (rows, W, 3) uint8 or float32 in 0..255.

    Of 16 bits, ``levels`` are the values that become 0 and 255.
    """
    if array.ndim == 2:
        array = array[:, :, np.newaxis]
    array = array[:, :, :3]
    if array.dtype.newbyteorder("=") == np.uint16:
        low, high = levels
        array = array.astype(np.float32)
        if levels == FULL:
            array /= np.float32(257)
        else:
            array = np.clip((array - np.float32(low)) * np.float32(255 / (high - low)), 0, 255)
    elif array.dtype != np.uint8:
        array = array.astype(np.float32)
    if array.shape[2] == 1:
        return np.repeat(array, 3, axis=2)
    return np.ascontiguousarray(array)


def network_size(
    width: int, height: int, *, max_edge: int | None = 1600, max_sum_edges: int | None = 2800
) -> tuple[int, int]:
    """(width, height) in pixels at which the network sees an image: the last of :func:`_steps`."""
    *_, size = _steps(width, height, max_edge, max_sum_edges)
    return size


def _steps(width: int, height: int, max_edge: int | None, max_sum_edges: int | None) -> list[tuple[int, int]]:
    """The sizes through which the published rule takes an image (``extract_features.py``).

    First the longest edge is brought down to ``max_edge``, then the sum of both edges to
    ``max_sum_edges``; sizes are truncated to integers.
    """
    for name, limit in (("max_edge", max_edge), ("max_sum_edges", max_sum_edges)):
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, Real) or not limit >= 1):
            raise OptionError(f"{name} must be a number of pixels, or None for no limit; got {limit!r}")
    sizes = [(width, height)]
    if max_edge is not None and max(width, height) > max_edge:
        factor = max_edge / max(width, height)
        width, height = int(width * factor), int(height * factor)
        sizes.append((width, height))
    if max_sum_edges is not None and width + height > max_sum_edges:
        factor = max_sum_edges / (width + height)
        width, height = int(width * factor), int(height * factor)
        sizes.append((width, height))
    return sizes


def shrink(
    image: NDArray[Any], *, max_edge: int | None = 1600, max_sum_edges: int | None = 2800
) -> NDArray[Any]:
    """Bring an (H, W, 3) image down to the size the network sees, with Pillow's bilinear filter."""
    height, width = image.shape[:2]
    _, *sizes = _steps(width, height, max_edge, max_sum_edges)
    for size in sizes:
        if min(size) < 1:
            raise ImageError(
                f"an image of {width} x {height} px would shrink to {size[0]} x {size[1]} px: "
                "raise max_edge or max_sum_edges"
            )
        image = _resize(image, size)
    return image


def _resize(image: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    if image.dtype == np.uint8:
        return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
    channels = [
        Image.fromarray(np.ascontiguousarray(image[:, :, c])).resize(size, Image.Resampling.BILINEAR)
        for c in range(3)
    ]
    return np.stack([np.asarray(channel) for channel in channels], axis=2)


def preprocess(image: NDArray[Any], preprocessing: Preprocessing) -> NDArray[np.float32]:
    """Scale colours as the network was trained to see them.

    Parameters
    ----------
    image : (H, W, 3) uint8 or float32
        Red first, 0..255.
    preprocessing : {"caffe", "torch"}
        ``"caffe"``: blue first, minus the mean colour; ``"torch"``: red first, to 0..1, minus the mean,
        divided by the deviation.

    Returns
    -------
    (H, W, 3) float32
    """
    check("preprocessing", preprocessing, Preprocessing)
    if preprocessing == "caffe":
        scaled = np.empty(image.shape, np.float32)
        # A channel at a time: three times faster than all together, and the same numbers.
        for c, mean in enumerate(CAFFE_MEAN):
            band, blue_first = image[:, :, 2 - c], scaled[:, :, c]
            np.subtract(band, mean, out=blue_first, dtype=np.float64, casting="same_kind")
        return scaled
    scaled = image.astype(np.float32) / np.float32(255)
    return ((scaled - TORCH_MEAN) / TORCH_DEVIATION).astype(np.float32)
