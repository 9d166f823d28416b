"""Plain functions that tests need beside :mod:`d2np.reference`."""

from __future__ import annotations

import numpy as np

from d2np import reference


def detect(cells, banned):
    """Return keypoints as (row, column, channel), their positions and scores, and where there is a peak."""
    peaks = reference.detect(cells, banned)
    taken = np.zeros(cells.shape[:2], bool)
    taken[tuple(peaks.T[:2])] = True
    positions, counts = reference.localize(cells, peaks)
    return peaks[counts], positions[counts], cells[tuple(peaks[counts].T)], taken


def strongest(values, k):
    """Return the positions of the k largest, largest first; of equals the first one first."""
    return np.array(sorted(range(len(values)), key=lambda n: (-values[n], n))[: max(k, 0)], np.int64)


def evenly(xy, values, k, size):
    """Return the positions of k values from all cells of a grid, in the order of :func:`strongest`."""
    side = max(1, np.sqrt(size[0] * size[1] * 8 / max(1, k)))
    grid = [max(1, round(edge / side)) for edge in size]
    cells = {}
    for n in strongest(values, len(values)).tolist():
        cell = [min(int((xy[n, axis] + 0.5) * (grid[axis] / size[axis])), grid[axis] - 1) for axis in (0, 1)]
        cells.setdefault(tuple(cell), []).append(n)
    chosen = []
    while len(chosen) < k and any(cells.values()):
        best = [cell.pop(0) for cell in cells.values() if cell]
        chosen += sorted(best, key=lambda n: (-values[n], n))
    return np.array(sorted(chosen[:k], key=lambda n: (-values[n], n)), np.int64)


def closest_pairs(products, n):
    """Return (row, column) of the n largest products, largest first; of equals the lower indices first."""
    order = strongest(products.ravel().tolist(), n)
    return np.stack(np.divmod(order, products.shape[1]), axis=1)


def pair_up(found, expected, tolerance=1e-2):
    """Return positions of keypoints in both lists, (K, 2): within ``tolerance`` px, of the same scale.

    Both are taken in the order of (scale, y, x), so that the result tells whether that order is the same.
    """
    pairs, used = [], set()
    for b in np.lexsort((expected[:, 0], expected[:, 1], expected[:, 2])):
        distances = np.hypot(found[:, 0] - expected[b, 0], found[:, 1] - expected[b, 1])
        distances[~np.isclose(found[:, 2], expected[b, 2])] = np.inf
        distances[list(used)] = np.inf
        if len(found) and distances.min() <= tolerance:
            used.add(int(distances.argmin()))
            pairs.append((int(distances.argmin()), int(b)))
    return np.array(pairs, np.int64).reshape(-1, 2)
