"""``d2np demo``: does it work here, and how well?"""

from __future__ import annotations

import argparse
from math import isfinite
from typing import TYPE_CHECKING

from .images import check_output, save
from .network import tell_of_compiling
from .parser import Commands, add_threads
from .report import count, say, seconds

if TYPE_CHECKING:
    from PIL import Image

    from ..demo import Result
    from ..features import Features

_EPILOG = """\
example:
  d2np demo -o demo.png

In the drawing, green lines are correct matches, within 3 pixels of the truth,
and red ones are wrong.
"""

_PACKAGED = {
    "vgg16": "packaged, trained on ImageNet",
    "analytic": "packaged, written by hand, not trained",
}


def add(commands: Commands) -> None:
    parser = commands.add_parser(
        "demo",
        help="match two views of a shipped image and measure how well it works",
        description="Matches a shipped image with a second view of it, made through a known homography and "
        "darker, and measures how many of the matches are correct. Needs no download.",
        epilog=_EPILOG,
    )
    parser.add_argument(
        "-o", "--output", default="demo.png", metavar="FILE", help="the drawing; default: demo.png"
    )
    parser.add_argument(
        "--weights",
        default="vgg16",
        metavar="WEIGHTS",
        help="a file or a name; default: vgg16, packaged",
    )
    add_threads(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    check_output(options.output)
    from .. import demo, draw
    from ..network.net import Net

    given = demo.views()
    say("Two views of one image: as it is, and through a known homography, darker.")
    tell_of_compiling()
    net = Net.load(options.weights)
    preparation = demo.prepare(net, threads=options.threads)
    result = demo.run(net, given, threads=options.threads)
    drawing = draw.matches(
        given.first, given.second, result.first, result.second, result.matches, correct=result.right
    )
    save(drawing, options.output)

    matches = len(result.matches)
    share = f", {result.right.mean():.0%}" if matches else ""
    corners = (
        f"off by {result.corner_error:.2f} px at most"
        if isfinite(result.corner_error)
        else "no homography fits the matches"
    )
    origin = _PACKAGED.get(options.weights, "as given")
    for label, value in (
        ("weights", f"{options.weights} ({origin})"),
        ("keypoints", f"{_of(given.first, result.first)}; {_of(given.second, result.second)}"),
        ("matches", f"{count(matches, 'mutual nearest neighbour')}"),
        ("correct", f"{result.right.sum()} of {matches}{share}, within {demo.TOLERANCE:g} px of the truth"),
        ("corners", f"{corners} (homography fitted to the matches, against the true one)"),
        ("time", f"kernels compiled or loaded {seconds(preparation)}, {_time(result)}"),
        ("drawing", options.output),
    ):
        say(f"  {label:<10}{value}")
    return 0


def _of(image: Image.Image, features: Features) -> str:
    return f"{len(features)} in {image.width} x {image.height} px"


def _time(result: Result) -> str:
    return f"both extractions {seconds(result.extraction)}, matching {seconds(result.matching)}"
