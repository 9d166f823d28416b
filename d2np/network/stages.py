"""The computation of the layers: the stages through which bands flow.

A stage is a convolution with the ReLU behind it, a pooling, or all three at once where the kernel can do
them together.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from threading import get_ident

import numpy as np
from numpy.typing import NDArray

from ..kernels import direct, pool, winograd
from ..kernels.simd import host_block
from ..layers import LAYERS, Layer
from ..options import Algorithm, check
from ..threads import Team, Workspace, shrinking_spans, spans
from .bands import MOST_SHARES, Memory, RowBuffer, Rows, Stage

FloatArray = NDArray[np.float32]

# Multiply-adds in one task: long against the cost of handing it out, short against the waiting at the end.
_TASK_SIZE = 5_000_000
# Channels of the output that are computed at a time: few, since their products are kept for every point.
_OUTPUTS_AT_A_TIME = 64


# Tiles that share a pass over the weights, about, and at most; see benchmarks/NOTES.md.
_TILES_AT_ONCE, _MOST_TILES_AT_ONCE = 28, 42

# Outputs in a row of a Winograd convolution's tiles. The more, the fewer multiplications, and the more memory
# for weights: 6 everywhere would take 44 MB more, a fiftieth less time, and round twice as much. The first
# layer is not there: the three channels of the image are no vector.
TILES: dict[str, int] = {
    "conv1_2": 6,
    "conv2_1": 6, "conv2_2": 6,
    "conv3_1": 6, "conv3_2": 6, "conv3_3": 6,
    "conv4_1": 4, "conv4_2": 6, "conv4_3": 4,
}  # fmt: skip


class PackedWeights:
    """The parameters as the convolution kernels read them.

    Parameters
    ----------
    arrays : mapping
        The 20 parameter arrays.
    algorithm : {"winograd", "direct"}
    """

    def __init__(self, arrays: Mapping[str, FloatArray], algorithm: Algorithm) -> None:
        check("algorithm", algorithm, Algorithm)
        self.algorithm: Algorithm = algorithm
        self.block = host_block()
        self.weights: dict[str, FloatArray] = {}
        self.biases: dict[str, FloatArray] = {}
        for layer in LAYERS:
            if layer.type == "convolution":
                weights = arrays[f"{layer.name}/weight"]
                self.weights[layer.name] = (
                    winograd.pack(weights, self.block, TILES[layer.name])
                    if self.uses_winograd(layer)
                    else direct.pack(weights, self.block)
                )
                self.biases[layer.name] = arrays[f"{layer.name}/bias"]

    def uses_winograd(self, layer: Layer) -> bool:
        return self.algorithm == "winograd" and layer.name in TILES


def stages(
    packed: PackedWeights,
    width: int,
    workspace: Workspace,
    *,
    relu: bool,
    name: object = None,
    tiles: int | None = None,
) -> list[Stage]:
    """Return the network's stages for an image of the given width in pixels.

    Their memory comes from ``workspace``, where ``name`` tells them from others at work at the same time;
    ``relu`` says whether the last convolution gets a ReLU too; ``tiles`` is how many a Winograd stage waits
    for.
    """
    tiles = tiles or tiles_at_a_time(width, 2)
    made: list[Stage] = []
    layers = list(LAYERS)
    while layers:
        layer = layers.pop(0)
        memory = partial(workspace.array, (name, layer.name))
        if layer.type != "convolution":
            made.append(Pooling(layer, width, memory))
        else:
            rectified = layers[0].type == "relu" if layers else relu
            if layers and rectified:
                layers.pop(0)
            floor = 0.0 if rectified else -np.inf
            if packed.uses_winograd(layer):
                pooled = bool(layers) and layers[0].type == "max_pooling"
                if pooled:
                    layers.pop(0)
                made.append(WinogradConvolution(layer, packed, width, floor, pooled, memory, tiles))
            else:
                made.append(DirectConvolution(layer, packed, width, floor, memory))
        width = made[-1].width
    return made


def tiles_at_a_time(width: int, threads: int) -> int:
    """Return how many tiles a Winograd stage waits for, so that the threads share them evenly.

    The more of them the faster, and the more memory: of which wide images need a lot for their margins
    alone. From 720 to 1600 px of width they become fewer. With each thread beyond two, up to sixteen, they
    grow by as many again; see ``benchmarks/NOTES.md``.
    """
    return min(1200, max(200, 2020 - 46 * width // 40)) * max(1, min(threads, MOST_SHARES) - 1)


class Pooling(Stage):
    """Maximum or average pooling by itself."""

    def __init__(self, layer: Layer, width: int, memory: Memory) -> None:
        source = RowBuffer(width, layer.in_channels, 0, memory)
        super().__init__(layer, source, layer.output_size(layer.kernel, width)[1])

    def prepare(self, incoming: int, height: int) -> tuple[int, int, int]:
        held = min(self.layer.kernel - 1 + incoming, height)
        return held, held // self.layer.stride, (height - self.layer.kernel) // self.layer.stride + 1

    def put_out(self, target: Rows, team: Team) -> None:
        source, source_rows = self.source, self.source.starts()
        height = len(target.starts)
        kernel = pool.max_pool if self.layer.type == "max_pooling" else pool.average_pool

        def pool_rows(span: tuple[int, int]) -> None:
            kernel(
                source.positions, source_rows,
                target.positions, target.starts, self.width, self.channels, *span,
            )  # fmt: skip

        work = team.timed(self.layer.name, "pooling", pool_rows)
        team.share(work, spans(height, _TASK_SIZE // (50 * self.width * self.channels)))
        source.drop(height * self.layer.stride)


class _Convolution(Stage):
    def __init__(
        self, layer: Layer, packed: PackedWeights, width: int, floor: float, source: RowBuffer
    ) -> None:
        super().__init__(layer, source, width)
        self.block = packed.block
        self.weights, self.bias = packed.weights[layer.name], packed.biases[layer.name]
        self.floor = np.float32(floor)


class DirectConvolution(_Convolution):
    """Convolution as it is written in the books, and ReLU."""

    def __init__(self, layer: Layer, packed: PackedWeights, width: int, floor: float, memory: Memory) -> None:
        # A block of the kernel may reach over the end by its own length and the margin of the taps.
        slack = packed.block.rows + 2 * layer.padding
        source = RowBuffer(width, layer.in_channels, layer.padding, memory, straight=True, slack=slack)
        super().__init__(layer, packed, width, floor, source)

    def prepare(self, incoming: int, height: int) -> tuple[int, int, int]:
        rows = min(incoming + self.layer.padding, height)
        return rows + 2 * self.layer.padding, rows, height

    def put_out(self, target: Rows, team: Team) -> None:
        layer, block, source = self.layer, self.block, self.source
        taps = direct.tap_offsets(source.row_stride, source.pixel_stride, layer.in_channels, layer.dilation)
        kernel = direct.kernel(block)
        size = _TASK_SIZE // (9 * layer.in_channels * layer.out_channels)
        size = max(12, round(size / block.rows)) * block.rows

        def convolve(span: tuple[int, int]) -> None:
            kernel(
                source.positions, taps, self.weights, self.bias, self.floor, source.row_stride,
                target.positions, target.starts, self.width,
                *direct.scratch(block, layer.in_channels, taps), *span,
            )  # fmt: skip

        work = team.timed(layer.name, "direct convolution", convolve)
        height = len(target.starts)
        positions = height * source.row_stride - layer.padding
        team.share(work, shrinking_spans(positions, size, 12 * block.rows, team.size))
        source.drop(height)


class WinogradConvolution(_Convolution):
    """Convolution by Winograd's minimal filtering, ReLU, and maximum pooling if one follows.

    Tiles are counted from the top of the image, so rows are put out in whole rows of tiles: as many as
    there are, once there are enough of them. Only the last row of tiles may not be whole.
    """

    def __init__(
        self,
        layer: Layer,
        packed: PackedWeights,
        width: int,
        floor: float,
        pooled: bool,
        memory: Memory,
        at_a_time: int,
    ) -> None:
        source = RowBuffer(width, layer.in_channels, layer.padding, memory)
        super().__init__(layer, packed, width, floor, source)
        self.shrink = 2 if pooled else 1
        self.width = width // self.shrink
        self.outputs = TILES[layer.name]
        self.points = winograd.point_count(self.outputs)
        self.tile_rows = self.outputs * layer.dilation
        self.tiles_in_a_row = -(-width // self.tile_rows) * layer.dilation**2
        rows = self.block.rows
        self.usual_tiles, self.most_tiles = (
            rows * round(tiles / rows) for tiles in (_TILES_AT_ONCE, _MOST_TILES_AT_ONCE)
        )
        self.most_lines = max(1, round(16 * at_a_time / self.outputs**2 / self.tiles_in_a_row))
        self.rows_at_a_time = self.waits_for = self.rows_left = 0

    def prepare(self, incoming: int, height: int) -> tuple[int, int, int]:
        padding, tile = self.layer.padding, self.tile_rows
        # About as many rows of tiles every time: a few that remain would keep the threads waiting.
        lines = -(-height // tile)
        share = -(-lines // -(-lines // self.most_lines))
        self.rows_at_a_time = tile * min(share + 1, self.most_lines)
        # One row of tiles less is enough: the rows that come first lack one, since the margin stands for it.
        self.waits_for = tile * max(1, share - 1)
        self.rows_left = height
        held = max(self.waits_for - 1 + incoming, self.rows_at_a_time)
        # The last row of tiles is filled up with zeros.
        held = min(held, lines * tile) + 2 * padding
        return held, min(self.rows_at_a_time, height) // self.shrink, height // self.shrink

    def _rows(self) -> int:
        """Return how many rows of the convolution can be computed now, before the pooling."""
        rows = super().ready()
        if rows < self.rows_left:
            enough = rows >= self.waits_for and self.rows_left > self.rows_at_a_time
            rows = rows // self.tile_rows * self.tile_rows if enough else 0
        return min(rows, self.rows_at_a_time)

    def ready(self) -> int:
        return self._rows() // self.shrink

    def put_out(self, target: Rows, team: Team) -> None:
        layer, block, source = self.layer, self.block, self.source
        rows = self._rows()
        lines = -(-rows // self.tile_rows)
        # The last row of tiles may hang over the lower border of the image; what it sees there is zeros.
        missing = max(0, lines * self.tile_rows + 2 * layer.padding - source.count)
        source.add(missing).fill(0)
        source_rows = source.starts()
        kernel = winograd.kernel(block)

        memory: dict[int, tuple[FloatArray, FloatArray, FloatArray]] = {}  # of each thread

        def work(span: tuple[int, int]) -> None:
            if get_ident() not in memory:
                memory[get_ident()] = self._scratch(team)
            begins = np.empty(self.outputs + 2, np.int64)

            def run(phases: int) -> None:
                kernel(
                    source.positions, source_rows, layer.dilation, self.outputs, self.weights, self.bias,
                    self.floor, target.positions, target.starts, source.width, rows, self.shrink,
                    *memory[get_ident()], begins, phases, *span,
                )  # fmt: skip

            if team.clock is None:
                run(winograd.ALL_PHASES)
            else:
                for phase, bit in winograd.PHASES.items():
                    with team.clock.measure(layer.name, phase):
                        run(bit)

        team.share(work, self._tasks(lines * self.tiles_in_a_row, team.size))
        source.drop(rows + missing)
        self.rows_left -= rows

    def _tasks(self, tiles: int, threads: int) -> list[tuple[int, int]]:
        """Cut so many tiles into spans for the threads."""
        rows = self.block.rows
        if tiles > 2 * self.most_tiles * threads:
            return shrinking_spans(tiles, self.usual_tiles, rows, threads)
        # Of so few, spans of one length that fill the blocks of rows best; of those the longest.
        lengths = {turns: -(-tiles // (threads * turns)) for turns in range(1, 9)}
        fitting = [turns for turns, length in lengths.items() if length <= self.most_tiles]
        best = min(fitting, key=lambda turns: turns * winograd.computed_rows(lengths[turns], rows))
        return spans(tiles, lengths[best])

    def _scratch(self, team: Team) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return the kernel's working memory, cut from the thread's own.

        Channels and points are laid a cache line more than a power of two apart, or they would fall into
        the same few sets of the cache.
        """
        line = 16
        tiles = self.most_tiles
        outputs = self.channels if team.clock is not None else min(self.channels, _OUTPUTS_AT_A_TIME)
        into, out = self.layer.in_channels + line, outputs + line
        sizes = [self.points * (tiles * channels + line) for channels in (into, out)]
        patch = self.points * max(self.layer.in_channels, self.channels)
        memory = team.scratch(sum(sizes) + patch)

        def points(part: FloatArray, channels: int) -> FloatArray:
            used = part.reshape(self.points, -1)[:, :-line]
            return used.reshape(self.points, tiles, channels)[..., :-line]

        return (
            points(memory[: sizes[0]], into),
            points(memory[sizes[0] : sum(sizes)], out),
            memory[sum(sizes) :].reshape(self.points, -1),
        )
