"""Draw the parts of d2np and which of them import which."""

from __future__ import annotations

import imports
from matplotlib.figure import Figure
from style import Theme, arrow, box, canvas, figure, label

# Where each part stands across, in units of the drawing, and its contents.
_PARTS = {
    "cli": (50, "commands"),
    "opencv": (12, "Feature2D"),
    "dataset": (45, "many images"),
    "demo": (66, "a known view"),
    "training": (88, "loss, gradient"),
    "draw": (12, "drawings, pages"),
    "formats": (34, "features as files"),
    "network": (82, "image to features"),
    "matching": (46, "neighbours"),
    "verification": (66, "inliers"),
    "images": (24, "open, check, resize"),
    "weights": (88, "read, write, fetch"),
    "kernels": (74, "Numba, arrays only"),
    "reference": (20, "all in plain NumPy"),
}
_WIDTH, _HEIGHT, _STEP = 19.0, 6.4, 12.4


def parts(theme: Theme) -> Figure:
    """Draw each part on its level, and arrows for its imports; those that follow from others are left out."""
    rows = len(imports.LEVELS)
    made = figure(0.72 * rows + 0.75, theme)
    axes = canvas(made, 100, _STEP * rows + 10)
    direct = _between_parts()
    colours = dict(zip(("cli", "draw", "dataset", "network"), theme.four, strict=True))
    places = {
        name: (_PARTS[name][0], _STEP * (rows - row) + 2)
        for row, names in enumerate(imports.LEVELS)
        for name in names
    }
    for name, others in direct.items():
        for other in others - _reached(others, direct):
            (x, y), (a, b) = places[name], places[other]
            arrow(axes, (x, y), (a - (a - x) * 0.12, b + _HEIGHT / 2), theme)
    for line in axes.texts:
        line.set_zorder(0)  # below the boxes
    for name, (x, y) in places.items():
        colour = colours.get(name, theme.muted)
        box(axes, x - _WIDTH / 2, y - _HEIGHT / 2, _WIDTH, _HEIGHT, theme.page)
        box(axes, x - _WIDTH / 2, y - _HEIGHT / 2, _WIDTH, _HEIGHT, colour, alpha=0.16, edge=colour)
        label(axes, x, y + 0.3, name, theme.text, 10.5, "center bottom")
        label(axes, x, y - 0.2, _PARTS[name][1], theme.muted, 8, "center top")
    base = ", ".join(sorted(imports.BASE))
    label(axes, 50, 5.4, f"used by all: {base}", theme.muted, 7.5, "center top")
    return made


def _between_parts() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {name: set() for names in imports.LEVELS for name in names}
    for module, others in imports.imports().items():
        if (name := imports.part(module)) in found:
            found[name] |= {imports.part(other) for other in others} & set(found) - {name}
    return found


def _reached(names: set[str], direct: dict[str, set[str]]) -> set[str]:
    """Return what the imports of some parts lead to."""
    found: set[str] = set()
    for name in names:
        found |= direct[name] | _reached(direct[name], direct)
    return found
