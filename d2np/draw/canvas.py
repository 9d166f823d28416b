"""An image to draw on, with smooth edges and a legend, and the colours for it.

Pillow draws shapes with jagged edges at whole pixels. Here it draws them on an enlarged image, which is then
reduced: edges are smooth, and positions exact to an eighth of a pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
Point = Sequence[float] | NDArray[np.floating]
Item = str | NDArray[np.uint8]
"""A text; or (N, 3) colours: one for a small square, several for a wide bar."""

BACKGROUND: Colour = (28, 28, 31)
OUTLINE: Colour = (12, 12, 16)
LOWEST = 0.3
"""Where in the colours the lowest score and the least similar match lie: the maps begin almost black."""

_TEXT: Colour = (226, 226, 228)
_NEAREST = Image.Resampling.NEAREST
# How much larger than its result an image is drawn, unless that is longer than so many pixels.
_ENLARGED = 4
_LONGEST = 8192

# Nine equally spaced anchors of matplotlib's perceptually uniform maps. Between them the maps are smooth
# enough that linear interpolation cannot be told from the full table of 256.
_ANCHORS = {
    "viridis": "440154 472d7b 3b528b 2c728e 21918c 28ae80 5ec962 addc30 fde725",
    "inferno": "000004 210c4a 57106e 8a226a bc3754 e45a31 f98e09 f9cb35 fcffa4",
}


def colour_map(name: str, values: NDArray[np.floating], lowest: float = 0.0) -> NDArray[np.uint8]:
    """Return the colours of ``values`` in 0..1.

    Parameters
    ----------
    name : {"viridis", "inferno"}
    values : array of any shape
        What lies outside 0..1 gets the colour of the nearer end.
    lowest : float
        Where in the map 0 lies.

    Returns
    -------
    values.shape + (3,) uint8
    """
    anchors = np.array([list(bytes.fromhex(code)) for code in _ANCHORS[name].split()], dtype=np.float64)
    steps = np.linspace(0.0, 1.0, len(anchors))
    places = lowest + (1.0 - lowest) * np.clip(values, 0.0, 1.0)
    return np.rint(np.stack([np.interp(places, steps, each) for each in anchors.T], -1)).astype(np.uint8)


def ranks(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return ranks in 0 (lowest) .. 1 (highest); of equal values the first one is the highest."""
    ranked = np.empty(len(values))
    ranked[np.argsort(-values, kind="stable")] = np.linspace(1.0, 0.0, len(values))
    return ranked


class Canvas:
    """An RGB image that shapes are blended into. (0, 0) is the centre of the top-left pixel.

    Parameters
    ----------
    image : PIL.Image.Image
        RGB; it is not changed.
    """

    def __init__(self, image: Image.Image) -> None:
        self.width, self.height = image.size
        self._factor = max(1, min(_ENLARGED, _LONGEST // max(image.size)))
        self._image = image.resize((self.width * self._factor, self.height * self._factor), _NEAREST)
        self._pen = ImageDraw.Draw(self._image, "RGBA")

    def line(self, start: Point, end: Point, width: float, colour: ArrayLike, opacity: float = 1.0) -> None:
        """Draw a straight line. One thinner than a pixel cannot be drawn thinner, only fainter."""
        ends = self._places([start, end])
        self._pen.line(ends, _ink(colour, opacity * min(1.0, width)), self._pixels(width))

    def disc(self, place: Point, radius: float, colour: ArrayLike, opacity: float = 1.0) -> None:
        """Draw a filled circle."""
        self._pen.ellipse(self._box(place, radius), _ink(colour, opacity))

    def ring(
        self, place: Point, radius: float, width: float, colour: ArrayLike, opacity: float = 1.0
    ) -> None:
        """Draw a circle whose line, ``width`` wide, runs along ``radius``."""
        box = self._box(place, radius + width / 2)
        self._pen.ellipse(box, None, _ink(colour, opacity), self._pixels(width))

    def finished(self) -> Image.Image:
        """Return the drawing at its size."""
        return self._image.reduce(self._factor)

    def _pixels(self, width: float) -> int:
        return max(1, round(width * self._factor))

    def _places(self, points: Sequence[Point]) -> list[float]:
        """Return points on the enlarged image; those far outside of it lie just outside."""
        reach = 2.0 * max(self.width, self.height)
        near = np.clip(np.asarray(points, np.float64), -reach, 2 * reach)
        places: list[float] = np.rint((near + 0.5) * self._factor - 0.5).ravel().tolist()
        return places

    def _box(self, place: Point, radius: float) -> list[float]:
        """Return the first and the last pixel, left to right and downwards, of a circle."""
        # A pixel of the enlarged image reaches half of one beyond its centre.
        beyond = radius - 0.5 / self._factor
        return self._places([np.subtract(place, beyond), np.add(place, beyond)])


def with_legend(drawing: Image.Image, items: Sequence[Item], caption: str = "") -> Image.Image:
    """Return a drawing with a legend below it, as wide as the wider of both.

    Parameters
    ----------
    drawing : PIL.Image.Image
    items : list of str and (N, 3) uint8
        Texts and colours in one row. An empty text widens the space between its neighbours.
    caption : str
        A second row, where it is not empty.
    """
    size = text_size(drawing.width)
    strips = [_strip(row, size) for row in ([*items], [caption] if caption else []) if row]
    width = max(drawing.width, *(strip.width for strip in strips))
    height = drawing.height + sum(strip.height for strip in strips)
    sheet = Image.new("RGB", (width, height), BACKGROUND)
    sheet.paste(drawing, ((width - drawing.width) // 2, 0))
    for number, strip in enumerate(strips):
        sheet.paste(strip, (0, drawing.height + number * strip.height))
    return sheet


def colour_bar(what: str, values: NDArray[np.floating], digits: str, name: str, lowest: float) -> list[Item]:
    """Return the items that say which colours stand for the range of some numbers."""
    low, high = (format(float(value), digits) for value in (values.min(), values.max()))
    return ["", f"{what} {low}", colour_map(name, np.linspace(0.0, 1.0, 256), lowest), high]


def text_size(width: int) -> int:
    """Return the height of the text below a drawing: readable where a page shows it 830 pixels wide."""
    return min(64, max(13, round(0.018 * width)))


def drawn_at(factor: float) -> str:
    """Return how a caption goes on where an image is not drawn at its own size."""
    return "" if abs(factor - 1) < 0.005 else f", drawn at {100 * factor:.0f} % of the size"


def _ink(colour: ArrayLike, opacity: float) -> tuple[int, ...]:
    return (*np.asarray(colour).tolist(), round(255 * opacity))


def _strip(items: Sequence[Item], size: int) -> Image.Image:
    """Return texts and colours side by side, with space around each; ``size`` is that of the text."""
    font = ImageFont.load_default(size)
    space, height = round(0.6 * size), round(1.8 * size)
    widths = [
        ceil(font.getlength(item)) if isinstance(item, str) else round(size * (7 if len(item) > 1 else 0.72))
        for item in items
    ]
    strip = Image.new("RGB", (sum(widths) + space * (len(items) + 1), height), BACKGROUND)
    # The extent of digits, not of this text, so that every text stands on the same line.
    _, top, _, bottom = font.getbbox("0")
    left = space
    for item, width in zip(items, widths, strict=True):
        if isinstance(item, str):
            place = left, round((height - top - bottom) / 2)
            ImageDraw.Draw(strip).text(place, item, fill=_TEXT, font=font)
        else:
            bar = Image.fromarray(item[np.newaxis]).resize((width, max(3, round(0.65 * size))), _NEAREST)
            strip.paste(bar, (left, (height - bar.height) // 2))
        left += width + space
    return strip
