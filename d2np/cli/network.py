"""The network that commands work with."""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING

from . import progress
from .report import note

if TYPE_CHECKING:
    from ..features import Features
    from ..images.open import ImageLike
    from ..network.net import Net
    from ..options import Options


def weights_or_default(given: str | None, *, quiet: bool = False) -> str:
    """The weights asked for, or the default ones; of these it is said which they are, unless ``quiet``."""
    if given is not None:
        return given
    from ..weights import store

    name = store.default()
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


def features(net: Net, image: ImageLike, how: Options, threads: int | None = None) -> Features:
    """Return the features of an image. Of one that takes more than a second, progress is shown.

    Parameters
    ----------
    net : Net
    image : path, or what else is an image
    how : Options
    threads : int, optional
    """
    from ..images.open import open_source

    source = open_source(image, how)
    rows = source.shape[0] * len(how.scales)
    with progress.bar(str(image), "row", rows, delay=1, leave=False) as bar:
        # Levels of a pyramid read some rows twice.
        source.on_read = lambda read: bar.update(min(read, rows - bar.n))
        return net(source, how, threads=threads)


def tell_of_compiling() -> None:
    """Say on a terminal why it takes so long, if it will: kernels are compiled on the first run."""
    if sys.stderr is not None and sys.stderr.isatty():
        from ..kernels.compile import before_compiling

        before_compiling(partial(note, "on the first run, kernels are compiled for this processor ..."))
