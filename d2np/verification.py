"""Which matches agree with one geometric model, and how likely that is by accident.

The model is fitted with MAGSAC++ (Barath et al., CVPR 2020) as OpenCV's ``USAC_MAGSAC`` has it, which begins
with a fixed state of its random generator: the same matches give the same model. Among wrong matches there is
always a model that some of them fit. How many do so by accident is the question of Moisan and Stival (A
probabilistic criterion to detect rigid point matches between two images and estimate the fundamental matrix,
IJCV 2004): they count the models with that much support which are expected where nothing is to be found.
"""

from __future__ import annotations

from dataclasses import replace
from math import comb, hypot, inf, log10, pi, prod
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import options
from .errors import Error, FormatError, OptionError
from .extras import require
from .features import Evidence, Features, Matches, check_indices
from .images.pixels import network_size
from .options import GeometricModel

FloatArray = NDArray[np.float64]

THRESHOLD = 3.0
"""How far, in pixels, a match may be off and still agree, unless it is said otherwise."""

# So many matches always agree with some model, and tell nothing; and how many models fit them at most.
SAMPLE = {"homography": 4, "fundamental": 7}
_SOLUTIONS = {"homography": 1, "fundamental": 3}

# Matches agree where as much agreement is expected in less than one of a million pairs of images that have
# nothing in common: docs/verification.md has what was measured.
_MOST_BY_CHANCE = -6.0
# So near to a side of the image, in pixels that the network sees, descriptors depend on the zeros beyond it;
# of small images this share of an edge is left out and no more.
_SIDE = 48.0
_SIDE_SHARE = 1 / 8
# How often the matches are paired anew to see how many fit by accident.
_REPAIRINGS = 64

_CONFIDENCE = 0.9999
_ITERATIONS = 10_000


def verify(
    a: Features, b: Features, matches: Matches, model: GeometricModel, *, threshold: float = THRESHOLD
) -> Matches:
    """Mark the matches that agree with the one model that most of them agree with.

    Parameters
    ----------
    a, b : Features
    matches : Matches
        Between them, from :func:`d2np.match` or elsewhere.
    model : {"homography", "fundamental"}
        ``"homography"`` for a plane, or a camera that only turns: inliers lie within ``threshold`` of where
        the homography takes their keypoint in ``a``. ``"fundamental"`` for any rigid scene: inliers lie
        within ``threshold`` of their epipolar lines, in both images.
    threshold : float
        In pixels of the images as given.

    Returns
    -------
    Matches
        All of them, with ``inliers``, ``model`` and ``evidence``. Where no more matches fit a model than by
        accident, all are outliers and ``model`` is None; ``evidence`` has how many there were.

    Raises
    ------
    FormatError
        If ``a`` and ``b`` are not :class:`Features` that the matches fit, or keypoints are not finite.
    OptionError
        If there is no such model, or ``threshold`` is no positive number.
    Error
        If OpenCV is missing.

    Notes
    -----
    The evidence is the number of false alarms of Moisan and Stival, A probabilistic criterion to detect rigid
    point matches between two images and estimate the fundamental matrix, IJCV 2004::

        NFA = s (n - d) C(n, k) C(k, d) p^(k - d)

    This is the number of models that k of n matches fit, expected where all matches are wrong: each d of them
    give s models (homography: d = 4, s = 1; fundamental matrix: d = 7, s = 3), and each other match fits such
    a model with the probability p. For points that lie anywhere in the image, p is the share of the image
    that lies near enough: pi t^2 / A, and 2 t D / A, with the threshold t, the area A and the diagonal D; the
    larger one of both images counts. Keypoints do not lie anywhere, and so p is at least the share of matches
    that fit this model once their ends in ``b`` are exchanged among them. Matches whose ends in either image
    lie in one square with an edge of 2 t count once: a keypoint found at several scales is one.
    """
    check(model, threshold)
    for which, features in (("a", a), ("b", b)):
        if not isinstance(features, Features):
            raise FormatError(
                f"verification needs keypoints: {which} must be d2np.Features, not {type(features).__name__}"
            )
    check_indices(matches, len(a), len(b))
    threshold = float(threshold)
    points_a, points_b = _points(a, matches.indices[:, 0]), _points(b, matches.indices[:, 1])
    inside = ~(_at_sides(a, matches.indices[:, 0]) & _at_sides(b, matches.indices[:, 1])).any(axis=1)
    matrix = _fit(points_a[inside], points_b[inside], model, threshold)
    fits, chance = np.zeros(len(matches), np.bool_), inf
    if matrix is not None:
        fits = _distances(matrix, points_a, points_b, model) <= threshold
        near = max(_share_nearby(features.image_size, model, threshold) for features in (a, b))
        chance = _log10_chance(matrix, points_a[inside], points_b[inside], model, threshold, near)
    evidence = Evidence(int(fits.sum()), chance, chance <= _MOST_BY_CHANCE)
    if not evidence.sufficient:
        matrix, fits = None, np.zeros_like(fits)
    return replace(matches, inliers=fits, model=matrix, evidence=evidence)


def transformed(homography: ArrayLike, points: ArrayLike) -> FloatArray:
    """Return where a homography takes points: (N, 2) to (N, 2), infinity where that is beyond the horizon."""
    xy = np.asarray(points, np.float64)
    mapped = np.column_stack([xy, np.ones(len(xy))]) @ np.asarray(homography, np.float64).T
    with np.errstate(divide="ignore", invalid="ignore"):
        found = mapped[:, :2] / mapped[:, 2:]
    return np.where(np.isfinite(found), found, np.inf)


def check(model: GeometricModel, threshold: float) -> None:
    """Find out before any work is done whether matches can be verified like this.

    Raises
    ------
    OptionError, Error
        See :func:`verify`.
    """
    options.check("verify", model, GeometricModel, ", or None")
    if isinstance(threshold, bool) or not isinstance(threshold, Real) or not 0 < threshold < np.inf:
        raise OptionError(f"threshold must be a positive number of pixels; got {threshold!r}")
    _opencv()


def _opencv() -> Any:
    return require("cv2", "verifying matches needs", "verify", Error, "opencv-python-headless")


def _points(features: Features, chosen: NDArray[np.int64]) -> FloatArray:
    points = features.keypoints[chosen, :2].astype(np.float64)
    if not np.isfinite(points).all():
        raise FormatError("keypoints must be finite; there is a NaN or an infinity among them")
    return points


def _at_sides(features: Features, chosen: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return whether each keypoint may be due to the left, top, right and lower side, which are so near."""
    x, y, scale = features.keypoints[chosen].astype(np.float64).T
    width, height = (max(1, edge) for edge in features.image_size)
    shrunk = max(width, height) / max(network_size(width, height))
    reach = np.minimum(_SIDE * shrunk * scale, _SIDE_SHARE * min(width, height))
    distances = np.stack([x, y, width - 1 - x, height - 1 - y], axis=1)
    return np.asarray(distances < reach[:, np.newaxis])


def _fit(a: FloatArray, b: FloatArray, model: GeometricModel, threshold: float) -> FloatArray | None:
    # OpenCV raises on fewer points than a sample.
    if len(a) <= SAMPLE[model]:
        return None
    cv2 = _opencv()
    if model == "homography":
        matrix, _ = cv2.findHomography(
            a, b, cv2.USAC_MAGSAC, threshold, maxIters=_ITERATIONS, confidence=_CONFIDENCE
        )
    else:
        matrix, _ = cv2.findFundamentalMat(a, b, cv2.USAC_MAGSAC, threshold, _CONFIDENCE, _ITERATIONS)
    if matrix is None or matrix.shape != (3, 3) or not np.isfinite(matrix).all():
        return None
    return np.asarray(matrix, np.float64)


def _distances(matrix: FloatArray, a: FloatArray, b: FloatArray, model: str) -> FloatArray:
    """Return how far each match is from fitting, in pixels."""
    if model == "homography":
        return np.asarray(np.linalg.norm(transformed(matrix, a) - b, axis=1))
    one, other = (np.column_stack([points, np.ones(len(points))]) for points in (a, b))
    lines_b, lines_a = one @ matrix.T, other @ matrix
    nearer = np.minimum(np.hypot(*lines_a[:, :2].T), np.hypot(*lines_b[:, :2].T))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.abs((other * lines_b).sum(axis=1)) / nearer)


def _share_nearby(size: tuple[int, int], model: str, threshold: float) -> float:
    """Return the share of an image that lies near enough to a point, or to an epipolar line."""
    area = pi * threshold**2 if model == "homography" else 2 * threshold * hypot(*size)
    return area / max(1, prod(size))


def _log10_chance(
    matrix: FloatArray, a: FloatArray, b: FloatArray, model: str, threshold: float, near: float
) -> float:
    """Return the logarithm of the number of false alarms: see :func:`verify`."""
    fits = _distances(matrix, a, b, model) <= threshold
    n, k = _different(a, b, 2 * threshold), _different(a[fits], b[fits], 2 * threshold)
    sample = SAMPLE[model]
    if k <= sample:
        return inf
    steps = np.unique(np.linspace(1, len(a) - 1, _REPAIRINGS).astype(int))
    repaired = [_distances(matrix, a, np.roll(b, step, axis=0), model) <= threshold for step in steps]
    p = min(1.0, max(near, float(np.mean(repaired))))
    models = _SOLUTIONS[model] * (n - sample) * comb(n, k) * comb(k, sample)
    return log10(models) + (k - sample) * log10(p)


def _different(a: FloatArray, b: FloatArray, edge: float) -> int:
    """Return how many matches are left where those with an end in the same square are one."""
    return min(len(np.unique(np.floor(points / edge), axis=0)) for points in (a, b))
