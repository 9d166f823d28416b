"""The vector instructions of the kernels in plain NumPy, for ``NUMBA_DISABLE_JIT``.

Slow, and meant for debuggers and tools that look into Python only. Arrays are addressed as the kernels do:
by flat positions, in elements, from an array's first one.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray


def elements(array: NDArray[Any], start: int, shape: tuple[int, ...], steps: tuple[int, ...]) -> NDArray[Any]:
    """Return a view of the elements from ``start`` on, ``steps`` elements apart along each axis."""
    size = array.itemsize
    first = as_strided(array, (start + 1,), (size,))[start:]
    return as_strided(first, shape, tuple(step * size for step in steps))


def line(array: NDArray[Any], start: int, count: int) -> NDArray[Any]:
    """Return a view of ``count`` elements that lie side by side."""
    return elements(array, start, (count,), (1,))


class PlainVector:
    """The arithmetic of :class:`~d2np.kernels.simd.VectorBuilder` on arrays."""

    add, sub = staticmethod(np.add), staticmethod(np.subtract)
    mul = staticmethod(functools.partial(np.multiply, dtype=np.float32))

    def fma(self, a, b, c):
        return self.mul(a, b) + c

    def maximum(self, a, b):
        return np.where(a > b, a, b)


def multiply_block(a, a_start, a_step, depth, b, b_start, c, c_start, c_step, add, lanes, rows):
    columns = 2 * lanes
    left = elements(a, a_start, (rows, depth), (a_step, 1))
    right = elements(b, b_start, (depth, columns), (columns, 1))
    target = elements(c, c_start, (rows, columns), (c_step, 1))
    target[:] = target + left @ right if add else left @ right


def keep_two_best(values, values_start, partner, best, index, second, start, lanes):
    value = line(values, values_start, lanes)
    held, held_index = line(best, start, lanes), line(index, start, lanes)
    held_second = line(second, start, lanes)
    larger = value > held
    loser = np.where(larger, held, value)
    held_second[:] = np.where(held_second > loser, held_second, loser)
    held_index[larger] = partner
    held[larger] = value[larger]


def largest(values, start, vectors, lanes):
    return np.fmax.reduce(line(values, start, vectors * lanes))
