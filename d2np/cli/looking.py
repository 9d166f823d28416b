"""Commands that show what the network finds in images, and how two of them match."""

from __future__ import annotations

import argparse
import os
from math import inf
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from ..errors import Error, OptionError, count
from . import files
from .arguments import EXTRACTION, MATCHING, MIN_SCORE, checked, command, settings
from .console import say, seconds

if TYPE_CHECKING:
    from PIL import Image

    from ..features import Features, Matches
    from ..options import GeometricModel

_MODELS = {"homography": "homography", "fundamental": "fundamental matrix"}
_THRESHOLD = 3.0
_NO_MODEL = "none"


@command(
    f"""
    A  an image
    B  another one
    -o, --output FILE  a drawing (png, jpg, webp, tif, bmp, pdf), a page to explore the matches in (html), or
        their numbers (csv, json, npz), as the extension says; may be given several times; default:
        matches.png
    -q, --quiet  print one line only: how many matches there are, and agree
    {MIN_SCORE}
    {MATCHING}
    verification:
    --verify  tell the matches that agree with one homography (a plane, or a camera that only turns) or one
        fundamental matrix (any rigid scene) from the others, which are drawn faint; default: fundamental, or
        none where OpenCV is missing
    --threshold PX  how far a match may be off and still agree; default: 3, and more for images that are
        shrunk
    {EXTRACTION}
    """,
    output={"action": "append"},
    threshold=checked(float, lambda pixels: 0 < pixels < inf, "a number above 0 is expected"),
    verify={"choices": (_NO_MODEL, *_MODELS)},
)
def match(options: argparse.Namespace) -> int:
    """Match two images and draw the matches.

    Finds keypoints in two images, matches them, verifies the matches and draws them.

    A and B may be URLs, as in `d2np extract`: pip install 'd2np[cloud]'.

    examples:
      d2np match left.jpg right.jpg
      d2np match left.jpg right.jpg -o view.jpg --ratio 0.95 --max-keypoints 2000
      d2np match left.jpg right.jpg -o view.html -o matches.csv
      d2np match wall.jpg wall_again.jpg --verify homography --threshold 2
      d2np match left.jpg right.jpg -q -o matches.json
    """
    from ..formats import tables

    outputs = options.output or ["matches.png"]
    for k, path in enumerate(outputs):
        files.check_output(path, [options.a, options.b], pages=True, tables=tables.EXTENSIONS)
        if os.path.realpath(path) in map(os.path.realpath, outputs[:k]):
            raise OptionError(f"{path} is given twice as an output")
    model, unverified = _model(options)
    from .. import draw, matching

    images = [files.opened(path, options.max_pixels) for path in (options.a, options.b)]
    weights = files.weights_or_default(options.weights, quiet=options.quiet)
    net = files.load(weights, options.threads)
    start = perf_counter()
    a, b = (files.features(net, image, options) for image in images)
    extracted = perf_counter()
    chosen = {name: getattr(options, name) for name in ("mutual", "ratio", "min_similarity")}
    threshold = options.threshold or _THRESHOLD * max(_shrinking(each, options) for each in (a, b))
    matches = matching.match(a, b, **chosen, verify=model, threshold=threshold, threads=options.threads)
    matched = perf_counter()

    if model is None:
        verdict = unverified.format(count(len(matches), "match"))
    else:
        verdict = _verdict(matches, model, threshold)
    weights = Path(weights).name
    for path in outputs:
        if files.extension(path) in tables.EXTENSIONS:
            recorded = {**settings(options).recorded(net), **chosen}
            recorded |= {"min_score": options.min_score, "verify": model}
            recorded["threshold"] = None if model is None else threshold
            given = [options.a, options.b]
            about = {"images": given, "weights": weights, "settings": recorded, "verdict": verdict}
            tables.write(path, a, b, matches, about=about)
            continue
        to_show = [files.shown(image, options) for image in images]
        drawn: Any = draw.matches
        caption = f"weights {weights}"
        if files.extension(path) in files.PAGES:
            drawn = draw.match_page
            caption = f"{verdict[0].upper()}{verdict[1:]} ({caption})"
        files.write(drawn(*to_show, a, b, matches, caption=caption, orient=options.orient), path)

    if options.quiet:
        say(verdict)
        return 0
    for each, path in ((a, options.a), (b, options.b)):
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
        files.say_written(path)
    return 0


def _model(options: argparse.Namespace) -> tuple[GeometricModel | None, str]:
    """Return the model to verify with; and what to say of so many matches where that is none."""
    from .. import verification

    unverified = "{}, not verified"
    if options.verify != _NO_MODEL:
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
    """Return how many pixels of the image as given are one of those that the network saw."""
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


@command(
    f"""
    IMAGE  an image
    -o, --output FILE  the drawing, in the format of its extension (png, jpg, webp, tif, bmp, pdf), or .html:
        a page to explore keypoints and strength in
    --heatmap  draw the strength of each cell; -k N marks the N strongest cells; a page has both, and shows
        this one first
    {MIN_SCORE}
    {EXTRACTION}
    """,
    output={"required": True},
)
def show(options: argparse.Namespace) -> int:
    """Draw keypoints, or a heat map of the strength, over an image.

    Draws the keypoints of an image, the best ones brightest; or, with --heatmap, the strength of each cell of
    the feature map: the largest element of its normalised vector.

    examples:
      d2np show house.jpg -o keypoints.png -k 500
      d2np show house.jpg --heatmap -k 15 -o strength.png
      d2np show house.jpg -o view.html
    """
    files.check_output(options.output, [options.image], pages=True)
    is_page = files.extension(options.output) in files.PAGES
    if options.heatmap and not is_page:
        if options.detector != "d2" or len(options.scales) > 1 or not options.relu:
            raise OptionError("--heatmap needs no --detector, --multiscale or --no-relu: strength has none")
        if options.min_score is not None:
            raise OptionError("--heatmap needs no --min-score: cells are marked with -k N")
    image = files.opened(options.image, options.max_pixels)
    from .. import draw
    from ..images.open import open_image
    from ..images.pixels import network_size

    weights = files.weights_or_default(options.weights)
    net = files.load(weights, options.threads)
    caption = f"weights {Path(weights).name}"
    how = settings(options)
    drawing: Image.Image | str
    if options.heatmap and not is_page:
        with files.named(image):
            pixels = open_image(image, how)
            strength = net.strength(pixels, how, threads=options.threads)
        height, width = pixels.shape[:2]
        drawing = draw.heatmap(
            pixels,
            strength,
            strongest=min(options.max_keypoints or 0, strength.size),
            network_size=network_size(width, height, how),
            caption=caption,
        )
        rows, columns = strength.shape
        summary = f"{columns} x {rows} cells for {width} x {height} px"
        summary += f", strength {strength.min():.3f} to {strength.max():.3f}"
    else:
        features = files.features(net, image, options)
        width, height = features.image_size
        with files.named(image):
            shown = files.shown(image, options)
            if is_page:
                drawing = draw.keypoint_page(
                    shown,
                    features,
                    net.strength(image, how, threads=options.threads),
                    heat=options.heatmap,
                    network_size=network_size(width, height, how),
                    orient=options.orient,
                )
            else:
                drawing = draw.keypoints(shown, features, orient=options.orient, caption=caption)
        summary = f"{count(len(features), 'keypoint')} in {width} x {height} px"
        if len(features):
            summary += f", scores {features.scores.min():.4g} to {features.scores.max():.4g}"
    files.write(drawing, options.output)
    say(summary)
    files.say_written(options.output)
    return 0
