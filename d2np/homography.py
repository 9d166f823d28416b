"""A homography fitted to matches some of which are wrong: what the demo measures its matches with.

Direct linear transform within RANSAC, then weighted least squares, in plain NumPy. For work of your own
OpenCV's ``findHomography`` is faster.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]

_CONFIDENCE = 0.9999
_SAMPLES = 5000
_BATCH = 250
_REFINEMENTS = 20


def apply(homography: ArrayLike, points: ArrayLike) -> FloatArray:
    """Where a homography takes points: (N, 2) to (N, 2)."""
    xy = np.asarray(points, np.float64)
    mapped = np.column_stack([xy, np.ones(len(xy))]) @ np.asarray(homography, np.float64).T
    # Points on the horizon go to infinity, which is farther off than any tolerance.
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(mapped[:, :2] / mapped[:, 2:])


def through(source: ArrayLike, target: ArrayLike) -> FloatArray:
    """The homography that takes four points or more to others, in the least-squares sense.

    The direct linear transform of Hartley and Zisserman (Multiple View Geometry, algorithm 4.2), with their
    normalisation.

    Parameters
    ----------
    source, target : (N, 2), N >= 4

    Returns
    -------
    (3, 3) float64
        With a 1 at the bottom right.
    """
    a, to_a = _normalised(np.asarray(source, np.float64))
    b, to_b = _normalised(np.asarray(target, np.float64))
    found = _linear(a[np.newaxis], b[np.newaxis])[0]
    homography = np.linalg.inv(to_b) @ found @ to_a
    return np.asarray(homography / homography[2, 2])


def fit(
    source: ArrayLike, target: ArrayLike, *, tolerance: float = 3.0, seed: int = 0
) -> tuple[FloatArray, NDArray[np.bool_]] | None:
    """The homography that most of the matches agree with.

    Parameters
    ----------
    source, target : (N, 2)
        Matched points.
    tolerance : float
        How far, in pixels, a match may be off and still agree.
    seed : int
        Of the samples drawn: the same matches and seed give the same homography.

    Returns
    -------
    homography : (3, 3) float64
    agrees : (N,) bool
        Or None instead of both where fewer than five matches agree with any homography: four always do.
    """
    a, b = np.asarray(source, np.float64), np.asarray(target, np.float64)
    count = len(a)
    if count < 5:
        return None
    normal_a, to_a = _normalised(a)
    normal_b, to_b = _normalised(b)
    back = np.linalg.inv(to_b)
    rng = np.random.default_rng(seed)
    best = np.zeros(count, np.bool_)
    drawn, wanted = 0, float(_SAMPLES)
    while drawn < wanted:
        samples = rng.random((_BATCH, count)).argpartition(3, axis=1)[:, :4]
        for candidate in back @ _linear(normal_a[samples], normal_b[samples]) @ to_a:
            agrees = _distances(candidate, a, b) <= tolerance
            if agrees.sum() > best.sum():
                best = agrees
        drawn += _BATCH
        # So many samples hold one of right matches only, with this confidence.
        all_right = (best.sum() / count) ** 4
        if all_right > 0:
            needed = np.log(1 - _CONFIDENCE) / np.log1p(-min(all_right, 1 - 1e-12))
            wanted = min(float(_SAMPLES), needed)
    if best.sum() < 5:
        return None
    homography = _refined(through(a[best], b[best]), a, b, tolerance / 3)
    return homography, _distances(homography, a, b) <= tolerance


def _refined(homography: FloatArray, a: FloatArray, b: FloatArray, scale: float) -> FloatArray:
    """Least squares over all matches, each weighted by how well it agrees (Geman and McClure's weights).

    What counts are the matches within a ``scale`` or so, in pixels; wrong ones pull next to nothing. A hard
    limit instead lets in whatever is wrong by a little less, and leaves the corners off by twice as much.
    """
    x = np.column_stack([a, np.ones(len(a))])
    for _ in range(_REFINEMENTS):
        mapped = x @ homography.T
        depth = mapped[:, 2:]
        with np.errstate(divide="ignore", invalid="ignore"):
            p = mapped[:, :2] / depth
            residuals = b - p
            weights = 1 / (1 + (residuals**2).sum(axis=1) / scale**2)
            slopes = x / depth
        known = np.isfinite(residuals).all(axis=1) & np.isfinite(slopes).all(axis=1)
        p, residuals, slopes, weights = p[known], residuals[known], slopes[known], weights[known]
        nothing = np.zeros_like(slopes)
        # Derivatives of both coordinates by the first eight elements; the ninth stays 1.
        jacobian = np.concatenate(
            [
                np.hstack([slopes, nothing, -p[:, :1] * slopes[:, :2]]),
                np.hstack([nothing, slopes, -p[:, 1:] * slopes[:, :2]]),
            ]
        )
        # The weight of a squared residual is the square of the one that the rows are multiplied with.
        rows = np.tile(weights, 2)
        sizes = np.linalg.norm(jacobian, axis=0)
        step, *_ = np.linalg.lstsq(
            jacobian / sizes * rows[:, np.newaxis], residuals.T.ravel() * rows, rcond=None
        )
        homography = homography + np.append(step / sizes, 0.0).reshape(3, 3)
    return homography


def _distances(homography: FloatArray, a: FloatArray, b: FloatArray) -> FloatArray:
    distances: FloatArray = np.linalg.norm(apply(homography, a) - b, axis=1)
    return np.where(np.isfinite(distances), distances, np.inf)


def _normalised(points: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Points about the origin at the mean distance of the square root of 2, and the matrix that does it."""
    centre = points.mean(axis=0)
    spread = np.linalg.norm(points - centre, axis=1).mean()
    scale = np.sqrt(2) / spread if spread > 0 else 1.0
    matrix = np.array([[scale, 0, -scale * centre[0]], [0, scale, -scale * centre[1]], [0, 0, 1]])
    return (points - centre) * scale, matrix


def _linear(a: FloatArray, b: FloatArray) -> FloatArray:
    """(S, N, 2) and (S, N, 2) to (S, 3, 3): for each sample the null vector of the 2 N equations."""
    x, y, ones, zeros = a[..., 0], a[..., 1], np.ones(a.shape[:-1]), np.zeros(a.shape[:-1])
    u, v = b[..., 0], b[..., 1]
    rows_u = np.stack([x, y, ones, zeros, zeros, zeros, -u * x, -u * y, -u], axis=-1)
    rows_v = np.stack([zeros, zeros, zeros, x, y, ones, -v * x, -v * y, -v], axis=-1)
    equations = np.concatenate([rows_u, rows_v], axis=-2)
    # The eigenvector of the smallest eigenvalue; the normalisation keeps the squared equations harmless.
    _, vectors = np.linalg.eigh(equations.swapaxes(-1, -2) @ equations)
    return np.asarray(vectors[..., :, 0].reshape(-1, 3, 3))
