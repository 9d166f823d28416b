"""Which pairs of many images are worth matching.

Names and arrays in, pairs out; no file is read here. Pairs are in their order, each once.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..options import whole_number

Pair = tuple[str, str]

_NUMBER = re.compile(r"([0-9]+)")


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
