"""ReLU and the two poolings. Loops over channels are innermost: the compiler turns them into vectors."""

from __future__ import annotations

import numpy as np

from .compile import jit


@jit()
def relu(values):
    """Set the negative elements of ``values`` (N, C) float32 to zero, in place."""
    for n in range(values.shape[0]):
        for c in range(values.shape[1]):
            values[n, c] = max(values[n, c], np.float32(0))


@jit()
def max_pool(source, source_rows, target, target_rows, width, channels, first, last):
    """Compute the 2 x 2 maximum with stride 2, for the output rows ``first`` to ``last``.

    ``source`` and ``target`` are (positions, pixel stride) float32. Row i, column j of the input stands at
    position ``source_rows[i] + j``; of the output, ``width`` columns wide, at ``target_rows[i] + j``.
    """
    for i in range(first, last):
        for j in range(width):
            upper, lower = source_rows[2 * i] + 2 * j, source_rows[2 * i + 1] + 2 * j
            position = target_rows[i] + j
            for c in range(channels):
                target[position, c] = max(
                    max(source[upper, c], source[upper + 1, c]),
                    max(source[lower, c], source[lower + 1, c]),
                )


@jit()
def average_pool(source, source_rows, target, target_rows, width, channels, first, last):
    """Compute the 2 x 2 mean with stride 1; the arguments are those of :func:`max_pool`."""
    quarter = np.float32(0.25)
    for i in range(first, last):
        for j in range(width):
            upper, lower = source_rows[i] + j, source_rows[i + 1] + j
            position = target_rows[i] + j
            for c in range(channels):
                total = (source[upper, c] + source[upper + 1, c]) + (source[lower, c] + source[lower + 1, c])
                target[position, c] = total * quarter
