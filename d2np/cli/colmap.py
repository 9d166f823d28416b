"""``d2np colmap``: features and matches, into a COLMAP database."""

from __future__ import annotations

import argparse
import sys
from time import perf_counter

from .images import check_place, check_there
from .parser import Commands, add_overwrite, add_threads
from .report import count, note, say, seconds

_EPILOG = """\
Cameras are what COLMAP makes of the images: the focal length from EXIF where
there is any, else 1.2 times the longest edge. Images are found in IMAGES by
their names in FEATURES.h5. Needs pip install 'd2np[colmap]'.

examples:
  d2np extract photos/ -o features.h5
  d2np pairs features.h5 -o matches.h5
  d2np colmap features.h5 matches.h5 photos/ -o database.db
  colmap mapper --database_path database.db \\
      --image_path photos/ --output_path model/
"""


def add(commands: Commands) -> None:
    parser = commands.add_parser(
        "colmap",
        help="write features and matches into a COLMAP database",
        description="Builds the database that COLMAP and pycolmap reconstruct from: cameras, images, "
        "keypoints, matches, and the two-view geometries that verify them.",
        epilog=_EPILOG,
    )
    parser.add_argument("features", metavar="FEATURES.h5", help="what d2np extract or hloc wrote")
    parser.add_argument("matches", metavar="MATCHES.h5", help="what d2np pairs or hloc wrote")
    parser.add_argument("images", metavar="IMAGES", help="the folder of the images")
    parser.add_argument("-o", "--output", required=True, metavar="DATABASE", help="the file to write")
    parser.add_argument(
        "--camera-model",
        default="SIMPLE_RADIAL",
        type=str.upper,
        metavar="MODEL",
        help="one of COLMAP's: PINHOLE, SIMPLE_RADIAL (default), OPENCV, ...",
    )
    parser.add_argument(
        "--single-camera",
        action="store_true",
        help="write one camera, with one focal length, for all images; default: one for all those that "
        "have the same in EXIF, and one for each of the others",
    )
    parser.add_argument(
        "--verify",
        choices=("two-view", "none"),
        default="two-view",
        help="two-view: keep the matches that agree with a two-view geometry of the pair (default); "
        "none: count all matches as inliers",
    )
    parser.add_argument(
        "--no-verify", dest="verify", action="store_const", const="none", help=argparse.SUPPRESS
    )
    add_overwrite(parser, "replace DATABASE if it is there")
    add_threads(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    check_there(options.features, options.matches, options.images)
    check_place(options.output, [options.features, options.matches])
    from ..formats import colmap

    start = perf_counter()
    summary = colmap.write(
        options.output,
        options.features,
        options.matches,
        options.images,
        camera_model=options.camera_model,
        single_camera=options.single_camera,
        verify=options.verify != "none",
        overwrite=options.overwrite,
        threads=options.threads,
        tell=(lambda what: note(f"{what} ...")) if sys.stderr.isatty() else (lambda _: None),
    )
    say(
        f"{count(summary.images, 'image')} of {count(summary.cameras, 'camera')}, "
        f"{count(summary.keypoints, 'keypoint')}"
    )
    say(f"{count(summary.pairs, 'pair')} matched, {count(summary.matches, 'match')}")
    if options.verify != "none":
        say(f"{count(summary.verified, 'pair')} verified, {count(summary.inliers, 'inlier')}")
    else:
        say("not verified: every match counts as an inlier")
    if 10 * summary.weak >= summary.images and _has_one_scale(options.features):
        say(
            f"{summary.weak} of {count(summary.images, 'image')} have fewer than {colmap.ENOUGH} inliers "
            "with any other: extract at three scales (d2np extract --multiscale), which finds more"
        )
    say(f"wrote {options.output} in {seconds(perf_counter() - start)}")
    return 0


def _has_one_scale(features: str) -> bool:
    """Whether the file tells that its features were found at one scale; hloc's does not tell."""
    from ..dataset.assembly import recorded_settings
    from ..formats import hloc

    with hloc.opened(features) as file:
        scales = (recorded_settings(file) or {}).get("scales")
    return isinstance(scales, list) and len(scales) == 1
