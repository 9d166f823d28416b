"""The two detectors: from a feature map to the places of keypoints in it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..kernels import detect as kernels
from ..kernels import interpolate, normalize, pool
from ..threads import Team, spans

FloatArray = NDArray[np.float32]

EDGE_THRESHOLD = np.float32(5)
"""Largest ratio of principal curvatures, as in SIFT and in the published ``HardDetectionModule``."""

_ROWS_IN_A_TASK = 4


class MapRows(NamedTuple):
    """Some rows of a feature map.

    Attributes
    ----------
    cells : (n, w, 512) float32
    top : int
        Number of the first of them in the map.
    height : int
        Rows of the whole map.
    """

    cells: FloatArray
    top: int
    height: int

    def between(self, first: int, last: int) -> FloatArray:
        """Return the cells of rows ``first`` to ``last`` of the map."""
        return self.cells[first - self.top : last - self.top]


class Candidates(NamedTuple):
    """Keypoints of some rows of a map.

    Attributes
    ----------
    positions : (N, 2) float32
        Row and column in cells of the whole map, with the sub-cell displacement.
    scores : (N,) float32
    """

    positions: FloatArray
    scores: FloatArray


def hard_detection(
    rows: MapRows, blocked: NDArray[np.bool_], first: int, last: int, team: Team
) -> Candidates:
    """Find the cells of which the largest channel is a local maximum of that channel, as published.

    Paper, section 3.2, and SIFT's edge test; the positions are refined within the cell by one Newton step
    (``HandcraftedLocalizationModule``). A keypoint counts if the step stays within half a cell and all
    four cells around it exist.

    Parameters
    ----------
    rows : MapRows
        The rows to search and, where there are any, the one above and the one below.
    blocked : (h, w) bool, updated
        Where no keypoint may be. The cells found are added: finer levels may not use them again.
    first, last : int
        The rows to search.
    team : Team

    Returns
    -------
    Candidates
        Row by row; the score is the feature's value.
    """
    found: dict[int, tuple[FloatArray, FloatArray]] = {}

    def work(span: tuple[int, int]) -> None:
        begin, end = first + span[0], first + span[1]
        largest = rows.between(begin, end).max(axis=2)
        near, capacity = np.empty((3, 3), np.float32), 64
        while True:
            positions, scores = np.empty((capacity, 2), np.float32), np.empty(capacity, np.float32)
            free = blocked[begin:end].copy()
            count = kernels.detect(
                *rows, largest, blocked, EDGE_THRESHOLD, positions, scores, near, begin, end
            )
            if count <= capacity:
                break
            blocked[begin:end] = free
            capacity = count
        found[begin] = positions[:count], scores[:count]

    team.share(team.timed("detection", "detection, localisation", work), spans(last - first, _ROWS_IN_A_TASK))
    parts = [found[begin] for begin in sorted(found)]
    return Candidates(*map(np.concatenate, zip(*parts, strict=True)))


def strength_ranking(
    rows: MapRows, blocked: NDArray[np.bool_], first: int, last: int, team: Team
) -> Candidates:
    """Return every cell that is not blocked, at its own centre; the score is its :func:`strength`.

    No cell is taken away from finer levels, since every one of them has a strength of its own. For the
    parameters see :func:`hard_detection`.
    """
    free = ~blocked[first:last]
    positions = (np.argwhere(free) + np.array([first, 0])).astype(np.float32)
    return Candidates(positions, strength(rows.between(first, last), team)[free])


DETECTORS = {"d2": hard_detection, "strength": strength_ranking}


def strength(cells: FloatArray, team: Team) -> FloatArray:
    """Return the largest element of each cell's L2-normalised vector: (h, w, 512) to (h, w), float32."""
    height, width, channels = cells.shape
    result = np.empty((height, width), np.float32)
    flat, flat_result = cells.reshape(-1, channels), result.reshape(-1)

    def work(span: tuple[int, int]) -> None:
        first, last = span
        normalize.strength(flat[first:last], flat[first:last].max(axis=1), flat_result[first:last])

    team.share(work, spans(height * width, 1024))
    return result


def descriptors(
    rows: MapRows, positions: FloatArray, team: Team, *, relu: bool
) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Interpolate L2-normalised descriptors between the four cells around each position in a map.

    Parameters
    ----------
    rows : MapRows
        Those around the positions.
    positions : (N, 2) float32
        Row and column in cells of the whole map.
    team : Team
    relu : bool
        Whether negative elements become zero before the normalisation.

    Returns
    -------
    descriptors : (N, 512) float32
    valid : (N,) bool
        False, with a descriptor of zeros, where one of the four cells does not exist.
    """
    result = np.empty((len(positions), rows.cells.shape[2]), np.float32)
    valid = np.empty(len(positions), np.bool_)

    def work(span: tuple[int, int]) -> None:
        first, last = span
        interpolate.sample(*rows, positions, result, valid, first, last)
        if relu:
            pool.relu(result[first:last])
        normalize.l2_normalize(result, first, last)

    team.share(team.timed("descriptors", "sampling, normalisation", work), spans(len(positions), 256))
    return result, valid
