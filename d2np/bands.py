"""How a picture flows through the network: in bands of rows, never as a whole.

Every layer holds the rows of its input that it still needs, and no others::

    picture rows ──> [2 kept | new] conv1_1 ──> [2 kept | new] conv1_2 ──> [0-1 kept | new] pool1 ──> ...

A band of picture rows is pushed in at the front. Each layer computes the output rows for which it now has
all inputs, writes them straight behind the rows that the next layer holds, and drops what it will not
need again: a 3 x 3 convolution keeps two rows (four with dilation 2), a pooling one or none. Zero rows
stand in for what lies above and below the picture. Memory grows with the width and the height of a band;
and since an output is computed from the same numbers in the same order wherever the bands are cut, so
are the results.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .kernels import direct, pool
from .kernels.simd import host_block
from .layers import LAYERS, Layer
from .threads import Team, spans

FloatArray = NDArray[np.float32]

# Bytes of conv1_1's output, the largest of all, in one band.
_BAND_BYTES = 16 << 20
# Multiply-adds in one task: about a millisecond, long against the cost of handing it out.
_TASK_SIZE = 50_000_000


class PackedWeights:
    """The parameters as the convolution kernel reads them."""

    def __init__(self, arrays: Mapping[str, FloatArray]) -> None:
        self.block = host_block()
        self.weights: dict[str, FloatArray] = {}
        self.biases: dict[str, FloatArray] = {}
        for layer in LAYERS:
            if layer.type == "convolution":
                self.weights[layer.name] = direct.pack(arrays[f"{layer.name}/weight"], self.block)
                self.biases[layer.name] = arrays[f"{layer.name}/bias"]


class Rows(NamedTuple):
    """Where rows of a map stand in memory.

    Row i, column j < ``width`` is ``positions[start + i * stride + j]``, of which the first elements are the
    channels.
    """

    positions: FloatArray
    start: int
    stride: int
    count: int
    width: int

    def fill(self, values: ArrayLike) -> None:
        """Write (count, width, channels) values, or one value everywhere."""
        last = self.start + self.count * self.stride
        band = self.positions[self.start : last].reshape(self.count, self.stride, self.positions.shape[1])
        band[:, : self.width, : np.shape(values)[-1] if np.ndim(values) else None] = values


class RowBuffer:
    """The rows of one layer's input that it still needs.

    Each row begins with ``margin`` zero columns, which serve the row in front as its right margin.
    ``slack`` positions behind the last row may be read by the kernel and are never written.
    """

    def __init__(self, width: int, channels: int, margin: int, slack: int) -> None:
        self.width, self.margin, self.slack = width, margin, slack
        self.row_stride = width + margin
        # Pixels a large power of two apart would fall into the same few sets of the cache.
        self.pixel_stride = channels + 16 if channels % 256 == 0 else channels
        self.count = 0
        self._allocate(2 * margin)
        self.add(margin).fill(0)

    def _allocate(self, capacity: int) -> None:
        self.capacity = capacity
        # The margin behind the last row is the reason for margin more positions.
        length = capacity * self.row_stride + self.margin + self.slack
        self.positions = np.zeros((length, self.pixel_stride), np.float32)

    def add(self, count: int) -> Rows:
        """Room for ``count`` more rows, to be written by the caller."""
        if self.count + count > self.capacity:
            kept = self.positions[: self.count * self.row_stride]
            self._allocate(self.count + count)
            self.positions[: len(kept)] = kept
        first = self.count * self.row_stride
        self.count += count
        return Rows(self.positions, first + self.margin, self.row_stride, count, self.width)

    def drop(self, count: int) -> None:
        """Forget the first ``count`` rows."""
        first, last = count * self.row_stride, self.count * self.row_stride
        self.positions[: last - first] = self.positions[first:last]
        self.count -= count


class _Stage:
    """One convolution (with the ReLU behind it) or pooling, and the rows it holds."""

    def __init__(self, layer: Layer, packed: PackedWeights, width: int, relu: bool) -> None:
        self.layer = layer
        self.packed = packed
        self.floor = np.float32(0 if relu else -np.inf)
        # A block of the kernel may reach over the end by its own length and the margin of the taps.
        slack = packed.block.rows + 2 * layer.padding if layer.type == "convolution" else 0
        self.source = RowBuffer(width, layer.in_channels, layer.padding, slack)

    def finish(self) -> None:
        """Put the zero rows below the last row."""
        self.source.add(self.layer.padding).fill(0)

    def ready(self) -> int:
        """How many rows can be put out now."""
        layer = self.layer
        reach = layer.dilation * (layer.kernel - 1) + 1
        return max(0, (self.source.count - reach) // layer.stride + 1)

    def put_out(self, target: Rows, team: Team) -> None:
        """Compute the rows that are ready into ``target`` and drop the rows that have had their use."""
        if self.layer.type == "convolution":
            self._convolve(target, team)
        else:
            self._pool(target, team)
        self.source.drop(target.count * self.layer.stride)

    def _convolve(self, target: Rows, team: Team) -> None:
        layer, block, source = self.layer, self.packed.block, self.source
        weights, bias = self.packed.weights[layer.name], self.packed.biases[layer.name]
        taps = direct.tap_offsets(source.row_stride, source.pixel_stride, layer.dilation)
        kernel = direct.kernel(block.lanes, block.rows)
        size = _TASK_SIZE // (9 * layer.in_channels * layer.out_channels)
        size = max(1, round(size / block.rows)) * block.rows

        def work(span: tuple[int, int]) -> None:
            kernel(
                source.positions, taps, weights, bias, self.floor, source.row_stride,
                target.positions, target.start, target.stride, target.width, *span,
            )  # fmt: skip

        team.share(work, spans(target.count * source.row_stride - layer.padding, size))

    def _pool(self, target: Rows, team: Team) -> None:
        source, channels = self.source, self.layer.out_channels
        kernel = pool.max_pool if self.layer.type == "max_pooling" else pool.average_pool

        def work(span: tuple[int, int]) -> None:
            kernel(
                source.positions, source.row_stride,
                target.positions, target.start, target.stride, target.width, channels, *span,
            )  # fmt: skip

        team.share(work, spans(target.count, _TASK_SIZE // (50 * target.width * channels)))


def band_height(width: int) -> int:
    """Rows of the picture that are pushed in at a time, a multiple of 8."""
    row = 4 * 64 * width
    return max(8, _BAND_BYTES // row // 8 * 8)


def feature_rows(
    pixels: FloatArray, packed: PackedWeights, team: Team, *, relu: bool, rows_at_a_time: int | None = None
) -> Iterator[FloatArray]:
    """The feature map of a picture, a few rows at a time.

    Parameters
    ----------
    pixels : (H, W, 3) float32
        The preprocessed picture, channels in the order the weights expect.
    packed : PackedWeights
    team : Team
    relu : bool
        Whether the last convolution gets a ReLU too.
    rows_at_a_time : int, optional
        Height of the bands in pixels; chosen from the width by default.

    Yields
    ------
    (rows, w, 512) float32
        A fresh array, from the top of the map to its bottom.
    """
    height, width = pixels.shape[:2]
    stages, buffers = _stages(packed, width, relu)
    step = rows_at_a_time or band_height(width)
    for first in range(0, height, step):
        band = pixels[first : first + step]
        buffers[0].add(len(band)).fill(band)
        last_band = first + step >= height
        for stage, following in zip(stages, [*buffers[1:], None], strict=True):
            if last_band:
                stage.finish()
            rows = stage.ready()
            if following is not None:
                stage.put_out(following.add(rows), team)
            elif rows:
                columns, channels = stage.source.width, stage.layer.out_channels
                out = np.empty((rows, columns, channels), np.float32)
                stage.put_out(Rows(out.reshape(-1, channels), 0, columns, rows, columns), team)
                yield out


def _stages(packed: PackedWeights, width: int, relu: bool) -> tuple[Sequence[_Stage], Sequence[RowBuffer]]:
    stages = []
    for layer, following in zip(LAYERS, [*LAYERS[1:], None], strict=True):
        if layer.type == "relu":
            continue  # done by the convolution in front of it
        stage_relu = relu if following is None else following.type == "relu"
        stages.append(_Stage(layer, packed, width, stage_relu))
        _, width = layer.output_size(layer.kernel, width)
    return stages, [stage.source for stage in stages]
