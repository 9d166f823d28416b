"""Which pairs ``d2np pairs`` matches."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from ..errors import OptionError

if TYPE_CHECKING:
    import argparse

CHOICE = """which pairs, by default every image with every other:
    --pairs LIST  those of a list
    --window N  each image with the N that follow it; in order of names, 2.jpg before 10.jpg
    --quadratic  with --window: also with those 1, 2, 4, 8, ... places further on, N of these
    --loop  with --window: behind the last image comes the first one"""

_CHOICES = ("pairs", "window")
_BELONGS_TO = {"quadratic": "window", "loop": "window"}


def check(options: argparse.Namespace) -> None:
    """Find out before any work is done whether the options of :data:`CHOICE` fit each other.

    Raises
    ------
    OptionError
        If not.
    """
    given = [_flag(name) for name in _CHOICES if getattr(options, name) is not None]
    if len(given) > 1:
        raise OptionError(
            f"{' and '.join(given)} each say which pairs: use one of them; the same command with the "
            "other one adds its pairs to the file"
        )
    for name, owner in _BELONGS_TO.items():
        if getattr(options, name) and getattr(options, owner) is None:
            raise OptionError(f"{_flag(name)} is for {_flag(owner)} only")


def chosen(options: argparse.Namespace) -> Collection[tuple[str, str]]:
    """Return the pairs that the options of :data:`CHOICE` say, of the images of the feature file."""
    from .. import dataset
    from ..dataset import pair_choice

    if options.pairs is not None:
        return dataset.listed_pairs(options.pairs, options.features)
    everyone = dataset.all_pairs(options.features)
    if options.window is not None:
        names = pair_choice.natural_order(everyone.names)
        return pair_choice.in_window(names, options.window, quadratic=options.quadratic, loop=options.loop)
    return everyone


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
