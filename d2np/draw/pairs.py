"""Matches between two images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from ..errors import FormatError, OptionError
from ..features import Features, Matches
from ..options import ColourMap
from .backdrop import enlargement, open_for, resized, scaled_positions
from .canvas import Canvas
from .colours import Colour, colour_map, stretched
from .legend import BACKGROUND, Bar, Item, Legend, drawn_at, number, text_size

_RIGHT: Colour = (70, 236, 112)
_WRONG: Colour = (255, 82, 36)
_OUTLINE: Colour = (12, 12, 16)
# Outliers are there for whoever looks for them, and leave the eye to the inliers.
_OUTLIER_STRENGTH = 0.35

# Where in the colour map the least similar match lies.
_LOWEST = 0.3
# Two images side by side wider than this in relation to their height are put one above the other: two of
# 3:1 each.
_WIDEST = 6.0
# The smaller image's longest edge is at least this share of the larger one's.
_SMALLEST_SHARE = 0.25
# How much of the image all lines together may cover, counted without their overlaps; and the part of it
# that the right or the wrong ones get at least.
_INK = 0.22
_SMALLEST_INK_SHARE = 0.3


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
    """Two images side by side (wide panoramas: one above the other) with a line for each match.

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
    if max_size is not None and max_size < 1:
        raise OptionError(f"max_size must be positive; got {max_size}")
    pixels_a = open_for(image_a, features_a, orient=orient, which="features_a")
    pixels_b = open_for(image_b, features_b, orient=orient, which="features_b")
    check_matches(matches, len(features_a), len(features_b))
    right = None if correct is None else mask_of(correct, len(matches), "correct")

    inliers = np.ones(len(matches), np.bool_) if matches.inliers is None else matches.inliers
    value = np.zeros(len(matches))
    value[inliers] = stretched(matches.similarities[inliers])
    inks = colour_map(colours, value, _LOWEST)
    # The less similar ones recede, the further the more lines there are, but never vanish.
    shown = int(np.count_nonzero(inliers))
    faintest = float(np.interp(np.log10(max(1, shown)), [1, 3], [0.75, 0.4]))
    strength = faintest + (1 - faintest) * value
    if right is not None:
        inks = np.array([_WRONG, _RIGHT], dtype=np.uint8)[right.astype(np.int64)]
        strength = np.ones(len(matches))
    elif not inliers.all():
        inks[~inliers], strength[~inliers] = _WRONG, _OUTLIER_STRENGTH
    layout = _Layout.of(pixels_a.shape, pixels_b.shape, max_size)
    about = (
        ""
        if caption is None
        else caption + drawn_at(layout.a[2] / pixels_a.shape[1], layout.b[2] / pixels_b.shape[1])
    )
    legend = _legend(matches, right, colours, text_size(layout.width), about)
    layout = layout.with_legend(legend)

    sheet = np.empty((layout.height + legend.height, layout.width, 3), dtype=np.uint8)
    sheet[:] = BACKGROUND
    ends, sizes = [], []
    for pixels, features, (x, y, width, height), column in (
        (pixels_a, features_a, layout.a, 0),
        (pixels_b, features_b, layout.b, 1),
    ):
        sheet[y : y + height, x : x + width] = resized(pixels, width, height)
        positions = scaled_positions(features, pixels, width, height)
        ends.append(positions[matches.indices[:, column]] + np.array([x, y]))
        sizes.append(np.clip(features.keypoints[matches.indices[:, column], 2].astype(np.float64), 0.5, 4.0))
    # Lines that leave an image through its border must not run into the legend.
    canvas = Canvas(sheet[: layout.height])
    order = np.argsort(-matches.similarities, kind="stable")[::-1]
    layers = [order[~inliers[order]], order[inliers[order]]]
    if right is not None:
        layers = [order[right[order]], order[~right[order]]]
    strokes = [
        _Strokes(
            ends[0][chosen],
            ends[1][chosen],
            np.stack(sizes, axis=1)[chosen],
            inks[chosen],
            strength[chosen],
            len(order),
            canvas,
        )
        for chosen in layers
    ]
    for each in strokes:
        each.draw_lines(canvas)
    for each, layer in zip(strokes, layers, strict=True):
        faint = right is None and not inliers[layer].all()
        each.draw_ends(canvas, _OUTLIER_STRENGTH if faint else 1.0)
    sheet[: layout.height] = canvas.pixels
    image = Image.fromarray(sheet)
    legend.draw(image)
    return image


Place = tuple[int, int, int, int]


@dataclass(frozen=True)
class _Layout:
    """Where the two images lie (x, y, width, height) on a sheet of this size."""

    width: int
    height: int
    a: Place
    b: Place

    @classmethod
    def of(cls, shape_a: tuple[int, ...], shape_b: tuple[int, ...], max_size: int | None) -> _Layout:
        sizes = np.array([shape_a[1::-1], shape_b[1::-1]], dtype=np.float64)
        longest = sizes.max(axis=1)
        # One factor for both keeps their relative scale; only a thumbnail beside a large image grows more.
        sizes *= enlargement(int(longest.max()))
        for k in range(2):
            sizes[k] *= enlargement(int(longest[k]), int(_SMALLEST_SHARE * longest.max()))
        stacked = sizes[:, 0].sum() > _WIDEST * sizes[:, 1].max()
        along, across = (1, 0) if stacked else (0, 1)
        gap = max(4, round(0.006 * sizes[:, along].sum()))
        whole = max(sizes[:, along].sum() + gap, sizes[:, across].max())
        if max_size is not None and whole > max_size:
            sizes *= max(0.0, max_size - gap) / (whole - gap)
        # Rounded down: the sum must not exceed the limit.
        (wa, ha), (wb, hb) = (tuple(max(1, int(edge)) for edge in size) for size in sizes)
        if stacked:
            width, height = max(wa, wb), ha + gap + hb
            return cls(width, height, ((width - wa) // 2, 0, wa, ha), ((width - wb) // 2, ha + gap, wb, hb))
        width, height = wa + gap + wb, max(ha, hb)
        return cls(width, height, (0, (height - ha) // 2, wa, ha), (wa + gap, (height - hb) // 2, wb, hb))

    def with_legend(self, legend: Legend) -> _Layout:
        """Wide enough for the legend, the images in the middle."""
        aside = max(0, legend.width - self.width + 1) // 2
        width = max(self.width, legend.width)
        a, b = ((x + aside, y, w, h) for x, y, w, h in (self.a, self.b))
        return _Layout(width, self.height, a, b)


class _Strokes:
    """Lines of one kind, drawn in the given order.

    Parameters
    ----------
    ends_a, ends_b : (K, 2) float64
    sizes : (K, 2) float64
        Of the dots at both ends, relative to each other.
    inks : (K, 3) uint8
    strength : (K,) float64
        0..1, relative opacity.
    count : int
        Of all lines in the drawing: these choose one width.
    canvas : Canvas
        Its size counts only.
    """

    def __init__(
        self,
        ends_a: NDArray[np.float64],
        ends_b: NDArray[np.float64],
        sizes: NDArray[np.float64],
        inks: NDArray[np.uint8],
        strength: NDArray[np.float64],
        count: int,
        canvas: Canvas,
    ) -> None:
        self._ends_a, self._ends_b, self._sizes, self._strength = ends_a, ends_b, sizes, strength
        self._inks: list[Colour] = [(int(r), int(g), int(b)) for r, g, b in inks]
        unit = max(1.0, max(canvas.width, canvas.height) / 1200)
        decade = np.log10(max(1, count))
        self._width = unit * float(np.interp(decade, [1, 2, 3], [1.8, 1.3, 1.0]))
        self._radius = unit * float(np.interp(decade, [1, 2, 3], [3.2, 2.4, 1.5]))
        # A few wrong lines among thousands of right ones get more than their share, and so stay clear.
        share = max(_SMALLEST_INK_SHARE, len(inks) / max(1, count))
        wanted = _INK * share * canvas.width * canvas.height
        area = float(np.linalg.norm(ends_b - ends_a, axis=1).sum()) * self._width
        self._opacity = min(0.9, max(0.06, wanted / max(1.0, area)))

    def draw_lines(self, canvas: Canvas) -> None:
        for (xa, ya), (xb, yb), ink, strength in zip(
            self._ends_a, self._ends_b, self._inks, self._strength, strict=True
        ):
            alpha = self._opacity * float(strength)
            if self._opacity > 0.5:
                canvas.line(xa, ya, xb, yb, self._width + 1.4, _OUTLINE, 0.4 * alpha)
            canvas.line(xa, ya, xb, yb, self._width, ink, alpha)

    def draw_ends(self, canvas: Canvas, strength: float = 1.0) -> None:
        opacity = min(1.0, 0.5 + self._opacity) * strength
        for a, b, sizes, ink in zip(self._ends_a, self._ends_b, self._sizes, self._inks, strict=True):
            for (x, y), size in zip((a, b), sizes, strict=True):
                canvas.disc(x, y, self._radius * size + 0.8, _OUTLINE, 0.5 * opacity)
                canvas.disc(x, y, self._radius * size, ink, opacity)


def _legend(
    matches: Matches, right: NDArray[np.bool_] | None, colours: str, size: int, caption: str
) -> Legend:
    count = len(matches)
    left: list[Item] = [number(count, "match") if count else "no matches"]
    if not count:
        return Legend(left, [], size, caption)
    if right is not None:
        good = int(right.sum())
        share = f"{good} correct ({100 * good / count:.0f} %)"
        wrong = f"{count - good} wrong"
        return Legend(left, [Bar(_single(_RIGHT)), share, "", Bar(_single(_WRONG)), wrong], size, caption)
    if matches.inliers is None:
        return Legend(
            [f"{left[0]}, not verified"], _similarities(matches.similarities, colours), size, caption
        )
    good = int(matches.inliers.sum())
    if matches.evidence is not None and not matches.evidence.sufficient:
        left += ["no geometric agreement"]
    else:
        left += [f"{number(good, 'inlier')} ({100 * good / count:.0f} %)"]
    items = _similarities(matches.similarities[matches.inliers], colours)
    if good < count:
        items = [
            *(Bar(_single(_WRONG)), number(count - good, "outlier")),
            *([""] if items else []),
            *items,
        ]
    return Legend(left, items, size, caption)


def _similarities(similarities: NDArray[np.float32], colours: str) -> list[Item]:
    """The range that the colours tell."""
    if not len(similarities):
        return []
    low, high = float(similarities.min()), float(similarities.max())
    if low == high:
        return [f"similarity {low:.2f}"]
    gradient = colour_map(colours, np.linspace(0.0, 1.0, 256), _LOWEST)
    digits = 2 if f"{low:.2f}" != f"{high:.2f}" else 4
    return [f"similarity {low:.{digits}f}", Bar(gradient, wide=True), f"{high:.{digits}f}"]


def _single(colour: Colour) -> NDArray[np.uint8]:
    return np.array([colour], dtype=np.uint8)


def check_matches(matches: Matches, count_a: int, count_b: int) -> None:
    """Find out whether the matches are numbers and belong to that many keypoints."""
    if not isinstance(matches, Matches):
        raise FormatError(f"matches must be d2np.Matches; got {type(matches).__name__}")
    if not np.isfinite(matches.similarities).all():
        raise FormatError("similarities of matches must be finite numbers")
    for column, count, name in ((0, count_a, "features_a"), (1, count_b, "features_b")):
        used = matches.indices[:, column]
        outside = used[(used < 0) | (used >= count)]
        if len(outside):
            raise FormatError(f"a match names keypoint {outside[0]} of {name}, which has {count}")


def mask_of(given: ArrayLike, count: int, which: str) -> NDArray[np.bool_]:
    """A mask over that many matches, once it is sure that it is one."""
    mask = np.asarray(given)
    if mask.shape != (count,) or (mask.dtype != bool and count):
        raise FormatError(
            f"{which} must be bool of shape ({count},) like the matches; got {mask.dtype} {mask.shape}"
        )
    return mask.astype(bool)
