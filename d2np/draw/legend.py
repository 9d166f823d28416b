"""The strip of text and colour below a drawing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from .colours import Colour

BACKGROUND: Colour = (28, 28, 31)
_TEXT: Colour = (226, 226, 228)


@dataclass(frozen=True)
class Bar:
    """A piece of colour in the legend: a gradient from left to right, or a single colour."""

    colours: NDArray[np.uint8]
    wide: bool = False


Item = str | Bar


class Legend:
    """Texts and colours in one row: ``left`` begins at the left edge, ``right`` ends at the right edge.

    Parameters
    ----------
    left, right : lists of str and Bar
        An empty text widens the space between its neighbours.
    size : int
        Height of the text in pixels, as fonts count it.
    caption : str
        A second row, where it is not empty.
    """

    def __init__(self, left: list[Item], right: list[Item], size: int, caption: str = "") -> None:
        self._left, self._right, self._size, self._caption = left, right, size, caption
        self._font = _font(size)
        self._space = round(size * 0.6)
        self._row_height = round(size * 1.45)
        self.height = round(size * 2.1) + (self._row_height if caption else 0)
        parts = [self._width(items) for items in (left, right) if items]
        first = sum(parts) + self._space * (2 + 2 * (len(parts) - 1))
        self.width = max(first, self._width([caption]) + 2 * self._space)

    def draw(self, image: Image.Image) -> None:
        """Draw it along the image's lower edge."""
        draw = ImageDraw.Draw(image)
        middle = image.height - self.height / 2 - (self._row_height / 2 if self._caption else 0)
        self._row(image, draw, self._left, self._space, middle)
        self._row(image, draw, self._right, image.width - self._space - self._width(self._right), middle)
        if self._caption:
            self._row(image, draw, [self._caption], self._space, middle + self._row_height)

    def below(self, pixels: NDArray[np.uint8]) -> Image.Image:
        """Return an image with this below it, as wide as the wider of both."""
        height, width = pixels.shape[:2]
        sheet = Image.new("RGB", (max(width, self.width), height + self.height), BACKGROUND)
        sheet.paste(Image.fromarray(pixels), ((sheet.width - width) // 2, 0))
        self.draw(sheet)
        return sheet

    def _row(
        self, image: Image.Image, draw: ImageDraw.ImageDraw, items: list[Item], left: int, middle: float
    ) -> None:
        for item in items:
            width = self._item_width(item)
            if isinstance(item, str):
                # The extent of digits, not of this text, so that every text stands on the same line.
                _, top, _, bottom = draw.textbbox((0, 0), "0", font=self._font)
                draw.text((left, round(middle - (top + bottom) / 2)), item, fill=_TEXT, font=self._font)
            else:
                height = max(3, round(self._size * (0.6 if item.wide else 0.72)))
                steps = np.linspace(0, len(item.colours) - 1, width).round().astype(np.int64)
                strip = np.broadcast_to(item.colours[steps], (height, width, 3))
                image.paste(Image.fromarray(np.ascontiguousarray(strip)), (left, round(middle - height / 2)))
            left += width + self._space

    def _width(self, items: list[Item]) -> int:
        return sum(self._item_width(item) for item in items) + self._space * max(0, len(items) - 1)

    def _item_width(self, item: Item) -> int:
        if isinstance(item, str):
            return int(np.ceil(self._font.getlength(item)))
        return round(self._size * (7 if item.wide else 0.72))


def text_size(width: int) -> int:
    """How high the text below a drawing of this width is: readable where a page shows it 830 pixels wide."""
    return min(64, max(13, round(0.018 * width)))


def number(count: int, what: str) -> str:
    """``1 match``, ``2 matches``."""
    if count == 1:
        return f"1 {what}"
    return f"{count} {what}{'es' if what.endswith('ch') else 's'}"


def drawn_at(*factors: float) -> str:
    """Return how a caption goes on where images are not drawn at their own size."""
    if all(abs(factor - 1) < 0.005 for factor in factors):
        return ""
    sizes = list(dict.fromkeys(f"{100 * factor:.0f} %" for factor in factors))
    return f", drawn at {' and '.join(sizes)} of the size"


def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    try:
        return ImageFont.load_default(size)
    except (TypeError, ImportError, OSError):
        # Pillow before 10.1 or built without FreeType: its one bitmap font, at its one size.
        return ImageFont.load_default()
