"""Nearest neighbours by dot product, in both directions in one pass, without the matrix of all products."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .compile import jit
from .simd import Block, keep_two_best, largest, multiply_block
from .topk import replace_weakest


def pack(descriptors: NDArray[np.float32], block: Block) -> NDArray[np.float32]:
    """Return descriptors (M, D) as the kernel reads them: [ceil(M / NR)][D][NR], filled up with zeros."""
    count, depth = descriptors.shape
    blocks = -(-count // block.columns)
    padded = np.zeros((blocks * block.columns, depth), np.float32)
    padded[:count] = descriptors
    return np.ascontiguousarray(padded.reshape(blocks, block.columns, depth).transpose(0, 2, 1))


@jit()
def keep_best(best, index, second, n, value, other, runner_up):
    """Merge another candidate pair into the two best of row ``n``; of equals the lower index wins.

    ``value`` is their best one, ``other`` its index and ``runner_up``, which is no larger, their second.
    """
    if value > best[n] or (value == best[n] and other < index[n]):
        second[n] = max(best[n], runner_up)
        best[n] = value
        index[n] = other
    else:
        second[n] = max(second[n], value)


@jit()
def merge(best, index, second, more_best, more_index, more_second):
    """Merge another candidate pair into the running best two of every row."""
    for n in range(best.shape[0]):
        keep_best(best, index, second, n, more_best[n], more_index[n], more_second[n])


@functools.cache
def kernel(lanes: int, rows: int) -> Callable[..., Any]:
    """Return the pass over all pairs compiled for one block shape."""

    @jit()
    def two_best(a, b, count_b, a_best, a_index, a_second, b_best, b_index, b_second, first, last):
        """Find the two best partners among the rows ``first`` to ``last`` of ``a`` and all of ``b``.

        Parameters
        ----------
        a : (N + rows, D) float32
            The last ``rows`` of them are only read.
        b : (ceil(count_b / NR), D, NR) float32
            See :func:`pack`.
        a_best, a_index, a_second : (N,) float32, int64, float32, updated
        b_best, b_index, b_second : (count_b,) float32, int64, float32, updated
            Largest product, the partner's index, second-largest product. To begin with -inf and an index
            above all others.
        """
        depth, columns = a.shape[1], 2 * lanes
        tile = np.empty((rows, columns), np.float32)
        lowest = np.float32(-np.inf)
        # For each row, one pair of best values in every lane; its partners are numbers of blocks of columns.
        row_best = np.full((last - first, columns), lowest, np.float32)
        row_block = np.zeros((last - first, columns), np.int32)
        row_second = np.full((last - first, columns), lowest, np.float32)
        column_best = np.empty(columns, np.float32)
        column_row = np.empty(columns, np.int32)
        column_second = np.empty(columns, np.float32)
        # A block of columns stays in the cache while all rows pass by.
        for m in range(b.shape[0]):
            used = min(columns, count_b - m * columns)
            column_best[:] = lowest
            column_second[:] = lowest
            for i in range(first, last, rows):
                multiply_block(
                    a, i * depth, depth, depth, b, m * depth * columns, tile, 0, columns, 0, lanes, rows
                )  # fmt: skip
                for r in range(min(rows, last - i)):
                    for c in range(used, columns):
                        tile[r, c] = lowest
                    for c in range(0, columns, lanes):
                        place, row = r * columns + c, (i - first + r) * columns + c
                        keep_two_best(tile, place, m, row_best, row_block, row_second, row, lanes)
                        keep_two_best(tile, place, i + r, column_best, column_row, column_second, c, lanes)
            for c in range(used):
                n = m * columns + c
                keep_best(b_best, b_index, b_second, n, column_best[c], column_row[c], column_second[c])
        for i in range(first, last):
            for c in range(columns):
                value = row_best[i - first, c]
                if value > lowest:
                    partner = row_block[i - first, c] * columns + c
                    keep_best(a_best, a_index, a_second, i, value, partner, row_second[i - first, c])

    return two_best


@functools.cache
def closest_kernel(lanes: int, rows: int) -> Callable[..., Any]:
    """Return the search for the closest pairs compiled for one block shape."""

    @jit()
    def closest(a, b, count_b, values, keys, first, last):
        """Find the closest pairs among the rows ``first`` to ``last`` of ``a`` and all of ``b``.

        ``a`` and ``b`` are as in :func:`kernel`. ``values`` (n,) float32 and ``keys`` (n,) int64 are a heap
        with the weakest pair at its root, updated; a key is ``row of a * count_b + row of b``, and of equal
        values the lower key is the closer. To begin with -inf and keys above all others.
        """
        depth, columns = a.shape[1], 2 * lanes
        tile = np.empty((rows, columns), np.float32)
        for m in range(b.shape[0]):
            used = min(columns, count_b - m * columns)
            for i in range(first, last, rows):
                multiply_block(
                    a, i * depth, depth, depth, b, m * depth * columns, tile, 0, columns, 0, lanes, rows
                )  # fmt: skip
                count = min(rows, last - i)
                if largest(tile, 0, 2 * count, lanes) < values[0] and used == columns:
                    continue
                for r in range(count):
                    for c in range(used):
                        if tile[r, c] >= values[0]:
                            replace_weakest(values, keys, tile[r, c], (i + r) * count_b + m * columns + c)

    return closest
