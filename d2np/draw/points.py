"""Keypoints over their image."""

from __future__ import annotations

from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from ..errors import OptionError
from ..features import Features
from ..options import ColourMap
from .backdrop import enlargement, open_for, resized, scaled_positions
from .canvas import Canvas
from .colours import Colour, colour_map, ranks
from .legend import Bar, Item, Legend, drawn_at, number, text_size

_OUTLINE: Colour = (12, 12, 16)
# Where in the colour map the lowest score lies.
_LOWEST = 0.3


def keypoints(
    image: Any,
    features: Features,
    *,
    colours: ColourMap | ArrayLike = "viridis",
    orient: bool = False,
    caption: str | None = None,
) -> Image.Image:
    """Circles over the image, the best ones brightest and on top.

    The radius is proportional to the keypoint's scale (between 1/4 and 8). An image whose longest edge is
    below 400 pixels is enlarged by a whole factor, so that the circles leave something of it to see.

    Parameters
    ----------
    image : path, PIL.Image.Image or array
        The image that the features were extracted from.
    features : Features
    colours : {"viridis", "plasma", "inferno", "magma"}, (3,) or (N, 3) integers
        A colour map for the rank of the score, or one RGB colour for all keypoints, or one for each.
    orient : bool
        Turn the image as its EXIF data says; as it was chosen at extraction.
    caption : str, optional
        Add a legend below the image: how many keypoints, which colour is which score, this text, and the size
        at which the image is drawn, if that is not its own.

    Returns
    -------
    PIL.Image.Image
        RGB.

    Raises
    ------
    FormatError
        If the features belong to an image of another size, or are not finite.
    ImageError
        If the image cannot be read.
    OptionError
        If the colours are neither a known map nor fit the keypoints.
    """
    pixels = open_for(image, features, orient=orient, which="features")
    rank = ranks(features.scores)
    inks = _inks(colours, rank)

    height, width = pixels.shape[:2]
    factor = enlargement(max(width, height))
    canvas = Canvas(resized(pixels, width * factor, height * factor))
    positions = scaled_positions(features, pixels, canvas.width, canvas.height)

    line = max(1.5, max(canvas.width, canvas.height) / 560)
    # Circles as large as is comfortable, until there are so many that neighbours would overlap too much.
    room = 0.42 * sqrt(canvas.width * canvas.height / max(1, len(features)))
    radius = max(2.0 * line, min(4.2 * line, room))
    radii = radius * np.clip(features.keypoints[:, 2].astype(np.float64), 0.25, 8.0)

    # Equal scores keep the order of the features: the earlier one ends up on top.
    for k in np.argsort(-features.scores, kind="stable")[::-1]:
        x, y = positions[k]
        ink: Colour = tuple(int(channel) for channel in inks[k])  # type: ignore[assignment]
        opacity = 0.7 + 0.3 * rank[k]
        canvas.ring(x, y, radii[k], line + 1.6, _OUTLINE, 0.7 * opacity)
        canvas.ring(x, y, radii[k], line, ink, opacity)
    if caption is None:
        return canvas.to_image()
    return _legend(features, colours, canvas.width, caption + drawn_at(factor)).below(canvas.pixels)


def _legend(features: Features, colours: str | ArrayLike, width: int, caption: str) -> Legend:
    left: list[Item] = [number(len(features), "keypoint")]
    if not len(features):
        return Legend(left, [], text_size(width), caption)
    low, high = features.keypoints[:, 2].min(), features.keypoints[:, 2].max()
    if low < high:
        caption += f", circles: scale {low:.3g} to {high:.3g}"
    right: list[Item] = []
    if isinstance(colours, str):
        gradient = colour_map(colours, np.linspace(0.0, 1.0, 256), lowest=_LOWEST)
        low, high = features.scores.min(), features.scores.max()
        right = [f"score, by rank: {low:.4g}", Bar(gradient, wide=True), f"{high:.4g}"]
    return Legend(left, right, text_size(width), caption)


def _inks(colours: str | ArrayLike, rank: NDArray[np.float64]) -> NDArray[np.integer]:
    if isinstance(colours, str):
        return colour_map(colours, rank, lowest=_LOWEST)
    inks = np.asarray(colours)
    if not np.issubdtype(inks.dtype, np.integer) or inks.shape not in ((3,), (len(rank), 3)):
        raise OptionError(
            f"colours must be the name of a colour map or RGB integers of shape (3,) or ({len(rank)}, 3); "
            f"got {inks.dtype} {inks.shape}"
        )
    if inks.size and (inks.min() < 0 or inks.max() > 255):
        raise OptionError("colours must lie in 0..255")
    return np.broadcast_to(inks, (len(rank), 3))
