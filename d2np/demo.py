"""Match an image with a view of it that is known exactly, and measure: ``d2np demo``."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from . import homography
from .features import Features, Matches

if TYPE_CHECKING:
    from .network.net import Net

IMAGE = "astronaut.jpg"

TOLERANCE = 3.0
"""Pixels that a match may be off and still be right."""

# The second view: which quadrilateral of the image it shows, as shares of width and height (from the top
# left, clockwise), and its size as a share of the image's. All of it lies inside the image, so the view
# has no black corners that no camera would see.
_CORNERS = np.array([[0.05, 0.00], [1.00, 0.13], [0.93, 0.95], [0.00, 0.86]])
_SIZE = 0.9
_CONTRAST, _BRIGHTNESS = 0.8, 15


@dataclass(frozen=True)
class Views:
    """Two images of the same thing.

    Attributes
    ----------
    first, second : PIL.Image.Image
    truth : (3, 3) float64
        The homography from the pixels of the first to those of the second.
    """

    first: Image.Image
    second: Image.Image
    truth: NDArray[np.float64]


@dataclass(frozen=True)
class Result:
    """The features and matches of the demo, and how correct they are.

    Attributes
    ----------
    first, second : Features
    matches : Matches
    distances : (M,) float64
        How far each match is from where the true homography puts it, in pixels of the second view.
    corner_error : float
        The farthest distance between a corner of the first image under the homography fitted to the
        matches and under the true one, in pixels; infinite where none could be fitted.
    extraction, matching : float
        Seconds; both extractions together.
    """

    first: Features
    second: Features
    matches: Matches
    distances: NDArray[np.float64]
    corner_error: float
    extraction: float
    matching: float

    @property
    def right(self) -> NDArray[np.bool_]:
        """(M,) bool: the matches within :data:`TOLERANCE` of the truth."""
        return self.distances <= TOLERANCE


def views() -> Views:
    """Return the shipped image, and a darker view of it through a known homography."""
    with resources.files(__package__).joinpath("data").joinpath(IMAGE).open("rb") as stream:
        first = Image.open(stream).convert("RGB")
    width, height = round(_SIZE * first.width), round(_SIZE * first.height)
    outline = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float64)
    to_first = homography.through(outline, _CORNERS * first.size)
    second = first.transform(
        (width, height),
        Image.Transform.PERSPECTIVE,
        [float(value) for value in to_first.ravel()[:8]],
        Image.Resampling.BICUBIC,
    )
    darker = np.rint(np.asarray(second) * _CONTRAST + _BRIGHTNESS).astype(np.uint8)
    # Pillow's coordinates begin at the top-left pixel's corner, keypoints at its centre.
    shift = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    truth = np.linalg.inv(shift) @ np.linalg.inv(to_first) @ shift
    return Views(first, Image.fromarray(darker), truth / truth[2, 2])


def prepare(net: Net, *, threads: int | None = None) -> float:
    """Compile or load every kernel of extraction and matching; return the seconds it took."""
    from .matching import match

    start = perf_counter()
    features = net(np.zeros((32, 32, 3), np.uint8), threads=threads)
    unit = np.eye(2, features.descriptors.shape[1], dtype=np.float32)
    match(unit, unit, threads=threads)
    return perf_counter() - start


def run(net: Net, given: Views, *, threads: int | None = None) -> Result:
    """Extract, match and measure; kernels not yet loaded count as work, see :func:`prepare`.

    Parameters
    ----------
    net : Net
    given : Views
    threads : int, optional
    """
    from .matching import match

    start = perf_counter()
    first, second = net(given.first, threads=threads), net(given.second, threads=threads)
    extraction = perf_counter() - start
    start = perf_counter()
    matches = match(first, second, threads=threads)
    matching = perf_counter() - start

    a = first.keypoints[matches.indices[:, 0], :2].astype(np.float64)
    b = second.keypoints[matches.indices[:, 1], :2].astype(np.float64)
    distances = homography.distances(given.truth, a, b)
    corner_error = _corner_error(a, b, given)
    return Result(first, second, matches, distances, corner_error, extraction, matching)


def _corner_error(a: NDArray[np.float64], b: NDArray[np.float64], given: Views) -> float:
    fitted = homography.fit(a, b, tolerance=TOLERANCE)
    if fitted is None:
        return float("inf")
    right, bottom = given.first.width - 1, given.first.height - 1
    corners = np.array([[0, 0], [right, 0], [right, bottom], [0, bottom]], np.float64)
    moved = homography.apply(fitted, corners)
    return float(homography.distances(given.truth, corners, moved).max())
