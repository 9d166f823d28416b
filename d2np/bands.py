"""How a picture flows through the network: in bands of rows, never as a whole.

Every layer holds the rows of its input that it still needs, and no others::

    picture rows ──> [2 kept | new] conv1_1 ──> [2 kept | new] conv1_2 ──> [0-1 kept | new] pool1 ──> ...

A band of picture rows is pushed in at the front. Each layer computes the output rows for which it now has
all inputs, writes them straight behind the rows that the next layer holds, and drops what it will not
need again: a 3 x 3 convolution keeps two rows (four with dilation 2), a pooling one or none. A layer may wait
until it has rows enough to keep all threads busy. Zero rows stand in for what lies above and below the
picture. Memory grows with the width, the height of a band and what layers wait for, not with the picture's
height; and since an output is computed from the same numbers in the same order wherever the bands are cut, so
are the results.

What a layer computes is in ``stages.py``; this module only moves rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .threads import Team

FloatArray = NDArray[np.float32]

# Bytes of conv1_1's output, the largest of all, in one band.
_BAND_BYTES = 3 << 20


class Rows(NamedTuple):
    """Where rows of a map stand in memory.

    Row i, column j < ``width`` is ``positions[start + i * stride + j]``, of which the first elements are the
    channels.
    """

    positions: FloatArray
    start: int
    stride: int
    height: int
    width: int

    def fill(self, values: ArrayLike) -> None:
        """Write (height, width, channels) values, or one value everywhere."""
        last = self.start + self.height * self.stride
        band = self.positions[self.start : last].reshape(self.height, self.stride, self.positions.shape[1])
        if np.ndim(values) == 0:
            band[:, : self.width] = values
        elif np.shape(values)[-1] < band.shape[2]:
            band[:, : self.width, : np.shape(values)[-1]] = values
        else:
            # Whole rows at a time: NumPy would copy three numbers a piece otherwise.
            band.reshape(self.height, -1)[:, : self.width * band.shape[2]] = np.reshape(
                values, (self.height, -1)
            )


class RowBuffer:
    """The rows of one layer's input that it still needs.

    Each row begins with ``margin`` zero columns, which serve the row in front as its right margin.
    ``slack`` positions behind the last row may be read by the kernel and are never written. ``memory`` gives
    the buffer its float32, the same ones every time it is asked.
    """

    def __init__(
        self,
        width: int,
        channels: int,
        margin: int,
        slack: int,
        memory: Callable[[int], FloatArray] = np.empty,
    ) -> None:
        self.memory = memory
        self.width, self.margin, self.slack = width, margin, slack
        self.row_stride = width + margin
        # Pixels a large power of two apart would fall into the same few sets of the cache.
        self.pixel_stride = channels + 16 if channels % 256 == 0 else channels
        self.count = 0
        self.positions = np.empty((0, self.pixel_stride), np.float32)
        self.reserve(margin)
        self.add(margin).fill(0)

    def reserve(self, capacity: int) -> None:
        """Make room for ``capacity`` rows in all."""
        held = self.count * self.row_stride
        # The margin behind the last row is the reason for margin more positions.
        length = capacity * self.row_stride + self.margin + self.slack
        # Not zeros: memory that is never used is then never touched.
        positions = self.memory(length * self.pixel_stride).reshape(length, self.pixel_stride)
        if held and not np.may_share_memory(positions, self.positions):
            positions[:held] = self.positions[:held]
        self.positions, self.capacity = positions, capacity

    def add(self, count: int) -> Rows:
        """Room for ``count`` more rows, to be written by the caller."""
        if self.count + count > self.capacity:
            self.reserve(self.count + count)
        first, last = self.count * self.row_stride, (self.count + count) * self.row_stride
        rows = self.positions[first:last].reshape(count, self.row_stride, self.pixel_stride)
        rows[:, : self.margin] = 0
        self.positions[last : last + self.margin] = 0
        self.count += count
        return Rows(self.positions, first + self.margin, self.row_stride, count, self.width)

    def drop(self, count: int) -> None:
        """Forget the first ``count`` rows."""
        first, last = count * self.row_stride, self.count * self.row_stride
        self.positions[: last - first] = self.positions[first:last]
        self.count -= count


class Stage(Protocol):
    """One or several layers that work on rows: what :func:`flow` needs to know of them."""

    source: RowBuffer
    width: int
    channels: int

    def most_rows(self, incoming: int) -> tuple[int, int]:
        """Most rows held, and most put out at a time, if at most ``incoming`` rows come at a time."""

    def finish(self) -> None:
        """Learn that no more input comes: put the zero rows below the last row."""

    def ready(self) -> int:
        """How many rows can be put out now."""

    def put_out(self, target: Rows, team: Team) -> None:
        """Compute the rows that are ready into ``target`` and drop the input rows that had their use."""


def band_height(width: int) -> int:
    """Rows of the picture that are pushed in at a time, a multiple of 8."""
    row = 4 * 64 * width
    return max(8, _BAND_BYTES // row // 8 * 8)


def flow(
    pixels: FloatArray,
    stages: Sequence[Stage],
    cells: FloatArray,
    team: Team,
    *,
    rows_at_a_time: int | None = None,
) -> Iterator[int]:
    """Push a picture through the stages, band by band.

    Parameters
    ----------
    pixels : (H, W, 3) float32
        The preprocessed picture.
    stages : list of Stage
        Fresh ones, made for the picture's width.
    cells : (h, w, 512) float32
        The feature map, filled from its top to its bottom.
    team : Team
    rows_at_a_time : int, optional
        Height of the bands in pixels; chosen from the width by default.

    Yields
    ------
    int
        How many rows of the map are complete.
    """
    height, width = pixels.shape[:2]
    step = rows_at_a_time or band_height(width)
    incoming = min(step, height)
    for stage in stages:
        held, incoming = stage.most_rows(incoming)
        stage.source.reserve(held)
    complete = 0
    for first in range(0, height, step):
        band = pixels[first : first + step]
        stages[0].source.add(len(band)).fill(band)
        last_band = first + step >= height
        for number, stage in enumerate(stages):
            if last_band:
                stage.finish()
            rows = stage.ready()
            if not rows:
                continue
            if number + 1 < len(stages):
                stage.put_out(stages[number + 1].source.add(rows), team)
            else:
                target = cells.reshape(-1, stage.channels)
                stage.put_out(Rows(target, complete * stage.width, stage.width, rows, stage.width), team)
                complete += rows
                yield complete
