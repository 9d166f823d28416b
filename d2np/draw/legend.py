"""The strip of text and colour below a drawing."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from .colours import Colour, colour_map

BACKGROUND: Colour = (28, 28, 31)
_TEXT: Colour = (226, 226, 228)
_NEAREST = Image.Resampling.NEAREST

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
    drawing = Image.fromarray(pixels)
    size = text_size(drawing.width)
    rows = [(left, right), ([caption], [])] if caption else [(left, right)]
    strips = [[_strip(items, size) for items in row] for row in rows]
    width = max(drawing.width, *(sum(strip.width for strip in row) for row in strips))
    height = strips[0][0].height
    sheet = Image.new("RGB", (width, drawing.height + len(rows) * height), BACKGROUND)
    sheet.paste(drawing, ((width - drawing.width) // 2, 0))
    for number, (first, last) in enumerate(strips):
        top = drawing.height + number * height
        sheet.paste(first, (0, top))
        sheet.paste(last, (width - last.width, top))
    return sheet


def colour_bar(what: str, low: str, high: str, colours: str, lowest: float = 0.0) -> list[Item]:
    """Return the items that say which colours stand for the numbers from ``low`` to ``high``."""
    return [f"{what} {low}", colour_map(colours, np.linspace(0.0, 1.0, 256), lowest), high]


def _strip(items: Sequence[Item], size: int) -> Image.Image:
    """Return texts and colours side by side, with space around each; ``size`` is that of the text."""
    font = _font(size)
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
