"""The network that commands work with."""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING, Any

from . import progress
from .report import note

if TYPE_CHECKING:
    from ..features import Features
    from ..images.open import ImageLike
    from ..network.net import Net


def weights_or_default(given: str | None, *, quiet: bool = False) -> str:
    """The weights asked for, or the default ones; of these it is said which they are, unless ``quiet``."""
    if given is not None:
        return given
    from ..weights import catalogue

    name = catalogue.default()
    kind = "published, from the cache"
    if name == "vgg16":
        kind = "packaged, the network before D2-Net's training; `d2np fetch` downloads the published ones"
    if not quiet:
        note(f"weights: {name} ({kind})")
    return name


def load(given: str | None, threads: int | None = None) -> Net:
    """The network, ready to work: its kernels are compiled or loaded.

    Parameters
    ----------
    given : str or None
        The option ``--weights``.
    threads : int, optional
    """
    import numpy as np

    from ..network.net import Net

    tell_of_compiling()
    net = Net.load(weights_or_default(given))
    net.strength(np.zeros((32, 32, 3), np.uint8), threads=threads)
    return net


def features(net: Net, image: ImageLike, threads: int | None = None, **options: Any) -> Features:
    """Return the features of an image. Of one that takes more than a second, progress is shown.

    Parameters
    ----------
    net : Net
    image : path, or what else is an image
    threads : int, optional
    **options
        Those of the network's call, which the result does not differ from.
    """
    from ..images.source import Watched, open_source

    opening = ("orient", "stretch", "max_edge", "max_sum_edges", "max_pixels")
    source = open_source(image, **{name: options[name] for name in opening if name in options})
    rows = source.shape[0] * len(options.get("scales", (1.0,)))
    with progress.bar(str(image), "row", rows, delay=1, leave=False) as bar:
        # Levels of a pyramid read some rows twice.
        watched = Watched(source, lambda read: bar.update(min(read, rows - bar.n)))
        return net(watched, threads=threads, **options)


def tell_of_compiling() -> None:
    """Say on a terminal why it takes so long, if it will: kernels are compiled on the first run."""
    if sys.stderr is not None and sys.stderr.isatty():
        from ..kernels.compile import before_compiling

        before_compiling(partial(note, "on the first run, kernels are compiled for this processor ..."))
