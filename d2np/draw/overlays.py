"""Keypoints over their image, and matches between two images."""

from __future__ import annotations

from math import ceil, sqrt
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from ..errors import FormatError, count
from ..features import Features, Matches, check_indices, checked
from ..images.open import open_rgb
from .canvas import (
    BACKGROUND,
    LOWEST,
    OUTLINE,
    Canvas,
    Colour,
    Item,
    colour_bar,
    colour_map,
    drawn_at,
    ranks,
    with_legend,
)

_COLOURS = "viridis"
_CORRECT: Colour = (70, 236, 112)
_WRONG: Colour = (255, 82, 36)
# Outliers are there for whoever looks for them, and leave the eye to the inliers.
_OUTLIER_STRENGTH = 0.35

# Below this longest edge an image is enlarged, so that circles and lines do not hide all of it; more than so
# many times would only show the blur.
_SMALL = 400
_MOST_ENLARGED = 8
# Two images are reduced where they would be wider or higher than this together.
_LARGEST = 4096
# Two images side by side wider than this in relation to their height are put one above the other: two of
# 3:1 each.
_WIDEST = 6.0
# How much of the image all lines together may cover, counted without their overlaps.
_INK = 0.22


def keypoints(image: Any, features: Features, *, caption: str | None = None) -> Image.Image:
    """Draw circles over the image, the best ones brightest and on top.

    The radius is proportional to the keypoint's scale (between 1/4 and 8). An image whose longest edge is
    below 400 pixels is enlarged by a whole factor, so that the circles leave something of it to see.

    Parameters
    ----------
    image : path, PIL.Image.Image or array
        The image that the features were extracted from.
    features : Features
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
    """
    opened = open_for(image, features, which="features")
    factor = _enlargement(opened.size)
    size = opened.width * factor, opened.height * factor
    canvas = Canvas(opened.resize(size, Image.Resampling.BICUBIC))
    positions = _positions(features, size)

    line = max(1.5, max(size) / 560)
    # Circles as large as is comfortable, until there are so many that neighbours would overlap too much.
    room = 0.42 * sqrt(size[0] * size[1] / max(1, len(features)))
    scales = features.keypoints[:, 2].astype(np.float64)
    radii = max(2.0 * line, min(4.2 * line, room)) * np.clip(scales, 0.25, 8.0)
    rank = ranks(features.scores)
    inks = colour_map(_COLOURS, rank, LOWEST)

    # Equal scores keep the order of the features: the earlier one ends up on top.
    for k in np.argsort(-features.scores, kind="stable")[::-1]:
        opacity = 0.7 + 0.3 * rank[k]
        canvas.ring(positions[k], radii[k], line + 1.6, OUTLINE, 0.7 * opacity)
        canvas.ring(positions[k], radii[k], line, inks[k], opacity)
    if caption is None:
        return canvas.finished()
    items: list[Item] = [count(len(features), "keypoint")]
    caption += drawn_at(factor)
    if len(features):
        items += colour_bar("score, by rank:", features.scores, ".4g", _COLOURS, LOWEST)
        if scales.min() < scales.max():
            caption += f", circles: scale {scales.min():.3g} to {scales.max():.3g}"
    return with_legend(canvas.finished(), items, caption)


def matches(
    image_a: Any,
    image_b: Any,
    features_a: Features,
    features_b: Features,
    matches: Matches,
    *,
    correct: ArrayLike | None = None,
    caption: str | None = None,
) -> Image.Image:
    """Draw two images side by side (wide panoramas: one above the other) with a line for each match.

    The colour tells the similarity, over the range that occurs; the most similar matches are on top. The
    more lines there are the thinner and the more transparent they get. Dots at their ends grow with the scale
    of the keypoint. Where the matches have been verified, that goes for the inliers; the outliers are faint
    red lines below them. Images that are wider or higher than 4096 pixels together are reduced.

    Parameters
    ----------
    image_a, image_b : path, PIL.Image.Image or array
        The images that the features were extracted from.
    features_a, features_b : Features
    matches : Matches
    correct : (M,) bool, optional
        Which matches are right, where that is known: these are drawn green, the others red-orange on top,
        whatever ``matches.inliers`` says.
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
    """
    both = features_a, features_b
    images = open_pair((image_a, image_b), both, matches)
    known = None if correct is None else checked("correct", correct, np.bool_, (len(matches),))
    canvas, corners, sizes = _sheet(images)
    ends, scales = [], []
    for side, features in enumerate(both):
        chosen = matches.indices[:, side]
        ends.append(corners[side] + _positions(features, sizes[side])[chosen])
        scales.append(np.clip(features.keypoints[chosen, 2].astype(np.float64), 0.5, 4.0))

    total = max(1, len(matches))
    unit = max(1.0, max(canvas.width, canvas.height) / 1200)
    width, radius = (
        unit * float(np.interp(np.log10(total), [1, 2, 3], sizes))
        for sizes in ([1.8, 1.3, 1.0], [3.2, 2.4, 1.5])
    )
    area = width * np.linalg.norm(ends[1] - ends[0], axis=1).sum()
    strongest = float(np.clip(_INK * canvas.width * canvas.height / max(1.0, area), 0.06, 0.9))
    inks, opacities, order = _looks(matches, known)
    for k in order:
        alpha = strongest * opacities[k]
        if strongest > 0.5:
            canvas.line(ends[0][k], ends[1][k], width + 1.4, OUTLINE, 0.4 * alpha)
        canvas.line(ends[0][k], ends[1][k], width, inks[k], alpha)
    for k in order:
        # Dots do not recede, but for those of outliers.
        alpha = min(1.0, 0.5 + strongest) * (1.0 if opacities[k] >= 0.5 else opacities[k])
        for end, scale in zip(ends, scales, strict=True):
            canvas.disc(end[k], radius * scale[k] + 0.8, OUTLINE, 0.5 * alpha)
            canvas.disc(end[k], radius * scale[k], inks[k], alpha)
    if caption is not None:
        caption += drawn_at(sizes[0][0] / images[0].width)
    return with_legend(canvas.finished(), _legend(matches, known), caption or "")


def open_for(image: Any, features: Features, *, which: str) -> Image.Image:
    """Return the image, once it is sure that the features are numbers and lie in an image of its size."""
    if not isinstance(features, Features):
        raise FormatError(f"{which} must be d2np.Features; got {type(features).__name__}")
    opened = Image.fromarray(open_rgb(image))
    if features.image_size != opened.size:
        raise FormatError(
            f"{which} belong to an image of {features.image_size[0]} x {features.image_size[1]} pixels; "
            f"this one has {opened.width} x {opened.height}"
        )
    if not (np.isfinite(features.keypoints).all() and np.isfinite(features.scores).all()):
        raise FormatError(f"{which} hold keypoints or scores that are not finite numbers")
    return opened


def open_pair(
    images: tuple[Any, Any], features: tuple[Features, Features], matches: Matches
) -> list[Image.Image]:
    """Return two images, once it is sure that the matches are numbers and belong to their features."""
    named = zip(images, features, ("features_a", "features_b"), strict=True)
    opened = [open_for(image, each, which=which) for image, each, which in named]
    if not isinstance(matches, Matches) or not np.isfinite(matches.similarities).all():
        raise FormatError("matches must be d2np.Matches whose similarities are finite numbers")
    check_indices(matches, *map(len, features))
    return opened


def _enlargement(size: tuple[int, int]) -> int:
    """Return the whole factor by which a small image is drawn larger."""
    return max(1, min(_MOST_ENLARGED, ceil(_SMALL / max(size))))


def _positions(features: Features, size: ArrayLike) -> NDArray[np.float64]:
    """Return the (N, 2) positions of the keypoints once the image is drawn at a size.

    Pixel centres are whole numbers, so an image begins at -0.5, and that edge stays where it is.
    """
    scale = np.array(size, np.float64) / features.image_size
    positions: NDArray[np.float64] = (features.keypoints[:, :2] + 0.5) * scale - 0.5
    return positions


def _looks(
    matches: Matches, correct: NDArray[np.bool_] | None
) -> tuple[NDArray[np.uint8], NDArray[np.float64], NDArray[np.int64]]:
    """Return the (M, 3) colours of matches, their (M,) opacities, and the order in which they are drawn."""
    order = np.argsort(-matches.similarities, kind="stable")[::-1]
    if correct is not None:
        inks = np.where(correct[:, np.newaxis], _CORRECT, _WRONG).astype(np.uint8)
        return inks, np.ones(len(matches)), np.concatenate([order[correct[order]], order[~correct[order]]])
    inliers = np.ones(len(matches), bool) if matches.inliers is None else matches.inliers
    among = matches.similarities[inliers]
    low, high = among.min(initial=np.inf), among.max(initial=-np.inf)
    # The less similar ones recede, but never vanish.
    value = np.interp(matches.similarities, [low, high], [0.0, 1.0]) if len(among) else np.zeros(len(matches))
    inks = colour_map(_COLOURS, value, LOWEST)
    inks[~inliers] = _WRONG
    opacities = np.where(inliers, 0.5 + 0.5 * value, _OUTLIER_STRENGTH)
    return inks, opacities, np.concatenate([order[~inliers[order]], order[inliers[order]]])


def _sheet(images: list[Image.Image]) -> tuple[Canvas, NDArray[np.int64], NDArray[np.int64]]:
    """Return a canvas with two images, and where on it these begin and how large they are, as (x, y)."""
    sizes = np.array([image.size for image in images], dtype=np.float64)
    # One factor for both keeps their relative scale.
    sizes *= min(_enlargement(image.size) for image in images)
    is_stacked = sizes[:, 0].sum() > _WIDEST * sizes[:, 1].max()
    along, across = (1, 0) if is_stacked else (0, 1)
    gap = max(4, round(0.006 * sizes[:, along].sum()))
    whole = max(sizes[:, along].sum() + gap, sizes[:, across].max())
    sizes *= min(1.0, (_LARGEST - gap) / (whole - gap))
    # Rounded down: the sum must not exceed the limit.
    whole_sizes = np.maximum(sizes.astype(np.int64), 1)
    edges = whole_sizes.max(axis=0)
    edges[along] = whole_sizes[:, along].sum() + gap
    corners = (edges - whole_sizes) // 2
    corners[:, along] = 0, whole_sizes[0, along] + gap
    sheet = Image.new("RGB", (int(edges[0]), int(edges[1])), BACKGROUND)
    for image, corner, size in zip(images, corners.tolist(), whole_sizes.tolist(), strict=True):
        sheet.paste(image.resize(size, Image.Resampling.BICUBIC), corner)
    return Canvas(sheet), corners, whole_sizes


def _legend(matches: Matches, correct: NDArray[np.bool_] | None) -> list[Item]:
    """Return how many matches there are of which kind, and what the colours mean."""
    total = len(matches)
    if not total:
        return ["no matches"]
    items: list[Item] = [count(total, "match")]
    if correct is not None:
        good = int(correct.sum())
        share = f"{good} correct ({good / total:.0%})"
        return [*items, "", _square(_CORRECT), share, "", _square(_WRONG), f"{total - good} wrong"]
    inliers = matches.inliers
    if inliers is None:
        items = [f"{items[0]}, not verified"]
    elif matches.evidence is not None and not matches.evidence.sufficient:
        items.append("no geometric agreement")
    else:
        items.append(f"{count(int(inliers.sum()), 'inlier')} ({inliers.mean():.0%})")
    if inliers is not None and not inliers.all():
        items += ["", _square(_WRONG), count(int((~inliers).sum()), "outlier")]
    shown = matches.similarities if inliers is None else matches.similarities[inliers]
    return items + colour_bar("similarity", shown, ".3f", _COLOURS, LOWEST) if len(shown) else items


def _square(colour: Colour) -> NDArray[np.uint8]:
    return np.array([colour], np.uint8)
