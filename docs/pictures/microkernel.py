"""The register block: one step of the micro-kernel, and how many registers a block takes."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from style import Theme, arrow, canvas, figure

from d2np.kernels.simd import BLOCKS

_REGISTERS = {"avx512": 32, "avx2": 16, "neon": 32, "sse": 16}
_NAMES = {"avx512": "AVX-512", "avx2": "AVX2", "neon": "NEON", "sse": "SSE"}


def block(theme: Theme) -> Figure:
    """AVX2's block: 6 positions by 2 vectors of 8 channels, in one step along the depth."""
    made = figure(4.1, theme)
    axes = canvas(made, 66, 41)
    shape = BLOCKS["avx2"]
    size, left, top = 2.35, 24.0, 22.0
    depth = 7
    # Inputs: positions by depth; the step's own column is strong.
    for row in range(shape.rows):
        for k in range(depth):
            _square(axes, 3 + k * size, top - row * size, size, theme.amber, theme, strong=k == 2)
    # Weights: depth by output channels.
    for k in range(4):
        for column in range(shape.columns):
            _square(axes, left + column * size, 36.2 - k * size, size, theme.blue, theme, strong=k == 2,
                    gap=0.7 if column >= shape.lanes else 0)  # fmt: skip
    for row in range(shape.rows):
        for column in range(shape.columns):
            gap = 0.7 if column >= shape.lanes else 0
            strong = row == 3
            _square(axes, left + column * size, top - row * size, size, theme.teal, theme, strong=strong, gap=gap)
    right = left + shape.columns * size + 0.7
    axes.text(3, top + size + 0.8, "input: one number of each\nposition, broadcast", va="bottom", fontsize=9.5,
              color=theme.amber)  # fmt: skip
    axes.text(left, 39.2, "weights: two vectors of 8 output channels", va="bottom", fontsize=9.5, color=theme.blue)
    axes.text(
        left, top - (shape.rows - 1) * size - 1.2,
        f"{shape.rows} × {shape.columns} sums, in {2 * shape.rows} registers", va="top", fontsize=9.5,
        color=theme.teal,
    )  # fmt: skip
    bottom = top - (shape.rows - 1) * size
    arrow(axes, (3, bottom - 1.6), (3 + depth * size, bottom - 1.6), theme)
    axes.text(3, bottom - 2.4, "depth: input channels", va="top", fontsize=8.5, color=theme.muted)
    axes.text(
        33, 3.6, "each step: 2 loads, 6 broadcasts, 12 multiply-adds of 8 numbers = 192 operations",
        ha="center", va="center", fontsize=9.5,
    )  # fmt: skip
    assert right < 66
    return made


def _square(
    axes: Axes, x: float, y: float, size: float, colour: str, theme: Theme, *, strong: bool, gap: float = 0
) -> None:
    axes.add_patch(
        Rectangle(
            (x + gap, y), size, size, facecolor=colour, alpha=1.0 if strong else 0.28, edgecolor=theme.page, lw=1
        )
    )


def registers(theme: Theme) -> Figure:
    """What lies in the vector registers, for each kind of processor."""
    made = figure(2.7, theme)
    axes = canvas(made, 66, 27)
    for k, (name, shape) in enumerate(BLOCKS.items()):
        y = 20.5 - 5.0 * k
        axes.text(0.8, y + 1.4, _NAMES[name], va="bottom", fontsize=10)
        axes.text(0.8, y + 1.1, f"{shape.rows} × {shape.columns}", va="top", fontsize=8.5, color=theme.muted)
        sums = 2 * shape.rows
        width = 1.68
        for n in range(_REGISTERS[name]):
            colour = theme.line
            if n < sums:
                colour = theme.teal
            elif n < sums + 2:
                colour = theme.blue
            elif n < sums + 3:
                colour = theme.amber
            axes.add_patch(Rectangle((11.4 + n * width, y - 0.4), width - 0.25, 3.0, color=colour, lw=0))
    x = 11.4
    for colour, text, step in (
        (theme.teal, "sums", 9), (theme.blue, "weights", 11.5), (theme.amber, "broadcast", 13), (theme.line, "free", 0),
    ):  # fmt: skip
        axes.add_patch(Rectangle((x, 25.0), 1.5, 1.5, color=colour, lw=0))
        axes.text(x + 2.2, 25.75, text, va="center", fontsize=9)
        x += step
    return made
