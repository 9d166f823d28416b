"""Hard detection with the edge test, and sub-cell localisation, in one pass over the map.

Paper, section 3.2; published file ``lib/model_test.py``. Only cells that survive the cheap tests reach
the dear ones, so the pass costs one read of the map.
"""

from __future__ import annotations

import numpy as np

from .compile import jit

LEAST_CURVATURE = np.float32(1e-4)
"""Least second difference of a keypoint, over the feature's value.

Where the image has one colour, all cells are equal but for rounding, and the published detector finds local
maxima of that. Their relative curvature is 1e-6 at most, that of keypoints of photographs 9e-3 at least.
"""

TIE = np.float32(1e-5)
"""Values that differ by no more than this share of them are equal but for rounding."""


@jit()
def detect(cells, top, height, largest, blocked, edge_threshold, positions, scores, near, first, last):
    """Find the keypoints of the rows ``first`` to ``last`` of a map, row by row.

    Parameters
    ----------
    cells : (n, w, C) float32
        Rows of the feature map from row ``top`` on: those asked for and, where there are any, the one above
        and the one below.
    top, height : int
        Number of the first row in ``cells``; rows of the whole map.
    largest : (last - first, w) float32
        The largest element of each cell of the rows asked for.
    blocked : (h, w) bool, updated
        Cells of the whole map that may not hold a keypoint. Those that hold a detection, wherever its
        sub-cell position falls, are added.
    edge_threshold : float32
        Largest ratio of the principal curvatures.
    positions : (capacity, 2) float32, written
        Row and column with the sub-cell displacement.
    scores : (capacity,) float32, written
    near : (3, 3) float32, scratch

    Returns
    -------
    int
        How many keypoints there are. If that exceeds the capacity, the surplus was not written.
    """
    _, width, channels = cells.shape
    limit = (edge_threshold + np.float32(1)) ** 2 / edge_threshold
    half, quarter, two = np.float32(0.5), np.float32(0.25), np.float32(2)
    count = 0
    for i in range(first, last):
        for j in range(width):
            if blocked[i, j]:
                continue
            for c in range(channels):
                value = cells[i - top, j, c]
                if value != largest[i - first, j]:
                    continue
                # The cells around with zeros beyond the map, as the published second differences see them.
                tied, is_peak = value + TIE * abs(value), True
                for u in range(3):
                    for v in range(3):
                        y, x = i + u - 1, j + v - 1
                        inside = y >= 0 and x >= 0 and y < height and x < width
                        near[u, v] = cells[y - top, x, c] if inside else np.float32(0)
                        if inside and near[u, v] > tied:
                            is_peak = False
                if not is_peak:
                    continue
                up, down, left, right = near[0, 1], near[2, 1], near[1, 0], near[1, 2]
                dii = up - two * value + down
                djj = left - two * value + right
                least = LEAST_CURVATURE * abs(value)
                if not (-dii > least and -djj > least):
                    continue
                dij = quarter * (near[0, 0] - near[0, 2] - near[2, 0] + near[2, 2])
                determinant = dii * djj - dij * dij
                trace = dii + djj
                if not (determinant > 0 and trace * trace / determinant <= limit):
                    continue
                blocked[i, j] = True
                # One step of Newton's method towards the peak.
                di, dj = half * (down - up), half * (right - left)
                step_i = -(djj / determinant * di - dij / determinant * dj)
                step_j = -(dii / determinant * dj - dij / determinant * di)
                if not (abs(step_i) < half and abs(step_j) < half):
                    continue
                row, column = np.float32(i) + step_i, np.float32(j) + step_j
                if row < 0 or column < 0 or row > height - 1 or column > width - 1:
                    continue
                if count < scores.shape[0]:
                    positions[count, 0], positions[count, 1] = row, column
                    scores[count] = value
                count += 1
    return count
