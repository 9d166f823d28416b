"""Which pairs ``d2np pairs`` matches."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from ..errors import FormatError, OptionError
from ..errors import count as count_of
from .arguments import check_owners, flag
from .console import note

if TYPE_CHECKING:
    import argparse

CHOICE = """which pairs, by default every image with every other:
    --pairs LIST  those of a list
    --window N  each image with the N that follow it; in order of names, 2.jpg before 10.jpg
    --quadratic  with --window: also with those 1, 2, 4, 8, ... places further on, N of these
    --loop  with --window: behind the last image comes the first one
    --retrieval K  each image with the K most similar ones, by a vector of each image that d2np extract has
        made of its feature map
    --from-poses FOLDER  each image with those that were taken nearest to it: the folder of a COLMAP model, or
        of the images, whose EXIF data has GPS positions
    --nearest K  with --from-poses: how many; default: 20"""

_NEAREST = 20

_CHOICES = ("pairs", "window", "retrieval", "from_poses")


def check(options: argparse.Namespace) -> None:
    """Find out before any work is done whether the options of :data:`CHOICE` fit each other.

    Raises
    ------
    OptionError
        If not.
    """
    given = [flag(name) for name in _CHOICES if getattr(options, name) is not None]
    if len(given) > 1:
        raise OptionError(
            f"{' and '.join(given)} each say which pairs: use one of them; the same command with the "
            "other one adds its pairs to the file"
        )
    check_owners(options, {"quadratic": "window", "loop": "window", "nearest": "from_poses"})


def chosen(options: argparse.Namespace) -> Collection[tuple[str, str]]:
    """Return the pairs that the options of :data:`CHOICE` say, of the images of the feature file."""
    from .. import dataset
    from ..dataset import pair_choice
    from ..formats import hloc

    if options.pairs is not None:
        return dataset.listed_pairs(options.pairs, options.features)
    everyone = dataset.all_pairs(options.features)
    if options.window is not None:
        names = pair_choice.natural_order(everyone.names)
        return pair_choice.in_window(names, options.window, quadratic=options.quadratic, loop=options.loop)
    if options.retrieval is not None:
        vectors = hloc.read_global_descriptors(options.features, everyone.names)
        return pair_choice.most_similar(everyone.names, vectors, options.retrieval)
    if options.from_poses is not None:
        return _near(options.from_poses, everyone.names, options.nearest or _NEAREST)
    return everyone


def _near(folder: str, names: Sequence[str], count: int) -> list[tuple[str, str]]:
    """Return the pairs of images that were taken near each other; say of how many that is not known."""
    import numpy as np

    from ..dataset import pair_choice, poses

    places = poses.read(folder, names)
    known, total = sorted(places), len(names)
    if len(known) < 2:
        raise FormatError(
            f"{folder} tells of {len(known)} of {total} images where they were taken: it must be a COLMAP "
            "model with the names of the feature file, or the folder of these images, with GPS positions in "
            "their EXIF data"
        )
    if len(known) < total:
        unknown = f"{total - len(known)} of {count_of(total, 'image')}"
        note(f"{folder} does not tell where {unknown} were taken: these are in no pair")
    where = np.array([places[name][0] for name in known])
    views = [view for name in known if (view := places[name][1]) is not None]
    found = pair_choice.nearest(known, where, count, np.array(views) if views else None)
    if not found:
        raise FormatError(f"{folder}: all images look away from each other: there is nothing to match")
    return found
