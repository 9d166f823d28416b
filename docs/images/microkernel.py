"""The register block: one step of the micro-kernel, and how many registers a block takes."""

from __future__ import annotations

from matplotlib.figure import Figure
from style import Theme, arrow, box, canvas, figure, label

from d2np.kernels.simd import BLOCKS

_REGISTERS = {"avx512": 32, "avx2": 16, "neon": 32, "sse": 16}
_NAMES = {"avx512": "AVX-512", "avx2": "AVX2", "neon": "NEON", "sse": "SSE"}


def block(theme: Theme) -> Figure:
    """AVX2's block: 6 positions by 2 vectors of 8 channels, in one step along the depth."""
    made = figure(4.3, theme)
    axes = canvas(made, 66, 43)
    shape = BLOCKS["avx2"]
    size, left, top, depth, step = 2.35, 24.0, 22.0, 7, 2
    bottom = top - (shape.rows - 1) * size

    def square(x: float, y: float, colour: str, strong: bool, alpha: float = 0.25) -> None:
        box(axes, x, y, size, size, colour, alpha=1 if strong else alpha, edge=theme.page)

    for row in range(shape.rows):
        for k in range(depth):
            square(
                3 + k * size,
                top - row * size,
                theme.amber,
                k == step and row == 3,
                0.6 if k == step else 0.25,
            )
    for column in range(shape.columns):
        x = left + column * size + (0.7 if column >= shape.lanes else 0)
        for k in range(4):
            square(x, 36.2 - k * size, theme.blue, k == step)
        for row in range(shape.rows):
            square(x, top - row * size, theme.teal, row == 3, 0.5)
    label(
        axes,
        3,
        top + size + 0.8,
        "input: one number of each\nposition, broadcast",
        theme.amber,
        9.5,
        "left bottom",
    )
    label(axes, left, 39.2, "weights: two vectors of 8 output channels", theme.blue, 9.5, "left bottom")
    held = f"{shape.rows} × {shape.columns} sums, in {2 * shape.rows} registers"
    label(axes, left, bottom - 1.2, held, theme.teal, 9.5)
    arrow(axes, (3, bottom - 1.6), (3 + depth * size, bottom - 1.6), theme)
    label(axes, 3, bottom - 2.4, "depth: input channels", theme.muted, 8.5)
    sums = 2 * shape.rows
    work = f"{sums} multiply-adds of {shape.lanes} numbers = {2 * sums * shape.lanes} operations"
    text = f"each step: 2 loads, {shape.rows} broadcasts, {work}"
    label(axes, 33, 3.4, text, theme.text, 9, "center center")
    return made


def registers(theme: Theme) -> Figure:
    """Draw the contents of the vector registers, for each kind of processor."""
    made = figure(2.4, theme)
    axes = canvas(made, 66, 24)
    left, width = 11.4, 1.68
    for k, (name, title) in enumerate(_NAMES.items()):
        shape = BLOCKS[name]
        y = 16.9 - 5.0 * k
        label(axes, 0.8, y + 1.4, title, theme.text, 10, "left bottom")
        label(axes, 0.8, y + 1.1, f"{shape.rows} × {shape.columns}", theme.muted, 8.5)
        colours = [theme.teal] * (2 * shape.rows) + [theme.blue] * 2 + [theme.amber]
        if shape.steps > 1:  # weights of each step, and inputs of four rows
            colours[2 * shape.rows :] = [theme.blue] * 2 * shape.steps + [theme.amber] * 4
        colours += [theme.line] * (_REGISTERS[name] - len(colours))
        for n, colour in enumerate(colours):
            box(axes, left + n * width, y - 0.4, width - 0.25, 3.0, colour)
    legend = ((theme.teal, "sums", 0), (theme.blue, "weights", 9), (theme.amber, "inputs", 20.5))
    for colour, text, x in (*legend, (theme.line, "free", 33.5)):
        box(axes, left + x, 21.4, 1.5, 1.5, colour)
        label(axes, left + x + 2.2, 22.15, text, theme.text, 9, "left center")
    return made
