"""``d2np show``: what the network sees in an image."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import OptionError
from . import network
from .images import above_score, check_output, is_page, named, opened, save, save_page, say_written, shown
from .parser import Commands, add_extraction, add_min_score, settings
from .report import count, say

if TYPE_CHECKING:
    from ..features import Features
    from ..images.remote import RemoteFile
    from ..network.net import Net

_EPILOG = """\
examples:
  d2np show house.jpg -o keypoints.png -k 500
  d2np show house.jpg --heatmap -k 15 -o strength.png
  d2np show house.jpg -o view.html
"""


def add(commands: Commands) -> None:
    parser = commands.add_parser(
        "show",
        help="draw keypoints, or a heat map of the strength, over an image",
        description="Draws the keypoints of an image, the best ones brightest; or, with --heatmap, the "
        "strength of each cell of the feature map: the largest element of its normalised vector.",
        epilog=_EPILOG,
    )
    parser.add_argument("image", metavar="IMAGE", help="an image")
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="FILE",
        help="the drawing, in the format of its extension (png, jpg, webp, tif, bmp, pdf), or .html: a page "
        "to explore keypoints and strength in",
    )
    parser.add_argument(
        "--heatmap",
        action="store_true",
        help="draw the strength of each cell; -k N marks the N strongest cells; a page has both, and shows "
        "this one first",
    )
    add_extraction(parser)
    add_min_score(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    check_output(options.output, [options.image], pages=True)
    page = is_page(options.output)
    how = settings(options)
    if options.heatmap and not page and (how.detector != "d2" or options.multiscale or not how.relu):
        raise OptionError("--heatmap needs no --detector, --multiscale or --no-relu: strength has none")
    if options.heatmap and not page and options.min_score is not None:
        raise OptionError("--heatmap needs no --min-score: cells are marked with -k N")
    image = opened(options.image, options.max_pixels)
    from .. import draw

    weights = network.weights_or_default(options.weights)
    net = network.load(weights, options.threads)
    caption = f"weights {Path(weights).name}"
    if options.heatmap and not page:
        with named(image):
            return _heatmap(net, image, options, caption)
    with named(image):
        found = network.features(net, image, how, options.threads)
        features = above_score(found, options.min_score)
        if page:
            save_page(_page(net, image, features, options), options.output)
    if not page:
        drawing = draw.keypoints(shown(image, options), features, orient=options.orient, caption=caption)
        save(drawing, options.output)
    width, height = features.image_size
    best = ""
    if len(features):
        best = f", scores {features.scores.min():.4g} to {features.scores.max():.4g}"
    say(f"{count(len(features), 'keypoint')} in {width} x {height} px{best}")
    say_written(options.output)
    return 0


def _page(net: Net, image: str | RemoteFile, features: Features, options: argparse.Namespace) -> str:
    from .. import draw
    from ..images.pixels import network_size

    how = settings(options)
    strength = net.strength(image, how, threads=options.threads)
    return draw.keypoint_page(
        shown(image, options),
        features,
        strength,
        heat=options.heatmap,
        network_size=network_size(*features.image_size, how),
        orient=options.orient,
    )


def _heatmap(net: Net, image: str | RemoteFile, options: argparse.Namespace, caption: str) -> int:
    from .. import draw
    from ..images.open import open_image
    from ..images.pixels import network_size

    how = settings(options)
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
    save(drawing, options.output)
    rows, columns = strength.shape
    say(
        f"{columns} x {rows} cells for {width} x {height} px, "
        f"strength {strength.min():.3f} to {strength.max():.3f}"
    )
    say(f"wrote {options.output}")
    return 0
