"""Pictures: open, check, resize, preprocess.

What users hold becomes one thing, (H, W, 3) in 0..255, red first; then what the network takes.
"""

from __future__ import annotations

import io
import math
import os
import struct
from numbers import Real
from typing import Any, BinaryIO, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from .errors import ImageError, OptionError
from .remote import RemoteFile
from .streams import NO_FILE, is_pipe
from .tiff import TiffRows, first_bytes, is_tiff


class Dataset(Protocol):
    """An array of which parts can be read from a file, such as an HDF5 dataset."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> Any: ...
    @property
    def ndim(self) -> int: ...
    def __getitem__(self, key: Any, /) -> Any: ...


Picture: TypeAlias = "str | os.PathLike[str] | Image.Image | NDArray[Any] | Dataset"
"""A path, a PIL image, or an array (H, W[, 3 | 4]) uint8, uint16 or float in 0..255, in memory or in a file
(``numpy.memmap``, an h5py dataset)."""

# Channel order and scaling by name; published file ``lib/utils.py``, ``preprocess_image``.
PREPROCESSING = ("caffe", "torch")
CAFFE_MEAN = np.array([103.939, 116.779, 123.68])  # blue, green, red
TORCH_MEAN = np.array([0.485, 0.456, 0.406])
TORCH_DEVIATION = np.array([0.229, 0.224, 0.225])

# No picture within the limit on pixels needs more: four channels of four bytes, and what else is in the file.
_MOST_BYTES_PER_PIXEL = 16
_MOST_BYTES_AROUND = 64 << 20


def open_picture(
    image: Picture, *, orient: bool = False, max_pixels: int | None = None
) -> NDArray[np.uint8] | NDArray[np.float32]:
    """Any picture as an (H, W, 3) array, red first, in 0..255.

    Parameters
    ----------
    image : path, PIL.Image, array or HDF5 dataset
        Arrays are (H, W), (H, W, 1), (H, W, 3) or (H, W, 4): grey, grey, RGB, RGB with an alpha channel
        that is left out. uint8; float in 0..255; or uint16, of which the full range 0..65535 is brought
        to 0..255.
    orient : bool
        Turn the picture as its EXIF orientation says. Off by default, as in COLMAP and hloc. Arrays have
        no orientation.
    max_pixels : int, optional
        Files with more pixels are refused before they are decoded: a small file may unpack to one that fills
        the memory. By default where Pillow refuses them, at twice ``PIL.Image.MAX_IMAGE_PIXELS``.

    Returns
    -------
    (H, W, 3) uint8 or float32
        uint8 where the picture has eight bits per channel.

    Raises
    ------
    ImageError
        If it cannot be read, or is empty, of another shape or type, not finite, or out of range.
    OptionError
        If ``max_pixels`` makes no sense.
    """
    if isinstance(image, (str, os.PathLike)):
        return load(open_file(image, max_pixels), orient, os.fspath(image))
    if isinstance(image, Image.Image):
        return _from_pil(image, orient, "the picture")
    if isinstance(image, np.ndarray):
        return _from_array(image)
    if is_dataset(image):
        check_form(image.shape, image.dtype, "the image dataset")
        return _from_array(np.asarray(image[:]), "the image dataset")
    encoded = isinstance(image, (bytes, bytearray, memoryview)) or hasattr(image, "read")
    raise ImageError(
        f"an image is a path, a PIL image, a NumPy array or an HDF5 dataset; got {type(image).__name__}"
        + (", which PIL.Image.open makes an image of (bytes through io.BytesIO)" if encoded else "")
    )


def open_rgb(image: Picture, *, orient: bool = False, max_pixels: int | None = None) -> NDArray[np.uint8]:
    """Like :func:`open_picture`, rounded to uint8: for looking at."""
    picture = open_picture(image, orient=orient, max_pixels=max_pixels)
    if picture.dtype == np.uint8:
        return picture  # type: ignore[return-value]
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def is_dataset(thing: object) -> bool:
    """Whether this is an array in a file, by what it can do: h5py need not be there."""
    return all(hasattr(thing, name) for name in ("shape", "dtype", "ndim", "__getitem__"))


def open_file(path: str | os.PathLike[str], max_pixels: int | None = None) -> Image.Image | TiffRows:
    """Open a picture's file, of which only the head is read.

    Parameters
    ----------
    path : str or path
        A :class:`~d2np.remote.RemoteFile` is read whole.
    max_pixels : int, optional
        See :func:`open_picture`.

    Returns
    -------
    PIL.Image or TiffRows
        To be closed. TiffRows where Pillow does not read the TIFF, or would not without ``max_pixels``.

    Raises
    ------
    ImageError
        If there is no such file, or it is no picture, or too large.
    OptionError
        If ``max_pixels`` makes no sense.
    """
    if max_pixels is not None and (
        isinstance(max_pixels, bool) or not hasattr(max_pixels, "__index__") or max_pixels < 1
    ):
        raise OptionError(
            f"max_pixels must be a whole number from 1 up, or None for Pillow's limit; got {max_pixels!r}"
        )
    name = os.fspath(path)
    if is_pipe(path):
        raise ImageError(f"{name} is {NO_FILE}")
    limit = pixels_by_default()
    allowed = limit if max_pixels is None else max_pixels
    file: str | BinaryIO = name
    if isinstance(path, RemoteFile):
        file = io.BytesIO(path.read(most_bytes(max_pixels)))
    opened: Image.Image | TiffRows
    try:
        opened = Image.open(file) if max_pixels is None else _open_unlimited(file, name)
    except FileNotFoundError:
        raise ImageError(f"{name}: there is no such file") from None
    except IsADirectoryError:
        raise ImageError(f"{name} is a folder, not a picture") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _bomb(file, name, max_pixels, error) from None
    # Pillow's readers raise almost anything on a damaged file.
    except Exception as error:
        if not is_tiff(file):
            if isinstance(error, UnidentifiedImageError):
                raise ImageError(f"{name} is not a picture in a format that Pillow reads") from None
            raise ImageError(f"{name} cannot be read as a picture: {error}") from error
        opened = TiffRows(file, name)
    size = (opened.shape[1], opened.shape[0]) if isinstance(opened, TiffRows) else opened.size
    pixels = size[0] * size[1]
    if pixels > allowed:
        opened.close()
        raise _too_large(name, size, f"the limit of {allowed:.0f}")
    if pixels > limit and isinstance(opened, Image.Image) and opened.format == "TIFF":
        opened.close()
        opened = TiffRows(file, name)
    return opened


def most_bytes(max_pixels: int | None) -> float:
    """How long the file of a picture that is not too large may be."""
    allowed = pixels_by_default() if max_pixels is None else max_pixels
    return _MOST_BYTES_PER_PIXEL * allowed + _MOST_BYTES_AROUND


def pixels_by_default() -> float:
    """Above how many pixels files are refused where nothing is said: where Pillow does it."""
    return math.inf if Image.MAX_IMAGE_PIXELS is None else 2 * Image.MAX_IMAGE_PIXELS


def _bomb(file: str | BinaryIO, name: str, max_pixels: int | None, error: Exception) -> ImageError:
    """What to say where Pillow itself has refused a file."""
    if max_pixels is None:
        try:
            with _open_unlimited(file, name) as picture:
                return _too_large(name, picture.size, "Pillow's limit")
        except Image.DecompressionBombError:
            pass
    # WebP, for one, which holds no more than 16383 x 16383 px.
    return ImageError(
        f"{name} is too large, and Pillow's reader of this format has a limit that only "
        f"PIL.Image.MAX_IMAGE_PIXELS raises: {error}"
    )


def _too_large(name: str, size: tuple[int, int], limit: str) -> ImageError:
    pixels = size[0] * size[1]
    return ImageError(
        f"{name} is too large to open unasked: {size[0]} x {size[1]} = {pixels} px, above {limit} that "
        f"guards against files made to fill the memory; to read it, raise the limit with max_pixels={pixels} "
        f"(--max-pixels {pixels} on the command line)"
    )


def _open_unlimited(file: str | BinaryIO, name: str) -> Image.Image:
    """What ``Image.open`` does without its limit, which holds for all threads of the process."""
    prefix = first_bytes(file, 16)
    for register in (Image.preinit, Image.init):
        register()
        for format in Image.ID:
            factory, accept = Image.OPEN[format]
            fits = accept is None or accept(prefix)
            if not fits or isinstance(fits, str):  # a text says why it does not
                continue
            try:
                if not isinstance(file, str):
                    file.seek(0)
                return factory(file, name)  # type: ignore[arg-type]  # the classes open paths themselves
            except (SyntaxError, IndexError, TypeError, struct.error):
                continue  # it only looked like this format
    raise UnidentifiedImageError(name)


def load(opened: Image.Image | TiffRows, orient: bool, name: str) -> NDArray[Any]:
    """All of a file's picture as :func:`open_picture` returns it; the file is closed."""
    with opened:
        if isinstance(opened, TiffRows):
            if orient and opened.orientation != 1 and opened.shape[0] * opened.shape[1] > pixels_by_default():
                raise ImageError(
                    f"{name} is too large to be turned as its orientation {opened.orientation} says: "
                    "turn it first, or leave orient out"
                )
            picture = _from_array(opened[0 : opened.shape[0]], name)
            return _turned(picture, opened.orientation) if orient else picture
        try:
            return _from_pil(opened, orient, name)
        except ImageError:
            raise
        # As above: decoders.
        except Exception as error:
            raise ImageError(f"{name} cannot be read as a picture: {error}") from error


def _turned(picture: NDArray[Any], orientation: int) -> NDArray[Any]:
    """As ``ImageOps.exif_transpose`` does it, for arrays."""
    if orientation in (5, 6, 7, 8):
        picture = picture.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        picture = picture[::-1]
    if orientation in (2, 3, 6, 7):
        picture = picture[:, ::-1]
    return np.ascontiguousarray(picture)


def _from_pil(picture: Image.Image, orient: bool, name: str) -> NDArray[Any]:
    try:
        if orient:
            picture = ImageOps.exif_transpose(picture)
        if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
            return _from_array(_deep_grey(picture), name)
        if picture.mode == "P" and "transparency" in picture.info:
            picture = picture.convert("RGBA")  # Pillow warns where transparency is dropped at once
        if picture.mode != "RGB":
            picture = picture.convert("RGB")
        return _from_array(np.asarray(picture), name)
    except (OSError, SyntaxError, ValueError) as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"{name} cannot be read as a picture: {error}") from error


def _deep_grey(picture: Image.Image) -> NDArray[Any]:
    """Grey of more than eight bits; Pillow opens 16-bit files as ``I;16`` or, older ones, as ``I``."""
    values = np.asarray(picture)
    if picture.mode == "F":
        return values
    if picture.mode == "I" and values.size and (values.min() < 0 or values.max() > 65535):
        raise ImageError(
            f"32-bit grey values from {values.min()} to {values.max()} have no known range: "
            "bring the picture to 0..255"
        )
    return values.astype(np.uint16)


def _from_array(array: NDArray[Any], name: str = "the image array") -> NDArray[Any]:
    check_form(array.shape, array.dtype, name)
    if np.issubdtype(array.dtype, np.floating):
        low, high = check_floats(array, name)
        refuse_fractions(low, high, name)
    return as_rgb(array)


def check_form(shape: tuple[int, ...], dtype: Any, name: str) -> None:
    """Fails unless arrays of this shape and type are pictures."""
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] not in (1, 3, 4)):
        raise ImageError(f"{name} must have shape (H, W), (H, W, 3) or (H, W, 4); got {shape}")
    if 0 in shape:
        raise ImageError(f"{name} is empty: its shape is {shape}")
    if dtype not in (np.uint8, np.uint16) and not np.issubdtype(dtype, np.floating):
        raise ImageError(
            f"{name} must be uint8, uint16 or float in 0..255; got {dtype}: convert it with "
            ".astype(numpy.uint8)"
        )


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
    """Fails where the extremes of a whole picture, that is not black, show that it is one in 0..1."""
    if low >= 0 and 0 < high <= 1:
        raise ImageError(
            f"{name} looks like values in 0..1 (its largest is {high:g}): multiply it by 255, the network "
            "takes 0..255"
        )


def as_rgb(array: NDArray[Any]) -> NDArray[Any]:
    """Rows of a checked array as (rows, W, 3) uint8 or float32 in 0..255."""
    if array.ndim == 2:
        array = array[:, :, np.newaxis]
    array = array[:, :, :3]
    if array.dtype == np.uint16:
        array = array.astype(np.float32) / np.float32(257)
    elif array.dtype != np.uint8:
        array = array.astype(np.float32)
    if array.shape[2] == 1:
        return np.repeat(array, 3, axis=2)
    return np.ascontiguousarray(array)


def network_size(
    width: int, height: int, *, max_edge: int | None = 1600, max_sum_edges: int | None = 2800
) -> tuple[int, int]:
    """(width, height) in pixels at which the network sees a picture: the last of :func:`_steps`."""
    *_, size = _steps(width, height, max_edge, max_sum_edges)
    return size


def _steps(width: int, height: int, max_edge: int | None, max_sum_edges: int | None) -> list[tuple[int, int]]:
    """The sizes through which the published rule takes a picture (``extract_features.py``).

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
    picture: NDArray[Any], *, max_edge: int | None = 1600, max_sum_edges: int | None = 2800
) -> NDArray[Any]:
    """Bring an (H, W, 3) picture down to the size the network sees, with Pillow's bilinear filter."""
    height, width = picture.shape[:2]
    _, *sizes = _steps(width, height, max_edge, max_sum_edges)
    for size in sizes:
        if min(size) < 1:
            raise ImageError(
                f"a picture of {width} x {height} px would shrink to {size[0]} x {size[1]} px: "
                "raise max_edge or max_sum_edges"
            )
        picture = _resize(picture, size)
    return picture


def _resize(picture: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    if picture.dtype == np.uint8:
        return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR))
    channels = [
        Image.fromarray(np.ascontiguousarray(picture[:, :, c])).resize(size, Image.Resampling.BILINEAR)
        for c in range(3)
    ]
    return np.stack([np.asarray(channel) for channel in channels], axis=2)


def preprocess(picture: NDArray[Any], preprocessing: str) -> NDArray[np.float32]:
    """Scale colours as the network was trained to see them.

    Parameters
    ----------
    picture : (H, W, 3) uint8 or float32
        Red first, 0..255.
    preprocessing : {"caffe", "torch"}
        ``"caffe"``: blue first, minus the mean colour; ``"torch"``: red first, to 0..1, minus the mean,
        divided by the deviation.

    Returns
    -------
    (H, W, 3) float32
    """
    if preprocessing == "caffe":
        scaled = np.empty(picture.shape, np.float32)
        # A channel at a time: three times faster than all together, and the same numbers.
        for c, mean in enumerate(CAFFE_MEAN):
            band, blue_first = picture[:, :, 2 - c], scaled[:, :, c]
            np.subtract(band, mean, out=blue_first, dtype=np.float64, casting="same_kind")
        return scaled
    if preprocessing == "torch":
        scaled = picture.astype(np.float32) / np.float32(255)
        return ((scaled - TORCH_MEAN) / TORCH_DEVIATION).astype(np.float32)
    raise OptionError(f"preprocessing must be one of {', '.join(PREPROCESSING)}; got {preprocessing!r}")


def check_preprocessing(preprocessing: str) -> None:
    """Raise :class:`d2np.OptionError` if there is no such preprocessing."""
    preprocess(np.zeros((1, 1, 3), np.uint8), preprocessing)
