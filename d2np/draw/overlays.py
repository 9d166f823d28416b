"""Keypoints over their image, and matches between two images."""

from __future__ import annotations

from math import ceil, sqrt
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from ..errors import FormatError, OptionError, count
from ..features import Features, Matches, check_indices, checked
from ..images.open import open_rgb
from ..options import ColourMap, whole_number
from .canvas import Canvas
from .colours import Colour, colour_map, ranks, stretched
from .legend import BACKGROUND, Item, colour_bar, drawn_at, with_legend

_CORRECT: Colour = (70, 236, 112)
_WRONG: Colour = (255, 82, 36)
_OUTLINE: Colour = (12, 12, 16)
# Outliers are there for whoever looks for them, and leave the eye to the inliers.
_OUTLIER_STRENGTH = 0.35

# Below this longest edge an image is enlarged, so that circles and lines do not hide all of it.
_SMALL = 400
# More than this would only show the blur of the enlargement.
_MOST_ENLARGED = 8
# Where in the colour map the lowest score and the least similar match lie.
_LOWEST = 0.3
# Two images side by side wider than this in relation to their height are put one above the other: two of
# 3:1 each.
_WIDEST = 6.0
# The smaller image's longest edge is at least this share of the larger one's.
_SMALLEST_SHARE = 0.25
# How much of the image all lines together may cover, counted without their overlaps; and the part of it
# that the correct or the wrong ones get at least.
_INK = 0.22
_SMALLEST_INK_SHARE = 0.3

_Looks: TypeAlias = tuple[NDArray[Any], NDArray[Any], NDArray[Any], list[NDArray[Any]]]


def keypoints(
    image: Any,
    features: Features,
    *,
    colours: ColourMap | ArrayLike = "viridis",
    orient: bool = False,
    caption: str | None = None,
) -> Image.Image:
    """Draw circles over the image, the best ones brightest and on top.

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
    factor = _enlargement(max(width, height))
    canvas = Canvas(_resized(pixels, (width * factor, height * factor)))
    positions = _positions(features, (canvas.width, canvas.height))

    line = max(1.5, max(canvas.width, canvas.height) / 560)
    # Circles as large as is comfortable, until there are so many that neighbours would overlap too much.
    room = 0.42 * sqrt(canvas.width * canvas.height / max(1, len(features)))
    radius = max(2.0 * line, min(4.2 * line, room))
    scales = features.keypoints[:, 2].astype(np.float64)
    radii = radius * np.clip(scales, 0.25, 8.0)

    # Equal scores keep the order of the features: the earlier one ends up on top.
    for k in np.argsort(-features.scores, kind="stable")[::-1]:
        opacity = 0.7 + 0.3 * rank[k]
        canvas.ring(positions[k], radii[k], line + 1.6, _OUTLINE, 0.7 * opacity)
        canvas.ring(positions[k], radii[k], line, inks[k], opacity)
    if caption is None:
        return Image.fromarray(canvas.pixels)
    caption += drawn_at(factor)
    bar: list[Item] = []
    if len(features):
        if scales.min() < scales.max():
            caption += f", circles: scale {scales.min():.3g} to {scales.max():.3g}"
        if isinstance(colours, str):
            low, high = f"{features.scores.min():.4g}", f"{features.scores.max():.4g}"
            bar = colour_bar("score, by rank:", low, high, colours, _LOWEST)
    return with_legend(canvas.pixels, [count(len(features), "keypoint")], bar, caption)


def matches(
    image_a: Any,
    image_b: Any,
    features_a: Features,
    features_b: Features,
    matches: Matches,
    *,
    correct: ArrayLike | None = None,
    colours: ColourMap = "viridis",
    max_size: int | None = 4096,
    orient: bool = False,
    caption: str | None = None,
) -> Image.Image:
    """Draw two images side by side (wide panoramas: one above the other) with a line for each match.

    The colour tells the similarity, over the range that occurs; the most similar matches are on top. The
    more lines there are the thinner and the more transparent they get. Dots at their ends grow with the scale
    of the keypoint. Where the matches have been verified, that goes for the inliers; the outliers are faint
    red lines below them.

    Parameters
    ----------
    image_a, image_b : path, PIL.Image.Image or array
        The images that the features were extracted from.
    features_a, features_b : Features
    matches : Matches
    correct : (M,) bool, optional
        Which matches are right, where that is known: these are drawn green, the others red-orange on top,
        whatever ``matches.inliers`` says.
    colours : {"viridis", "plasma", "inferno", "magma"}
        The colour map.
    max_size : int, optional
        Both images are reduced by the same factor where they would be wider or higher than this together;
        the legend comes below. ``None`` keeps their size.
    orient : bool
        Turn the images as their EXIF data says; as it was chosen at extraction.
    caption : str, optional
        What a second row of the legend begins with, such as the weights; it goes on with the size at which
        the images are drawn, if that is another one than their own.

    Returns
    -------
    PIL.Image.Image
        RGB.

    Raises
    ------
    FormatError
        If the features belong to images of other sizes, if a match names a keypoint that does not exist,
        if ``correct`` does not fit the matches, or if numbers are not finite.
    ImageError
        If an image cannot be read.
    OptionError
        If the colour map is unknown or ``max_size`` is no positive number.
    """
    if max_size is not None:
        whole_number("max_size", max_size)
    both = features_a, features_b
    images = open_pair((image_a, image_b), both, matches, orient=orient)
    known = None if correct is None else checked("correct", correct, np.bool_, (len(matches),))

    canvas, corners, sizes = _sheet(images, max_size)
    ends, scales = [], []
    for side, features in enumerate(both):
        chosen = matches.indices[:, side]
        ends.append(corners[side] + _positions(features, sizes[side])[chosen])
        scales.append(np.clip(features.keypoints[chosen, 2].astype(np.float64), 0.5, 4.0))
    _draw_matches(canvas, ends, scales, _looks(matches, known, colours))
    if caption is not None:
        caption += drawn_at(*(size[0] / pixels.shape[1] for size, pixels in zip(sizes, images, strict=True)))
    return with_legend(canvas.pixels, *_legend(matches, known, colours), caption or "")


def open_for(image: Any, features: Features, *, orient: bool, which: str) -> NDArray[np.uint8]:
    """Return the image, once it is sure that the features are numbers and lie in an image of its size."""
    if not isinstance(features, Features):
        raise FormatError(f"{which} must be d2np.Features; got {type(features).__name__}")
    pixels = open_rgb(image, orient=orient)
    height, width = pixels.shape[:2]
    if features.image_size != (width, height):
        raise FormatError(
            f"{which} belong to an image of {features.image_size[0]} x {features.image_size[1]} pixels; "
            f"this one has {width} x {height}"
        )
    if not (np.isfinite(features.keypoints).all() and np.isfinite(features.scores).all()):
        raise FormatError(f"{which} hold keypoints or scores that are not finite numbers")
    return pixels


def open_pair(
    images: tuple[Any, Any], features: tuple[Features, Features], matches: Matches, *, orient: bool
) -> list[NDArray[np.uint8]]:
    """Return two images, once it is sure that the matches are numbers and belong to their features."""
    pixels = [
        open_for(image, each, orient=orient, which=which)
        for image, each, which in zip(images, features, ("features_a", "features_b"), strict=True)
    ]
    if not isinstance(matches, Matches) or not np.isfinite(matches.similarities).all():
        raise FormatError("matches must be d2np.Matches whose similarities are finite numbers")
    check_indices(matches, *map(len, features))
    return pixels


def _enlargement(longest_edge: int, wanted: int = _SMALL) -> int:
    """Return the whole factor that brings an edge to the wanted length."""
    return max(1, min(_MOST_ENLARGED, ceil(wanted / longest_edge)))


def _resized(pixels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return the image at another size, smooth when it grows and without aliasing when it shrinks."""
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))


def _positions(features: Features, size: tuple[int, int]) -> NDArray[np.float64]:
    """Return the (N, 2) positions of the keypoints once the image is drawn at a size.

    Pixel centres are whole numbers, so an image begins at -0.5, and that edge stays where it is.
    """
    scale = np.array(size, np.float64) / features.image_size
    positions: NDArray[np.float64] = (features.keypoints[:, :2] + 0.5) * scale - 0.5
    return positions


def _looks(matches: Matches, correct: NDArray[np.bool_] | None, colours: str) -> _Looks:
    """Return how matches are drawn.

    Returns
    -------
    inks : (M, 3) uint8
    lines, dots : (M,) float64
        Opacity in relation to other matches.
    layers : list of (K,) int64
        Positions of the matches in the order in which they are drawn.
    """
    order = np.argsort(-matches.similarities, kind="stable")[::-1]
    everywhere = np.ones(len(matches))
    if correct is not None:
        inks = np.where(correct[:, None], _CORRECT, _WRONG).astype(np.uint8)
        return inks, everywhere, everywhere, [order[correct[order]], order[~correct[order]]]
    inliers = everywhere.astype(bool) if matches.inliers is None else matches.inliers
    value = np.zeros(len(matches))
    value[inliers] = stretched(matches.similarities[inliers])
    inks = colour_map(colours, value, _LOWEST)
    inks[~inliers] = _WRONG
    # The less similar ones recede, the further the more lines there are, but never vanish.
    faintest = float(np.interp(np.log10(max(1, inliers.sum())), [1, 3], [0.75, 0.4]))
    lines = np.where(inliers, faintest + (1 - faintest) * value, _OUTLIER_STRENGTH)
    dots = np.where(inliers, 1.0, _OUTLIER_STRENGTH)
    return inks, lines, dots, [order[~inliers[order]], order[inliers[order]]]


def _draw_matches(
    canvas: Canvas, ends: list[NDArray[np.float64]], scales: list[NDArray[np.float64]], looks: _Looks
) -> None:
    """Draw all lines, and then the dots at their ends."""
    inks, lines, dots, layers = looks
    total = max(1, len(inks))
    unit = max(1.0, max(canvas.width, canvas.height) / 1200)
    width, radius = (
        unit * float(np.interp(np.log10(total), [1, 2, 3], sizes))
        for sizes in ([1.8, 1.3, 1.0], [3.2, 2.4, 1.5])
    )
    opacity = np.zeros(len(inks))
    for layer in layers:
        # A few wrong lines among thousands of correct ones get more than their share, and so stay clear.
        share = max(_SMALLEST_INK_SHARE, len(layer) / total)
        area = width * np.linalg.norm(ends[1][layer] - ends[0][layer], axis=1).sum()
        opacity[layer] = np.clip(_INK * share * canvas.width * canvas.height / max(1.0, area), 0.06, 0.9)
    order = np.concatenate(layers)
    for k in order:
        alpha = opacity[k] * lines[k]
        if opacity[k] > 0.5:
            canvas.line(ends[0][k], ends[1][k], width + 1.4, _OUTLINE, 0.4 * alpha)
        canvas.line(ends[0][k], ends[1][k], width, inks[k], alpha)
    for k in order:
        alpha = min(1.0, 0.5 + opacity[k]) * dots[k]
        for side in (0, 1):
            canvas.disc(ends[side][k], radius * scales[side][k] + 0.8, _OUTLINE, 0.5 * alpha)
            canvas.disc(ends[side][k], radius * scales[side][k], inks[k], alpha)


def _sheet(
    images: list[NDArray[np.uint8]], max_size: int | None
) -> tuple[Canvas, NDArray[np.int64], NDArray[np.int64]]:
    """Return a canvas with two images, and where on it these begin and how large they are, as (x, y)."""
    sizes = np.array([pixels.shape[1::-1] for pixels in images], dtype=np.float64)
    longest = sizes.max(axis=1)
    # One factor for both keeps their relative scale; only a thumbnail beside a large image grows more.
    sizes *= _enlargement(int(longest.max()))
    for k in range(2):
        sizes[k] *= _enlargement(int(longest[k]), int(_SMALLEST_SHARE * longest.max()))
    is_stacked = sizes[:, 0].sum() > _WIDEST * sizes[:, 1].max()
    along, across = (1, 0) if is_stacked else (0, 1)
    gap = max(4, round(0.006 * sizes[:, along].sum()))
    whole = max(sizes[:, along].sum() + gap, sizes[:, across].max())
    if max_size is not None and whole > max_size:
        sizes *= max(0.0, max_size - gap) / (whole - gap)
    # Rounded down: the sum must not exceed the limit.
    whole_sizes = np.maximum(sizes.astype(np.int64), 1)
    edges = whole_sizes.max(axis=0)
    edges[along] = whole_sizes[:, along].sum() + gap
    corners = (edges - whole_sizes) // 2
    corners[:, along] = 0, whole_sizes[0, along] + gap
    canvas = Canvas(np.full((edges[1], edges[0], 3), BACKGROUND, np.uint8))
    for pixels, (x, y), (width, height) in zip(images, corners, whole_sizes, strict=True):
        canvas.pixels[y : y + height, x : x + width] = _resized(pixels, (width, height))
    return canvas, corners, whole_sizes


def _legend(
    matches: Matches, correct: NDArray[np.bool_] | None, colours: str
) -> tuple[list[Item], list[Item]]:
    """Return the left and the right side of the legend."""
    total = len(matches)
    if not total:
        return ["no matches"], []
    found = count(total, "match")
    if correct is not None:
        good = int(correct.sum())
        share = f"{good} correct ({good / total:.0%})"
        return [found], [_square(_CORRECT), share, "", _square(_WRONG), f"{total - good} wrong"]
    if matches.inliers is None:
        return [f"{found}, not verified"], _similarities(matches.similarities, colours)
    good = int(matches.inliers.sum())
    agreement = f"{count(good, 'inlier')} ({good / total:.0%})"
    if matches.evidence is not None and not matches.evidence.sufficient:
        agreement = "no geometric agreement"
    items: list[Item] = [] if good == total else [_square(_WRONG), count(total - good, "outlier"), ""]
    return [found, agreement], [*items, *_similarities(matches.similarities[matches.inliers], colours)]


def _similarities(similarities: NDArray[np.float32], colours: str) -> list[Item]:
    """Return the range that the colours tell."""
    if not len(similarities):
        return []
    low, high = f"{similarities.min():.3f}", f"{similarities.max():.3f}"
    return colour_bar("similarity", low, high, colours, _LOWEST)


def _square(colour: Colour) -> NDArray[np.uint8]:
    return np.array([colour], np.uint8)


def _inks(colours: str | ArrayLike, rank: NDArray[np.float64]) -> NDArray[np.integer]:
    if isinstance(colours, str):
        return colour_map(colours, rank, lowest=_LOWEST)
    inks = np.asarray(colours)
    is_known = inks.dtype.kind in "iu" and inks.shape in ((3,), (len(rank), 3))
    if not is_known or inks.min(initial=0) < 0 or inks.max(initial=0) > 255:
        raise OptionError(
            f"colours must be the name of a colour map or RGB integers in 0..255 of shape (3,) or "
            f"({len(rank)}, 3); got {inks.dtype} {inks.shape}"
        )
    return np.broadcast_to(inks, (len(rank), 3))
