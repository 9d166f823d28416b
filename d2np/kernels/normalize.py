"""L2 normalisation of descriptors, and the strength of cells."""

from __future__ import annotations

import numpy as np

from .compile import jit
from .simd import SUMS, sum_of_squares


@jit()
def squared_norm(vector):
    """Return the sum of the squares of a vector without gaps."""
    whole = vector.shape[0] // SUMS * SUMS
    total = sum_of_squares(vector, whole)
    for c in range(whole, vector.shape[0]):
        total += vector[c] * vector[c]
    return total


@jit()
def l2_normalize(vectors, first, last):
    """Divide the rows ``first`` to ``last`` of ``vectors`` (N, C) float32 by their length, in place.

    Lengths under 1e-12 count as 1e-12, as in PyTorch's ``normalize``: rows of zeros stay zeros.
    """
    for n in range(first, last):
        length = max(np.sqrt(squared_norm(vectors[n])), np.float32(1e-12))
        for c in range(vectors.shape[1]):
            vectors[n, c] /= length


@jit()
def strength(cells, largest, target):
    """Write the largest element of each L2-normalised row of ``cells`` (N, C) to ``target`` (N,), float32.

    ``largest`` (N,) holds that of each row before the normalisation.
    """
    for n in range(cells.shape[0]):
        target[n] = largest[n] / max(np.sqrt(squared_norm(cells[n])), np.float32(1e-12))
