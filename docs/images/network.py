"""Draw the network as slabs, and the positions of the cells of its map."""

from __future__ import annotations

import math

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Polygon
from style import Theme, arrow, box, canvas, figure, label

from d2np.layers import output_sizes

_IMAGE = (480, 640)


def layers(theme: Theme) -> Figure:
    """Draw each layer's output as a slab: its height shows rows, its thickness channels."""
    made = figure(4.3, theme)
    axes = canvas(made, 132, 86)
    colours = {"convolution": theme.blue, "max_pooling": theme.amber, "average_pooling": theme.teal}
    sizes = [("image", "image", 3, *_IMAGE, 1)]
    sizes += [
        (layer.name, layer.type, layer.out_channels, rows, columns, layer.dilation)
        for layer, rows, columns in output_sizes(*_IMAGE)
        if layer.type != "relu"
    ]
    x, centre = 5.0, 46.0
    for name, kind, channels, rows, columns, dilation in sizes:
        thickness = 0.14 * math.sqrt(channels) + 0.7
        height = 46 * (rows / _IMAGE[0]) ** 0.72
        depth = 0.17 * height * columns / rows
        colour = theme.muted if kind == "image" else colours[kind]
        colour = theme.violet if dilation > 1 else colour
        _slab(axes, x, centre - height / 2, thickness, height, depth, colour, theme)
        axes.text(
            x + thickness / 2, centre - 24.6, name, rotation=90, ha="center", va="top", fontsize=8.5,
            color=theme.muted,
        )  # fmt: skip
        if name in ("conv1_1", "conv2_1", "conv3_1", "conv4_1"):
            top = centre + height / 2 + depth / 2 + 1.2
            text = f"{columns} × {rows}\n{channels} channels"
            label(axes, x + thickness / 2, top, text, theme.text, 9, "left bottom")
        x += thickness + depth * 0.62 + 2.2
    for left, top, colour, text in (
        (5, 4.4, theme.blue, "3 × 3 convolution, ReLU"),
        (5, 0.8, theme.violet, "the same, every 2nd cell"),
        (68, 4.4, theme.amber, "maximum of 2 × 2"),
        (68, 0.8, theme.teal, "average of 2 × 2"),
    ):
        box(axes, left, top, 2.4, 2.4, colour)
        label(axes, left + 3.6, top + 1.2, text, theme.text, 9.5, "left center")
    return made


def _slab(
    axes: Axes, x: float, y: float, thickness: float, height: float, depth: float, colour: str, theme: Theme
) -> None:
    """A box seen from the left and from above; ``depth`` is what is seen of the map's width."""
    rise = depth * 0.5
    faces = (
        ([(x, y), (x + thickness, y), (x + thickness, y + height), (x, y + height)], 1.0),
        ([(x, y + height), (x + thickness, y + height), (x + thickness + depth, y + height + rise),
          (x + depth, y + height + rise)], 0.75),
        ([(x + thickness, y), (x + thickness + depth, y + rise), (x + thickness + depth, y + height + rise),
          (x + thickness, y + height)], 0.5),
    )  # fmt: skip
    for corners, alpha in faces:
        axes.add_patch(Polygon(corners, facecolor=theme.page, edgecolor="none"))
        axes.add_patch(Polygon(corners, facecolor=colour, alpha=alpha, edgecolor=theme.page, lw=0.6))


def cells(theme: Theme) -> Figure:
    """Pixels of an image, and the cells of the map between them."""
    made = figure(3.5, theme)
    axes = canvas(made, 22, 11.6)
    top = 10.2
    for row in range(10):
        for column in range(14):
            box(axes, column + 1, top - row - 1, 1, 1, theme.panel, edge=theme.line)
    for i in range(2):
        for j in range(3):
            x, y = 1.5 + 4 * j + 1.5, top - 0.5 - (4 * i + 1.5)
            axes.add_patch(Circle((x, y), 0.36, color=theme.blue))
            label(axes, x, y + 0.55, f"{i}, {j}", theme.blue, 9, "center bottom")
            axes.add_patch(Circle((x + 2, y - 2), 0.3, facecolor="none", edgecolor=theme.amber, lw=2))
    axes.add_patch(Circle((1.5, top - 0.5), 0.13, color=theme.text))
    for y, colour, text in (
        (top - 0.6, theme.text, "(0, 0): the centre of\nthe top-left pixel"),
        (top - 3.4, theme.blue, "cell i, j as published:\nx = 4 j + 1.5\ny = 4 i + 1.5"),
        (top - 7.2, theme.amber, "its true centre, 2 px\nfurther: centered=True"),
    ):
        label(axes, 15.7, y, text, colour)
    arrow(axes, (15.5, top - 1.0), (1.8, top - 0.52), theme)
    return made
