"""Dot products of all pairs of descriptors, a block of rows at a time."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .compile import jit
from .simd import Block, multiply_block


def pack(descriptors: NDArray[np.float32], block: Block) -> NDArray[np.float32]:
    """Return descriptors (M, D) as the kernel reads them: [ceil(M / NR)][D][NR], filled up with zeros."""
    count, depth = descriptors.shape
    blocks = -(-count // block.columns)
    padded = np.zeros((blocks * block.columns, depth), np.float32)
    padded[:count] = descriptors
    return np.ascontiguousarray(padded.reshape(blocks, block.columns, depth).transpose(0, 2, 1))


@functools.cache
def kernel(block: Block) -> Callable[..., Any]:
    """Return the product compiled for one block shape."""
    lanes, rows, steps = block

    @jit()
    def multiply(a, b, products):
        """Compute the products of all rows of ``a`` with all of ``b``.

        Parameters
        ----------
        a : (N, D) float32
            N is a multiple of ``rows``.
        b : (blocks, D, NR) float32
            See :func:`pack`.
        products : (N, blocks * NR) float32, written
        """
        depth, columns, width = a.shape[1], 2 * lanes, products.shape[1]
        # A block of columns stays in the cache while all rows pass by.
        for m in range(b.shape[0]):
            for i in range(0, a.shape[0], rows):
                multiply_block(
                    a, i * depth, depth, depth, b, m * depth * columns, m * depth * columns,
                    products, i * width + m * columns, width, False, lanes, rows, steps,
                )  # fmt: skip

    return multiply


@jit()
def two_best_of_columns(products, first, best, index, second):
    """Update each column's largest product, its row (the lowest of equals), and the second-largest product.

    ``products`` (N, at least M) float32 are the rows from number ``first`` on. ``best`` float32, ``index``
    int32 and ``second`` float32 are (M,); to begin with -inf, anything, -inf.
    """
    for n in range(products.shape[0]):
        row, number = products[n], np.int32(first + n)
        # Without branches, so that the compiler turns the loop into vectors.
        for m in range(best.shape[0]):
            value, held, held_index, held_second = row[m], best[m], index[m], second[m]
            larger = (value > held) | ((value == held) & (number < held_index))
            loser = held if larger else value
            best[m] = value if larger else held
            index[m] = number if larger else held_index
            second[m] = held_second if held_second > loser else loser
