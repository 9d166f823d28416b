"""The network that commands work with."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .report import note

if TYPE_CHECKING:
    from ..net import Net

_PATIENCE = 4.0


def weights_or_default(given: str | None) -> str:
    """The weights asked for, or the default ones; of these it is said which they are."""
    if given is not None:
        return given
    from ..weights import store

    name = store.default()
    kind = "published, from the cache"
    if name == "analytic":
        kind = "packaged, written by hand, not trained; `d2np fetch` gets the published ones"
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

    from ..net import Net

    with patience():
        net = Net.load(weights_or_default(given))
        net.strength(np.zeros((32, 32, 3), np.uint8), threads=threads)
    return net


@contextmanager
def patience() -> Iterator[None]:
    """Say why it takes so long, if it does: kernels are compiled on the first run."""
    timer = threading.Timer(
        _PATIENCE,
        note,
        ["still getting ready: on the first run, kernels are compiled for this processor ..."],
    )
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
