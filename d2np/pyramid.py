"""The published pyramid: the picture at several sizes, from coarse to fine.

Each level's feature map is summed with the coarser one's, resized to fit; cells in which a coarser level
has found something are banned on the finer ones. Paper, section 4.3 ("multiscale features"); published
file ``lib/pyramid.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .detect import Candidates
from .errors import ImageError, OptionError
from .kernels import interpolate
from .layers import SMALLEST_SIDE
from .threads import Team, spans

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Level:
    """One size of the picture.

    Attributes
    ----------
    number : int
        1 for the coarsest.
    scale : float
        Size of this level over the size of the picture.
    height, width : int
        In pixels.
    """

    number: int
    scale: float
    height: int
    width: int


def levels(height: int, width: int, scales: Sequence[float]) -> list[Level]:
    """The levels of a picture of the given size in pixels, from coarse to fine.

    Raises
    ------
    OptionError
        If ``scales`` is not a non-empty list of different positive numbers.
    ImageError
        If a side is shorter than 8 px at one of the scales.
    """
    try:
        wanted = sorted(float(scale) for scale in scales)
    except (TypeError, ValueError):
        wanted = []
    if not wanted or len(set(wanted)) < len(wanted) or not all(0 < scale < np.inf for scale in wanted):
        raise OptionError(f"scales must be a list of different positive numbers; got {scales!r}")
    found = []
    for number, scale in enumerate(wanted, 1):
        level = Level(number, scale, int(height * scale), int(width * scale))
        if min(level.height, level.width) < SMALLEST_SIDE:
            raise ImageError(
                f"the network would see this picture at {level.width} x {level.height} px at scale "
                f"{scale:g}, and it needs {SMALLEST_SIDE} px on either side: take a larger picture"
                + (" or leave that scale out" if len(wanted) > 1 else "")
            )
        found.append(level)
    return found


def climb(
    pixels: FloatArray,
    steps: Sequence[Level],
    forward: Callable[[FloatArray, Level], FloatArray],
    detector: Callable[[FloatArray, NDArray[np.bool_], Team], Candidates],
    team: Team,
) -> Iterator[tuple[Level, FloatArray, Candidates]]:
    """Go through the levels, each with its summed map and its keypoints.

    Parameters
    ----------
    pixels : (H, W, 3) float32
        The preprocessed picture.
    steps : list of Level
    forward : callable
        From preprocessed pixels and their level to the feature map (h, w, 512), which must outlive the next
        level's.
    detector : callable
        One of :data:`d2np.detect.DETECTORS`.
    team : Team

    Yields
    ------
    level : Level
    cells : (h, w, 512) float32
        The summed map.
    found : Candidates
    """
    coarser: FloatArray | None = None
    taken: NDArray[np.bool_] | None = None
    for level in steps:
        cells = forward(resized(pixels, level.height, level.width, team), level)
        height, width = cells.shape[:2]
        if coarser is not None:
            _resize_into(coarser, cells, team, add=True)
        banned = np.zeros((height, width), np.bool_) if taken is None else _nearest(taken, height, width)
        found = detector(cells, banned, team)
        yield level, cells, found
        taken = found.taken | banned
        # A level without keypoints hands no map on: so the published code, which leaves it out of the sum.
        coarser = cells if len(found.positions) else None


def resized(pixels: FloatArray, height: int, width: int, team: Team) -> FloatArray:
    """Bilinear resizing with aligned corners, (H, W, C) to (height, width, C)."""
    if pixels.shape[:2] == (height, width):
        return pixels
    target = np.empty((height, width, pixels.shape[2]), np.float32)
    _resize_into(pixels, target, team, add=False)
    return target


def _resize_into(source: FloatArray, target: FloatArray, team: Team, *, add: bool) -> None:
    rows = max(1, 250_000 // (target.shape[1] * target.shape[2]))
    team.share(lambda span: interpolate.resize(source, target, add, *span), spans(len(target), rows))


def _nearest(flags: NDArray[np.bool_], height: int, width: int) -> NDArray[np.bool_]:
    """PyTorch's ``interpolate(mode="nearest")``, its float32 arithmetic included."""

    def picks(source: int, target: int) -> NDArray[np.int64]:
        step = np.float32(source) / np.float32(target)
        return np.minimum((np.arange(target, dtype=np.float32) * step).astype(np.int64), source - 1)

    return flags[np.ix_(picks(flags.shape[0], height), picks(flags.shape[1], width))]
