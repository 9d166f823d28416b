"""``d2np warmup``: compile now what would be compiled on first use."""

from __future__ import annotations

import argparse
from time import perf_counter

from . import network
from .parser import Commands
from .report import say, seconds

_EPILOG = """\
Compiled kernels are kept beside the installed package, or in NUMBA_CACHE_DIR if
that is set: run this once after installing, or while a container image is
built.

example:
  d2np warmup
"""


def add(commands: Commands) -> None:
    parser = commands.add_parser(
        "warmup",
        help="compile all kernels now, and say how long it took",
        description="Compiles every kernel for this processor, so that no later command has to wait for it.",
        epilog=_EPILOG,
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    start = perf_counter()
    network.tell_of_compiling()
    warm_up()
    say(f"every kernel is ready after {seconds(perf_counter() - start)}")
    return 0


def warm_up() -> None:
    """Compile every kernel, on images of a few pixels; those in Numba's cache are only loaded."""
    import numpy as np

    from ..matching import match, nearest_pairs
    from ..network.net import Net

    image = np.random.default_rng(0).integers(0, 256, (32, 40, 3)).astype(np.uint8)
    analytic = Net.load("analytic")
    for net in (analytic, Net(analytic.arrays, algorithm="direct")):
        features = net(image, scales=(0.5, 1.0), detector="strength", max_keypoints=5)
        net(image, relu=False)
    match(features, features)
    nearest_pairs(features, features, 1)
