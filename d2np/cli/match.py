"""``d2np match``: two pictures."""

from __future__ import annotations

import argparse
from time import perf_counter

from . import network
from .parser import Commands, add_extraction, add_matching, settings
from .pictures import check_output, check_readable, is_page, named, save, save_page, say_written
from .report import count, say, seconds

_EPILOG = """\
examples:
  d2np match left.jpg right.jpg
  d2np match left.jpg right.jpg -o view.jpg --ratio 0.95 --max-keypoints 2000
  d2np match left.jpg right.jpg -o view.html
"""


def add(commands: Commands) -> None:
    parser = commands.add_parser(
        "match",
        help="match two pictures and draw the matches",
        description="Finds keypoints in two pictures, matches them and draws the matches.",
        epilog=_EPILOG,
    )
    parser.add_argument("a", metavar="A", help="a picture")
    parser.add_argument("b", metavar="B", help="another one")
    parser.add_argument(
        "-o",
        "--output",
        default="matches.png",
        metavar="FILE",
        help="the drawing, in the format of its extension (png, jpg, webp, tif, bmp, pdf), or .html: a page "
        "to explore the matches in; default: matches.png",
    )
    add_matching(parser)
    add_extraction(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    check_output(options.output, [options.a, options.b], pages=True)
    for path in (options.a, options.b):
        check_readable(path)
    from .. import draw
    from ..matching import match

    net = network.load(options.weights, options.threads)
    how = settings(options).options()
    start = perf_counter()
    with named(options.a):
        a = net(options.a, threads=options.threads, **how)
    with named(options.b):
        b = net(options.b, threads=options.threads, **how)
    extracted = perf_counter()
    with network.patience():
        matches = match(
            a,
            b,
            mutual=options.mutual,
            ratio=options.ratio,
            min_similarity=options.min_similarity,
            threads=options.threads,
        )
    matched = perf_counter()
    if is_page(options.output):
        save_page(draw.match_page(options.a, options.b, a, b, matches, orient=options.orient), options.output)
    else:
        save(draw.matches(options.a, options.b, a, b, matches, orient=options.orient), options.output)

    for path, features in ((options.a, a), (options.b, b)):
        width, height = features.image_size
        say(f"{path}: {count(len(features), 'keypoint')} in {width} x {height} px")
    alike = ""
    if len(matches):
        low, high = matches.similarities.min(), matches.similarities.max()
        alike = f", similarity {low:.3f} to {high:.3f}"
    say(f"{count(len(matches), 'match')}{alike}")
    say(f"{seconds(extracted - start)} for extraction, {seconds(matched - extracted)} for matching")
    say_written(options.output)
    return 0
