"""3 x 3 convolution by Winograd's minimal filtering F(4 x 4, 3 x 3).

A tile of 4 x 4 outputs takes 36 multiplications per pair of channels instead of 144 (Lavin and Gray, "Fast
Algorithms for Convolutional Neural Networks", 2015). The phases, in NNPACK's words: the *input transform*
turns each 6 x 6 patch of input into 36 points; the *block multiplication* multiplies, for each point, the
tiles by channels matrix with the transformed weights; the *output transform* turns the 36 points back into
4 x 4 outputs, to which bias, ReLU and, where one follows, the 2 x 2 maximum pooling are applied at once.

Dilation 2 is four ordinary convolutions of the even and odd rows and columns: the same tiles, with rows and
columns two apart.

One-dimensional transforms, for the points 0, +-A, +-B and infinity of Toom and Cook::

    input   even/odd halves of x^4 - (A^2 + B^2) x^2 + A^2 B^2, divided by each point's factor
    weights value of the filter's polynomial at each point, divided by the point's product of differences
    output  powers of the points
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from .compile import jit, nothing
from .simd import Block, VectorBuilder, multiply_block

OUTPUTS = 4
"""Rows and columns of outputs in a tile."""
INPUTS = 6
"""Rows and columns of inputs in a tile, and of points."""
POINTS = INPUTS * INPUTS

Load = Callable[[int, int], Any]

PHASES = {"input transform": 1, "block multiplication": 2, "output transform": 4}
"""The phases by the bits that ask the kernel for them."""
ALL_PHASES = sum(PHASES.values())

# The points +-A and +-B: exact in binary, and half as far from the truth as the usual 1 and 2. See
# benchmarks/NOTES.md.
A, B = 0.75, 1.5


def weight_transform() -> NDArray[np.float64]:
    """Return the (6, 3) matrix G: a filter's values at the six points, scaled."""
    points = [0.0, A, -A, B, -B]
    rows = []
    for p in points:
        scale = np.prod([p - q for q in points if q != p])
        rows.append([1 / scale, p / scale, p * p / scale])
    return np.array([*rows, [0.0, 0.0, 1.0]])


def pack(weights: NDArray[np.float32], block: Block) -> NDArray[np.float32]:
    """Return transformed weights (out, in, 3, 3) as the kernel reads them: [36][out / NR][in][NR]."""
    out_channels, in_channels = weights.shape[:2]
    transform = np.kron(weight_transform(), weight_transform())
    packed = np.empty((POINTS, out_channels // block.columns, in_channels, block.columns), np.float32)
    # So few channels at a time that NumPy's library uses one thread for a product: its threads wait for each
    # other far longer than they work where other programs run. See benchmarks/NOTES.md.
    few = 256 // block.columns
    for n, k in np.ndindex(packed.shape[1], -(-in_channels // few)):
        out, into = slice(n * block.columns, (n + 1) * block.columns), slice(k * few, (k + 1) * few)
        part = weights[out, into].astype(np.float64)
        points = transform @ part.transpose(2, 3, 1, 0).reshape(9, -1)
        packed[:, n, into] = points.reshape(POINTS, -1, block.columns)
    return packed


def _input_1d(v: VectorBuilder, d: Sequence[Any]) -> list[Any]:
    aa, bb = A * A, B * B
    even_a, odd_a = v.fma(-bb, d[2], d[4]), v.fma(-bb, d[1], d[3])
    even_b, odd_b = v.fma(-aa, d[2], d[4]), v.fma(-aa, d[1], d[3])
    return [
        v.fma(aa * bb, d[0], v.fma(-(aa + bb), d[2], d[4])),
        v.fma(A, odd_a, even_a),
        v.fma(-A, odd_a, even_a),
        v.fma(B, odd_b, even_b),
        v.fma(-B, odd_b, even_b),
        v.fma(aa * bb, d[1], v.fma(-(aa + bb), d[3], d[5])),
    ]


def _output_1d(v: VectorBuilder, m: Sequence[Any]) -> list[Any]:
    sum_a, sum_b = v.add(m[1], m[2]), v.add(m[3], m[4])
    difference_a, difference_b = v.sub(m[1], m[2]), v.sub(m[3], m[4])
    return [
        v.add(m[0], v.add(sum_a, sum_b)),
        v.fma(A, difference_a, v.mul(B, difference_b)),
        v.fma(A * A, sum_a, v.mul(B * B, sum_b)),
        v.add(m[5], v.fma(A**3, difference_a, v.mul(B**3, difference_b))),
    ]


def _input_2d(v: VectorBuilder, load: Load) -> list[Any]:
    """Return the points of a patch, of which ``load(u, c)`` gives row u, column c."""
    columns = [_input_1d(v, [load(u, c) for u in range(INPUTS)]) for c in range(INPUTS)]
    return [point for u in range(INPUTS) for point in _input_1d(v, [column[u] for column in columns])]


def _output_2d(v: VectorBuilder, load: Load, pooled: int) -> list[list[Any]]:
    """Return the rows of outputs of a tile, of which ``load(u, c)`` gives point 6 u + c.

    If ``pooled`` is 1, return the maxima of 2 x 2 of them: bias and ReLU, which follow, keep their order.
    """
    columns = [_output_1d(v, [load(u, c) for u in range(INPUTS)]) for c in range(INPUTS)]
    rows = [_output_1d(v, [column[i] for column in columns]) for i in range(OUTPUTS)]
    if pooled:
        rows = [[v.maximum(row[j], row[j + 1]) for j in (0, 2)] for row in rows]
        rows = [[v.maximum(*pair) for pair in zip(rows[i], rows[i + 1], strict=True)] for i in (0, 2)]
    return rows


@intrinsic(prefer_literal=True)
def input_tile(typingctx, source, rows, start, column_step, target, target_start, point_step, ahead, lanes):
    """Compute the input transform of one tile for as many channels as a vector has lanes.

    Element (u, v) of the patch lies at ``rows[u] + start + v * column_step`` of ``source``; point p is
    written at ``target_start + p * point_step`` of ``target``. The columns that the next tile does not share
    with this one are fetched into the second-level cache: its patch lies ``ahead`` further on.
    """
    if not isinstance(lanes, types.IntegerLiteral):
        return None
    index = types.int64
    signature = types.void(source, rows, index, index, target, index, index, index, lanes)

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        v = VectorBuilder(context, builder, lanes.literal_value)
        first = [
            v.step(v.element(sig.args[0], args[0], builder.extract_value(args[1], u)), (1, args[2]))
            for u in range(INPUTS)
        ]
        points = _input_2d(v, lambda u, c: v.load(v.step(first[u], (c, args[3]))))
        for u in range(INPUTS):
            for c in range(2, INPUTS):
                v.prefetch(v.step(first[u], (c, args[3]), (1, args[7])), level=2)
        target_first = v.element(sig.args[4], args[4], args[5])
        for p, point in enumerate(points):
            v.store(point, v.step(target_first, (p, args[6])))
        return nothing(context)

    return signature, codegen


@intrinsic(prefer_literal=True)
def output_tile(
    typingctx, source, start, point_step, bias, bias_start, floor, target, rows, target_start, column_step,
    pooled, lanes,
):  # fmt: skip
    """Compute the output transform of one tile, bias and ReLU for as many channels as a vector has lanes.

    Point p lies at ``start + p * point_step`` of ``source``. Output (i, j) is written at
    ``rows[i] + target_start + j * column_step`` of ``target``: 4 x 4 of them, or, if the compile-time
    constant ``pooled`` is 1, the maxima of 2 x 2.
    """
    if not (isinstance(lanes, types.IntegerLiteral) and isinstance(pooled, types.IntegerLiteral)):
        return None
    index = types.int64
    signature = types.void(
        source, index, index, bias, index, types.float32, target, rows, index, index, pooled, lanes
    )

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        v = VectorBuilder(context, builder, lanes.literal_value)
        first = v.element(sig.args[0], args[0], args[1])
        bias_vector = v.load(v.element(sig.args[3], args[3], args[4]))
        lowest = v.splat(args[5])
        outputs = _output_2d(
            v, lambda u, c: v.load(v.step(first, (u * INPUTS + c, args[2]))), pooled.literal_value
        )
        for i, row in enumerate(outputs):
            first_output = v.step(
                v.element(sig.args[6], args[6], builder.extract_value(args[7], i)), (1, args[8])
            )
            for j, value in enumerate(row):
                finished = v.maximum(lowest, v.add(value, bias_vector))  # in this order a NaN stays one
                v.store(finished, v.step(first_output, (j, args[9])))
        return nothing(context)

    return signature, codegen


@jit()
def _corner(tile, across, dilation):
    """Return row and column of the first output of a tile; ``across`` tiles stand in a row."""
    line, x = divmod(tile, across)
    line, right = divmod(line, dilation)
    line, down = divmod(line, dilation)
    return 4 * dilation * line + down, 4 * dilation * x + right


@functools.cache
def kernel(lanes: int, rows: int, pooled: int) -> Callable[..., Any]:
    """Return the convolution compiled for one block shape, with or without maximum pooling behind it."""

    @jit()
    def convolve(
        source, source_rows, dilation, weights, bias, floor, target, target_rows, width, height,
        transformed, products, patch, phases, first, last,
    ):  # fmt: skip
        """Compute the tiles ``first`` to ``last`` of a band.

        The tiles stand in rows of tiles of the band; with dilation 2, a row of tiles covers the even rows,
        its even columns first, and so on.

        Parameters
        ----------
        source : (positions, pixel stride) float32
            Input band.
        source_rows : (rows,) int64
            Row i, column j of the band is position ``source_rows[i + dilation] + dilation + j``; the
            ``dilation`` rows and columns around are zeros.
        weights : (36, out / NR, in, NR) float32
            See :func:`pack`.
        bias : (out,) float32
        floor : float32
            0 for a ReLU, -inf for none.
        target : (positions, pixel stride) float32
        target_rows : (rows,) int64
            Row i, column j of the output (pooled or not) is written at position ``target_rows[i] + j``.
        width, height : int
            Columns and rows of the convolution's output.
        transformed : (36, tiles, >= in) float32, scratch
        products : (36, tiles, channels) float32, scratch
            So many tiles, a multiple of ``rows``, share a pass over the weights, and so many channels of the
            output, a multiple of NR, are computed at a time.
        patch : (36, >= max(in, out)) float32, scratch
        phases : int
            Sum of :data:`PHASES`. A caller that wants to time them asks for one after the other, for no more
            tiles at a time than the scratch arrays hold.
        """
        in_channels, columns = weights.shape[2], 2 * lanes
        out_channels = weights.shape[1] * columns
        pixel, target_pixel = source.shape[1], target.shape[1]
        block = transformed.shape[1]
        in_step, out_step = transformed.strides[1] // 4, products.strides[1] // 4
        in_points, out_points = transformed.strides[0] // 4, products.strides[0] // 4
        shrink = 2 if pooled else 1
        patch_step = patch.shape[1]
        row = 6 * patch_step
        patch_rows = (0, row, 2 * row, 3 * row, 4 * row, 5 * row)
        side = 4 // shrink
        row = side * patch_step
        output_rows = (0, row, 2 * row, 3 * row)
        # The sum over the channels is taken in parts: shorter sums round less.
        part = min(in_channels, 128)
        across = (width + 4 * dilation - 1) // (4 * dilation)
        for start in range(first, last, block):
            tiles = min(block, last - start)

            # Input transform
            for n in range(tiles if phases & 1 else 0):
                y0, x0 = _corner(start + n, across, dilation)
                if x0 + 3 * dilation < width:
                    patch_begins = (
                        source_rows[y0] * pixel,
                        source_rows[y0 + dilation] * pixel,
                        source_rows[y0 + 2 * dilation] * pixel,
                        source_rows[y0 + 3 * dilation] * pixel,
                        source_rows[y0 + 4 * dilation] * pixel,
                        source_rows[y0 + 5 * dilation] * pixel,
                    )
                    for c in range(0, in_channels, lanes):
                        input_tile(
                            source, patch_begins, x0 * pixel + c, dilation * pixel,
                            transformed, n * in_step + c, in_points, 4 * dilation * pixel, lanes,
                        )  # fmt: skip
                    continue
                # A tile over the right border: what the next row holds must not leak in.
                for u in range(6):
                    for v in range(6):
                        position = source_rows[y0 + u * dilation] + x0 + v * dilation
                        inside = x0 + v * dilation < width + dilation
                        for c in range(in_channels):
                            patch[6 * u + v, c] = source[position, c] if inside else np.float32(0)
                for c in range(0, in_channels, lanes):
                    input_tile(
                        patch, patch_rows, c, patch_step, transformed, n * in_step + c, in_points, 0, lanes
                    )

            for begin_out in range(0, out_channels, products.shape[2]):
                end_out = min(begin_out + products.shape[2], out_channels)

                # Block multiplication
                for p in range(36 if phases & 2 else 0):
                    into, out = p * in_points, p * out_points - begin_out
                    for k in range(begin_out // columns, end_out // columns):
                        packed = (p * weights.shape[1] + k) * in_channels * columns
                        for n in range(0, tiles, rows):
                            multiply_block(
                                transformed, into + n * in_step, in_step, part, weights, packed,
                                products, out + n * out_step + k * columns, out_step, 0, lanes, rows,
                            )  # fmt: skip
                            for c in range(part, in_channels, part):
                                multiply_block(
                                    transformed, into + n * in_step + c, in_step, part,
                                    weights, packed + c * columns,
                                    products, out + n * out_step + k * columns, out_step, 1, lanes, rows,
                                )  # fmt: skip

                # Output transform
                for n in range(tiles if phases & 4 else 0):
                    y0, x0 = _corner(start + n, across, dilation)
                    if x0 + 3 * dilation < width and y0 + 3 * dilation < height:
                        y, x = y0 // shrink, x0 // shrink
                        output_begins = (
                            target_rows[y] * target_pixel,
                            target_rows[y + dilation] * target_pixel,
                            target_rows[y + (side - 2) * dilation] * target_pixel,
                            target_rows[y + (side - 1) * dilation] * target_pixel,
                        )
                        for c in range(begin_out, end_out, lanes):
                            output_tile(
                                products, n * out_step + c - begin_out, out_points, bias, c, floor, target,
                                output_begins, x * target_pixel + c, dilation * target_pixel, pooled, lanes,
                            )  # fmt: skip
                        continue
                    # A tile over the right or the lower border: only what lies inside is kept.
                    for c in range(begin_out, end_out, lanes):
                        output_tile(
                            products, n * out_step + c - begin_out, out_points, bias, c, floor,
                            patch, output_rows, c, patch_step, pooled, lanes,
                        )  # fmt: skip
                    for i in range(side):
                        for j in range(side):
                            y, x = y0 // shrink + i * dilation, x0 // shrink + j * dilation
                            if y < height // shrink and x < width // shrink:
                                position = target_rows[y] + x
                                for c in range(begin_out, end_out):
                                    target[position, c] = patch[side * i + j, c]

    return convolve
