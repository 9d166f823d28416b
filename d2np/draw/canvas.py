"""An image to draw on, with smooth edges.

Pillow draws shapes with jagged edges at whole pixels and does not blend them. Here each shape is given by
the distance of a pixel's centre from it, which yields the pixel's share of ink directly: edges are smooth,
positions are exact to a fraction of a pixel, and nothing larger than the image itself is ever in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import ceil, floor, hypot

import numpy as np
from numpy.typing import NDArray

from .colours import Colour

Array = NDArray[np.floating]
Point = Sequence[float] | NDArray[np.floating]
Distance = Callable[[Array, Array], Array]


class Canvas:
    """An RGB image that shapes are blended into. (0, 0) is the centre of the top-left pixel.

    Parameters
    ----------
    pixels : (H, W, 3) uint8
        Copied.
    """

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        self.pixels = np.array(pixels, dtype=np.uint8, order="C")
        self.height, self.width = self.pixels.shape[:2]

    def disc(self, place: Point, radius: float, colour: Colour, opacity: float = 1.0) -> None:
        """Draw a filled circle."""
        self._shape(place, (radius, radius), lambda dx, dy: np.hypot(dx, dy) - radius, colour, opacity)

    def ring(self, place: Point, radius: float, width: float, colour: Colour, opacity: float = 1.0) -> None:
        """Draw a circle whose line, ``width`` wide, runs along ``radius``."""
        half = width / 2
        reach = radius + half, radius + half
        self._shape(place, reach, lambda dx, dy: abs(np.hypot(dx, dy) - radius) - half, colour, opacity)

    def frame(self, box: Iterable[float], width: float, colour: Colour, opacity: float = 1.0) -> None:
        """Draw a rectangle whose line, ``width`` wide, runs along its left, top, right and lower edge."""
        left, top, right, bottom = box
        across, down, half = (right - left) / 2, (bottom - top) / 2, width / 2

        def distance(dx: Array, dy: Array) -> Array:
            return abs(np.maximum(abs(dx) - across, abs(dy) - down)) - half

        centre, reach = ((left + right) / 2, (top + bottom) / 2), (across + half, down + half)
        self._shape(centre, reach, distance, colour, opacity)

    def line(self, start: Point, end: Point, width: float, colour: Colour, opacity: float = 1.0) -> None:
        """Draw a straight line with round ends."""
        (x0, y0), (x1, y1) = start, end
        pixels = self.pixels
        # Walk along the longer direction; across it, a few pixels around the line are touched.
        if abs(y1 - y0) > abs(x1 - x0):
            x0, y0, x1, y1 = y0, x0, y1, x1
            pixels = pixels.swapaxes(0, 1)
        if x0 > x1:
            x0, y0, x1, y1 = x1, y1, x0, y0
        across_size, along_size = pixels.shape[:2]
        reach = width / 2 + 1
        first, last = np.clip([x0 - reach, x1 + reach + 1], 0, along_size).astype(np.int64)
        along = np.arange(first, last)[:, None]
        # Measured across the longer direction a line is up to the square root of 2 wider.
        spread = ceil(reach * 1.4143)
        # Far outside is far enough just outside: positions there need not fit an integer.
        middle = y0 + (y1 - y0) / max(x1 - x0, 1e-9) * (along - x0)
        middle = np.rint(np.clip(middle, -2 * spread, across_size + 2 * spread)).astype(np.int64)
        across = middle + np.arange(-spread, spread + 1)

        length = hypot(x1 - x0, y1 - y0)
        dx, dy = (x1 - x0) / max(length, 1e-9), (y1 - y0) / max(length, 1e-9)
        forward = (along - x0) * dx + (across - y0) * dy
        sideways = (across - y0) * dx - (along - x0) * dy
        beyond = np.maximum(np.maximum(-forward, forward - length), 0.0)
        # A line thinner than a pixel cannot be drawn thinner, only fainter.
        share = _share(np.hypot(beyond, sideways) - width / 2) * min(1.0, width)

        touched = (share > 0) & (across >= 0) & (across < across_size)
        place = across[touched], np.broadcast_to(along, across.shape)[touched]
        pixels[place] = _blended(pixels[place], share[touched] * opacity, colour)

    def _shape(self, centre: Point, reach: Point, distance: Distance, colour: Colour, opacity: float) -> None:
        """Draw a shape that reaches so far from its centre.

        ``distance`` tells how far outside it a place lies, given its coordinates relative to the centre.
        """
        x, y = centre
        left, right = max(0, floor(x - reach[0])), min(self.width, ceil(x + reach[0]) + 1)
        top, bottom = max(0, floor(y - reach[1])), min(self.height, ceil(y + reach[1]) + 1)
        if left >= right or top >= bottom:
            return
        share = _share(distance(np.arange(left, right) - x, np.arange(top, bottom)[:, None] - y))
        under = self.pixels[top:bottom, left:right]
        under[:] = _blended(under, share * opacity, colour)


def _share(distance: Array) -> Array:
    """Return how much of a pixel a shape covers whose edge lies ``distance`` from the pixel's centre."""
    return np.clip(0.5 - distance, 0.0, 1.0)


def _blended(under: NDArray[np.uint8], alpha: Array, colour: Colour) -> NDArray[np.uint8]:
    """Return pixels with so much of a colour over each."""
    ink = np.array(colour, dtype=np.float64)
    return (under + alpha[..., None] * (ink - under) + 0.5).astype(np.uint8)
