"""The curve of a training: loss and accuracy against iterations, as an image."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from .loop import Training

_SIZE = 960, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 24, 52, 44
_BACKGROUND, _GRID, _TEXT = (255, 255, 255), (222, 222, 222), (60, 60, 60)
_TRAINING, _VALIDATION = (31, 119, 180), (214, 39, 40)
_MEANS = 40
"""Points of the curve of training: each is a mean over some iterations."""
# Drawn so much larger, and then reduced: Pillow draws jagged lines.
_FINER = 3


def draw_curve(training: Training) -> Image.Image:
    """Draw the loss and the share of correct nearest neighbours.

    Parameters
    ----------
    training : Training

    Returns
    -------
    PIL.Image.Image
        (420, 960) RGB: the loss at the left, the accuracy at the right; a line for the pairs that were
        trained on, dots for the validation.
    """
    width, height = _SIZE
    sheet = Image.new("RGB", (width * _FINER, height * _FINER), _BACKGROUND)
    step = max(1, training.iteration // _MEANS)
    starts = range(0, training.iteration, step)
    parts = [training.history[first : first + step] for first in starts]
    kept = [(first, part) for first, part in zip(starts, parts, strict=True) if np.isfinite(part).any()]
    places = np.array([first + step / 2 for first, _ in kept])
    means = np.array([np.nanmean(part, axis=0) for _, part in kept]).reshape(-1, 2)
    checked = np.array(training.validation).reshape(-1, 3)
    for number, (name, factor) in enumerate((("loss", 1), ("correct nearest neighbours, %", 100))):
        lines = [(places, means[:, number] * factor), (checked[:, 0], checked[:, number + 1] * factor)]
        _panel(sheet, number * width // 2, name, training.settings.iterations, lines)
    return sheet.resize(_SIZE, Image.Resampling.LANCZOS)


def _panel(
    sheet: Image.Image,
    left: int,
    name: str,
    last: int,
    lines: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]],
) -> None:
    """Draw one diagram into the half of the sheet that begins at ``left``."""
    draw, font = ImageDraw.Draw(sheet), _font(13 * _FINER)
    x0, x1 = left + _LEFT, left + _SIZE[0] // 2 - _RIGHT
    y0, y1 = _SIZE[1] - _BOTTOM, _TOP
    values = np.concatenate([value for _, value in lines])
    ticks = _ticks(values.min(), values.max())
    low, high = ticks[0], ticks[-1]

    def at(x: float, y: float) -> tuple[float, float]:
        return (
            (x0 + (x1 - x0) * x / last) * _FINER,
            (y0 + (y1 - y0) * (y - low) / (high - low)) * _FINER,
        )

    for tick in ticks:
        draw.line([at(0, tick), at(last, tick)], _GRID, _FINER)
        draw.text((at(0, tick)[0] - 8 * _FINER, at(0, tick)[1]), f"{tick:g}", _TEXT, font, anchor="rm")
    for tick in (tick for tick in _ticks(0, last) if tick <= last):
        draw.text((at(tick, low)[0], (y0 + 8) * _FINER), f"{tick:,g}", _TEXT, font, anchor="mt")
    draw.text(((x0 + x1) / 2 * _FINER, (_SIZE[1] - 4) * _FINER), "iterations", _TEXT, font, anchor="mb")
    draw.text((x0 * _FINER, 10 * _FINER), name, _TEXT, font)
    for number, (text, colour) in enumerate((("training", _TRAINING), ("held out", _VALIDATION))):
        if len(lines[number][0]):
            draw.text(((x1 - 90 * (1 - number)) * _FINER, 10 * _FINER), text, colour, font, anchor="ra")
    (places, means), (checks, found) = lines
    draw.line([at(x, y) for x, y in zip(places, means, strict=True)], _TRAINING, 2 * _FINER, joint="curve")
    for x, y in zip(checks, found, strict=True):
        (u, v), r = at(x, y), 4 * _FINER
        draw.ellipse([u - r, v - r, u + r, v + r], _VALIDATION)


def _ticks(low: float, high: float) -> list[float]:
    """Return round numbers, about five, from below ``low`` to above ``high``."""
    raw = max(high - low, 1e-6) / 4
    unit = 10 ** math.floor(math.log10(raw))
    step = next(factor for factor in (1, 2, 5, 10) if factor * unit >= raw) * unit
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(number * step, 12) for number in range(first, max(last, first + 1) + 1)]


def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    try:
        return ImageFont.load_default(size)
    except (TypeError, ImportError, OSError):
        # Pillow before 10.1 or built without FreeType: its one bitmap font, at its one size.
        return ImageFont.load_default()
