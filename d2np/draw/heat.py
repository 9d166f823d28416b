"""The strength map over its image."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw

from ..errors import FormatError
from ..images.open import open_rgb
from ..images.pixels import network_size as size_by_default
from ..options import whole_number
from .canvas import OUTLINE, colour_bar, colour_map, with_legend

COLOURS = "inferno"

# One cell of the map is this many pixels of the image that the network saw.
_CELL = 4
# Opacity of the strongest cells over the image.
_OPACITY = 0.75


def heatmap(
    image: Any,
    strength: ArrayLike,
    *,
    strongest: int = 0,
    network_size: tuple[int, int] | None = None,
    caption: str | None = None,
) -> Image.Image:
    """Draw the strength of each cell as a colour over the greyed image.

    Colours span the 1st to the 99th percentile of the map, so that a single outlier does not flatten the
    rest. A map that is the same everywhere is drawn in the lowest colour.

    Parameters
    ----------
    image : path, PIL.Image.Image or array
        The image as it was given to the network.
    strength : (h, w) float
        The map, as :meth:`d2np.Net.strength` returns it.
    strongest : int
        Mark this many of the strongest cells with a square; among equal ones the first in reading order.
    network_size : (int, int), optional
        (width, height) of the image that the network saw, where ``max_edge`` and ``max_sum_edges`` were not
        the default ones.
    caption : str, optional
        Add a legend below the image: this text, and which colour is which strength.

    Returns
    -------
    PIL.Image.Image
        RGB, of the image's size, or higher by the legend.

    Raises
    ------
    FormatError
        If the map does not belong to an image of this size, or holds something else than finite numbers.
    ImageError
        If the image cannot be read.
    OptionError
        If ``strongest`` makes no sense.
    """
    whole_number("strongest", strongest, 0)
    pixels = Image.fromarray(open_rgb(image))
    cells, extent = checked_map(strength, pixels.size, network_size)
    level = levels(cells, extent, pixels.size)
    # The grey image is dimmed, so that its bright parts are not taken for strong ones.
    ground = 12 + 0.62 * np.asarray(pixels.convert("L"), np.float32)[..., np.newaxis]
    opacity = (_OPACITY * (0.25 + 0.75 * level))[..., np.newaxis]
    blended = ground + opacity * (colour_map(COLOURS, level) - ground) + 0.5
    drawing = Image.fromarray(blended.astype(np.uint8))
    _mark(drawing, cells, strongest, np.divide(pixels.size, extent))
    if caption is None:
        return drawing
    if strongest:
        caption += f", squares: the {strongest} strongest cells"
    return with_legend(drawing, colour_bar("strength", _span(cells), ".3f", COLOURS, 0.0), caption)


def checked_map(
    strength: ArrayLike, size: tuple[int, int], network_size: tuple[int, int] | None
) -> tuple[NDArray[np.float32], tuple[float, float]]:
    """Return a strength map, and how many cells wide and high the image is that the network saw.

    Two poolings halve that image, rounding down, and the average pooling takes one cell more: n pixels give
    n // 4 - 1 cells.
    """
    try:
        cells = np.asarray(strength, dtype=np.float32)
        width, height = size_by_default(*size) if network_size is None else network_size
    except (TypeError, ValueError):
        raise FormatError("a strength map must be numbers, and network_size (width, height)") from None
    if cells.ndim != 2 or not cells.size or not np.isfinite(cells).all():
        raise FormatError(f"a strength map must be finite numbers of shape (h, w); got shape {cells.shape}")
    if cells.shape != (height // _CELL - 1, width // _CELL - 1):
        raise FormatError(
            f"a map of {cells.shape[1]} x {cells.shape[0]} cells does not belong to an image of {size[0]} x "
            f"{size[1]} pixels that the network saw at {width} x {height}: pass network_size"
        )
    return cells, (width / _CELL, height / _CELL)


def levels(
    cells: NDArray[np.float32], extent: tuple[float, float], size: tuple[int, int]
) -> NDArray[np.float32]:
    """Return where in the colours each pixel of an image is: linear between centres of cells."""
    low, high = _span(cells)
    scale = high - low if high > low else np.inf
    level = np.clip((cells - low) / np.float32(scale), 0.0, 1.0)
    # What lies beyond the outermost cells is like them.
    padded = Image.fromarray(np.pad(level, ((0, 3), (0, 3)), "edge"))
    return np.asarray(padded.resize(size, Image.Resampling.BILINEAR, (0, 0, *extent)))


def _span(cells: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the strengths of the lowest and the highest colour."""
    low, high = np.percentile(cells, [1, 99])
    # Where nearly everything is the same, what stands out, if anything does, still shows.
    return np.array([low, high] if high > low else [cells.min(), cells.max()], np.float32)


def _mark(drawing: Image.Image, cells: NDArray[np.float32], count: int, cell: NDArray[np.float64]) -> None:
    """Draw squares around the strongest cells, which are so many pixels wide and high."""
    strongest = np.argsort(-cells, axis=None, kind="stable")[:count]
    edge = max(drawing.size)
    line = max(1, round(edge / 640))
    # A cell of a large image is too small to be seen; many marks must not hide what they mark.
    least = edge * float(np.interp(len(strongest), [15, 200], [0.018, 0.006]))
    reach = np.maximum(cell, least) / 2 + line - 0.5
    rows, columns = np.unravel_index(strongest[::-1], cells.shape)
    centres = (np.stack([columns, rows], axis=1) + 0.5) * cell - 0.5
    boxes = np.rint(np.hstack([centres - reach, centres + reach]))
    pen = ImageDraw.Draw(drawing, "RGBA")
    # All outlines before all marks, or neighbours would cut each other's lines.
    for box in np.add(boxes, [-1, -1, 1, 1]).tolist():
        pen.rectangle(box, outline=(*OUTLINE, 153), width=line + 2)
    for box in boxes.tolist():
        pen.rectangle(box, outline="white", width=line)
