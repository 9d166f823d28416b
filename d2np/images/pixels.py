"""Pixels as arrays: which ones are images, their values in 0..255, their size and colours for the network."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import ImageError
from ..layers import CAFFE_MEAN, TORCH_DEVIATION, TORCH_MEAN
from ..options import Options, Preprocessing, check
from .messages import LOGGER, ONCE

FULL = (0, 65535)
"""The smallest and the largest value of 16 bits."""
# An image that uses fewer grey levels of 255 is remarked on.
_FEW_LEVELS = 16


def check_form(shape: tuple[int, ...], dtype: Any, name: str) -> None:
    """Raise an ImageError unless arrays of this shape and type are images."""
    if len(shape) not in (2, 3) or shape[2:] not in ((), (1,), (3,), (4,)):
        raise ImageError(
            f"{name} must be a file or an array (H, W), (H, W, 3) or (H, W, 4); got shape {shape}: where the "
            "channels come first, numpy.moveaxis(image, 0, -1) brings them to the end"
        )
    if 0 in shape:
        raise ImageError(f"{name} is empty: its shape is {shape}")
    dtype = np.dtype(dtype).newbyteorder("=")
    if dtype not in (np.uint8, np.uint16) and dtype.kind != "f":
        raise ImageError(
            f"{name} must be uint8, uint16 or float in 0..255; got {dtype}: multiply numbers by 255.0 / "
            "WHITE, where WHITE is the value of full brightness (1 for bool, 4095 for 12 bits)"
        )


def check_floats(array: NDArray[Any], name: str) -> tuple[float, float]:
    """Return the smallest and largest colour of floats; raise an ImageError unless they may be in 0..255."""
    colours = array[..., :3] if array.ndim == 3 else array
    low, high = float(colours.min()), float(colours.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ImageError(f"{name} holds values that are not finite (NaN or infinity)")
    # Some room beyond 0..255, for what resampling overshoots.
    if low < -255 or high > 510:
        raise ImageError(f"{name} must hold values in 0..255; they go from {low:g} to {high:g}")
    return low, high


class Levels:
    """The values that a 16-bit image uses; other images have none here."""

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


def as_rgb(array: NDArray[Any], levels: tuple[int, int] = FULL) -> NDArray[Any]:
    """Return rows of a checked array as (rows, W, 3) uint8 or float32 in 0..255.

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


def turned(array: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Return an array turned upright from an orientation of EXIF, as ``ImageOps.exif_transpose`` does it."""
    if orientation in (5, 6, 7, 8):
        array = array.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return np.ascontiguousarray(array)


def network_size(width: int, height: int, options: Options | None = None) -> tuple[int, int]:
    """Return (width, height) in pixels at which the network sees an image."""
    return _sizes(width, height, options or Options())[-1]


def _sizes(width: int, height: int, options: Options) -> list[tuple[int, int]]:
    """Return the sizes through which the published rule takes an image (``extract_features.py``).

    First the longest edge is brought down to ``max_edge``, then the sum of both edges to
    ``max_sum_edges``; sizes are truncated to integers.
    """
    sizes = [(width, height)]
    for limit, measure in ((options.max_edge, max), (options.max_sum_edges, sum)):
        width, height = sizes[-1]
        if limit is not None and measure((width, height)) > limit:
            factor = limit / measure((width, height))
            sizes.append((int(width * factor), int(height * factor)))
    return sizes


def shrink(image: NDArray[Any], options: Options) -> NDArray[Any]:
    """Bring an (H, W, 3) image down to the size the network sees, with Pillow's bilinear filter."""
    height, width = image.shape[:2]
    for size in _sizes(width, height, options)[1:]:
        if min(size) < 1:
            raise ImageError(
                f"an image of {width} x {height} px would shrink to {size[0]} x {size[1]} px: "
                "raise max_edge or max_sum_edges"
            )
        if image.dtype == np.uint8:
            image = _resized(image, size)
        else:  # Pillow has no colours of floats, but single channels
            image = np.stack([_resized(np.ascontiguousarray(image[:, :, c]), size) for c in range(3)], axis=2)
    return image


def _resized(image: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))


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
