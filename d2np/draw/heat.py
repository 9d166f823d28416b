"""The strength map over its image."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from ..errors import FormatError, OptionError
from ..images.open import open_rgb
from ..images.pixels import network_size as size_by_default
from ..options import ColourMap, whole_number
from .canvas import Canvas
from .colours import Colour, colour_map
from .legend import colour_bar, with_legend

# One cell of the map is this many pixels of the image that the network saw.
_CELL = 4

_MARK: Colour = (255, 255, 255)
_OUTLINE: Colour = (8, 8, 12)


def heatmap(
    image: Any,
    strength: ArrayLike,
    *,
    over: bool = True,
    strongest: int = 0,
    alpha: float = 0.75,
    colours: ColourMap = "inferno",
    network_size: tuple[int, int] | None = None,
    orient: bool = False,
    caption: str | None = None,
) -> Image.Image:
    """Draw the strength of each cell as a colour, over the greyed image or alone.

    Colours span the 1st to the 99th percentile of the map, so that a single outlier does not flatten the
    rest. A map that is the same everywhere is drawn in the lowest colour.

    Parameters
    ----------
    image : path, PIL.Image.Image or array
        The image as it was given to the network.
    strength : (h, w) float
        The map, as :meth:`d2np.Net.strength` returns it.
    over : bool
        Blend over the image. ``False``: the colours alone, in the image's size.
    strongest : int
        Mark this many of the strongest cells with a square; among equal ones the first in reading order.
    alpha : float
        Opacity of the strongest cells over the image, 0..1; weaker ones are more transparent.
    colours : {"viridis", "plasma", "inferno", "magma"}
        The colour map.
    network_size : (int, int), optional
        (width, height) of the image that the network saw. When not given it is found from the sizes of
        image and map: exactly for the default limits, to about two pixels for others.
    orient : bool
        Turn the image as its EXIF data says; as it was chosen for the network.
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
        If an option makes no sense.
    """
    if not 0 <= alpha <= 1:
        raise OptionError(f"alpha must lie in 0..1; got {alpha}")
    whole_number("strongest", strongest, 0)
    pixels = open_rgb(image, orient=orient)
    size = pixels.shape[1], pixels.shape[0]
    cells = checked_map(strength)
    extent = extent_of(cells, size, network_size)
    level = levels(cells, extent, size)
    drawing = colour_map(colours, level)
    if over:
        grey = np.asarray(Image.fromarray(pixels).convert("L"), dtype=np.float32)[..., None]
        # The grey image is dimmed, so that its bright parts are not taken for strong ones.
        ground = 12 + 0.62 * grey
        opacity = (alpha * (0.25 + 0.75 * level))[..., None]
        drawing = (ground + opacity * (drawing - ground) + 0.5).astype(np.uint8)
    canvas = Canvas(drawing)
    _mark(canvas, cells, strongest, np.divide(size, extent))
    if caption is None:
        return Image.fromarray(canvas.pixels)
    if strongest:
        caption += f", squares: the {strongest} strongest cells"
    low, high = _range(cells)
    bar = colour_bar("strength", f"{low:.3f}", f"{high:.3f}", colours)
    return with_legend(canvas.pixels, [], bar, caption)


def checked_map(strength: ArrayLike) -> NDArray[np.float32]:
    """Return a strength map as an array, once it is sure that it is one."""
    try:
        cells = np.asarray(strength, dtype=np.float32)
    except (TypeError, ValueError):
        raise FormatError("a strength map must be numbers") from None
    if cells.ndim != 2 or not cells.size or not np.isfinite(cells).all():
        raise FormatError(f"a strength map must be finite numbers of shape (h, w); got shape {cells.shape}")
    return cells


def extent_of(
    cells: NDArray[np.float32], size: tuple[int, int], given: tuple[int, int] | None
) -> tuple[float, float]:
    """Return how many cells wide and high the image is that the network saw.

    Two poolings halve it, rounding down, and the average pooling takes one cell more: n pixels give
    n // 4 - 1 cells, so a map tells its network image's size to within four pixels. Most often that is
    the image's own size or what the default limits make of it; if not, that resizing keeps the aspect
    ratio narrows it down.
    """
    if given is not None and np.shape(given) != (2,):
        raise OptionError(f"network_size must be (width, height); got {given!r}")
    for width, height in [size, size_by_default(*size)] if given is None else [given]:
        if cells.shape == (height // _CELL - 1, width // _CELL - 1):
            return width / _CELL, height / _CELL
    # The published rule truncates sizes twice: up to two pixels less than the ratio says.
    rows, columns = cells.shape
    smallest = max((columns + 1) / size[0], (rows + 1) / size[1])
    largest = min((columns + 2.5) / size[0], (rows + 2.5) / size[1])
    if given is not None or smallest >= largest:
        width, height = given or size
        raise FormatError(
            f"a map of {columns} x {rows} cells does not belong to an image of {width} x {height} pixels"
        )
    ratio = (smallest + largest) / 2
    return ratio * size[0], ratio * size[1]


def levels(
    cells: NDArray[np.float32], extent: tuple[float, float], size: tuple[int, int]
) -> NDArray[np.float32]:
    """Return where in the colours each pixel of an image is: linear between centres of cells."""
    low, high = _range(cells)
    scale = high - low if high > low else np.inf
    level = np.clip((cells - np.float32(low)) / np.float32(scale), 0.0, 1.0)
    # What lies beyond the outermost cells is like them.
    padded = Image.fromarray(np.pad(level, ((0, 3), (0, 3)), "edge"))
    return np.asarray(padded.resize(size, Image.Resampling.BILINEAR, (0, 0, *extent)))


def _range(cells: NDArray[np.float32]) -> tuple[float, float]:
    """Return the strengths of the lowest and the highest colour."""
    low, high = np.percentile(cells, [1, 99])
    if high <= low:
        # Nearly everywhere the same; what stands out, if anything does, still shows.
        low, high = cells.min(), cells.max()
    return float(low), float(high)


def _mark(canvas: Canvas, cells: NDArray[np.float32], count: int, cell: NDArray[np.float64]) -> None:
    """Draw squares around the strongest cells, which are so many pixels wide and high."""
    strongest = np.argsort(-cells, axis=None, kind="stable")[:count]
    edge = max(canvas.width, canvas.height)
    line = float(max(1, round(edge / 640)))
    # A cell of a large image is too small to be seen; many marks must not hide what they mark.
    least = edge * float(np.interp(len(strongest), [15, 200], [0.018, 0.006]))
    reach = np.maximum(cell, least) / 2 + line
    rows, columns = np.unravel_index(strongest[::-1], cells.shape)
    centres = (np.stack([columns, rows], axis=1) + 0.5) * cell - 0.5
    # Lines on whole pixels are sharp.
    boxes = np.rint(np.hstack([centres - reach, centres + reach]))
    # All outlines before all marks, or neighbours would cut each other's lines.
    for box in boxes:
        canvas.frame(box, line + 2, _OUTLINE, 0.6)
    for box in boxes:
        canvas.frame(box, line, _MARK)
