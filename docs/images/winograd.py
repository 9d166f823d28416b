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


def stations() -> tuple[Array, Array, Array, Array, Array, Array]:
    """A patch, a filter, both transformed, their product, and the outputs: checked against the plain way."""
    y, x = np.mgrid[:6, :6]
    patch = np.clip(1.15 - 0.42 * np.hypot(x - 2.7, y - 2.2), 0, 1) + 0.08 * np.sin(2.2 * x + y)
    kernel = np.outer([1, 2, 1], [-1, 0, 1]) / 4
    into = _matrix(winograd._input_1d, 6)
    out = _matrix(winograd._output_1d, 6)
    weights = winograd.weight_transform(4)
    patch_points, kernel_points = into @ patch @ into.T, weights @ kernel @ weights.T
    product = patch_points * kernel_points
    outputs = out @ product @ out.T
    plain = [[(patch[i : i + 3, j : j + 3] * kernel).sum() for j in range(4)] for i in range(4)]
    assert np.allclose(outputs, plain)
    return patch, kernel, patch_points, kernel_points, product, outputs


def tile(theme: Theme) -> Figure:
    """A patch of 6 x 6, a filter of 3 x 3, and how 36 multiplications make 16 outputs of them."""
    made = figure(5.0, theme)
    axes = canvas(made, 66, 50)
    patch, kernel, patch_points, kernel_points, product, outputs = stations()
    top, bottom = 33.0, 11.5
    for x, y, values, text in (
        (1, top, patch, "patch, 6 × 6"),
        (4, bottom, kernel, "filter, 3 × 3"),
        (22, top, patch_points, "36 points"),
        (22, bottom - 2.85, kernel_points, "36 points"),
        (40.4, 20.3, product, "products"),
        (56.4, 22.2, outputs, "4 × 4 outputs"),
    ):
        _grid(axes, x, y, values, theme, 1.9)
        rows, columns = values.shape
        label(axes, x + 0.95 * columns, y + 1.9 * rows + 0.9, text, theme.text, 10, "center bottom")
    for start, end in (
        ((13.4, top + 5.7), (21.2, top + 5.7)),
        ((10.8, bottom + 2.8), (21.2, bottom + 2.8)),
        ((34.2, top + 4.2), (39.6, 28.6)),
        ((34.2, bottom + 4.2), (39.6, 23.6)),
        ((52.4, 26.0), (55.8, 26.0)),
    ):
        arrow(axes, start, end, theme)
    for x, y, text, place in (
        (17.3, top + 6.4, "input\ntransform", "center bottom"),
        (16.0, bottom + 3.5, "weight\ntransform,\nonce", "center bottom"),
        (46.1, 19.4, "36 multiplications,\nsummed over channels", "center top"),
        (60.2, 21.2, "output\ntransform", "center top"),
    ):
        label(axes, x, y, text, theme.muted, 8.5, place)
    for y, width, colour, text in (
        (3.6, 48.0, theme.line, "directly: 16 × 9 = 144"),
        (0.6, 12.0, theme.blue, "Winograd: 36"),
    ):
        box(axes, 1, y, width, 2.2, colour)
        label(axes, width + 2, y + 1.1, text, theme.text, 9, "left center")
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
