"""The strip of text and colour below a drawing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from .colours import Colour

BACKGROUND: Colour = (28, 28, 31)
_TEXT: Colour = (226, 226, 228)

Item = str | NDArray[np.uint8]
"""A text; or (N, 3) colours: one for a small square, several for a wide bar."""


def with_legend(
    pixels: NDArray[np.uint8], left: Sequence[Item], right: Sequence[Item], caption: str
) -> Image.Image:
    """Return an image with a legend below it, as wide as the wider of both.

    Parameters
    ----------
    pixels : (H, W, 3) uint8
    left, right : lists of str and (N, 3) uint8
        Texts and colours in one row: ``left`` begins at the left edge, ``right`` ends at the right edge. An
        empty text widens the space between its neighbours.
    caption : str
        A second row, where it is not empty.
    """
    height, width = pixels.shape[:2]
    legend = _Legend(text_size(width))
    rows = [(left, right), *([([caption], [])] if caption else [])]
    needed = [[legend.width(items) + 2 * legend.space for items in row if items] for row in rows]
    sheet_width = max(width, *map(sum, needed))
    row_height, first = round(legend.size * 1.45), round(legend.size * 2.1)
    sheet_height = height + first + row_height * (len(rows) - 1)
    sheet = Image.new("RGB", (sheet_width, sheet_height), BACKGROUND)
    sheet.paste(Image.fromarray(pixels), ((sheet_width - width) // 2, 0))
    for number, (begin, end) in enumerate(rows):
        middle = height + first / 2 + number * row_height
        legend.draw(sheet, begin, legend.space, middle)
        legend.draw(sheet, end, sheet_width - legend.space - legend.width(end), middle)
    return sheet


class _Legend:
    """Draws rows of texts and colours of one size.

    Parameters
    ----------
    size : int
        Height of the text in pixels, as fonts count it.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.space = round(size * 0.6)
        self._font = _font(size)

    def width(self, items: Sequence[Item]) -> int:
        return sum(map(self._item_width, items)) + self.space * max(0, len(items) - 1)

    def draw(self, image: Image.Image, items: Sequence[Item], left: int, middle: float) -> None:
        draw = ImageDraw.Draw(image)
        # The extent of digits, not of this text, so that every text stands on the same line.
        _, top, _, bottom = draw.textbbox((0, 0), "0", font=self._font)
        for item in items:
            width = self._item_width(item)
            if isinstance(item, str):
                draw.text((left, round(middle - (top + bottom) / 2)), item, fill=_TEXT, font=self._font)
            else:
                height = max(3, round(self.size * (0.6 if len(item) > 1 else 0.72)))
                strip = Image.fromarray(item[np.newaxis]).resize((width, height), Image.Resampling.NEAREST)
                image.paste(strip, (left, round(middle - height / 2)))
            left += width + self.space

    def _item_width(self, item: Item) -> int:
        if isinstance(item, str):
            return int(np.ceil(self._font.getlength(item)))
        return round(self.size * (7 if len(item) > 1 else 0.72))


def text_size(width: int) -> int:
    """Return the height of the text below a drawing: readable where a page shows it 830 pixels wide."""
    return min(64, max(13, round(0.018 * width)))


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
