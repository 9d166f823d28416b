"""Bilinear interpolation: of whole maps with aligned corners, and at single positions."""

from __future__ import annotations

import numpy as np

from .compile import jit


@jit()
def _neighbours(position, size):
    low = min(int(position), size - 1)
    high = min(low + 1, size - 1)
    return low, high, np.float32(position - np.float32(low))


@jit()
def _step(source_size, target_size):
    if target_size < 2:
        return np.float32(0)
    return np.float32(source_size - 1) / np.float32(target_size - 1)


@jit()
def rows_needed(source_height, target_height, first, last):
    """Return the source rows from which :func:`resize` makes the target rows ``first`` to ``last``."""
    step = _step(source_height, target_height)
    top, _, _ = _neighbours(step * np.float32(first), source_height)
    _, bottom, _ = _neighbours(step * np.float32(last - 1), source_height)
    return top, bottom + 1


@jit()
def resize(source, source_top, source_height, target, target_top, target_height, add, first, last):
    """Resize a map of ``source_height`` rows to ``target_height``, corner pixels on corner pixels.

    Writes the target rows ``first`` to ``last``, or adds to them if ``add``. ``source`` (n, W, C) float32
    holds rows of the one map from row ``source_top`` on, at least :func:`rows_needed`; ``target`` (m, w, C)
    float32 rows of the other from row ``target_top`` on. The arithmetic is PyTorch's
    ``interpolate(mode="bilinear", align_corners=True)`` in float32, as the published pyramid uses it.
    """
    one = np.float32(1)
    step_i = _step(source_height, target_height)
    step_j = _step(source.shape[1], target.shape[1])
    for i in range(first, last):
        top, bottom, down = _neighbours(step_i * np.float32(i), source_height)
        top, bottom = top - source_top, bottom - source_top
        row = i - target_top
        for j in range(target.shape[1]):
            left, right, across = _neighbours(step_j * np.float32(j), source.shape[1])
            for c in range(source.shape[2]):
                upper = (one - across) * source[top, left, c] + across * source[top, right, c]
                lower = (one - across) * source[bottom, left, c] + across * source[bottom, right, c]
                value = (one - down) * upper + down * lower
                target[row, j, c] = target[row, j, c] + value if add else value


@jit()
def sample(cells, first_row, height, positions, target, valid, first, last):
    """Compute bilinear values of a map at ``positions`` (N, 2) row, column; float32.

    ``cells`` (n, w, C) holds the rows of the map, ``height`` in all, from row ``first_row`` on: those around
    the positions. Writes the rows ``first`` to ``last`` of ``target`` (N, C). A position of which one of the
    four cells lies outside gets zeros, and False in ``valid`` (N,).
    """
    _, width, channels = cells.shape
    one = np.float32(1)
    for n in range(first, last):
        i, j = positions[n, 0], positions[n, 1]
        inside = i >= 0 and j >= 0 and i <= height - 1 and j <= width - 1
        valid[n] = inside
        if not inside:
            for c in range(channels):
                target[n, c] = np.float32(0)
            continue
        top, bottom, down = _neighbours(i, height)
        left, right, across = _neighbours(j, width)
        top, bottom = top - first_row, bottom - first_row
        for c in range(channels):
            target[n, c] = (
                (one - down) * (one - across) * cells[top, left, c]
                + (one - down) * across * cells[top, right, c]
                + down * (one - across) * cells[bottom, left, c]
                + down * across * cells[bottom, right, c]
            )
