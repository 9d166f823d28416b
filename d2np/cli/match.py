"""``d2np match``: two pictures."""

from __future__ import annotations

import argparse
from time import perf_counter
from typing import TYPE_CHECKING

from ..errors import OptionError
from . import network
from .parser import Commands, add_extraction, add_matching, positive_number, settings
from .pictures import check_output, check_readable, is_page, named, save, save_page, say_written, shown
from .report import count, say, seconds

if TYPE_CHECKING:
    from ..features import Matches

_MODELS = ("homography", "fundamental")
_THRESHOLD = 3.0

_EPILOG = """\
examples:
  d2np match left.jpg right.jpg
  d2np match left.jpg right.jpg -o view.jpg --ratio 0.95 --max-keypoints 2000
  d2np match left.jpg right.jpg -o view.html
  d2np match wall.jpg wall_again.jpg --verify homography --threshold 2
"""


def add(commands: Commands) -> None:
    parser = commands.add_parser(
        "match",
        help="match two images and draw the matches",
        description="Finds keypoints in two images, matches them and draws the matches.",
        epilog=_EPILOG,
    )
    parser.add_argument("a", metavar="A", help="an image")
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
    group = parser.add_argument_group("verification")
    group.add_argument(
        "--verify",
        choices=_MODELS,
        help="tell the matches that agree with one homography (a plane, or a camera that only turns) or one "
        "fundamental matrix (any rigid scene) from the others, which are drawn faint and red",
    )
    group.add_argument(
        "--threshold",
        type=positive_number,
        metavar="PX",
        help="how far a match may be off and still agree; default: 3",
    )
    add_extraction(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    check_output(options.output, [options.a, options.b], pages=True)
    for path in (options.a, options.b):
        check_readable(path, options.max_pixels)
    _check_verification(options)
    from .. import draw
    from ..matching import match

    net = network.load(options.weights, options.threads)
    how = settings(options).options()
    start = perf_counter()
    with named(options.a):
        a = network.features(net, options.a, options.threads, **how)
    with named(options.b):
        b = network.features(net, options.b, options.threads, **how)
    extracted = perf_counter()
    matches = match(
        a,
        b,
        mutual=options.mutual,
        ratio=options.ratio,
        min_similarity=options.min_similarity,
        verify=options.verify,
        threshold=options.threshold or _THRESHOLD,
        threads=options.threads,
    )
    matched = perf_counter()
    pictures = shown(options.a, options), shown(options.b, options)
    if is_page(options.output):
        save_page(draw.match_page(*pictures, a, b, matches, orient=options.orient), options.output)
    else:
        save(draw.matches(*pictures, a, b, matches, orient=options.orient), options.output)

    for path, features in ((options.a, a), (options.b, b)):
        width, height = features.image_size
        say(f"{path}: {count(len(features), 'keypoint')} in {width} x {height} px")
    alike = ""
    if len(matches):
        low, high = matches.similarities.min(), matches.similarities.max()
        alike = f", similarity {low:.3f} to {high:.3f}"
    say(f"{count(len(matches), 'match')}{alike}")
    if options.verify is not None:
        say(_verified(matches, options.verify, options.threshold or _THRESHOLD))
    say(f"{seconds(extracted - start)} for extraction, {seconds(matched - extracted)} for matching")
    say_written(options.output)
    return 0


def _check_verification(options: argparse.Namespace) -> None:
    if options.verify is not None:
        from .. import verification

        verification.check(options.verify, options.threshold or _THRESHOLD)
    elif options.threshold is not None:
        raise OptionError("--threshold is for --verify only")


def _verified(matches: Matches, model: str, threshold: float) -> str:
    what = {"homography": "homography", "fundamental": "fundamental matrix"}[model]
    if matches.model is None or matches.inliers is None:
        return f"no {what} fits the matches"
    good = int(matches.inliers.sum())
    inliers = f"{count(good, 'inlier')} ({good / len(matches):.0%}) within {threshold:g} px of one {what}"
    return f"{inliers}, {count(len(matches) - good, 'outlier')}"
