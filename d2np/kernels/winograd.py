"""3 x 3 convolution by Winograd's minimal filtering F(6 x 6, 3 x 3) and F(4 x 4, 3 x 3).

A tile of 6 x 6 outputs takes 64 multiplications per pair of channels instead of 324, one of 4 x 4 takes 36
instead of 144 (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2015). The phases, in
NNPACK's words: the *input transform* turns a patch of input, two rows and columns larger than the tile, into
as many points as it has elements; the *block multiplication* multiplies, for each point, the tiles by
channels matrix with the transformed weights; the *output transform* turns the points back into outputs, to
which bias, ReLU and, where one follows, the 2 x 2 maximum pooling are applied at once.

Dilation 2 is four ordinary convolutions of the even and odd rows and columns: the same tiles, with rows and
columns two apart.

One-dimensional transforms, for the points 0, pairs +p and -p, and infinity of Toom and Cook, where M(x) is x
times the product of x^2 - p^2 over the pairs::

    input   coefficients of M divided by each point's factor, at infinity of M itself
    weights value of the filter's polynomial at each point, divided by the point's product of differences
    output  powers of the points

Even powers of +p and -p are equal and odd ones differ in sign: so the two points of a pair share two halves,
of which one point is the sum and the other the difference.
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
from .simd import CACHE_LINE, Block, VectorBuilder, copy_vector, multiply_block, short_rows

PAIRS: dict[int, tuple[float, ...]] = {4: (0.75, 1.5), 6: (0.5, 1.0, 1.875)}
"""The pairs of points +p and -p, by the outputs in a row of the tile.

Exact in binary, and of those that are, the ones that round least: see benchmarks/NOTES.md.
"""

Load = Callable[[int, int], Any]

PHASES = {"input transform": 1, "block multiplication": 2, "output transform": 4}
"""The phases by the bits that ask the kernel for them."""
ALL_PHASES = sum(PHASES.values())


def point_count(outputs: int) -> int:
    """Return how many points a tile of ``outputs`` rows and columns has: one for each input."""
    return (outputs + 2) ** 2


def weight_transform(outputs: int) -> NDArray[np.float64]:
    """Return the (outputs + 2, 3) matrix G: a filter's values at the points, scaled."""
    points = [0.0, *(sign * p for p in PAIRS[outputs] for sign in (1, -1))]
    rows = []
    for p in points:
        scale = np.prod([p - q for q in points if q != p])
        rows.append([1 / scale, p / scale, p * p / scale])
    return np.array([*rows, [0.0, 0.0, 1.0]])


def pack(weights: NDArray[np.float32], block: Block, outputs: int) -> NDArray[np.float32]:
    """Return transformed weights (out, in, 3, 3) as the kernel reads them: [points][out / NR][in][NR]."""
    out_channels, in_channels = weights.shape[:2]
    transform = np.kron(weight_transform(outputs), weight_transform(outputs))
    packed = np.empty((len(transform), out_channels // block.columns, in_channels, block.columns), np.float32)
    # So few channels at a time that NumPy's library uses one thread for a product: its threads wait for each
    # other far longer than they work where other programs run. See benchmarks/NOTES.md.
    few = 256 // block.columns
    for n, k in np.ndindex(packed.shape[1], -(-in_channels // few)):
        out, into = slice(n * block.columns, (n + 1) * block.columns), slice(k * few, (k + 1) * few)
        part = weights[out, into].astype(np.float64)
        points = transform @ part.transpose(2, 3, 1, 0).reshape(9, -1)
        packed[:, n, into] = points.reshape(len(transform), -1, block.columns)
    return packed


def _product(pairs: Sequence[float]) -> list[float]:
    """Return the coefficients of the product of y - p^2 over the pairs, the constant first and the 1 last."""
    return [float(c) for c in np.atleast_1d(np.poly([p * p for p in pairs]))[::-1]]


def _dot(v: VectorBuilder, coefficients: Sequence[float], values: Sequence[Any]) -> Any:
    """Return the sum of the products; the last coefficient is 1."""
    total = values[-1]
    for factor, value in zip(coefficients[-2::-1], values[-2::-1], strict=True):
        total = v.fma(factor, value, total)
    return total


def _input_1d(v: VectorBuilder, d: Sequence[Any]) -> list[Any]:
    pairs = PAIRS[len(d) - 2]
    points = [_dot(v, _product(pairs), d[0::2])]
    for p in pairs:
        others = _product([q for q in pairs if q != p])
        even, odd = _dot(v, others, d[2::2]), _dot(v, others, d[1:-1:2])
        points += [v.fma(p, odd, even), v.fma(-p, odd, even)]
    return [*points, _dot(v, _product(pairs), d[1::2])]


def _output_1d(v: VectorBuilder, m: Sequence[Any]) -> list[Any]:
    pairs = PAIRS[len(m) - 2]
    halves = [[combine(m[k], m[k + 1]) for k in range(1, len(m) - 1, 2)] for combine in (v.add, v.sub)]
    outputs = []
    for power in range(len(m) - 2):
        half = halves[power % 2]
        total = v.mul(pairs[0] ** power, half[0])
        for p, value in zip(pairs[1:], half[1:], strict=True):
            total = v.fma(p**power, value, total)
        outputs.append(total)
    outputs[0] = v.add(outputs[0], m[0])
    outputs[-1] = v.add(outputs[-1], m[-1])
    return outputs


def _input_2d(v: VectorBuilder, load: Load, inputs: int) -> list[Any]:
    """Return the points of a patch, of which ``load(u, c)`` gives row u, column c."""
    columns = [_input_1d(v, [load(u, c) for u in range(inputs)]) for c in range(inputs)]
    return [point for u in range(inputs) for point in _input_1d(v, [column[u] for column in columns])]


def _output_2d(v: VectorBuilder, load: Load, inputs: int, pooled: int) -> list[list[Any]]:
    """Return the rows of outputs of a tile, of which ``load(u, c)`` gives the point of row u, column c.

    If ``pooled`` is 1, return the maxima of 2 x 2 of them: bias and ReLU, which follow, keep their order.
    """
    columns = [_output_1d(v, [load(u, c) for u in range(inputs)]) for c in range(inputs)]
    rows = [_output_1d(v, [column[i] for column in columns]) for i in range(inputs - 2)]
    if pooled:
        starts = range(0, inputs - 2, 2)
        rows = [[v.maximum(row[j], row[j + 1]) for j in starts] for row in rows]
        rows = [[v.maximum(*pair) for pair in zip(rows[i], rows[i + 1], strict=True)] for i in starts]
    return rows


@intrinsic(prefer_literal=True)
def input_tile(
    typingctx, source, rows, start, column_step, target, target_start, point_step, ahead, lanes, outputs
):  # fmt: skip
    """Compute the input transform of one tile for as many channels as a vector has lanes.

    Element (u, v) of the patch lies at ``rows[u] + start + v * column_step`` of ``source``; point p is
    written at ``target_start + p * point_step`` of ``target``. The columns that the next tile does not share
    with this one are fetched into the second-level cache: its patch lies ``ahead`` further on.
    """
    if not (isinstance(lanes, types.IntegerLiteral) and isinstance(outputs, types.IntegerLiteral)):
        return None
    index = types.int64
    signature = types.void(source, rows, index, index, target, index, index, index, lanes, outputs)
    inputs = outputs.literal_value + 2

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        v = VectorBuilder(context, builder, lanes.literal_value)
        first = v.rows(sig.args[0], args[0], sig.args[1], args[1], args[2], inputs)
        points = _input_2d(v, lambda u, c: v.load(v.step(first[u], (c, args[3]))), inputs)
        for u in range(inputs):
            for c in range(2, inputs):
                v.prefetch(v.step(first[u], (c, args[3]), (1, args[7])), level=2)
        target_first = v.element(sig.args[4], args[4], args[5])
        for p, point in enumerate(points):
            v.store(point, v.step(target_first, (p, args[6])))
        return nothing(context)

    return signature, codegen


@intrinsic(prefer_literal=True)
def output_tile(
    typingctx, source, start, point_step, bias, bias_start, floor, target, rows, target_start, column_step,
    pooled, lanes, outputs,
):  # fmt: skip
    """Compute the output transform of one tile, bias and ReLU for as many channels as a vector has lanes.

    Point p lies at ``start + p * point_step`` of ``source``. Output (i, j) is written at
    ``rows[i] + target_start + j * column_step`` of ``target``: all of the tile, or, if the compile-time
    constant ``pooled`` is 1, the maxima of 2 x 2. Where the next tile is to be written is fetched.
    """
    if not all(isinstance(value, types.IntegerLiteral) for value in (pooled, lanes, outputs)):
        return None
    index = types.int64
    signature = types.void(
        source, index, index, bias, index, types.float32, target, rows, index, index, pooled, lanes, outputs
    )
    inputs = outputs.literal_value + 2

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        v = VectorBuilder(context, builder, lanes.literal_value)
        first = v.element(sig.args[0], args[0], args[1])
        bias_vector = v.load(v.element(sig.args[3], args[3], args[4]))
        lowest = v.splat(args[5])
        found = _output_2d(
            v, lambda u, c: v.load(v.step(first, (u * inputs + c, args[2]))), inputs, pooled.literal_value
        )
        first_outputs = v.rows(sig.args[6], args[6], sig.args[7], args[7], args[8], len(found))
        for first_output, row in zip(first_outputs, found, strict=True):
            for j, value in enumerate(row):
                finished = v.maximum(lowest, v.add(value, bias_vector))  # in this order a NaN stays one
                place = v.step(first_output, (j, args[9]))
                v.prefetch(v.step(place, (len(row), args[9])), write=True)
                v.store(finished, place)
        return nothing(context)

    return signature, codegen


@jit()
def _corner(tile, across, dilation, outputs):
    """Return row and column of the first output of a tile; ``across`` tiles stand in a row."""
    line, x = divmod(tile, across)
    line, right = divmod(line, dilation)
    line, down = divmod(line, dilation)
    return outputs * dilation * line + down, outputs * dilation * x + right


def _short_will_do(tiles: int, rows: int, short: int) -> bool:
    """Return whether it takes no more blocks of ``short`` rows than of ``rows``."""
    return tiles <= short * ((tiles + rows - 1) // rows)


_short_will_do_compiled = jit()(_short_will_do)


def computed_rows(tiles: int, rows: int) -> int:
    """Return how many rows the block multiplication computes for so many tiles."""
    done, short = 0, short_rows(rows)
    while done < tiles:
        done += short if _short_will_do(tiles - done, rows, short) else rows
    return done


@functools.cache
def kernel(block: Block) -> Callable[..., Any]:
    """Return the convolution compiled for one block shape."""
    lanes, rows, steps = block
    # Where few tiles are left, blocks with fewer rows fit them better.
    short = short_rows(rows)
    # The block multiplication fetches a cache line every so many steps of the depth.
    line = CACHE_LINE // steps

    @jit()
    def convolve(
        source, source_rows, dilation, outputs, weights, bias, floor, target, target_rows, width, height,
        shrink, transformed, products, patch, begins, phases, first, last,
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
        outputs : int
            In a row of a tile: 6 or 4.
        weights : (points, out / NR, in, NR) float32
            See :func:`pack`.
        bias : (out,) float32
        floor : float32
            0 for a ReLU, -inf for none.
        target : (positions, pixel stride) float32
        target_rows : (rows,) int64
            Row i, column j of the output (pooled or not) is written at position ``target_rows[i] + j``.
        width, height : int
            Columns and rows of the convolution's output.
        shrink : int
            2 for a maximum pooling behind the convolution, 1 for none.
        transformed : (points, tiles, >= in) float32, scratch
        products : (points, tiles, channels) float32, scratch
            So many tiles, a multiple of ``rows``, share a pass over the weights, and so many channels of the
            output, a multiple of NR, are computed at a time.
        patch : (points, >= max(in, out)) float32, scratch
        begins : (>= outputs + 2,) int64, scratch
        phases : int
            Sum of :data:`PHASES`. A caller that wants to time them asks for one after the other, for no more
            tiles at a time than the scratch arrays hold.
        """
        in_channels, columns = weights.shape[2], 2 * lanes
        out_channels, depth = weights.shape[1] * columns, in_channels * columns
        pixel, target_pixel, patch_pixel = source.shape[1], target.shape[1], patch.shape[1]
        inputs, points, block = outputs + 2, transformed.shape[0], transformed.shape[1]
        in_step, out_step = transformed.strides[1] // 4, products.strides[1] // 4
        in_points, out_points = transformed.strides[0] // 4, products.strides[0] // 4
        side = outputs // shrink
        part = min(in_channels, 128)
        across = (width + outputs * dilation - 1) // (outputs * dilation)
        for start in range(first, last, block):
            tiles = min(block, last - start)

            # Input transform
            for n in range(tiles if phases & 1 else 0):
                y0, x0 = _corner(start + n, across, dilation, outputs)
                if x0 + (outputs - 1) * dilation < width:
                    for u in range(inputs):
                        begins[u] = (source_rows[y0 + u * dilation] + x0) * pixel
                    patches, step, ahead = source, dilation * pixel, outputs * dilation * pixel
                else:
                    # A tile over the right border: what the next row holds must not leak in.
                    for u in range(inputs):
                        for v in range(inputs):
                            x = x0 + v * dilation
                            # Column 0 of a row holds zeros.
                            position = source_rows[y0 + u * dilation] + (x if x < width + dilation else 0)
                            place = (inputs * u + v) * patch_pixel
                            for c in range(0, in_channels, lanes):
                                copy_vector(source, position * pixel + c, patch, place + c, lanes)
                        begins[u] = inputs * u * patch_pixel
                    patches, step, ahead = patch, patch_pixel, 0
                place = n * in_step
                if outputs == 6:
                    for c in range(0, in_channels, lanes):
                        input_tile(
                            patches, begins, c, step, transformed, place + c, in_points, ahead, lanes, 6
                        )  # fmt: skip
                else:
                    for c in range(0, in_channels, lanes):
                        input_tile(
                            patches, begins, c, step, transformed, place + c, in_points, ahead, lanes, 4
                        )  # fmt: skip

            for begin_out in range(0, out_channels, products.shape[2]):
                end_out = min(begin_out + products.shape[2], out_channels)

                # Block multiplication
                for p in range(points if phases & 2 else 0):
                    into, out = p * in_points, p * out_points - begin_out
                    for k in range(begin_out // columns, end_out // columns):
                        packed = (p * weights.shape[1] + k) * depth
                        # The weights that come next are fetched meanwhile.
                        later = packed + depth
                        if k + 1 == end_out // columns:
                            later = ((p + 1) * weights.shape[1] + begin_out // columns) * depth
                        n = 0
                        while n < tiles:
                            is_short = _short_will_do_compiled(tiles - n, rows, short)
                            for c in range(0, in_channels, part):
                                a, b = into + n * in_step + c, packed + c * columns
                                place, fetch = out + n * out_step + k * columns, later + c * line
                                if is_short:
                                    multiply_block(
                                        transformed, a, in_step, part, weights, b, fetch,
                                        products, place, out_step, c > 0, lanes, short, steps,
                                    )  # fmt: skip
                                else:
                                    multiply_block(
                                        transformed, a, in_step, part, weights, b, fetch,
                                        products, place, out_step, c > 0, lanes, rows, steps,
                                    )  # fmt: skip
                            n += short if is_short else rows
                            # Once all of them are there, it is those at hand that are asked for, in vain.
                            later = later + in_channels * line if n < 2 * rows else packed

                # Output transform
                for n in range(tiles if phases & 4 else 0):
                    y0, x0 = _corner(start + n, across, dilation, outputs)
                    y, x = y0 // shrink, x0 // shrink
                    reach = (outputs - 1) * dilation
                    inside = x0 + reach < width and y0 + reach < height
                    if inside:
                        for i in range(side):
                            begins[i] = (target_rows[y + i * dilation] + x) * target_pixel
                        tile, step = target, dilation * target_pixel
                    else:
                        # A tile over the right or the lower border: only what lies inside is kept.
                        for i in range(side):
                            begins[i] = side * i * patch_pixel
                        tile, step = patch, patch_pixel
                    for c in range(begin_out, end_out, lanes):
                        place = n * out_step + c - begin_out
                        if outputs == 6 and shrink == 2:
                            output_tile(
                                products, place, out_points, bias, c, floor, tile, begins, c, step,
                                1, lanes, 6,
                            )  # fmt: skip
                        elif outputs == 6:
                            output_tile(
                                products, place, out_points, bias, c, floor, tile, begins, c, step,
                                0, lanes, 6,
                            )  # fmt: skip
                        elif shrink == 2:
                            output_tile(
                                products, place, out_points, bias, c, floor, tile, begins, c, step,
                                1, lanes, 4,
                            )  # fmt: skip
                        else:
                            output_tile(
                                products, place, out_points, bias, c, floor, tile, begins, c, step,
                                0, lanes, 4,
                            )  # fmt: skip
                    if inside:
                        continue
                    for i in range(side):
                        for j in range(side):
                            if y + i * dilation < height // shrink and x + j * dilation < width // shrink:
                                position = target_rows[y + i * dilation] + x + j * dilation
                                place, into = (side * i + j) * patch_pixel, position * target_pixel
                                for c in range(begin_out, end_out, lanes):
                                    copy_vector(patch, place + c, target, into + c, lanes)

    return convolve
