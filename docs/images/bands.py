"""Draw what a row of the map needs of each layer, and what must be kept."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from style import Theme, bare, figure

from d2np.layers import LAYERS, Layer, output_sizes

_HEIGHT, _WIDTH = 1200, 1600


def _needed(row: int) -> list[tuple[str, int, int, int]]:
    """Return what one row of the map needs, from the image on: name, first and last row, pixels a row."""
    first = last = row
    found = []
    step = 4
    for layer in reversed(LAYERS):
        found.append((layer.name, first, last, step))
        if layer.type == "relu":
            continue
        step //= layer.stride
        first = first * layer.stride - layer.padding
        last = last * layer.stride - layer.padding + layer.dilation * (layer.kernel - 1)
    found.append(("image", first, last, step))
    return [each for each in reversed(found) if not each[0].startswith("relu")]


def reach() -> int:
    """Return how many rows of the image one row of the map depends on."""
    _, first, last, _ = _needed(40)[0]
    return last - first + 1


def cone(theme: Theme) -> Figure:
    """The rows that two rows of the map need, layer by layer."""
    made = figure(4.1, theme)
    axes = made.add_axes((0.1, 0.23, 0.87, 0.66))
    bare(axes)
    rows = (40, 46)
    for row, colour in zip(rows, (theme.blue, theme.amber), strict=True):
        needed = _needed(row)
        x = np.arange(len(needed))
        upper = [first * step for _, first, _, step in needed]
        lower = [(last + 1) * step for _, _, last, step in needed]
        axes.fill_between(x, upper, lower, color=colour, alpha=0.3, lw=0, step=None)
        axes.plot(x, upper, color=colour, lw=1.6)
        axes.plot(x, lower, color=colour, lw=1.6)
        axes.annotate(
            f"row {row}", (x[-1], row * 4 + 2), (4, 0), textcoords="offset points", va="center",
            color=colour, annotation_clip=False, fontsize=10,
        )  # fmt: skip
    names = [name for name, *_ in _needed(40)]
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=9.5)
    axes.set(xlim=(-0.3, len(names) - 0.1), ylabel="rows of the image")
    axes.invert_yaxis()
    axes.set_title(
        f"One row of the map depends on {reach()} rows of pixels", loc="left", fontsize=11, color=theme.text
    )
    axes.text(4.1, 176, "what both need is\nkept, and computed\nonce", ha="center", va="center", fontsize=9.5)
    return made


def memory(theme: Theme) -> Figure:
    """Megabytes of each layer's output at 1600 x 1200: all of it, and the rows that a layer behind keeps."""
    made = figure(4.2, theme)
    axes = made.add_axes((0.16, 0.13, 0.72, 0.75))
    bare(axes)
    shown = [(layer, *size) for layer, *size in output_sizes(_HEIGHT, _WIDTH) if layer.type != "relu"]
    kept = {layer.name: _kept(behind) for layer, behind in zip(_working(), _working()[1:], strict=False)}
    names = []
    for k, (layer, rows, columns) in enumerate(shown):
        row = columns * layer.out_channels * 4 / 1e6
        whole = rows * row
        axes.barh(k, whole, color=theme.line, height=0.72)
        axes.barh(k, kept.get(layer.name, 2) * row, color=theme.amber, height=0.72)
        axes.text(whole + 6, k, f"{whole:.0f}", va="center", fontsize=9, color=theme.muted)
        names.append(layer.name)
    axes.set_yticks(range(len(names)), names, fontsize=9.5)
    axes.invert_yaxis()
    axes.set_xlabel("MB at 1600 × 1200", fontsize=10)
    held = [kept.get(layer.name, 2) * columns * layer.out_channels * 4 for layer, _, columns in shown]
    title = f"Whole outputs, and the rows that must be kept (in all {sum(held) / 1e6:.0f} MB)"
    axes.set_title(title, loc="left", fontsize=11, color=theme.text, x=-0.2)
    return made


def _working() -> list[Layer]:
    return [layer for layer in LAYERS if layer.type != "relu"]


def _kept(layer: Layer) -> int:
    """Rows of its input that a layer needs for one row of its output."""
    return layer.dilation * (layer.kernel - 1) + 1
