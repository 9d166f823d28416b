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
def resize(source, target, add, first, last):
    """Resize ``source`` (H, W, C) to ``target`` (h, w, C), corner pixels on corner pixels.

    Writes the rows ``first`` to ``last``, or adds to them if ``add``. The arithmetic is PyTorch's
    ``interpolate(mode="bilinear", align_corners=True)`` in float32, as the published pyramid uses it.
    """
    one = np.float32(1)
    step_i = _step(source.shape[0], target.shape[0])
    step_j = _step(source.shape[1], target.shape[1])
    for i in range(first, last):
        top, bottom, down = _neighbours(step_i * np.float32(i), source.shape[0])
        for j in range(target.shape[1]):
            left, right, across = _neighbours(step_j * np.float32(j), source.shape[1])
            for c in range(source.shape[2]):
                upper = (one - across) * source[top, left, c] + across * source[top, right, c]
                lower = (one - across) * source[bottom, left, c] + across * source[bottom, right, c]
                value = (one - down) * upper + down * lower
                target[i, j, c] = target[i, j, c] + value if add else value


@jit()
def sample(cells, positions, target, valid, first, last):
    """Bilinear values of ``cells`` (h, w, C) at ``positions`` (N, 2) row, column; float32.

    Writes the rows ``first`` to ``last`` of ``target`` (N, C). A position of which one of the four cells
    lies outside gets zeros, and False in ``valid`` (N,).
    """
    height, width, channels = cells.shape
    one = np.float32(1)
    for n in range(first, last):
        i, j = positions[n, 0], positions[n, 1]
        inside = i >= 0 and j >= 0 and i <= height - 1 and j <= width - 1
        valid[n] = inside
        if not inside:
            for c in range(channels):
                target[n, c] = np.float32(0)
            continue
        top, left = int(i), int(j)
        bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
        down, across = i - np.float32(top), j - np.float32(left)
        for c in range(channels):
            target[n, c] = (
                (one - down) * (one - across) * cells[top, left, c]
                + (one - down) * across * cells[top, right, c]
                + down * (one - across) * cells[bottom, left, c]
                + down * across * cells[bottom, right, c]
            )
