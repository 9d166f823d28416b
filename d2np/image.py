"""Pictures: open, check, resize, preprocess.

What users hold becomes one thing, (H, W, 3) in 0..255, red first; then what the network takes.
"""

from __future__ import annotations

import os
from numbers import Real
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from .errors import ImageError, OptionError

Picture: TypeAlias = "str | os.PathLike[str] | Image.Image | NDArray[Any] | Any"
"""A path, a PIL image, or an array (H, W[, 3 | 4]) uint8, uint16 or float in 0..255: NumPy's, a memmap, or
what is read like one, such as an h5py dataset."""

# Channel order and scaling by name; published file ``lib/utils.py``, ``preprocess_image``.
PREPROCESSING = ("caffe", "torch")
CAFFE_MEAN = np.array([103.939, 116.779, 123.68])  # blue, green, red
TORCH_MEAN = np.array([0.485, 0.456, 0.406])
TORCH_DEVIATION = np.array([0.229, 0.224, 0.225])


def open_picture(image: Picture, *, orient: bool = False) -> NDArray[np.uint8] | NDArray[np.float32]:
    """Any picture as an (H, W, 3) array, red first, in 0..255.

    Parameters
    ----------
    image : path, PIL.Image or array
        Arrays are (H, W), (H, W, 1), (H, W, 3) or (H, W, 4): grey, grey, RGB, RGB with an alpha channel
        that is left out. uint8; float in 0..255; or uint16, of which the full range 0..65535 is brought
        to 0..255.
    orient : bool
        Turn the picture as its EXIF orientation says. Off by default, as in COLMAP and hloc. Arrays have
        no orientation.

    Returns
    -------
    (H, W, 3) uint8 or float32
        uint8 where the picture has eight bits per channel.

    Raises
    ------
    ImageError
        If it cannot be read, or is empty, of another shape or type, not finite, or out of range.
    """
    if isinstance(image, (str, os.PathLike)):
        return _from_file(image, orient)
    if isinstance(image, Image.Image):
        return _from_pil(image, orient, "the picture")
    if isinstance(image, np.ndarray):
        return from_array(image)
    if is_read_by_rows(image):
        check_array(image.shape, np.dtype(image.dtype))
        return from_array(np.asarray(image[:]))
    raise ImageError(f"an image is a path, a PIL image or a NumPy array; got {type(image).__name__}")


def open_rgb(image: Picture, *, orient: bool = False) -> NDArray[np.uint8]:
    """Like :func:`open_picture`, rounded to uint8: for looking at."""
    picture = open_picture(image, orient=orient)
    if picture.dtype == np.uint8:
        return picture  # type: ignore[return-value]
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def _from_file(path: str | os.PathLike[str], orient: bool) -> NDArray[Any]:
    name = os.fspath(path)
    try:
        with Image.open(path) as picture:
            return _from_pil(picture, orient, name)
    except ImageError:
        raise
    except FileNotFoundError:
        raise ImageError(f"{name}: there is no such file") from None
    except IsADirectoryError:
        raise ImageError(f"{name} is a folder, not a picture") from None
    except UnidentifiedImageError:
        raise ImageError(f"{name} is not a picture in a format that Pillow reads") from None
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name} is too large to open safely: {error}") from None
    # Pillow's decoders raise almost anything on a damaged file.
    except Exception as error:
        raise ImageError(f"{name} cannot be read as a picture: {error}") from error


def _from_pil(picture: Image.Image, orient: bool, name: str) -> NDArray[Any]:
    try:
        if orient:
            picture = ImageOps.exif_transpose(picture)
        if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
            return from_array(_deep_grey(picture), name)
        if picture.mode == "P" and "transparency" in picture.info:
            picture = picture.convert("RGBA")  # Pillow warns where transparency is dropped at once
        if picture.mode != "RGB":
            picture = picture.convert("RGB")
        return from_array(np.asarray(picture), name)
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


def is_read_by_rows(image: Any) -> bool:
    """Whether this is an array whose rows are better read one by one: a memmap, or what looks like h5py's."""
    if isinstance(image, np.ndarray):
        return isinstance(image, np.memmap)
    return all(hasattr(image, name) for name in ("shape", "dtype", "__getitem__"))


def check_array(shape: tuple[int, ...], dtype: np.dtype[Any], name: str = "the image array") -> None:
    """Raise :class:`d2np.ImageError` if no picture can have this shape and type."""
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] not in (1, 3, 4)):
        raise ImageError(f"{name} must have shape (H, W), (H, W, 3) or (H, W, 4); got {tuple(shape)}")
    if 0 in shape:
        raise ImageError(f"{name} is empty: its shape is {tuple(shape)}")
    if dtype not in (np.uint8, np.uint16) and not np.issubdtype(dtype, np.floating):
        raise ImageError(
            f"{name} must be uint8, uint16 or float in 0..255; got {dtype}: convert it with "
            ".astype(numpy.uint8)"
        )


def from_array(array: NDArray[Any], name: str = "the image array", *, is_part: bool = False) -> NDArray[Any]:
    """An array as :func:`open_picture` gives it; of a part it is not said that 0..1 looks wrong."""
    check_array(array.shape, array.dtype, name)
    if array.dtype == np.uint16:
        array = array.astype(np.float32) / np.float32(257)
    elif np.issubdtype(array.dtype, np.floating):
        array = _checked_floats(array, name, is_part)
    if array.ndim == 2:
        array = array[:, :, np.newaxis]
    if array.shape[2] == 1:
        return np.repeat(array, 3, axis=2)
    return np.ascontiguousarray(array[:, :, :3])


def _checked_floats(array: NDArray[Any], name: str, is_part: bool) -> NDArray[np.float32]:
    colours = array[..., :3] if array.ndim == 3 else array
    low, high = float(colours.min()), float(colours.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ImageError(f"{name} holds values that are not finite (NaN or infinity)")
    if not is_part and low >= 0 and 0 < high <= 1:
        raise ImageError(
            f"{name} looks like values in 0..1 (its largest is {high:g}): multiply it by 255, the network "
            "takes 0..255"
        )
    # Some room beyond 0..255, for what resampling overshoots.
    if low < -255 or high > 510:
        raise ImageError(f"{name} must hold values in 0..255; they go from {low:g} to {high:g}")
    return array.astype(np.float32)


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
        return (picture[:, :, ::-1] - CAFFE_MEAN).astype(np.float32)
    if preprocessing == "torch":
        scaled = picture.astype(np.float32) / np.float32(255)
        return ((scaled - TORCH_MEAN) / TORCH_DEVIATION).astype(np.float32)
    raise OptionError(f"preprocessing must be one of {', '.join(PREPROCESSING)}; got {preprocessing!r}")


def check_preprocessing(preprocessing: str) -> None:
    """Raise :class:`d2np.OptionError` if there is no such preprocessing."""
    preprocess(np.zeros((1, 1, 3), np.uint8), preprocessing)
