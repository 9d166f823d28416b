"""Draw hard and soft detection, and the position of a keypoint between cells."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from style import Theme, bare, box, canvas, figure, label

import d2np
from d2np import demo
from d2np.network.detect import EDGE_THRESHOLD
from d2np.training.loss import soft_scores

Array = NDArray[np.float64]


def _surface(long: float, short: float, turn: float = 0.6) -> Array:
    """5 x 5 cells of a hill, as long and as wide as said."""
    y, x = np.mgrid[-2:3, -2:3]
    along, across = np.cos(turn) * x + np.sin(turn) * y, np.cos(turn) * y - np.sin(turn) * x
    return np.exp(-0.5 * (along**2 / long**2 + across**2 / short**2))


def curvature_ratio(cells: Array) -> float:
    """Ratio of the principal curvatures at the middle of 5 x 5 cells, as the detector has it."""
    around = cells[1:4, 1:4]
    dii = around[0, 1] - 2 * around[1, 1] + around[2, 1]
    djj = around[1, 0] - 2 * around[1, 1] + around[1, 2]
    dij = (around[0, 0] - around[0, 2] - around[2, 0] + around[2, 2]) / 4
    small, large = sorted(np.abs(np.linalg.eigvalsh([[dii, dij], [dij, djj]])))
    return float(large / small)


def hard(theme: Theme) -> Figure:
    """Draw the three tests of a cell."""
    made = figure(3.75, theme)
    axes = canvas(made, 66, 37.5)
    blob, edge = _surface(1.3, 1.0), _surface(8.0, 1.2)
    assert curvature_ratio(blob) < EDGE_THRESHOLD < curvature_ratio(edge)
    for x, question, answer in (
        (1, "1  Which channel of the\n    cell is its largest?", "… of 512 channels"),
        (24, "2  Is the cell a maximum\n    of that channel?", "no smaller than its\n8 neighbours"),
        (46.5, "3  A peak, or a ridge?", f"curvatures differ by a\nfactor of {EDGE_THRESHOLD:.0f} at most"),
    ):
        label(axes, x, 36, question, theme.text)
        label(axes, x, 8.8, answer, theme.muted, 9)
    values = np.array([0.5, 1.4, 0.2, 2.2, 0.9, 4.6, 1.1, 0.3, 2.9, 0.7, 1.8, 0.4])
    for k, value in enumerate(values):
        box(axes, 1 + k * 1.55, 10, 1.25, value * 4, theme.blue if value == values.max() else theme.line)
    _cells(axes, 24, 10, blob, theme, 3.6)
    axes.add_patch(Rectangle((27.6, 13.6), 10.8, 10.8, fill=False, ec=theme.amber, lw=2))
    for y, cells, verdict, colour in ((19.5, blob, "kept", theme.teal), (10, edge, "left out", theme.red)):
        _cells(axes, 46.5, y, cells, theme, 1.75)
        label(axes, 56.3, y + 4.6, verdict, colour, 10, "left bottom")
        label(axes, 56.3, y + 4.2, f"ratio {curvature_ratio(cells):.1f}", theme.muted, 9)
    return made


def _cells(axes: Axes, x: float, y: float, values: Array, theme: Theme, size: float) -> None:
    colours = LinearSegmentedColormap.from_list("heights", [theme.panel, theme.blue])
    for (i, j), value in np.ndenumerate(values[::-1]):
        box(axes, x + j * size, y + i * size, size, size, colours(value), edge=theme.page)


def localisation(theme: Theme) -> Figure:
    """In one direction, a parabola through three cells; in two, a peak more than half a cell away."""
    made = figure(3.2, theme)
    axes = made.add_axes((0.03, 0.13, 0.5, 0.72))
    bare(axes)
    left, middle, right = heights = 2.1, 3.0, 2.6
    slope, bend = (right - left) / 2, left - 2 * middle + right
    step = -slope / bend
    x = np.linspace(-1.35, 1.35, 200)
    axes.axvspan(-0.5, 0.5, color=theme.panel, lw=0)
    axes.plot(x, middle + slope * x + bend * x**2 / 2, color=theme.blue, lw=2)
    axes.plot([-1, 0, 1], heights, "o", color=theme.text, ms=7)
    peak = middle + slope * step + bend * step**2 / 2
    axes.plot([step, step], [1.4, peak], ":", color=theme.teal, lw=1.5)
    axes.plot(step, peak, "D", color=theme.teal, ms=8)
    axes.set(xlim=(-1.4, 1.4), ylim=(1.4, 3.4), yticks=[])
    axes.set_xticks([-1, 0, 1], ["cell j − 1", "cell j", "cell j + 1"], fontsize=9.5)
    axes.set_title(f"kept: {step:+.2f}, less than ½", loc="left", fontsize=10.5, color=theme.teal)

    axes = made.add_axes((0.6, 0.05, 0.4, 0.8))
    axes.axis("off")
    slopes, bends = np.array([0.32, 0.06]), np.array([[-1, 0.6], [0.6, -1]])
    steps = -np.linalg.solve(bends, slopes)
    grid = np.stack(np.meshgrid(*[np.linspace(-1.5, 1.5, 151)] * 2), axis=-1)
    height = grid @ slopes + 0.5 * ((grid @ bends) * grid).sum(axis=-1)
    around = height[25::50, 25::50]
    assert around[1, 1] == around.max()  # and yet the peak is that far away
    assert steps[0] > 0.5
    box(axes, -0.5, -0.5, 1, 1, theme.panel)
    axes.contour(grid[..., 0], grid[..., 1], height, 9, colors=theme.blue, linewidths=1.2, linestyles="-")
    y, x = np.mgrid[-1:2, -1:2]
    axes.plot(x.ravel(), y.ravel(), "o", color=theme.text, ms=6)
    axes.plot(*steps, "D", color=theme.red, ms=8)
    axes.set(xlim=(-1.5, 1.5), ylim=(1.5, -1.5))
    axes.set_aspect("equal")
    axes.set_title(f"left out: {steps[0]:+.2f}, more than ½", loc="center", fontsize=10.5, color=theme.red)
    return made


def soft(theme: Theme) -> Figure:
    """A part of the demo's image: the soft score of each cell, and the keypoints of the hard detector."""
    made = figure(3.5, theme)
    image = np.asarray(demo.views().first)
    net = d2np.Net.load("analytic")
    score, found = soft_scores(net.dense(image)).scores, net(image)
    left, top, edge = 132, 24, 192  # below the border, in which the analytic weights find nothing
    rows, columns = score.shape
    colours = LinearSegmentedColormap.from_list("scores", ["#14213d", "#3b72c4", "#f0b24f", "#fff3d6"])
    inside = score[top // 4 : (top + edge) // 4, left // 4 : (left + edge) // 4]
    low, high = np.quantile(inside, [0.02, 0.995])
    for k, title in enumerate(("the soft score of each cell", "the image, and the keypoints")):
        axes = made.add_axes((0.01 + 0.5 * k, 0.0, 0.48, 0.9))
        axes.axis("off")
        axes.set_title(title, loc="left", fontsize=10.5, color=theme.text)
        if k == 0:
            # Cell centres are at 4 j + 1.5, so cells begin where pixels do.
            box_of_all = (-0.5, 4 * columns - 0.5, 4 * rows - 0.5, -0.5)
            axes.imshow(score, cmap=colours, extent=box_of_all, vmin=low, vmax=high, interpolation="nearest")
        else:
            axes.imshow(image.mean(axis=2), cmap="gray", vmin=-40, vmax=300)
        x, y, _ = found.keypoints.T
        axes.plot(x, y, "o", ms=6, mfc="none", mec="#ffffff" if k == 0 else "#f0b24f", mew=1.3)
        axes.set(xlim=(left - 0.5, left + edge - 0.5), ylim=(top + edge - 0.5, top - 0.5))
    return made
