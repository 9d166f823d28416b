"""The published pyramid: the image at several sizes, from coarse to fine, all advancing together.

Each level's feature map is summed with the coarser one's, resized to fit; cells in which a coarser level
has found something are banned on the finer ones. Paper, section 3.2 ("multiscale detection"); published
file ``lib/pyramid.py``.

The published code goes from level to level, each with its whole map. Here the finest level leads, and has the
coarser ones advance as far as it needs their rows. What is kept of a level is the rows of its summed map that
its own detection or the next level still needs, and one flag for each cell: whether it is blocked for finer
levels.

One detail needs more: a level on which no keypoint at all was found hands no map on, which is not known
before its end. So where a level has found nothing yet, the next one waits, and the rows of its map pile up,
until it finds its first keypoint or ends. Images of which the upper part is flat pay for it with memory, of
the coarser levels only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import ImageError, WeightsError
from ..kernels import interpolate
from ..layers import SMALLEST_SIDE
from ..threads import Team, spans
from .bands import RowBuffer
from .detect import MapRows

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Level:
    """One size of the image.

    Attributes
    ----------
    number : int
        1 for the coarsest.
    scale : float
        Size of this level over the size of the image.
    height, width : int
        In pixels.
    """

    number: int
    scale: float
    height: int
    width: int


def levels(height: int, width: int, scales: Sequence[float]) -> list[Level]:
    """Return the levels of an image of the given size in pixels, from coarse to fine.

    Raises
    ------
    ImageError
        If a side is shorter than 8 px at one of the scales.
    """
    found = []
    for number, scale in enumerate(sorted(scales), 1):
        level = Level(number, scale, int(height * scale), int(width * scale))
        if min(level.height, level.width) < SMALLEST_SIDE:
            raise ImageError(
                f"the network would see this image at {level.width} x {level.height} px at scale "
                f"{scale:g}, and it needs {SMALLEST_SIDE} px on either side: take a larger image"
                + (" or leave that scale out" if len(scales) > 1 else "")
            )
        found.append(level)
    return found


Visit = Callable[[MapRows, int, int, NDArray[np.bool_], Level], bool | None]
"""Called as ``visit(rows, first, last, blocked, level)`` to look at some rows of a level's summed map.

``rows`` hold those from ``first`` to ``last``, and the row above and the one below, where there are any; they
are overwritten afterwards. In ``blocked`` (h, w) it marks the cells that finer levels may not use. It returns
whether it has found anything.
"""


@dataclass(eq=False)
class _Ascent:
    """One level as it advances: its flow of rows, and the window of its summed map.

    Parameters
    ----------
    level : Level
    rows : iterator of int
        The flow, which tells how many rows of the map are complete.
    window : RowBuffer
        Where the flow writes them.
    height : int
        Rows of the map.
    coarser : _Ascent or None
    visit : callable
    team : Team
    """

    level: Level
    rows: Iterator[int]
    window: RowBuffer
    height: int
    coarser: _Ascent | None
    visit: Visit
    team: Team
    complete = searched = 0
    has_found = False

    def __post_init__(self) -> None:
        self.blocked = np.zeros((self.height, self.window.width), np.bool_)
        # The next level's first needed row; none is needed where there is no next level.
        self.needed_from = self.height
        if self.coarser is not None:
            self.coarser.needed_from = 0

    def advance(self) -> bool:
        """Take a band further; False if there is none left."""
        complete = next(self.rows, None)
        if complete is None:
            return False
        if self.coarser is not None:
            self._add_coarser(self.coarser, self.complete, complete)
        self.complete = complete
        last = complete if complete == self.height else complete - 1
        if last > self.searched:
            self._search(self.searched, last)
        self.window.drop(max(0, min(self.searched - 1, self.needed_from) - self.window.dropped))
        return True

    def map_rows(self) -> MapRows:
        """Return the rows of the summed map that are there."""
        return MapRows(self.window.held(), self.window.dropped, self.height)

    def _add_coarser(self, coarser: _Ascent, first: int, last: int) -> None:
        # Whether it hands its map on is only known once it has found something.
        while not coarser.has_found and coarser.advance():
            pass
        if coarser.has_found:
            _, needed = interpolate.rows_needed(coarser.height, self.height, first, last)
            while coarser.complete < needed:
                coarser.advance()
            _resize(coarser.map_rows(), self.map_rows(), first, last, self.team, add=True)
            if last < self.height:
                coarser.needed_from, _ = interpolate.rows_needed(coarser.height, self.height, last, last + 1)
                return
        coarser.needed_from = coarser.height

    def _search(self, first: int, last: int) -> None:
        if self.coarser is not None:
            picks = _nearest(self.coarser.height, self.height, first, last)
            while self.coarser.searched <= picks[-1]:
                self.coarser.advance()
            columns = _nearest(self.coarser.blocked.shape[1], self.blocked.shape[1])
            self.blocked[first:last] = self.coarser.blocked[np.ix_(picks, columns)]
        rows = self.map_rows()
        # Weights are finite, but what they make of an image may not be.
        if not np.isfinite(rows.cells).all():
            raise WeightsError(
                "the feature map goes beyond what float32 holds: the weights are too large to be those of a "
                "working network"
            )
        self.has_found |= bool(self.visit(rows, first, last, self.blocked, self.level))
        self.searched = last


def climb(
    steps: Sequence[Level],
    flows: Callable[[Level], tuple[Iterator[int], RowBuffer, int]],
    visit: Visit,
    team: Team,
) -> Iterator[None]:
    """Take all levels from their tops to their bottoms together.

    Parameters
    ----------
    steps : list of Level
        From coarse to fine.
    flows : callable
        From a level to its flow (see :func:`d2np.network.bands.flow`), the buffer that it writes into, and
        the rows of its map.
    visit : callable
        Looks at the rows of each level from top to bottom; see :data:`Visit`.
    team : Team

    Yields
    ------
    None
        After each band.
    """
    ascent: _Ascent | None = None
    for level in steps:
        ascent = _Ascent(level, *flows(level), ascent, visit, team)
    # The finest first; what it did not need of the coarser ones, if anything, comes afterwards.
    while ascent is not None:
        while ascent.advance():
            yield
        ascent = ascent.coarser


def reader(
    read: Callable[[int, int], FloatArray], height: int, level: Level, team: Team
) -> Callable[[int, int], FloatArray]:
    """Return a reader of rows at a level's size, made from one of rows of the preprocessed image.

    Parameters
    ----------
    read : callable
        ``read(first, last)`` gives rows of the preprocessed image, (last - first, W, 3) float32.
    height : int
        Rows of the image.
    level : Level
    team : Team
    """
    if level.scale == 1:
        return read

    def read_resized(first: int, last: int) -> FloatArray:
        top, bottom = interpolate.rows_needed(height, level.height, first, last)
        source = MapRows(read(top, bottom), top, height)
        target = np.empty((last - first, level.width, source.cells.shape[2]), np.float32)
        _resize(source, MapRows(target, first, level.height), first, last, team, add=False)
        return target

    return read_resized


def _resize(source: MapRows, target: MapRows, first: int, last: int, team: Team, *, add: bool) -> None:
    rows = max(1, 250_000 // (target.cells.shape[1] * target.cells.shape[2]))
    team.share(
        lambda span: interpolate.resize(*source, *target, add, first + span[0], first + span[1]),
        spans(last - first, rows),
    )


def _nearest(source: int, target: int, first: int = 0, last: int | None = None) -> NDArray[np.int64]:
    """Return the places from which PyTorch's ``interpolate(mode="nearest")`` takes elements, in float32."""
    step = np.float32(source) / np.float32(target)
    wanted = np.arange(first, target if last is None else last, dtype=np.float32)
    return np.minimum((wanted * step).astype(np.int64), source - 1)
