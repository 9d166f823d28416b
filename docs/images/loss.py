"""Draw what the loss compares: a positive, and the hardest negative outside the safe radius."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle
from style import Theme, figure

import d2np
from d2np import demo
from d2np.training.loss import SAFE_RADIUS
from d2np.verification import transformed

# Row and column of a cell of the first map: an eye. Half the edge of what is shown, in cells.
_CELL = 24, 50
_SHOWN = 16


def negatives(theme: Theme) -> Figure:
    """Draw a cell of one map, and the distances of its descriptor to all those of the other."""
    views = demo.views()
    net = d2np.Net.load("vgg16")
    maps = [net.dense(np.asarray(view)) for view in (views.first, views.second)]
    first, second = (cells / np.linalg.norm(cells, axis=2, keepdims=True) for cells in maps)
    truth = transformed(views.truth, np.array([_CELL[::-1]]) * 4 + 3.5)[0]
    column, row = np.rint((truth - 3.5) / 4).astype(int)
    distances = 2 - 2 * second @ first[_CELL]
    far = distances.copy()
    near = SAFE_RADIUS
    far[row - near : row + near + 1, column - near : column + near + 1] = np.inf
    hardest = divmod(int(far.argmin()), far.shape[1])

    made = figure(3.5, theme)
    image = np.asarray(views.first).mean(axis=2)
    axes = _axes(made, 0, "the first image, and a cell", theme, _CELL)
    axes.imshow(image, cmap="gray", vmin=-40, vmax=300, extent=_extent(image.shape, 0.25))
    _ring(axes, _CELL, theme.teal)
    axes = _axes(made, 1, "distances to it in the second map", theme, (row, column))
    colours = LinearSegmentedColormap.from_list("distances", ["#fff3d6", "#f0b24f", "#3b72c4", "#14213d"])
    axes.imshow(distances, cmap=colours, extent=_extent(distances.shape, 1), interpolation="nearest")
    edge = 2 * near + 1
    corner = column - near - 0.5, row - near - 0.5
    axes.add_patch(Rectangle(corner, edge, edge, fill=False, ec="#ffffff", lw=1.6))
    _ring(axes, (row, column), theme.teal, f"positive\n{distances[row, column]:.2f}")
    _ring(axes, hardest, theme.red, f"hardest negative\n{distances[hardest]:.2f}")
    return made


def _axes(made: Figure, side: int, title: str, theme: Theme, middle: tuple[int, int]) -> Axes:
    axes = made.add_axes((0.01 + 0.5 * side, 0.0, 0.48, 0.9))
    axes.axis("off")
    axes.set_title(title, loc="left", fontsize=10.5, color=theme.text)
    row, column = middle
    axes.set(xlim=(column - _SHOWN, column + _SHOWN), ylim=(row + _SHOWN, row - _SHOWN))
    axes.set_autoscale_on(False)
    return axes


def _extent(shape: tuple[int, ...], cells: float) -> tuple[float, float, float, float]:
    """Return where an array lies if each of its elements is so many cells wide."""
    half = 0.5 if cells == 1 else 3.5 / 4 + cells / 2
    return -half, shape[1] * cells - half, shape[0] * cells - half, -half


def _ring(axes: Axes, place: tuple[int, int], colour: str, text: str = "") -> None:
    axes.add_patch(Circle(place[::-1], 1.1, fill=False, ec=colour, lw=2.2))
    box = {"boxstyle": "round,pad=0.25", "fc": "#14213d", "ec": "none", "alpha": 0.85}
    if text:
        axes.text(place[1], place[0] + 3, text, color="#ffffff", fontsize=9, ha="center", va="top", bbox=box)
