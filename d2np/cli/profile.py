"""``d2np profile``: where the time goes."""

from __future__ import annotations

import argparse

from . import network
from .images import named, opened
from .parser import Commands, add_extraction, settings
from .report import say

_EPILOG = """\
Times are added up over the threads. The phases of Winograd convolution are the
input transform, the block multiplication and the output transform; GFLOP/s are
those of one thread, beside the peak that one thread reaches in the bare
multiplication on this machine.

example:
  d2np profile house.jpg --threads 1
"""


def add(commands: Commands) -> None:
    parser = commands.add_parser(
        "profile",
        help="time an extraction, layer by layer",
        description="Extracts the features of an image and prints how long each layer and phase took.",
        epilog=_EPILOG,
    )
    parser.add_argument("image", metavar="IMAGE", help="an image")
    add_extraction(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    image = opened(options.image, options.max_pixels)
    net = network.load(options.weights, options.threads)
    with named(image):
        profile = net.profile(image, settings(options), threads=options.threads)
    for line in str(profile).splitlines():
        say(line)
    return 0
