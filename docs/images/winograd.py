"""A tile's way through Winograd's convolution, computed with the kernel's own transforms; and dilation."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray
from style import Theme, arrow, box, canvas, figure, label

from d2np.kernels import winograd

Array = NDArray[np.float64]


class _Numbers:
    """Plain numbers where the kernel has vectors."""

    def fma(self, a: float, b: float, c: float) -> float:
        return a * b + c

    def mul(self, a: float, b: float) -> float:
        return a * b

    def add(self, a: float, b: float) -> float:
        return a + b

    def sub(self, a: float, b: float) -> float:
        return a - b


def _matrix(transform: object, size: int) -> Array:
    """A one-dimensional transform of the kernel as a matrix."""
    columns = [transform(_Numbers(), list(unit)) for unit in np.eye(size)]  # type: ignore[operator]
    return np.array(columns).T


def stations(side: int) -> tuple[Array, ...]:
    """A patch and a filter, both transformed, their product, the outputs: checked against the plain way.

    ``side`` is the number of outputs in a row of the tile.
    """
    y, x = np.mgrid[: side + 2, : side + 2]
    middle = (side + 1) / 2
    patch = np.clip(1.15 - 1.7 / side * np.hypot(x - middle - 0.2, y - middle + 0.3), 0, 1)
    patch += 0.08 * np.sin(2.2 * x + y)
    kernel = np.outer([1, 2, 1], [-1, 0, 1]) / 4
    into = _matrix(winograd._input_1d, side + 2)
    out = _matrix(winograd._output_1d, side + 2)
    weights = winograd.weight_transform(side)
    patch_points, kernel_points = into @ patch @ into.T, weights @ kernel @ weights.T
    product = patch_points * kernel_points
    outputs = out @ product @ out.T
    plain = [[(patch[i : i + 3, j : j + 3] * kernel).sum() for j in range(side)] for i in range(side)]
    assert np.allclose(outputs, plain)
    return patch, kernel, patch_points, kernel_points, product, outputs


def tile(theme: Theme) -> Figure:
    """Both tiles, from patch to outputs, and the multiplications that each takes for an output."""
    made = figure(4.6, theme)
    axes = canvas(made, 66, 46)
    size = 1.35
    columns = 6.4, 21.0, 33.6, 46.2, 60.2  # the middles of what is drawn below each other
    for side, middle in ((6, 36.6), (4, 17.0)):
        patch, kernel, patch_points, kernel_points, product, outputs = stations(side)
        points = len(winograd.weight_transform(side)) ** 2
        drawn = patch, patch_points, kernel_points, product, outputs
        texts = (
            f"patch, {side + 2} × {side + 2}",
            f"{points} points",
            "filter",
            "products",
            f"{side} × {side}",
        )
        for x, values, text in zip(columns, drawn, texts, strict=True):
            half = size * len(values) / 2
            _grid(axes, x - half, middle - half, values, theme, size)
            label(axes, x, middle + half + 0.6, text, theme.text, 10, "center bottom")
        arrow(axes, (columns[0] + 5.9, middle), (columns[1] - 5.9, middle), theme)
        arrow(axes, (columns[3] + 5.9, middle), (columns[4] - 4.6, middle), theme)
        for x, sign in ((columns[1] + columns[2]) / 2, "×"), ((columns[2] + columns[3]) / 2, "="):
            label(axes, x, middle, sign, theme.text, 12, "center center")
    # The filter stands between its points of both tiles.
    _grid(axes, columns[2] - 1.5 * size, 25.6, kernel, theme, size)
    arrow(axes, (columns[2], 29.9), (columns[2], 30.9), theme)
    arrow(axes, (columns[2], 25.3), (columns[2], 24.6), theme)
    for x, y, text, place in (
        (13.7, 28.6, "input\ntransform", "center top"),
        (columns[2] + 2.8, 27.6, "3 × 3", "left center"),
        (columns[3], 29.9, "summed over\nthe channels", "center top"),
        (54.6, 28.6, "output\ntransform", "center top"),
    ):
        label(axes, x, y, text, theme.muted, 8.5, place)
    for y, factor, colour, text in (
        (6.4, 9.0, theme.line, "directly: 9 multiplications for an output"),
        (3.6, 36 / 16, theme.blue, "4 × 4: 36 for 16 outputs, 2.25"),
        (0.8, 64 / 36, theme.blue, "6 × 6: 64 for 36 outputs, 1.78"),
    ):
        box(axes, 1, y, 3.2 * factor, 2.2, colour)
        label(axes, 3.2 * factor + 2, y + 1.1, text, theme.text, 9, "left center")
    return made


def _grid(axes: Axes, x: float, y: float, values: Array, theme: Theme, size: float) -> None:
    """Numbers as squares: amber below zero, blue above."""
    colours = LinearSegmentedColormap.from_list("signed", [theme.amber, theme.panel, theme.blue])
    scale = np.abs(values).max()
    for (i, j), value in np.ndenumerate(values[::-1]):
        box(axes, x + j * size, y + i * size, size, size, colours(0.5 + 0.5 * value / scale), edge=theme.page)


def dilation(theme: Theme) -> Figure:
    """Draw the taps of a dilated filter: all are on cells of one colour, as in four plain convolutions."""
    made = figure(3.3, theme)
    axes = canvas(made, 66, 33)
    size, top, left = 2.7, 27.0, 1.0
    taps = {(4 + 2 * i, 4 + 2 * j) for i in (-1, 0, 1) for j in (-1, 0, 1)}

    def cell(x: float, y: float, row: int, column: int) -> None:
        tapped = (row, column) in taps
        colour = theme.four[row % 2 * 2 + column % 2]
        box(axes, x, y, size, size, colour, alpha=1 if tapped else 0.33, edge=theme.page)
        if tapped:
            axes.plot(x + size / 2, y + size / 2, "o", color=theme.page, ms=4.5)

    for row in range(10):
        for column in range(10):
            cell(left + column * size, top - row * size, row, column)
            x = 37.6 + column // 2 * size + column % 2 * 14.4
            y = top - row // 2 * size - row % 2 * 13.9
            cell(x, y + 0.2, row, column)
    arrow(axes, (29.8, 16.2), (35.8, 16.2), theme)
    label(axes, 14.5, 30.6, "dilation 2: every second cell", theme.text, 10, "center bottom")
    label(axes, 51.5, 30.6, "four maps, neighbours again", theme.text, 10, "center bottom")
    return made
