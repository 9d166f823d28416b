"""Images, their warped views and what matches between them are worth: for tests and benchmarks.

Five images that scikit-image ships, views of them through a known homography, and one function that says
which share of the matches agrees with it; the same for its stereo pair. Nothing in here knows the network.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from skimage import data

from d2np import Features, Matches
from d2np.verification import transformed

MILD = 0.08
MEDIUM = 0.18
TOLERANCE = 3.0
"""Pixels a matched keypoint may lie from where the homography puts it."""


@dataclass(frozen=True)
class Score:
    """The quality of a set of matches.

    Attributes
    ----------
    matches : int
        How many there are.
    correct : int
        How many of them lie within :data:`TOLERANCE` of the truth.
    share : float
        The one by the other; 0 without matches.
    corner_error : float
        Farthest distance, in pixels, between a corner of the image under the homography fitted to the
        matches and under the true one; infinite where none could be fitted.
    """

    matches: int
    correct: int
    share: float
    corner_error: float


def images() -> dict[str, NDArray[np.uint8]]:
    """The test images by name: four of them colourful, and ``brick``, grey and repetitive."""
    return {name: getattr(data, name)() for name in ("astronaut", "coffee", "chelsea", "rocket", "brick")}


def warp(
    image: NDArray[np.uint8], strength: float, seed: int
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """A view of the image through a random homography, in other light.

    Parameters
    ----------
    strength : float
        Each corner moves at random by up to this share of the image's sides: :data:`MILD`,
        :data:`MEDIUM`.
    seed : int
        The same seed gives the same view.

    Returns
    -------
    (H, W[, 3]) uint8, (3, 3) float64
        The view, of the image's size and black where it looks past the image, and the homography from the
        image to it.
    """
    height, width = image.shape[:2]
    corners = _corners(width, height)
    moves = np.random.default_rng(seed).uniform(-strength, strength, (4, 2)) * (width, height)
    homography = _between(corners, corners + moves)
    return _through(image, homography), homography


def scale_case(
    image: NDArray[np.uint8], factor: float = 0.7
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """The image made smaller, in other light, and the homography to it."""
    height, width = image.shape[:2]
    new_width, new_height = int(width * factor), int(height * factor)
    resized = Image.fromarray(image).resize((new_width, new_height), Image.Resampling.BOX)
    x, y = new_width / width, new_height / height
    return _darker(resized), np.array([[x, 0, x / 2 - 0.5], [0, y, y / 2 - 0.5], [0, 0, 1.0]])


def rotation_case(
    image: NDArray[np.uint8], degrees: float = 15
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """The image turned about its centre, in other light, and the homography to it."""
    x, y = (image.shape[1] - 1) / 2, (image.shape[0] - 1) / 2
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    homography = np.array([[c, s, x - c * x - s * y], [-s, c, y + s * x - c * y], [0, 0, 1]])
    return _through(image, homography), homography


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
        (width, height) of the first image: where its corners are.
    """
    truth = np.asarray(homography, np.float64)
    a = features_a.keypoints[matches.indices[:, 0], :2].astype(np.float64)
    b = features_b.keypoints[matches.indices[:, 1], :2].astype(np.float64)
    distances = np.linalg.norm(transformed(truth, a) - b, axis=1)
    correct = int(np.count_nonzero(distances <= TOLERANCE))
    share = correct / len(distances) if len(distances) else 0.0
    return Score(len(distances), correct, share, _corner_error(a, b, truth, size))


def stereo_score(
    features_a: Features, features_b: Features, matches: Matches, disparity: NDArray[np.floating]
) -> Score:
    """How well matches agree with the known disparity of a rectified stereo pair.

    Parameters
    ----------
    disparity : (H, W)
        How far each pixel of the first image lies further to the left in the second one. Matches of pixels
        where it is not finite do not count.
    """
    a = features_a.keypoints[matches.indices[:, 0], :2].astype(np.float64)
    b = features_b.keypoints[matches.indices[:, 1], :2].astype(np.float64)
    x, y = np.rint(a).astype(int).T
    shifts = disparity[y, x].astype(np.float64)
    known = np.isfinite(shifts)
    distances = np.hypot(a[known, 0] - shifts[known] - b[known, 0], a[known, 1] - b[known, 1])
    correct = int(np.count_nonzero(distances <= TOLERANCE))
    return Score(len(distances), correct, correct / max(len(distances), 1), float("nan"))


def _corner_error(
    a: NDArray[np.float64], b: NDArray[np.float64], truth: NDArray[np.float64], size: tuple[int, int]
) -> float:
    import cv2  # which benchmarks of other figures do without

    fitted = cv2.findHomography(a, b, cv2.USAC_MAGSAC, TOLERANCE)[0] if len(a) > 4 else None
    if fitted is None:
        return float("inf")
    corners = _corners(*size)
    return float(np.linalg.norm(transformed(fitted, corners) - transformed(truth, corners), axis=1).max())


def _between(source: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """The homography that takes four points to four others."""
    equations = [
        row
        for (x, y), (u, v) in zip(source, target, strict=True)
        for row in ([x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y])
    ]
    return np.append(np.linalg.solve(np.array(equations), target.ravel()), 1).reshape(3, 3)


def _through(image: NDArray[np.uint8], homography: NDArray[np.float64]) -> NDArray[np.uint8]:
    # Pillow's coordinates begin at the top-left pixel's corner, keypoints at its centre.
    shift = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    back = shift @ np.linalg.inv(homography) @ np.linalg.inv(shift)
    values = [float(value) for value in (back / back[2, 2]).ravel()[:8]]
    size = image.shape[1], image.shape[0]
    perspective, bilinear = Image.Transform.PERSPECTIVE, Image.Resampling.BILINEAR
    return _darker(Image.fromarray(image).transform(size, perspective, values, bilinear))


def _darker(image: Image.Image) -> NDArray[np.uint8]:
    """Contrast down to 0.8, brightness up by 15."""
    return np.rint(np.asarray(image) * 0.8 + 15).astype(np.uint8)


def _corners(width: int, height: int) -> NDArray[np.float64]:
    return np.array([[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]], np.float64)
