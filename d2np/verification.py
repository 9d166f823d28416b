"""Which matches agree with one geometric model: OpenCV's USAC finds it, wrong matches or not.

The model is fitted with MAGSAC++ (Barath et al., CVPR 2020) as OpenCV's ``USAC_MAGSAC`` has it, which begins
with a fixed state of its random generator: the same matches give the same model.
"""

from __future__ import annotations

from dataclasses import replace
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import options
from .errors import Error, FormatError, OptionError
from .extras import require
from .features import Features, Matches
from .options import GeometricModel

FloatArray = NDArray[np.float64]

# So many matches always agree with some model, and tell nothing.
_SAMPLE = {"homography": 4, "fundamental": 7}

_CONFIDENCE = 0.9999
_ITERATIONS = 10_000


def verify(
    a: Features, b: Features, matches: Matches, model: GeometricModel, *, threshold: float = 3.0
) -> Matches:
    """Mark the matches that agree with the one model that most of them agree with.

    Parameters
    ----------
    a, b : Features
    matches : Matches
        Between them, from :func:`d2np.match` or elsewhere.
    model : {"homography", "fundamental"}
        ``"homography"`` for a plane, or a camera that only turns: inliers lie within ``threshold`` of where
        the homography takes their keypoint in ``a``. ``"fundamental"`` for any rigid scene: inliers have at
        most this Sampson distance from their epipolar lines.
    threshold : float
        In pixels of the pictures as given.

    Returns
    -------
    Matches
        All of them, with ``inliers`` and ``model``. Where no model has more support than it takes to fit one
        (4 different keypoints for a homography, 7 for a fundamental matrix), all are outliers and ``model``
        is None.

    Raises
    ------
    FormatError
        If ``a`` and ``b`` are not :class:`Features` that the matches fit, or keypoints are not finite.
    OptionError
        If there is no such model, or ``threshold`` is no positive number.
    Error
        If OpenCV is missing.
    """
    check(model, threshold)
    for which, features in (("a", a), ("b", b)):
        if not isinstance(features, Features):
            raise FormatError(
                f"verification needs keypoints: {which} must be d2np.Features, not {type(features).__name__}"
            )
    points_a, points_b = (_points(features, matches.indices[:, k]) for k, features in enumerate((a, b)))
    found = _fit(points_a, points_b, model, float(threshold))
    if found is not None:
        matrix, inliers = found
        support = min(len(np.unique(matches.indices[inliers, k])) for k in range(2))
        if support > _SAMPLE[model]:
            return replace(matches, inliers=inliers, model=matrix)
    return replace(matches, inliers=np.zeros(len(matches), np.bool_), model=None)


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
    outside = chosen[(chosen < 0) | (chosen >= len(features))]
    if len(outside):
        raise FormatError(f"a match names keypoint {outside[0]} of {len(features)}")
    points = features.keypoints[chosen, :2].astype(np.float64)
    if not np.isfinite(points).all():
        raise FormatError("keypoints must be finite; there is a NaN or an infinity among them")
    return points


def _fit(
    a: FloatArray, b: FloatArray, model: GeometricModel, threshold: float
) -> tuple[FloatArray, NDArray[np.bool_]] | None:
    # OpenCV raises on fewer points than a sample.
    if len(a) <= _SAMPLE[model]:
        return None
    cv2 = _opencv()
    if model == "homography":
        matrix, mask = cv2.findHomography(
            a, b, cv2.USAC_MAGSAC, threshold, maxIters=_ITERATIONS, confidence=_CONFIDENCE
        )
    else:
        matrix, mask = cv2.findFundamentalMat(a, b, cv2.USAC_MAGSAC, threshold, _CONFIDENCE, _ITERATIONS)
    if matrix is None or matrix.shape != (3, 3) or not np.isfinite(matrix).all():
        return None
    return matrix, mask.ravel().astype(np.bool_)
