"""The common part of the figures: two themes, a size, and files that come out the same every time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

WIDTH = 6.6
"""Inches. Narrow, so that the text can still be read on a phone."""


@dataclass(frozen=True)
class Theme:
    """Colours on a light or on a dark page; the figure's own background is the page's."""

    name: str
    text: str
    muted: str
    line: str
    panel: str
    page: str
    blue: str
    amber: str
    teal: str
    violet: str
    red: str

    @property
    def four(self) -> tuple[str, str, str, str]:
        return self.blue, self.amber, self.teal, self.violet


THEMES = (
    Theme(
        "light", "#1f2933", "#64707d", "#c3cad3", "#eef1f5", "#ffffff",
        "#3b72c4", "#e09a24", "#2a9d8f", "#8a63c9", "#d1495b",
    ),
    Theme(
        "dark", "#e4e8ee", "#9aa5b4", "#4a5568", "#2a3140", "#1e2129",
        "#6aa3f5", "#f0b24f", "#4fc7b6", "#b394ec", "#f07a89",
    ),
)  # fmt: skip

_SETTINGS = {
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "font.size": 11,
    "svg.fonttype": "path",
    "svg.hashsalt": "d2np",
    "path.simplify": True,
}


def figure(height: float, theme: Theme) -> Figure:
    plt.rcdefaults()
    plt.rcParams.update(_SETTINGS)
    plt.rcParams.update({"text.color": theme.text, "axes.labelcolor": theme.text})
    plt.rcParams.update({"xtick.color": theme.muted, "ytick.color": theme.muted})
    plt.rcParams.update({"axes.edgecolor": theme.line, "axes.facecolor": "none"})
    return plt.figure(figsize=(WIDTH, height))


def canvas(made: Figure, x: float, y: float) -> Axes:
    """All of the figure as one drawing, ``x`` by ``y`` units."""
    axes = made.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, x), ylim=(0, y))
    axes.set_aspect("equal")
    axes.axis("off")
    return axes


def bare(axes: Axes) -> None:
    """No frame but the lines at the left and below."""
    axes.spines[["top", "right"]].set_visible(False)


def box(
    axes: Axes,
    x: float,
    y: float,
    width: float,
    height: float,
    colour: Any,
    *,
    alpha: float = 1,
    edge: str = "none",
) -> None:
    """A filled rectangle; ``edge`` is the colour of a thin line around it."""
    axes.add_patch(Rectangle((x, y), width, height, facecolor=colour, alpha=alpha, edgecolor=edge, lw=1))


def label(
    axes: Axes, x: float, y: float, text: str, colour: str, size: float = 10, place: str = "left top"
) -> None:
    """Text at a point; ``place`` says which of its sides are there."""
    across, down = place.split()
    axes.text(x, y, text, color=colour, fontsize=size, ha=across, va=down, linespacing=1.3)


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], theme: Theme) -> None:
    shape = {"arrowstyle": "-|>", "color": theme.muted, "lw": 1.4, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", end, start, arrowprops=shape)


def save(made: Figure, folder: Path, name: str, theme: Theme) -> Path:
    path = folder / f"{name}-{theme.name}.svg"
    made.savefig(path, transparent=True, metadata={"Date": None, "Creator": None})
    plt.close(made)
    # Matplotlib ends some lines with blanks.
    path.write_text("\n".join(line.rstrip() for line in path.read_text().splitlines()) + "\n")
    return path
