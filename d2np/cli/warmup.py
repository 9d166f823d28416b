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
    from ..warmup import warm_up

    warm_up()
    say(f"every kernel is ready after {seconds(perf_counter() - start)}")
    return 0
