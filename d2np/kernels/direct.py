"""Direct 3 x 3 convolution on the register block, with bias and ReLU.

The input is a band of rows in which every row begins with as many zero columns as the convolution
reaches, so that the margin behind one row is the margin in front of the next. Seen that way a band is
one long row of positions, and the nine taps are nine fixed distances in it: no border needs a case of
its own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from .compile import jit, nothing
from .simd import Block, VectorBuilder, copy_vector, multiply_block


def pack(weights: NDArray[np.float32], block: Block) -> NDArray[np.float32]:
    """Return weights (out, in, 3, 3) as the kernel reads them: [out / NR][tap][in][NR]."""
    out_channels, in_channels = weights.shape[:2]
    blocks = weights.reshape(out_channels // block.columns, block.columns, in_channels, 9)
    return np.ascontiguousarray(blocks.transpose(0, 3, 2, 1))


def tap_offsets(row_stride: int, pixel_stride: int, channels: int, dilation: int) -> NDArray[np.int64]:
    """Return the distances of the taps from the first, in elements of the band.

    ``row_stride`` is the number of positions from one row to the next, the margin included;
    ``pixel_stride`` the number of elements from one position to the next. There are nine taps, or three
    where the three of a row, ``channels`` long each, lie side by side and are short: such a row is one long
    tap, of which the kernel makes a single one.
    """
    if dilation == 1 and pixel_stride == channels < 16:
        return np.arange(3, dtype=np.int64) * row_stride * pixel_stride
    rows, columns = np.divmod(np.arange(9, dtype=np.int64), 3)
    return (rows * row_stride + columns) * (dilation * pixel_stride)


# Blocks of positions that share a pass over the weights; twelve keep their input within the cache.
_GROUP = 12


def scratch(
    block: Block, in_channels: int, taps: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return working memory for the kernel: for the sums of a block, and for taps that are joined.

    The kernels make no arrays of their own: to compile that takes a third of a second.
    """
    positions = _GROUP * block.rows + block.lanes if len(taps) == 3 else 0
    sums = np.empty((block.rows, block.columns), np.float32)
    return sums, np.empty((positions, 9 * in_channels), np.float32)


@intrinsic(prefer_literal=True)
def finish_row(typingctx, sums, place, bias, channel, floor, target, target_place, ahead, lanes):
    """Add the bias to a row of a block of sums, take the larger of that and ``floor``, and write it.

    What lies ``ahead`` further on in ``target``, to be written soon, is fetched.
    """
    if not isinstance(lanes, types.IntegerLiteral):
        return None
    index = types.int64
    signature = types.void(sums, index, bias, index, types.float32, target, index, index, lanes)

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        v = VectorBuilder(context, builder, lanes.literal_value)
        lowest = v.splat(args[4])
        for half in (0, 1):
            value, added, there = (
                v.step(v.element(sig.args[k], args[k], args[k + 1]), (half, ir.IntType(64)(v.lanes)))
                for k in (0, 2, 5)
            )
            v.prefetch(v.step(there, (1, args[7])), write=True)
            # In this order a NaN stays one.
            v.store(v.maximum(lowest, v.add(v.load(value), v.load(added))), there)
        return nothing(context)

    return signature, codegen


@functools.cache
def kernel(block: Block) -> Callable[..., Any]:
    """Return the convolution compiled for one block shape."""
    lanes, rows, steps = block

    @jit()
    def convolve(
        source, taps, weights, bias, floor, row_stride, target, target_rows, width, sums, joined, first, last
    ):  # fmt: skip
        """Compute the outputs at the positions ``first`` to ``last`` of a band, all channels.

        Parameters
        ----------
        source : (positions, pixel stride) float32
            Input band seen as one long row. It must be readable for one block of rows beyond the last
            position's last tap; what stands there does not matter.
        taps : (9,) or (3,) int64
            See :func:`tap_offsets`.
        weights : (out / NR, 9, in, NR) float32
            See :func:`pack`.
        bias : (out,) float32
        floor : float32
            0 for a ReLU, -inf for none.
        row_stride : int
            Positions from one row of the band to the next, the margin included.
        target : (positions, pixel stride) float32
        target_rows : (rows,) int64
            Row i, column j < ``width`` of the output is written at position ``target_rows[i] + j``.
        sums, joined
            See :func:`scratch`.
        """
        columns = 2 * lanes
        length = 9 * weights.shape[2]
        group = _GROUP * rows
        ahead = 2 * rows * target.shape[1]
        # Three long taps are laid side by side first, as a single one.
        joins = taps.shape[0] == 3
        values, turns = (joined, 1) if joins else (source, taps.shape[0])
        depth, pixel = length // turns, values.shape[1]
        for start in range(first, last, group):
            stop = min(start + group, last)
            begin = 0 if joins else start
            for q in range(start, stop if joins else start):
                for t in range(3):
                    for k in range(0, length // 3, lanes):
                        # What is copied too much is written over, or lies behind the last.
                        place, into = q * source.shape[1] + taps[t], (q - start) * length + t * (length // 3)
                        copy_vector(source, place + k, joined, into + k, lanes)
            for n in range(weights.shape[0]):
                channel, packed = n * columns, n * length * columns
                for q in range(start, stop, rows):
                    # Each tap is summed by itself first: shorter sums round less.
                    for t in range(turns):
                        multiply_block(
                            values, (begin + q - start) * pixel + taps[t], pixel, depth,
                            weights, packed + t * depth * columns, packed,
                            sums, 0, columns, t > 0, lanes, rows, steps,
                        )  # fmt: skip
                    i = q // row_stride
                    j = q - i * row_stride
                    for r in range(min(rows, stop - q)):
                        if j < width:
                            place = (target_rows[i] + j) * target.shape[1] + channel
                            finish_row(sums, r * columns, bias, channel, floor, target, place, ahead, lanes)
                        j += 1
                        if j == row_stride:
                            j = 0
                            i += 1

    return convolve
