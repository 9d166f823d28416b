"""A homography fitted to matches some of which are wrong: what the demo measures its matches with.

Direct linear transform within RANSAC, then weighted least squares, in plain NumPy. For work of your own
OpenCV's ``findHomography`` is faster.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]

# Of so many samples of four one is of correct matches only, with a probability of 0.9997, where 30 % are.
_SAMPLES = 1000
_REFINEMENTS = 20


def apply(homography: ArrayLike, points: ArrayLike) -> FloatArray:
    """Return where a homography takes points: (N, 2) to (N, 2)."""
    xy = np.asarray(points, np.float64)
    mapped = np.column_stack([xy, np.ones(len(xy))]) @ np.asarray(homography, np.float64).T
    # Points on the horizon go to infinity, which is farther off than any tolerance.
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(mapped[:, :2] / mapped[:, 2:])


def distances(homography: ArrayLike, source: ArrayLike, target: FloatArray) -> FloatArray:
    """Return how far from others a homography takes points, in pixels; infinity beyond the horizon."""
    found = np.linalg.norm(apply(homography, source) - target, axis=1)
    return np.where(np.isfinite(found), found, np.inf)


def through(source: ArrayLike, target: ArrayLike, weights: ArrayLike = 1.0) -> FloatArray:
    """Return the homography that takes four points or more to others, in the least-squares sense.

    The direct linear transform of Hartley and Zisserman (Multiple View Geometry, algorithm 4.2), with their
    normalisation.

    Parameters
    ----------
    source, target : (N, 2), N >= 4
    weights : (N,), optional
        How much each pair counts; its two equations are multiplied with it.

    Returns
    -------
    (3, 3) float64
        With a 1 at the bottom right.
    """
    a, to_a = _normalised(np.asarray(source, np.float64))
    b, to_b = _normalised(np.asarray(target, np.float64))
    homography = np.linalg.inv(to_b) @ _linear(a, b, weights) @ to_a
    return np.asarray(homography / homography[2, 2])


def fit(source: ArrayLike, target: ArrayLike, *, tolerance: float = 3.0) -> FloatArray | None:
    """Return the homography that most of the matches agree with.

    Parameters
    ----------
    source, target : (N, 2)
        Matched points.
    tolerance : float
        How far, in pixels, a match may be off and still agree.

    Returns
    -------
    (3, 3) float64 or None
        The same for the same matches. None where fewer than five agree with any homography: four always do.
    """
    a, b = np.asarray(source, np.float64), np.asarray(target, np.float64)
    if len(a) < 5:
        return None
    (normal_a, to_a), (normal_b, to_b) = _normalised(a), _normalised(b)
    samples = np.random.default_rng(0).integers(len(a), size=(_SAMPLES, 4))
    candidates = np.linalg.inv(to_b) @ _linear(normal_a[samples], normal_b[samples]) @ to_a
    agreeing = max((distances(each, a, b) <= tolerance for each in candidates), key=np.count_nonzero)
    if np.count_nonzero(agreeing) < 5:
        return None
    # Weights of Geman and McClure: what counts are the matches within a third of the tolerance or so, and
    # wrong ones pull next to nothing. A hard limit lets in whatever is wrong by a little less.
    homography = through(a[agreeing], b[agreeing])
    for _ in range(_REFINEMENTS):
        homography = through(a, b, 1 / (1 + (distances(homography, a, b) / (tolerance / 3)) ** 2))
    return homography


def _normalised(points: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return points about the origin at a mean distance of the square root of 2, and the matrix for that."""
    centre = points.mean(axis=0)
    spread = np.linalg.norm(points - centre, axis=1).mean()
    scale = np.sqrt(2) / spread if spread > 0 else 1.0
    matrix = np.array([[scale, 0, -scale * centre[0]], [0, scale, -scale * centre[1]], [0, 0, 1]])
    return (points - centre) * scale, matrix


def _linear(a: FloatArray, b: FloatArray, weights: ArrayLike = 1.0) -> FloatArray:
    """Return for (..., N, 2) and (..., N, 2) the null vectors of their 2 N equations, as (..., 3, 3)."""
    x, y, ones, zeros = a[..., 0], a[..., 1], np.ones(a.shape[:-1]), np.zeros(a.shape[:-1])
    u, v = b[..., 0], b[..., 1]
    rows_u = np.stack([x, y, ones, zeros, zeros, zeros, -u * x, -u * y, -u], axis=-1)
    rows_v = np.stack([zeros, zeros, zeros, x, y, ones, -v * x, -v * y, -v], axis=-1)
    weight = np.asarray(weights)[..., np.newaxis]
    equations = np.concatenate([weight * rows_u, weight * rows_v], axis=-2)
    # The eigenvector of the smallest eigenvalue; the normalisation keeps the squared equations harmless.
    _, vectors = np.linalg.eigh(equations.swapaxes(-1, -2) @ equations)
    return np.asarray(vectors[..., :, 0].reshape(*a.shape[:-2], 3, 3))
