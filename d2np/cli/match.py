"""``d2np match``: two images."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from ..errors import Error, OptionError
from . import network
from .images import (
    above_score,
    check_output,
    is_page,
    is_table,
    named,
    opened,
    save,
    save_page,
    say_written,
    shown,
)
from .parser import Commands, add_extraction, add_matching, add_min_score, positive_number, settings
from .report import count, say, seconds

if TYPE_CHECKING:
    from ..features import Features, Matches
    from ..images.remote import RemoteFile
    from ..network.net import Net
    from ..options import GeometricModel

_MODELS = {"homography": "homography", "fundamental": "fundamental matrix"}
_THRESHOLD = 3.0
_NO_MODEL = "none"

_EPILOG = """\
A and B may be URLs, as in `d2np extract`: pip install 'd2np[cloud]'.

examples:
  d2np match left.jpg right.jpg
  d2np match left.jpg right.jpg -o view.jpg --ratio 0.95 --max-keypoints 2000
  d2np match left.jpg right.jpg -o view.html -o matches.csv
  d2np match wall.jpg wall_again.jpg --verify homography --threshold 2
  d2np match left.jpg right.jpg -q -o matches.json
"""


def add(commands: Commands) -> None:
    parser = commands.add_parser(
        "match",
        help="match two images and draw the matches",
        description="Finds keypoints in two images, matches them, verifies the matches and draws them.",
        epilog=_EPILOG,
    )
    parser.add_argument("a", metavar="A", help="an image")
    parser.add_argument("b", metavar="B", help="another one")
    parser.add_argument(
        "-o",
        "--output",
        action="append",
        metavar="FILE",
        help="a drawing (png, jpg, webp, tif, bmp, pdf), a page to explore the matches in (html), or their "
        "numbers (csv, json, npz), as the extension says; may be given several times; default: matches.png",
    )
    parser.add_argument(
        "-q",
        "--quiet",
        action="store_true",
        help="print one line only: how many matches there are, and agree",
    )
    add_matching(parser)
    group = parser.add_argument_group("verification")
    group.add_argument(
        "--verify",
        choices=(_NO_MODEL, *_MODELS),
        help="tell the matches that agree with one homography (a plane, or a camera that only turns) or one "
        "fundamental matrix (any rigid scene) from the others, which are drawn faint; default: fundamental, "
        "or none where OpenCV is missing",
    )
    group.add_argument(
        "--threshold",
        type=positive_number,
        metavar="PX",
        help="how far a match may be off and still agree; default: 3, and more for images that are shrunk",
    )
    add_extraction(parser)
    add_min_score(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    outputs = options.output or ["matches.png"]
    for k, path in enumerate(outputs):
        check_output(path, [options.a, options.b], pages=True, tables=True)
        if os.path.realpath(path) in map(os.path.realpath, outputs[:k]):
            raise OptionError(f"{path} is given twice as an output")
    model, unverified = _model(options)
    images = opened(options.a, options.max_pixels), opened(options.b, options.max_pixels)
    from ..formats import tables
    from ..matching import match

    weights = network.weights_or_default(options.weights, quiet=options.quiet)
    net = network.load(weights, options.threads)
    how = settings(options)
    start = perf_counter()
    features = []
    for image in images:
        with named(image):
            found = network.features(net, image, how, options.threads)
            features.append(above_score(found, options.min_score))
    a, b = features
    extracted = perf_counter()
    threshold = options.threshold or _THRESHOLD * max(_shrinking(each, options) for each in features)
    matches = match(
        a,
        b,
        mutual=options.mutual,
        ratio=options.ratio,
        min_similarity=options.min_similarity,
        verify=model,
        threshold=threshold,
        threads=options.threads,
    )
    matched = perf_counter()
    verdict = unverified.format(count(len(matches), "match"))
    if model is not None:
        verdict = _verdict(matches, model, threshold)
    for path in outputs:
        if is_table(path):
            about = _about(options, net, Path(weights).name, model, threshold, verdict)
            tables.write(path, a, b, matches, about=about)
        else:
            _draw(path, images, a, b, matches, verdict, Path(weights).name, options)

    if options.quiet:
        say(verdict)
        return 0
    for each, path in zip(features, (options.a, options.b), strict=True):
        width, height = each.image_size
        say(f"{path}: {count(len(each), 'keypoint')} in {width} x {height} px")
    alike = ""
    if len(matches):
        low, high = matches.similarities.min(), matches.similarities.max()
        alike = f", similarity {low:.3f} to {high:.3f}"
    say(f"{count(len(matches), 'match')}{alike}")
    say(verdict)
    say(f"{seconds(extracted - start)} for extraction, {seconds(matched - extracted)} for matching")
    for path in outputs:
        say_written(path)
    return 0


def _model(options: argparse.Namespace) -> tuple[GeometricModel | None, str]:
    """Which model to verify with; and what to say of so many matches where that is none."""
    from .. import verification

    if options.verify == _NO_MODEL:
        unverified = "{}, not verified"
    else:
        chosen: GeometricModel = options.verify or "fundamental"
        try:
            verification.check(chosen, options.threshold or _THRESHOLD)
            return chosen, ""
        except OptionError:
            raise
        except Error as error:
            if options.verify is not None:
                raise
            kind = "mutual nearest neighbours" if options.mutual else "nearest neighbours"
            unverified = f"{{}}, unverified {kind}, of which any may be wrong: {error}"
    if options.threshold is not None:
        raise OptionError("--threshold is for verified matches, and these are not: see --verify")
    return None, unverified


def _shrinking(features: Features, options: argparse.Namespace) -> float:
    """How many pixels of the image as given are one of those that the network saw."""
    from ..images.pixels import network_size

    seen = network_size(*features.image_size, settings(options))
    return max(features.image_size[0] / seen[0], features.image_size[1] / seen[1])


def _verdict(matches: Matches, model: str, threshold: float) -> str:
    from ..verification import SAMPLE

    what, evidence = _MODELS[model], matches.evidence
    assert evidence is not None
    every = count(len(matches), "match")
    if len(matches) <= SAMPLE[model]:
        return f"no geometric agreement: {every}, and one {what} takes at least {SAMPLE[model] + 1}"
    fitting = f"{evidence.fitting:,} of {every} fit one {what} within {threshold:.3g} px"
    if not evidence.sufficient:
        return f"no geometric agreement: {fitting}, as many as chance gives"
    rarity = -evidence.log10_chance
    chance = f"1 in 10^{rarity:.0f}" if rarity < 100 else "less than 1 in 10^100"
    return f"geometric agreement: {fitting}; by chance: {chance}"


def _draw(
    path: str,
    images: tuple[str | RemoteFile, str | RemoteFile],
    a: Features,
    b: Features,
    matches: Matches,
    verdict: str,
    weights: str,
    options: argparse.Namespace,
) -> None:
    from .. import draw

    to_show = shown(images[0], options), shown(images[1], options)
    if is_page(path):
        caption = f"{verdict[0].upper()}{verdict[1:]} (weights {weights})"
        save_page(draw.match_page(*to_show, a, b, matches, caption=caption, orient=options.orient), path)
    else:
        caption = f"weights {weights}"
        save(draw.matches(*to_show, a, b, matches, caption=caption, orient=options.orient), path)


def _about(
    options: argparse.Namespace, net: Net, weights: str, model: str | None, threshold: float, verdict: str
) -> dict[str, Any]:
    """Return what a file of matches says beside them."""
    matching = {name: getattr(options, name) for name in ("mutual", "ratio", "min_similarity", "min_score")}
    verified = {"verify": model, "threshold": None if model is None else threshold}
    return {
        "images": [options.a, options.b],
        "weights": weights,
        "settings": {**settings(options).recorded(net), **matching, **verified},
        "verdict": verdict,
    }
