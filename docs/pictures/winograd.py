"""A tile's way through Winograd's convolution, computed with the kernel's own transforms; and dilation."""

from __future__ import annotations


import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from style import Theme, arrow, canvas, figure

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
    weights = winograd.weight_transform()
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
    _grid(axes, 1, top, patch, theme, 1.9)
    _grid(axes, 4, bottom, kernel, theme, 1.9)
    _grid(axes, 22, top, patch_points, theme, 1.9)
    _grid(axes, 22, bottom - 2.85, kernel_points, theme, 1.9)
    _grid(axes, 40.4, 20.3, product, theme, 1.9)
    _grid(axes, 57.7, 22.2, outputs, theme, 1.9)
    for x, y, text in (
        (6.7, 45.3, "patch, 6 × 6"), (6.7, 18.1, "filter, 3 × 3"), (27.7, 45.3, "36 points"),
        (27.7, 21.0, "36 points"), (46.1, 32.7, "products"), (61.5, 31.1, "4 × 4 outputs"),
    ):  # fmt: skip
        axes.text(x, y, text, ha="center", va="bottom", fontsize=10)
    arrow(axes, (13.4, top + 5.7), (21.2, top + 5.7), theme)
    arrow(axes, (10.8, bottom + 2.8), (21.2, bottom + 2.8), theme)
    arrow(axes, (34.2, top + 4.2), (39.6, 28.6), theme)
    arrow(axes, (34.2, bottom + 4.2), (39.6, 23.6), theme)
    arrow(axes, (52.6, 26.0), (57.0, 26.0), theme)
    for x, y, text in (
        (17.3, top + 6.4, "input\ntransform"), (17.0, bottom + 3.5, "weight\ntransform,\nonce"),
    ):  # fmt: skip
        axes.text(x, y, text, ha="center", va="bottom", fontsize=8.5, color=theme.muted)
    axes.text(46.1, 19.4, "36 multiplications,\nsummed over channels", ha="center", va="top", fontsize=8.5,
              color=theme.muted)  # fmt: skip
    axes.text(56.2, 21.0, "output\ntransform", ha="left", va="top", fontsize=8.5, color=theme.muted)
    for y, width, colour, text in (
        (3.6, 48.0, theme.line, "directly: 16 × 9 = 144"), (0.6, 12.0, theme.blue, "Winograd: 36")
    ):  # fmt: skip
        axes.add_patch(Rectangle((1, y), width, 2.2, color=colour))
        axes.text(width + 2, y + 1.1, text, va="center", fontsize=9.5)
    return made


def _grid(axes: Axes, x: float, y: float, values: Array, theme: Theme, size: float) -> None:
    """Numbers as squares: amber below zero, blue above."""
    colours = LinearSegmentedColormap.from_list("signed", [theme.amber, theme.panel, theme.blue])
    scale = np.abs(values).max()
    rows, columns = values.shape
    for i in range(rows):
        for j in range(columns):
            colour = colours(0.5 + 0.5 * values[i, j] / scale)
            place = (x + j * size, y + (rows - 1 - i) * size)
            axes.add_patch(Rectangle(place, size, size, facecolor=colour, edgecolor=theme.page, lw=1))


def dilation(theme: Theme) -> Figure:
    """The taps of a dilated filter all lie among the cells of one colour: four plain convolutions."""
    made = figure(3.3, theme)
    axes = canvas(made, 66, 33)
    size, top, left = 2.7, 27.5, 1.0
    taps = {(4 + 2 * i, 4 + 2 * j) for i in (-1, 0, 1) for j in (-1, 0, 1)}
    for i in range(10):
        for j in range(10):
            _cell(axes, left + j * size, top - i * size, size, theme, i % 2 * 2 + j % 2, (i, j) in taps)
    arrow(axes, (30.2, 16.6), (36.4, 16.6), theme)
    for quarter in range(4):
        down, right = divmod(quarter, 2)
        x, y = 38.5 + right * 14.6, top - down * 14.9
        for i in range(5):
            for j in range(5):
                tapped = (2 * i + down, 2 * j + right) in taps
                _cell(axes, x + j * size * 0.97, y - i * size * 0.97, size * 0.97, theme, quarter, tapped)
    axes.text(14.5, 31.4, "dilation 2: every second cell", ha="center", va="bottom", fontsize=10)
    axes.text(52.0, 31.4, "four maps, neighbours again", ha="center", va="bottom", fontsize=10)
    return made


def _cell(axes: Axes, x: float, y: float, size: float, theme: Theme, colour: int, tapped: bool) -> None:
    axes.add_patch(
        Rectangle(
            (x, y), size, size, facecolor=theme.four[colour], alpha=1.0 if tapped else 0.33, edgecolor=theme.page, lw=1
        )
    )
    if tapped:
        axes.plot(x + size / 2, y + size / 2, "o", color=theme.page, ms=4.5)


