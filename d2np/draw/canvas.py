"""An image to draw on, with smooth edges.

Pillow draws shapes with jagged edges at whole pixels and does not blend them. Here each shape is given by
the distance of a pixel's centre from it, which yields the pixel's share of ink directly: edges are smooth,
positions are exact to a fraction of a pixel, and nothing larger than the image itself is ever in memory.
"""

from __future__ import annotations

from math import ceil, floor, hypot

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .colours import Colour

Box = tuple[int, int, int, int]


class Canvas:
    """An RGB image that shapes are blended into. (0, 0) is the centre of the top-left pixel.

    Parameters
    ----------
    pixels : (H, W, 3) uint8
        Copied.
    """

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        self.pixels = np.array(pixels, dtype=np.uint8, order="C")

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])

    def to_image(self) -> Image.Image:
        return Image.fromarray(self.pixels)

    def disc(self, x: float, y: float, radius: float, colour: Colour, opacity: float = 1.0) -> None:
        """A filled circle."""
        box = self._box(x - radius, y - radius, x + radius, y + radius)
        if box is not None:
            self._blend(box, _share(_distance(box, x, y) - radius), colour, opacity)

    def ring(
        self, x: float, y: float, radius: float, width: float, colour: Colour, opacity: float = 1.0
    ) -> None:
        """A circle whose line, ``width`` wide, runs along ``radius``."""
        outer = radius + width / 2
        box = self._box(x - outer, y - outer, x + outer, y + outer)
        if box is not None:
            self._blend(box, _share(abs(_distance(box, x, y) - radius) - width / 2), colour, opacity)

    def frame(
        self,
        left: float,
        top: float,
        right: float,
        bottom: float,
        width: float,
        colour: Colour,
        opacity: float = 1.0,
    ) -> None:
        """A rectangle whose line, ``width`` wide, runs along the given edges."""
        half = width / 2
        box = self._box(left - half, top - half, right + half, bottom + half)
        if box is None:
            return
        x, y = (left + right) / 2, (top + bottom) / 2
        columns = abs(np.arange(box[0], box[2]) - x) - (right - left) / 2
        rows = abs(np.arange(box[1], box[3]) - y) - (bottom - top) / 2
        edge = np.maximum(rows[:, None], columns[None, :])
        self._blend(box, _share(abs(edge) - half), colour, opacity)

    def line(
        self,
        x0: float,
        y0: float,
        x1: float,
        y1: float,
        width: float,
        colour: Colour,
        opacity: float = 1.0,
    ) -> None:
        """A straight line with round ends."""
        # Walk along the longer direction; across it, a few pixels around the line are touched.
        steep = abs(y1 - y0) > abs(x1 - x0)
        if steep:
            x0, y0, x1, y1 = y0, x0, y1, x1
        if x0 > x1:
            x0, y0, x1, y1 = x1, y1, x0, y0
        along_size, across_size = (self.height, self.width) if steep else (self.width, self.height)
        reach = width / 2 + 1
        first, last = max(0, ceil(x0 - reach)), min(along_size - 1, floor(x1 + reach))
        if last < first:
            return
        length = hypot(x1 - x0, y1 - y0)
        slope = (y1 - y0) / (x1 - x0) if x1 > x0 else 0.0
        # Measured across the longer direction a line is up to the square root of 2 wider.
        spread = ceil(reach * 1.4143)
        along = np.arange(first, last + 1)[:, None]
        # Far outside is far enough just outside: positions there need not fit an integer.
        middle = np.clip(y0 + slope * (along - x0), -2 * spread, across_size + 2 * spread)
        middle = np.rint(middle).astype(np.int64)
        across = middle + np.arange(-spread, spread + 1)[None, :]

        dx, dy = (x1 - x0) / max(length, 1e-9), (y1 - y0) / max(length, 1e-9)
        forward = (along - x0) * dx + (across - y0) * dy
        sideways = (across - y0) * dx - (along - x0) * dy
        beyond = np.maximum(np.maximum(-forward, forward - length), 0.0)
        share = _share(np.hypot(beyond, sideways) - width / 2)
        # A line thinner than a pixel cannot be drawn thinner, only fainter.
        share *= min(1.0, width)

        touched = (share > 0) & (across >= 0) & (across < across_size)
        one, other = np.broadcast_to(along, across.shape)[touched], across[touched]
        rows, columns = (one, other) if steep else (other, one)
        alpha = (share[touched] * opacity)[:, None]
        under = self.pixels[rows, columns]
        ink = np.array(colour, dtype=np.float64)
        self.pixels[rows, columns] = (under + alpha * (ink - under) + 0.5).astype(np.uint8)

    def _box(self, left: float, top: float, right: float, bottom: float) -> Box | None:
        """The pixels that a shape of this extent can touch: left, top, and the first not touched."""
        box = (
            max(0, floor(left)),
            max(0, floor(top)),
            min(self.width, ceil(right) + 1),
            min(self.height, ceil(bottom) + 1),
        )
        return box if box[0] < box[2] and box[1] < box[3] else None

    def _blend(self, box: Box, share: NDArray[np.float64], colour: Colour, opacity: float) -> None:
        left, top, right, bottom = box
        under = self.pixels[top:bottom, left:right]
        ink = np.array(colour, dtype=np.float64)
        under[:] = (under + (share * opacity)[..., None] * (ink - under) + 0.5).astype(np.uint8)


def _distance(box: Box, x: float, y: float) -> NDArray[np.float64]:
    rows, columns = np.arange(box[1], box[3])[:, None], np.arange(box[0], box[2])[None, :]
    distance: NDArray[np.float64] = np.hypot(rows - y, columns - x)
    return distance


def _share(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """How much of a pixel a shape covers whose edge lies ``distance`` from the pixel's centre."""
    return np.clip(0.5 - distance, 0.0, 1.0)
