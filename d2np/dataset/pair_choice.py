"""Which pairs of many images are worth matching.

Names and arrays in, pairs out; no file is read here. Pairs are in their order, each once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..options import whole_number

Pair = tuple[str, str]
FloatArray = NDArray[np.float64]

_NUMBER = re.compile(r"([0-9]+)")
# Of a table of distances, so many at a time.
_AT_ONCE = 1 << 22
# In steps of so much, unit vectors have whole numbers, of which float64 holds all sums of products exactly:
# the choice does not depend on the order in which a matrix product adds them up.
_STEP = 2.0**-25


def natural_order(names: Sequence[str]) -> list[str]:
    """Return names in an order in which ``2.jpg`` stands before ``10.jpg``."""

    def key(name: str) -> tuple[list[str | int], str]:
        # Texts and numbers alternate, and so texts are compared with texts.
        parts = _NUMBER.split(name)
        return [int(part) if number % 2 else part for number, part in enumerate(parts)], name

    return sorted(names, key=key)


def in_window(
    names: Sequence[str], window: int, *, quadratic: bool = False, loop: bool = False
) -> list[Pair]:
    """Return the pairs of images that are near each other in a sequence.

    Parameters
    ----------
    names : sequence of str
        In the sequence's order: see :func:`natural_order`.
    window : int
        Each image is paired with so many that follow it.
    quadratic : bool
        And with those 1, 2, 4, 8, ... places further on, so many of these as well, as COLMAP's sequential
        matcher has it.
    loop : bool
        The sequence ends where it began: behind the last image comes the first one.

    Raises
    ------
    OptionError
        If the window is not a whole number from 1 up.
    """
    count, window = len(names), whole_number("window", window)
    steps = set(range(1, min(window, count - 1) + 1))
    if quadratic:
        steps |= {1 << power for power in range(min(window, count.bit_length()))}
    found = set()
    for step in steps:
        for first in range(count if loop else count - step):
            if (second := (first + step) % count) != first:
                found.add((min(first, second), max(first, second)))
    return [(names[first], names[second]) for first, second in sorted(found)]


def nearest(
    names: Sequence[str], places: FloatArray, count: int, views: FloatArray | None = None
) -> list[Pair]:
    """Return the pairs of images of which one is among the nearest of the other.

    Parameters
    ----------
    names : sequence of N str
    places : (N, 3) float64
        Where the images were taken, in any unit.
    count : int
        How many of the nearest there are for each image.
    views : (N, 3) float64, optional
        Unit vectors in which they look. Of an image, those that look away from it by a right angle or more
        are none of its nearest.

    Raises
    ------
    OptionError
        If the count is not a whole number from 1 up.
    """

    def distances(first: int, last: int) -> FloatArray:
        found = np.zeros((last - first, len(places)))
        away = np.zeros_like(found)
        for axis in range(3):
            found += np.subtract.outer(places[first:last, axis], places[:, axis]) ** 2
            if views is not None:
                away += np.multiply.outer(views[first:last, axis], views[:, axis])
        return found if views is None else np.where(away > 0, found, np.inf)

    return _least(names, distances, whole_number("nearest", count))


def most_similar(names: Sequence[str], vectors: NDArray[Any], count: int) -> list[Pair]:
    """Return the pairs of images of which one is among the most similar of the other.

    Parameters
    ----------
    names : sequence of N str
    vectors : (N, D) float32
        Global descriptors, L2-normalised: images are compared by their cosine.
    count : int
        How many of the most similar there are for each image.

    Raises
    ------
    OptionError
        If the count is not a whole number from 1 up.
    """
    whole = np.rint(vectors.astype(np.float64) / _STEP)

    def distances(first: int, last: int) -> FloatArray:
        return np.asarray(-(whole[first:last] @ whole.T))

    return _least(names, distances, whole_number("retrieval", count))


def _least(names: Sequence[str], distances: Callable[[int, int], FloatArray], count: int) -> list[Pair]:
    """Return the pairs of each image with those at the least finite distances; of equal ones, the first."""
    total = len(names)
    rows, count = max(1, _AT_ONCE // max(1, total)), min(count, total - 1)
    found = set()
    for start in range(0, total if count > 0 else 0, rows):
        for number, row in enumerate(distances(start, min(start + rows, total)), start):
            row[number] = np.inf
            (near,) = np.nonzero(row <= np.partition(row, count - 1)[count - 1])
            near = near[np.isfinite(row[near])]
            for other in near[np.argsort(row[near], kind="stable")][:count].tolist():
                found.add((min(number, other), max(number, other)))
    return [(names[first], names[second]) for first, second in sorted(found)]
