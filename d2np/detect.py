"""The two detectors: from a feature map to the places of keypoints in it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .kernels import detect as kernels
from .kernels import interpolate, normalize, pool
from .threads import Team, spans

FloatArray = NDArray[np.float32]

EDGE_THRESHOLD = np.float32(5)
"""Largest ratio of principal curvatures, as in SIFT and in the published ``HardDetectionModule``."""


@dataclass(frozen=True)
class Candidates:
    """Keypoints of one map.

    Attributes
    ----------
    positions : (N, 2) float32
        Row and column in cells, with the sub-cell displacement.
    scores : (N,) float32
    taken : (h, w) bool
        Cells that a finer level of the pyramid may not use again.
    """

    positions: FloatArray
    scores: FloatArray
    taken: NDArray[np.bool_]


def hard_detection(cells: FloatArray, banned: NDArray[np.bool_], team: Team) -> Candidates:
    """The published detector: where a cell's largest channel is a local maximum of that channel.

    Paper, section 3.1, and SIFT's edge test; the positions are refined within the cell by one Newton step
    (``HandcraftedLocalizationModule``). A keypoint counts if the step stays within half a cell and all
    four cells around it exist.

    Parameters
    ----------
    cells : (h, w, 512) float32
    banned : (h, w) bool
        Where no keypoint may be.
    team : Team

    Returns
    -------
    Candidates
        Row by row; the score is the feature's value.
    """
    height, width = cells.shape[:2]
    taken = np.zeros((height, width), np.bool_)
    found: dict[int, tuple[FloatArray, FloatArray]] = {}

    def work(span: tuple[int, int]) -> None:
        capacity = 64
        while True:
            places = np.empty((capacity, 3), np.int64)
            positions = np.empty((capacity, 2), np.float32)
            scores = np.empty(capacity, np.float32)
            count = kernels.detect(cells, banned, EDGE_THRESHOLD, taken, places, positions, scores, *span)
            if count <= capacity:
                break
            capacity = count
        found[span[0]] = positions[:count], scores[:count]

    team.share(team.timed("detection", "detection, localisation", work), spans(height, 8))
    parts = [found[first] for first in sorted(found)]
    return Candidates(
        np.concatenate([positions for positions, _ in parts]),
        np.concatenate([scores for _, scores in parts]),
        taken,
    )


def strength_ranking(cells: FloatArray, banned: NDArray[np.bool_], team: Team) -> Candidates:
    """Every cell is a candidate at its own centre; the score is its :func:`strength`.

    No cell is taken away from finer levels, since every one of them has a strength of its own.
    """
    height, width = cells.shape[:2]
    rows, columns = np.divmod(np.arange(height * width), width)
    free = ~banned.ravel()
    positions = np.stack([rows, columns], axis=1).astype(np.float32)[free]
    return Candidates(positions, strength(cells, team).ravel()[free], np.zeros_like(banned))


DETECTORS = {"d2": hard_detection, "strength": strength_ranking}


def strength(cells: FloatArray, team: Team) -> FloatArray:
    """The largest element of each cell's L2-normalised vector: (h, w, 512) to (h, w), float32."""
    height, width, channels = cells.shape
    result = np.empty((height, width), np.float32)
    rows = cells.reshape(-1, channels)
    team.share(lambda span: normalize.strength(rows, result.reshape(-1), *span), spans(height * width, 1024))
    return result


def descriptors(
    cells: FloatArray, positions: FloatArray, team: Team, *, relu: bool
) -> tuple[FloatArray, NDArray[np.bool_]]:
    """L2-normalised descriptors at positions in a map, interpolated between the four cells around each.

    Parameters
    ----------
    cells : (h, w, 512) float32
    positions : (N, 2) float32
        Row and column in cells.
    team : Team
    relu : bool
        Whether negative elements become zero before the normalisation.

    Returns
    -------
    descriptors : (N, 512) float32
    valid : (N,) bool
        False, with a descriptor of zeros, where one of the four cells does not exist.
    """
    result = np.empty((len(positions), cells.shape[2]), np.float32)
    valid = np.empty(len(positions), np.bool_)

    def work(span: tuple[int, int]) -> None:
        first, last = span
        interpolate.sample(cells, positions, result, valid, first, last)
        if relu:
            pool.relu(result[first:last])
        normalize.l2_normalize(result, first, last)

    team.share(team.timed("descriptors", "sampling, normalisation", work), spans(len(positions), 256))
    return result, valid
