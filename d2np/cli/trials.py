"""Commands that tell how well, and how fast, d2np works on this machine."""

from __future__ import annotations

import argparse
from math import isfinite
from time import perf_counter

from ..errors import count
from . import files
from .arguments import EXTRACTION, THREADS, command, settings
from .console import say, seconds

_PACKAGED = {
    "vgg16": "packaged, trained on ImageNet",
    "analytic": "packaged, written by hand, not trained",
}


@command(
    f"""
    -o, --output FILE  the drawing; default: demo.png
    --weights WEIGHTS  a file or a name; default: vgg16, packaged
    {THREADS}
    """,
    output={"default": "demo.png"},
    weights={"default": "vgg16"},
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
    from ..network.net import Net

    given = demo.views()
    say("Two views of one image: as it is, and through a known homography, darker.")
    files.tell_of_compiling()
    net = Net.load(options.weights)
    preparation = demo.prepare(net, threads=options.threads)
    result = demo.run(net, given, threads=options.threads)
    first, second, matches = result.first, result.second, result.matches
    files.write(
        draw.matches(given.first, given.second, first, second, matches, correct=result.right), options.output
    )

    correct = f"{result.right.sum()} of {len(matches)}"
    if len(matches):
        correct += f", {result.right.mean():.0%}"
    corners = "no homography fits the matches"
    if isfinite(result.corner_error):
        corners = f"off by {result.corner_error:.2f} px at most"
    keypoints = "; ".join(
        f"{len(features)} in {image.width} x {image.height} px"
        for image, features in ((given.first, first), (given.second, second))
    )
    times = f"both extractions {seconds(result.extraction)}, matching {seconds(result.matching)}"
    for label, value in (
        ("weights", f"{options.weights} ({_PACKAGED.get(options.weights, 'as given')})"),
        ("keypoints", keypoints),
        ("matches", count(len(matches), "mutual nearest neighbour")),
        ("correct", f"{correct}, within {demo.TOLERANCE:g} px of the truth"),
        ("corners", f"{corners} (homography fitted to the matches, against the true one)"),
        ("time", f"kernels compiled or loaded {seconds(preparation)}, {times}"),
        ("drawing", options.output),
    ):
        say(f"  {label:<10}{value}")
    return 0


@command(
    f"""
    IMAGE  an image
    {EXTRACTION}
    """
)
def profile(options: argparse.Namespace) -> int:
    """Time an extraction, layer by layer.

    Extracts the features of an image and prints how long each layer and phase took.

    Times are added up over the threads. The phases of Winograd convolution are the
    input transform, the block multiplication and the output transform; GFLOP/s are
    those of one thread, beside the peak that one thread reaches in the bare
    multiplication on this machine.

    example:
      d2np profile house.jpg --threads 1
    """
    image = files.opened(options.image, options.max_pixels)
    net = files.load(options.weights, options.threads)
    with files.named(image):
        profile = net.profile(image, settings(options), threads=options.threads)
    for line in str(profile).splitlines():
        say(line)
    return 0


@command()
def warmup(options: argparse.Namespace) -> int:
    """Compile all kernels now, and say how long it took.

    Compiles every kernel for this processor, so that no later command has to wait for it.

    Compiled kernels are kept beside the installed package, or in NUMBA_CACHE_DIR if
    that is set: run this once after installing, or while a container image is
    built.

    example:
      d2np warmup
    """
    start = perf_counter()
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
