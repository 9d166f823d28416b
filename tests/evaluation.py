"""Pictures, their warped views and what matches between them are worth: for tests and benchmarks.

Five pictures that scikit-image ships, views of them through a known homography, and one function that says
which share of the matches agrees with it. Nothing in here knows the network.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray
from skimage import data

from d2np import Features, Matches
from d2np import homography as homography_of_matches

MILD = 0.08
MEDIUM = 0.18
TOLERANCE = 3.0
"""Pixels a matched keypoint may lie from where the homography puts it."""


@dataclass(frozen=True)
class Score:
    """What a set of matches is worth.

    Attributes
    ----------
    matches : int
        How many there are.
    correct : int
        How many of them lie within :data:`TOLERANCE` of the truth.
    share : float
        The one by the other; 0 without matches.
    corner_error : float
        Farthest distance, in pixels, between a corner of the picture under the homography fitted to the
        matches and under the true one; infinite where none could be fitted.
    """

    matches: int
    correct: int
    share: float
    corner_error: float


def pictures() -> dict[str, NDArray[np.uint8]]:
    """The test pictures by name: four of them colourful, and ``brick``, grey and repetitive."""
    return {name: getattr(data, name)() for name in ("astronaut", "coffee", "chelsea", "rocket", "brick")}


def warp(
    image: NDArray[np.uint8], strength: float, seed: int, border: str = "black"
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """A view of the picture through a random homography, in other light.

    Parameters
    ----------
    strength : float
        Each corner moves at random by up to this share of the picture's sides: :data:`MILD`,
        :data:`MEDIUM`.
    seed : int
        The same seed gives the same view.
    border : {"black", "reflect"}
        What the view shows where it looks past the picture.

    Returns
    -------
    (H, W[, 3]) uint8, (3, 3) float64
        The view, of the picture's size, and the homography from the picture to it.
    """
    height, width = image.shape[:2]
    corners = _corners(width, height)
    moves = np.random.default_rng(seed).uniform(-strength, strength, (4, 2)) * (width, height)
    homography = cv2.getPerspectiveTransform(corners.astype(np.float32), (corners + moves).astype(np.float32))
    return _through(image, homography, border), homography


def scale_case(
    image: NDArray[np.uint8], factor: float = 0.7
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """The picture at another size, in other light, and the homography to it."""
    height, width = image.shape[:2]
    new_width, new_height = int(width * factor), int(height * factor)
    method = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    resized = cv2.resize(image, (new_width, new_height), interpolation=method)
    x, y = new_width / width, new_height / height
    return _darker(resized), np.array([[x, 0, x / 2 - 0.5], [0, y, y / 2 - 0.5], [0, 0, 1.0]])


def rotation_case(
    image: NDArray[np.uint8], degrees: float = 15, border: str = "black"
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """The picture turned about its centre, in other light, and the homography to it."""
    height, width = image.shape[:2]
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
    homography = np.vstack([turn, [0.0, 0.0, 1.0]])
    return _through(image, homography, border), homography


def score(
    features_a: Features,
    features_b: Features,
    matches: Matches,
    homography: ArrayLike,
    size: tuple[int, int],
) -> Score:
    """How well matches agree with the true homography from a to b.

    Parameters
    ----------
    size : (int, int)
        (width, height) of the first picture: where its corners are.
    """
    truth = np.asarray(homography, np.float64)
    a = features_a.keypoints[matches.indices[:, 0], :2].astype(np.float64)
    b = features_b.keypoints[matches.indices[:, 1], :2].astype(np.float64)
    distances = np.linalg.norm(_project(truth, a) - b, axis=1)
    correct = int(np.count_nonzero(distances <= TOLERANCE))
    share = correct / len(distances) if len(distances) else 0.0
    return Score(len(distances), correct, share, _corner_error(a, b, truth, size))


def _corner_error(
    a: NDArray[np.float64], b: NDArray[np.float64], truth: NDArray[np.float64], size: tuple[int, int]
) -> float:
    fitted = homography_of_matches.fit(a, b, tolerance=TOLERANCE)
    if fitted is None:
        return float("inf")
    corners = _corners(*size)
    return float(np.linalg.norm(_project(fitted[0], corners) - _project(truth, corners), axis=1).max())


def _through(image: NDArray[np.uint8], homography: NDArray[np.float64], border: str) -> NDArray[np.uint8]:
    height, width = image.shape[:2]
    mode = {"black": cv2.BORDER_CONSTANT, "reflect": cv2.BORDER_REFLECT_101}[border]
    view = cv2.warpPerspective(image, homography, (width, height), flags=cv2.INTER_LINEAR, borderMode=mode)
    return _darker(view)


def _darker(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Contrast down to 0.8, brightness up by 15."""
    return np.rint(image * 0.8 + 15).astype(np.uint8)


def _corners(width: int, height: int) -> NDArray[np.float64]:
    return np.array([[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]], np.float64)


def _project(homography: NDArray[np.float64], points: NDArray[np.float64]) -> NDArray[np.float64]:
    mapped = np.column_stack([points, np.ones(len(points))]) @ homography.T
    return np.asarray(mapped[:, :2] / mapped[:, 2:])
