"""Draw what a cell's 512 channels look at, from the analytic weights."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from style import Theme, box, canvas, figure, label

ARRAYS = runpy.run_path(str(Path(__file__).parents[2] / "weights" / "analytic.py"))["arrays"]


def _sources() -> dict[tuple[int, int], list[tuple[int, float]]]:
    """By place, (row, column) in cells: channels of conv3_3 that are looked at there, and their weights."""
    arrays = ARRAYS()
    found: dict[tuple[int, int], list[tuple[int, float]]] = {}
    for to in range(512):
        channel, row, column, gain = to, 0, 0, 1.0
        for layer in ("conv4_3", "conv4_2", "conv4_1"):
            taps = arrays[f"{layer}/weight"][channel]
            # The frame's channel has negative weights; a window's channel has one positive tap a layer.
            sources, rows, columns = np.nonzero(taps > 0)
            if len(sources) != 1:
                break
            gain *= float(taps[sources[0], rows[0], columns[0]])
            channel = int(sources[0])
            row, column = row + 2 * (int(rows[0]) - 1), column + 2 * (int(columns[0]) - 1)
        else:
            found.setdefault((row, column), []).append((channel, gain))
    return found


def window(theme: Theme) -> Figure:
    """The window around a cell: histograms of orientations, and blobs of luminance and of colours."""
    made = figure(4.1, theme)
    axes = canvas(made, 66, 41)
    places = _sources()
    step, centre = 2.55, (20.0, 20.5)
    for row in range(-7, 8):
        for column in range(-7, 8):
            x, y = centre[0] + (column - 0.5) * step, centre[1] - (row + 0.5) * step
            own = row == column == 0
            box(axes, x, y, step, step, theme.panel if own else "none", edge=theme.line)
    strongest = max(gain for channels in places.values() for channel, gain in channels if channel < 8)
    for (row, column), channels in places.items():
        x, y = centre[0] + column * step, centre[1] - row * step
        for channel, gain in channels:
            if channel < 8:
                angle, length = 2 * np.pi * channel / 8, 2.4 * (gain / strongest) ** 0.6
                ends = [x, x + length * np.cos(angle)], [y, y - length * np.sin(angle)]
                axes.plot(*ends, color=theme.blue, lw=1.5, solid_capstyle="round")
        kinds = {("luminance" if channel < 10 else "colour") for channel, _ in channels if channel >= 8}
        if "colour" in kinds:
            axes.add_patch(Circle((x, y), 0.9, fill=False, edgecolor=theme.amber, lw=1.6, zorder=3))
        if "luminance" in kinds:
            axes.add_patch(Circle((x, y), 0.4, color=theme.text, lw=0, zorder=3))

    def count(first: int, last: int) -> int:
        """Places that one of these channels is looked at in."""
        return sum(any(first <= channel < last for channel, _ in channels) for channels in places.values())

    for y, colour, text, number in (
        (36, theme.blue, "histogram of 8\norientations", count(0, 8)),
        (27, theme.amber, "colour blobs: red,\ngreen, blue, yellow", count(10, 14)),
        (18, theme.text, "luminance blobs:\nbright, dark", count(8, 10)),
    ):
        label(axes, 43.5, y, text, colour)
        label(axes, 43.5, y - 4.4, f"at {number} places", theme.muted, 9)
    channels = sum(map(len, places.values()))
    label(axes, 43.5, 8.4, f"{channels} channels; a square\nis a cell, 4 × 4 pixels", theme.muted, 9)
    return made
