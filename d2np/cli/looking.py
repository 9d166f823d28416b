"""Commands that show what the network finds in images, how well, and how fast."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from ..errors import Error, OptionError, count
from . import files
from .arguments import EXTRACTION, MATCHING, MIN_SCORE, POSITIVE, THREADS, Command, settings
from .console import say, seconds

if TYPE_CHECKING:
    from PIL import Image

    from ..features import Features, Matches
    from ..options import GeometricModel

_MODELS = {"homography": "homography", "fundamental": "fundamental matrix"}
_NO_MODEL = "none"
TARGETS = ("avx512", "avx2", "avx", "sse", "neon")
"""Names in :mod:`d2np.kernels.processor`, which cannot be imported as fast."""


@Command(
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
    threshold=POSITIVE,
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
    for path in outputs:
        files.check_output(path, [options.a, options.b], (*files.DRAWINGS, *files.PAGES, *tables.EXTENSIONS))
    model, unverified = _model(options)
    from .. import draw, matching, verification

    images = [files.opened(path, options) for path in (options.a, options.b)]
    weights = files.weights_or_default(options.weights, quiet=options.quiet)
    net = files.load(weights, options.threads)
    start = perf_counter()
    # The first image is matched as it is given, whatever the second one's rotation.
    as_given = argparse.Namespace(**{**vars(options), "rotations": (0,)})
    a, b = (files.features(net, *each) for each in zip(images, (as_given, options), strict=True))
    extracted = perf_counter()
    chosen = {name: getattr(options, name) for name in ("mutual", "ratio", "min_similarity")}
    threshold = options.threshold or verification.THRESHOLD * max(
        _shrinking(each, options) for each in (a, b)
    )
    matches = matching.match(a, b, **chosen, verify=model, threshold=threshold, threads=options.threads)
    matched = perf_counter()

    every = count(len(matches), "match")
    verdict = f"{every}, {unverified}" if model is None else _verdict(matches, model, threshold)
    if matches.rotation:
        verdict += f"; {options.b} turned by {matches.rotation} degrees"
    used = f"weights {Path(weights).name}"
    for path in outputs:
        if files.extension(path) in tables.EXTENSIONS:
            recorded = {"min_score": options.min_score, "verify": model, "threshold": model and threshold}
            recorded["masks"] = options.masks
            about = {
                "images": [options.a, options.b],
                "weights": Path(weights).name,
                "verdict": verdict,
                "settings": {**settings(options).recorded(net), **chosen, **recorded},
            }
            tables.write(path, a, b, matches, about=about)
            continue
        first, second = (files.shown(image, options) for image in images)
        drawing: Image.Image | str
        if files.extension(path) in files.PAGES:
            names = Path(options.a).name, Path(options.b).name
            caption = f"{verdict[0].upper()}{verdict[1:]} ({used})"
            drawing = draw.match_page(first, second, a, b, matches, names=names, caption=caption)
        else:
            drawing = draw.matches(first, second, a, b, matches, caption=used)
        files.write(drawing, path)

    if options.quiet:
        say(verdict)
        return 0
    for each, path in ((a, options.a), (b, options.b)):
        width, height = each.image_size
        say(f"{path}: {count(len(each), 'keypoint')} in {width} x {height} px")
    say(every)
    say(verdict)
    say(f"{seconds(extracted - start)} for extraction, {seconds(matched - extracted)} for matching")
    for path in outputs:
        say(f"wrote {path}")
    return 0


def _model(options: argparse.Namespace) -> tuple[GeometricModel | None, str]:
    """Return the model to verify with; and what to say of the matches where that is none."""
    from .. import verification

    unverified = "not verified"
    if options.verify != _NO_MODEL:
        try:
            model: GeometricModel = options.verify or "fundamental"
            verification.check(model, verification.THRESHOLD)
            return model, ""
        except Error as error:
            if options.verify is not None:
                raise
            kind = "mutual nearest neighbours" if options.mutual else "nearest neighbours"
            unverified = f"unverified {kind}, of which any may be wrong: {error}"
    if options.threshold is not None:
        raise OptionError("--threshold is for verified matches, and these are not: see --verify")
    return None, unverified


def _shrinking(features: Features, options: argparse.Namespace) -> float:
    """Return how many pixels of the image as given are one of those that the network saw."""
    from ..images.pixels import network_size

    seen = network_size(*features.image_size, settings(options))
    return max(features.image_size[0] / seen[0], features.image_size[1] / seen[1])


def _verdict(matches: Matches, model: str, threshold: float) -> str:
    evidence = matches.evidence
    assert evidence is not None
    fitting = (
        f"{evidence.fitting:,} of {count(len(matches), 'match')} fit one {_MODELS[model]} within "
        f"{threshold:.3g} px"
    )
    if not evidence.sufficient:
        return f"no geometric agreement: {fitting}, as many as chance gives"
    return f"geometric agreement: {fitting}; by chance: 1 in 10^{-evidence.log10_chance:.0f}"


@Command(
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
    files.check_output(options.output, [options.image], (*files.DRAWINGS, *files.PAGES))
    is_page = files.extension(options.output) in files.PAGES
    image = files.opened(options.image, options)
    from .. import draw
    from ..images.pixels import network_size

    weights = files.weights_or_default(options.weights)
    net = files.load(weights, options.threads)
    caption = f"weights {Path(weights).name}"
    how = settings(options)
    shown = files.shown(image, options)
    height, width = shown.shape[:2]
    seen = network_size(width, height, how)
    drawing: Image.Image | str
    if options.heatmap or is_page:
        with files.named(image):
            strength = net.strength(image, how, threads=options.threads)
    if options.heatmap and not is_page:
        strongest = min(options.max_keypoints or 0, strength.size)
        drawing = draw.heatmap(shown, strength, strongest=strongest, network_size=seen, caption=caption)
        summary = f"{strength.shape[1]} x {strength.shape[0]} cells for {width} x {height} px"
        summary += f", strength {strength.min():.3f} to {strength.max():.3f}"
    else:
        features = files.features(net, image, options)
        if is_page:
            name = Path(options.image).name
            drawing = draw.keypoint_page(
                shown, features, strength, heat=options.heatmap, network_size=seen, name=name
            )
        else:
            drawing = draw.keypoints(shown, features, caption=caption)
        summary = f"{count(len(features), 'keypoint')} in {width} x {height} px"
        if len(features):
            summary += f", scores {features.scores.min():.4g} to {features.scores.max():.4g}"
    files.write(drawing, options.output)
    say(summary)
    say(f"wrote {options.output}")
    return 0


@Command(
    f"""
    -o, --output FILE  the drawing; default: demo.png
    --weights WEIGHTS  a file or a name; default: d2np, packaged
    {THREADS}
    """,
    output={"default": "demo.png"},
    weights={"default": "d2np"},
)
def demo(options: argparse.Namespace) -> int:
    """Match two views of a shipped image and measure how well it works.

    Matches a shipped image with a second view of it, made through a known homography and darker, and measures
    how many of the matches are correct. Needs no download.

    example:
      d2np demo -o demo.png

    In the drawing, green lines are correct matches, within 3 pixels of the truth,
    and red ones are wrong.
    """
    files.check_output(options.output)
    from .. import demo, draw

    given = demo.views()
    say("Two views of one image: as it is, and through a known homography, darker.")
    net = files.load(options.weights, options.threads)
    start = perf_counter()
    result = demo.run(net, given, threads=options.threads)
    duration = perf_counter() - start
    first, second, matches = result.first, result.second, result.matches
    drawing = draw.matches(given.first, given.second, first, second, matches, correct=result.right)
    files.write(drawing, options.output)
    correct = f"{result.right.sum()} of {len(matches)}"
    if len(matches):
        correct += f", {result.right.mean():.0%}"
    correct += f", within {demo.TOLERANCE:g} px of the truth"
    both = ((given.first, first), (given.second, second))
    for label, value in (
        ("weights", options.weights),
        ("keypoints", "; ".join(f"{len(found)} in {view.width} x {view.height} px" for view, found in both)),
        ("matches", count(len(matches), "mutual nearest neighbour")),
        ("correct", correct),
        ("time", f"{seconds(duration)} for extraction and matching"),
        ("drawing", options.output),
    ):
        say(f"  {label:<10}{value}")
    return 0


@Command(
    f"""
    IMAGE  an image
    {EXTRACTION}
    """
)
def profile(options: argparse.Namespace) -> int:
    """Time an extraction, layer by layer.

    Extracts the features of an image and prints how long each layer and phase took.

    Times are added up over the threads. The phases of Winograd convolution are the
    input transform, the block multiplication and the output transform.

    example:
      d2np profile house.jpg --threads 1
    """
    image = files.opened(options.image, options)
    net = files.load(options.weights, options.threads)
    chosen = {**settings(options).options(), "mask": files.mask(image, options)}
    with files.named(image):
        profile = net.profile(image, threads=options.threads, **chosen)
    for line in str(profile).splitlines():
        say(line)
    return 0


@Command(
    """
    --target NAME  the instructions that kernels may use: avx512, avx2, avx, sse or neon; default: the most
        that this processor has
    """,
    target={"choices": TARGETS},
)
def warmup(options: argparse.Namespace) -> int:
    """Compile all kernels now, and say how long it took.

    Compiles every kernel, so that no later command has to wait for it.

    Compiled kernels are kept beside the installed package, or in NUMBA_CACHE_DIR if
    that is set: run this once after installing, or while a container image is
    built. They serve all processors with the same instructions. Each looks for
    kernels with the most that it has: to serve several kinds, run this for each of
    them, or set D2NP_SIMD to what all of them have.

    examples:
      d2np warmup
      d2np warmup --target avx2
    """
    start = perf_counter()
    if options.target:
        from ..kernels.processor import host_has

        if not host_has(options.target):
            raise OptionError(f"this processor lacks instructions of {options.target}: use one that has them")
        os.environ["D2NP_SIMD"] = options.target  # before any kernel is there
    files.tell_of_compiling()
    _compile()
    say(f"every kernel is ready after {seconds(perf_counter() - start)}")
    return 0


def _compile() -> None:
    """Use every kernel, on images of a few pixels; those in Numba's cache are only loaded."""
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
