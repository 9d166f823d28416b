"""The strength map over its image."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from ..errors import FormatError, OptionError
from ..images.open import open_rgb
from ..images.pixels import network_size as size_by_default
from ..options import ColourMap
from .canvas import Canvas
from .colours import Colour, colour_map
from .legend import Bar, Item, Legend, text_size

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
    """The strength of each cell as a colour, over the greyed image or alone.

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
    if strongest < 0:
        raise OptionError(f"strongest must not be negative; got {strongest}")
    pixels = open_rgb(image, orient=orient)
    cells = _map(strength)
    height, width = pixels.shape[:2]
    network_width, network_height = _network_size(cells.shape, width, height, network_size)
    scale_x, scale_y = width / network_width, height / network_height

    level = _interpolated(_normalised(cells), width, height, scale_x, scale_y)
    heat = colour_map(colours, level)
    if over:
        grey = np.asarray(Image.fromarray(pixels).convert("L"), dtype=np.float32)[..., None]
        # The grey image is dimmed, so that its bright parts are not taken for strong ones.
        ground = 12 + 0.62 * grey
        opacity = (alpha * (0.25 + 0.75 * level))[..., None]
        heat = (ground + opacity * (heat - ground) + 0.5).astype(np.uint8)
    canvas = Canvas(heat)
    _mark(canvas, cells, strongest, scale_x, scale_y)
    if caption is None:
        return canvas.to_image()
    if strongest:
        caption += f", squares: the {strongest} strongest cells"
    low, high = _range(cells)
    bar = Bar(colour_map(colours, np.linspace(0.0, 1.0, 256)), wide=True)
    scale: list[Item] = [f"strength {low:.3f}", bar, f"{high:.3f}"]
    return Legend([], scale, text_size(width), caption).below(canvas.pixels)


def levels(
    strength: ArrayLike,
    image_size: tuple[int, int],
    size: tuple[int, int],
    network_size: tuple[int, int] | None = None,
) -> NDArray[np.float32]:
    """The map as :func:`heatmap` colours it, in 0..1, at each pixel of the image brought to ``size``.

    Parameters
    ----------
    strength : (h, w) float
    image_size, size : (int, int)
        (width, height) of the image as given, and as it is to be covered.
    network_size : (int, int), optional
        As for :func:`heatmap`.

    Returns
    -------
    (height, width) float32

    Raises
    ------
    FormatError
        If the map does not belong to an image of this size, or holds something else than finite numbers.
    """
    cells = _map(strength)
    network_width, network_height = _network_size(cells.shape, *image_size, network_size)
    width, height = size
    return _interpolated(_normalised(cells), width, height, width / network_width, height / network_height)


def _map(strength: ArrayLike) -> NDArray[np.float32]:
    try:
        cells = np.asarray(strength, dtype=np.float32)
    except (TypeError, ValueError):
        raise FormatError("a strength map must be numbers") from None
    if cells.ndim != 2 or not cells.size:
        raise FormatError(f"a strength map must have shape (h, w) with at least one cell; got {cells.shape}")
    if not np.isfinite(cells).all():
        raise FormatError("a strength map must hold finite numbers")
    return cells


def _network_size(
    shape: tuple[int, ...], width: int, height: int, given: tuple[int, int] | None
) -> tuple[float, float]:
    """The size of the image that the network saw.

    Two poolings halve it, rounding down, and the average pooling takes one cell more: n pixels give
    n // 4 - 1 cells, so a map tells its network image's size to within four pixels. Most often that is
    the image's own size or what the default limits make of it; if not, that resizing keeps the aspect
    ratio narrows it down.
    """
    rows, columns = shape
    if given is not None:
        try:
            network_width, network_height = (int(edge) for edge in given)
        except (TypeError, ValueError):
            raise OptionError(f"network_size must be (width, height); got {given!r}") from None
        if (_cells(network_width), _cells(network_height)) != (columns, rows):
            raise FormatError(
                f"a map of {columns} x {rows} cells does not belong to a network image of "
                f"{network_width} x {network_height} pixels"
            )
        return float(network_width), float(network_height)
    for likely in ((width, height), size_by_default(width, height)):
        if (_cells(likely[0]), _cells(likely[1])) == (columns, rows):
            return float(likely[0]), float(likely[1])
    # The published rule truncates sizes twice: up to two pixels less than the ratio says.
    smallest = max(_CELL * (columns + 1) / width, _CELL * (rows + 1) / height)
    largest = min((_CELL * (columns + 2) + 2) / width, (_CELL * (rows + 2) + 2) / height)
    if smallest >= largest:
        raise FormatError(
            f"a map of {columns} x {rows} cells does not belong to an image of {width} x {height} pixels"
        )
    ratio = (smallest + largest) / 2
    return ratio * width, ratio * height


def _cells(edge: int) -> int:
    return edge // _CELL - 1


def _normalised(cells: NDArray[np.float32]) -> NDArray[np.float32]:
    low, high = _range(cells)
    if high <= low:
        return np.zeros_like(cells)
    level: NDArray[np.float32] = np.clip((cells - np.float32(low)) / np.float32(high - low), 0.0, 1.0)
    return level


def _range(cells: NDArray[np.float32]) -> tuple[float, float]:
    """Return the strengths of the lowest and the highest colour."""
    low, high = np.percentile(cells, [1, 99])
    if high <= low:
        # Nearly everywhere the same; what stands out, if anything does, still shows.
        low, high = cells.min(), cells.max()
    return float(low), float(high)


def _interpolated(
    cells: NDArray[np.float32], width: int, height: int, scale_x: float, scale_y: float
) -> NDArray[np.float32]:
    """The map at each pixel of the image: linear between centres of cells, constant beyond them."""
    rows, below, row_share = _neighbours(height, cells.shape[0], scale_y)
    columns, beside, column_share = _neighbours(width, cells.shape[1], scale_x)
    lines = cells[rows] + row_share[:, None] * (cells[below] - cells[rows])
    level: NDArray[np.float32] = lines[:, columns] + column_share * (lines[:, beside] - lines[:, columns])
    return level


def _neighbours(
    pixels: int, cells: int, scale: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """For each pixel the cell before it, the cell behind it, and how far it is on the way between them."""
    position = np.clip((np.arange(pixels) + 0.5) / (scale * _CELL) - 0.5, 0, cells - 1)
    before = np.floor(position).astype(np.int64)
    return before, np.minimum(before + 1, cells - 1), (position - before).astype(np.float32)


def _mark(canvas: Canvas, cells: NDArray[np.float32], count: int, scale_x: float, scale_y: float) -> None:
    strongest = np.argsort(-cells, axis=None, kind="stable")[:count]
    edge = max(canvas.width, canvas.height)
    line = float(max(1, round(edge / 640)))
    # A cell of a large image is too small to be seen; many marks must not hide what they mark.
    least = edge * float(np.interp(len(strongest), [15, 200], [0.018, 0.006]))
    half_x = max(_CELL * scale_x, least) / 2 + line
    half_y = max(_CELL * scale_y, least) / 2 + line
    rows, columns = np.unravel_index(strongest[::-1], cells.shape)
    # Lines on whole pixels are sharp.
    x, y = (columns + 0.5) * _CELL * scale_x - 0.5, (rows + 0.5) * _CELL * scale_y - 0.5
    boxes = np.rint([x - half_x, y - half_y, x + half_x, y + half_y]).T
    # All outlines before all marks, or neighbours would cut each other's lines.
    for left, top, right, bottom in boxes:
        canvas.frame(left, top, right, bottom, line + 2, _OUTLINE, 0.6)
    for left, top, right, bottom in boxes:
        canvas.frame(left, top, right, bottom, line, _MARK)
