"""How an image flows through the network: in bands of rows, never as a whole.

Every layer holds the rows of its input that it still needs, and no others::

               a band of the image, preprocessed
                               |
      +------------------------v-------------------------+
      | conv1_1  [ 2 rows kept | new ]                   |   Each computes the output rows
      | conv1_2  [ 2 rows kept | waiting for more | new ]|   for which it has all inputs,
      |   ...    with the pooling behind it              |   writes them straight behind the
      | pool3    [ 1 row kept | new ]                    |   rows that the next layer holds,
      | conv4_1  [ 4 rows kept | waiting for more | new ]|   and drops what it will not need
      |   ...                                            |   again.
      +------------------------+-------------------------+
                               v
      the last rows of the map: detection, sampling, the next level of the pyramid

A band of image rows is pushed in at the front, and rows of the map come out at the end. A layer may wait
until it has rows enough to keep all threads busy. Zero rows stand in for what lies above and below the
image. Memory grows with the width, the height of a band and what layers wait for, not with the image's
height; and since an output is computed from the same numbers in the same order wherever the bands are cut, so
are the results.

What a layer computes is in ``stages.py``, what becomes of the map in ``pyramid.py``; this module only moves
rows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..layers import Layer, map_size
from ..threads import Team

FloatArray = NDArray[np.float32]
Memory = Callable[[int], FloatArray]

# Bytes of conv1_1's output, the largest of all, in one band, for each thread. One has a band as two have.
_BAND_BYTES = 3 << 20
MOST_SHARES = 16
"""Up to so many threads, what is held at a time grows with each. Without an end, a container with many cores
and little memory would be full."""


class Rows(NamedTuple):
    """Where rows of a map stand in memory.

    Row i, column j < ``width`` is ``positions[starts[i] + j]``, of which the first elements are the channels.
    """

    positions: FloatArray
    starts: NDArray[np.int64]
    width: int

    def fill(self, values: ArrayLike) -> None:
        """Write (height, width, channels) values, or one value everywhere."""
        if np.ndim(values) == 0:
            for start in self.starts:
                self.positions[start : start + self.width] = values
            return
        for start, row in zip(self.starts, np.asarray(values), strict=True):
            there = self.positions[start : start + self.width]
            if row.shape == there.shape:
                # As one run of numbers: NumPy would copy three a piece otherwise.
                there.reshape(-1)[:] = row.reshape(-1)
            else:
                there[:, : row.shape[1]] = row


class RowBuffer:
    """The rows of one layer's input that it still needs.

    They stand in a ring: new rows take the place of those that were dropped, so nothing ever moves. Each row
    begins with ``margin`` zero columns, which serve the row in front of it in memory as its right margin.
    ``memory`` gives the buffer its float32, the same ones every time it is asked.

    Parameters
    ----------
    width, channels : int
        Of the map.
    margin : int
        Zero columns at both sides of a row, and zero rows above the first.
    memory : callable
    straight : bool
        No ring: what is left when rows are dropped moves to the front, so that the rows stay in order.
    dense : bool
        Leave no gap between positions.
    slack : int
        Positions behind the last row that may be read and are never written.

    Attributes
    ----------
    count, dropped : int
        Rows held, and rows forgotten before them.
    """

    def __init__(
        self,
        width: int,
        channels: int,
        margin: int,
        memory: Memory | None = None,
        *,
        straight: bool = False,
        dense: bool = False,
        slack: int = 0,
    ) -> None:
        self.memory = memory or (lambda size: np.empty(size, np.float32))
        self.width, self.margin, self.slack = width, margin, slack
        self.straight = straight
        self.row_stride = width + margin
        # Pixels a large power of two apart would fall into the same few sets of the cache.
        self.pixel_stride = channels if dense or channels % 256 else channels + 16
        self.count = self.dropped = 0
        self._first = 0
        self.positions = np.empty((0, self.pixel_stride), np.float32)
        self.capacity = 0
        self.reserve(margin)
        self.add(margin).fill(0)

    def reserve(self, capacity: int) -> None:
        """Make room for ``capacity`` rows in all."""
        held = [self.positions[start : start + self.row_stride].copy() for start in self.starts()]
        # The margin behind the last row is the reason for margin more positions.
        rows = capacity * self.row_stride
        length = rows + self.margin + self.slack
        # Not zeros: memory that is never used is then never touched.
        self.positions = self.memory(length * self.pixel_stride).reshape(length, self.pixel_stride)
        self.positions[:rows].reshape(capacity, self.row_stride, self.pixel_stride)[:, : self.margin] = 0
        self.positions[rows : rows + self.margin] = 0
        self.capacity, self._first = capacity, 0
        for start, row in zip(self.starts(), held, strict=True):
            self.positions[start : start + self.row_stride] = row

    def starts(self, first: int = 0) -> NDArray[np.int64]:
        """Return where the rows held begin, from number ``first`` on, margin included: positions."""
        rows = self._first + np.arange(first, self.count, dtype=np.int64)
        return rows % max(1, self.capacity) * self.row_stride

    def add(self, count: int) -> Rows:
        """Return room for ``count`` more rows, to be written by the caller."""
        if self.count + count > self.capacity:
            self.reserve(max(self.count + count, self.capacity * 3 // 2))
        self.count += count
        return Rows(self.positions, self.starts(self.count - count) + self.margin, self.width)

    def held(self) -> FloatArray:
        """Return the rows of a straight buffer: (count, row stride, pixel stride) on the same memory."""
        whole = self.positions[: self.count * self.row_stride]
        return whole.reshape(self.count, self.row_stride, self.pixel_stride)

    def drop(self, count: int) -> None:
        """Forget the first ``count`` rows."""
        self.count -= count
        self.dropped += count
        if not self.straight:
            self._first = (self._first + count) % max(1, self.capacity)
        elif count:
            first, length = count * self.row_stride, self.count * self.row_stride
            self.positions[:length] = self.positions[first : first + length]


class Stage(ABC):
    """One or several layers that work on rows, as they come.

    Attributes
    ----------
    layer : Layer
        The first of them.
    source : RowBuffer
        The rows of the input that are still needed.
    width, channels : int
        Of the output.
    """

    def __init__(self, layer: Layer, source: RowBuffer, width: int) -> None:
        self.layer, self.source, self.width = layer, source, width
        self.channels = layer.out_channels

    @abstractmethod
    def prepare(self, incoming: int, height: int) -> tuple[int, int, int]:
        """Learn that ``height`` rows come in all, at most ``incoming`` at a time.

        Returns how many rows it will hold at most, put out at most at a time, and put out in all.
        """

    def finish(self) -> None:
        """Learn that no more input comes: add the zero rows below the last row."""
        self.source.add(self.layer.padding).fill(0)

    def ready(self) -> int:
        """Return how many rows can be put out now, at a time: those for which all input rows are there."""
        reach = self.layer.dilation * (self.layer.kernel - 1)
        return max(0, (self.source.count - reach - 1) // self.layer.stride + 1)

    @abstractmethod
    def put_out(self, target: Rows, team: Team) -> None:
        """Compute the rows that are ready into ``target`` and drop the input rows that had their use."""


def band_height(width: int, threads: int) -> int:
    """Return how many rows of the image are pushed in at a time, a multiple of 8."""
    row = 4 * 64 * width
    return max(8, max(2, min(threads, MOST_SHARES)) * _BAND_BYTES // row // 8 * 8)


def flow(
    read: Callable[[int, int], FloatArray],
    height: int,
    stages: Sequence[Stage],
    target: RowBuffer,
    team: Team,
) -> Iterator[int]:
    """Push an image through the stages, band by band.

    Parameters
    ----------
    read : callable
        ``read(first, last)`` gives rows of the preprocessed image, (last - first, W, 3) float32.
    height : int
        Rows of the image.
    stages : list of Stage
        Fresh ones, made for the image's width.
    target : RowBuffer
        Where the rows of the feature map go. Whoever has no more use for them drops them.
    team : Team

    Yields
    ------
    int
        How many rows of the map are complete.
    """
    step = band_height(stages[0].source.width, team.size)
    incoming, rows = step, height
    for stage in stages:
        held, incoming, rows = stage.prepare(min(incoming, rows), rows)
        stage.source.reserve(held)
    # The reader of the map keeps a row above and one below those it works on, unless it keeps all.
    target.reserve(max(target.capacity, min(incoming + 3, rows)))
    for first in range(0, height, step):
        band = read(first, min(first + step, height))
        stages[0].source.add(len(band)).fill(band)
        yield from _drain(stages, 0, target, team)
    for number, stage in enumerate(stages):
        stage.finish()
        yield from _drain(stages, number, target, team)


def whole_map(
    read: Callable[[int, int], FloatArray],
    height: int,
    stages: Sequence[Stage],
    team: Team,
    memory: Memory | None = None,
) -> FloatArray:
    """Return all that the last stage puts out, (h, w, channels) float32; for parameters see :func:`flow`.

    ``memory`` gives what it is written to: fresh, unless given.
    """
    rows, _ = map_size(height, stages[0].source.width)
    cells = RowBuffer(stages[-1].width, stages[-1].channels, 0, memory, straight=True, dense=True)
    cells.reserve(rows)
    for _ in flow(read, height, stages, cells, team):
        pass
    return cells.held()


def _drain(stages: Sequence[Stage], number: int, target: RowBuffer, team: Team) -> Iterator[int]:
    """Have a stage put out what it can, a part at a time, each going all the way down before the next."""
    stage = stages[number]
    is_last = number + 1 == len(stages)
    while rows := stage.ready():
        stage.put_out((target if is_last else stages[number + 1].source).add(rows), team)
        if is_last:
            yield target.dropped + target.count
        else:
            yield from _drain(stages, number + 1, target, team)
