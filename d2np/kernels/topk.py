"""The k largest values, kept in a heap with the weakest at its root.

Values are ranked by size, and equal ones by their keys: the lower key first.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .compile import jit


@jit()
def _weaker(values, keys, a, b):
    return values[a] < values[b] or (values[a] == values[b] and keys[a] > keys[b])


@jit()
def _swap(values, keys, a, b):
    values[a], values[b] = values[b], values[a]
    keys[a], keys[b] = keys[b], keys[a]


@jit()
def _sift_down(values, keys, size):
    root = 0
    while True:
        child = 2 * root + 1
        if child >= size:
            return
        if child + 1 < size and _weaker(values, keys, child + 1, child):
            child += 1
        if not _weaker(values, keys, child, root):
            return
        _swap(values, keys, root, child)
        root = child


@jit()
def replace_weakest(values, keys, value, key):
    """Replace the heap's weakest by ``value`` with ``key``, if that ranks before it."""
    if value < values[0] or (value == values[0] and key > keys[0]):
        return
    values[0], keys[0] = value, key
    _sift_down(values, keys, values.shape[0])


def strongest(values: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Return the positions of the ``k`` largest values, largest first; of equals the first one first."""
    return np.argsort(-values, kind="stable")[: max(0, k)]
