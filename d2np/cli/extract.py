"""``d2np extract``: features of many images, into files."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from ..errors import OptionError
from ..options import FeatureFormat, names
from . import network, progress, workers
from .interrupt import finishing
from .parser import Commands, add_extraction, add_overwrite, add_quiet, settings, whole_number
from .report import complain, count, file_size, note, say, seconds

if TYPE_CHECKING:
    from ..dataset import Entry, Output, Report, Settings
    from ..network.net import Net

_EPILOG = (
    """\
IMAGES are any of
  house.jpg        an image, named by its file's name
  photos/          a folder: all images in it and below it, named by their path
                   inside it
  'photos/*.png'   a pattern (*, ?, [ab], and ** for any folders), quoted or not
  @list.txt        a path on each line, relative to the list's folder or else to
                   the working folder; the path as written is the name, of an
                   absolute path its last part
  @-               the same from standard input
each of which may be a URL that fsspec knows, such as s3://bucket/photos/ or
https://host/house.jpg; the URL of a web server's folder ends with a slash.
URLs need pip install 'd2np[cloud]', and what fsspec asks for besides.

formats
  h5       one file, as hloc's: for each image keypoints (N, 2), scores (N,),
           descriptors (512, N), image_size (2,), scales (N,)
  npz      a file IMAGE.d2-net for each image, as the published script writes
           it: keypoints (N, 3) with x, y, scale, scores (N,), descriptors
           (N, 512); beside the images, or under OUT
  mat      the same for MATLAB
  kapture  a kapture folder, new or there already; the features go under
           reconstruction/ and the name of the weights, and images that it does
           not know yet get a camera, a record and a link

stopping and going on
  Whatever ends it (Ctrl-C, kill, a full disk, a power cut), nothing that is
  done is lost: start the same command again, and it goes on. Ctrl-C finishes
  the current image, a second one stops at once.

  OUT is there as a whole or not at all. With h5, each image that is done is
  kept in OUT.parts/, and at the end the file is assembled from that; this needs
  room for the features twice. A file that is there already stays until the new
  one, with its content and the new features, replaces it. Two jobs cannot
  write to one OUT.

  Started again, it leaves out the images that are done, and does new ones; with
  h5 also those that have changed, in size or time of change, or in content with
  --checksum. If OUT was made with other weights or options, it refuses and says
  which; --overwrite begins anew.

failures
  An image that cannot be used is listed at the end with the reason, and in
  OUT.failed.txt, a line NAME<TAB>REASON<TAB>STATE for each; the others are
  done, and the exit code is 1. Started again, such images are only listed,
  unless they have changed (size, times, what the server says of a URL) or their
  server did not answer; --retry-failed tries all of them. (npz and mat beside
  the images have no such list, and try again.)

a cluster
"""
    + workers.HELP.format(what="images", out="OUT.parts")
    + """
exit code
  0 all done; 1 some images failed, or the job did; 2 bad usage; 130 interrupted

examples:
  d2np extract photos/ -o features.h5
  d2np extract photos/ -o features.h5 --max-keypoints 4000 --half
  d2np extract photos/ -o features.h5 --retry-failed
  d2np extract photos/ -o features.h5 --dask local:4
  find photos -name '*.jpg' -size +1M | d2np extract @- -o large.h5
  d2np extract @list.txt --format npz
  d2np extract photos/ -o kapture/ --format kapture
"""
)

# Formats of a file for each image, which can lie beside it.
_BESIDE = ("npz", "mat")


def add(commands: Commands) -> None:
    parser = commands.add_parser(
        "extract",
        help="write the features of many images into files",
        description="Finds and describes keypoints in many images and writes them into files.",
        epilog=_EPILOG,
    )
    parser.add_argument("images", nargs="+", metavar="IMAGES", help="images, folders, patterns, lists")
    parser.add_argument(
        "-o",
        "--output",
        metavar="OUT",
        help="the file to write; with --format npz, mat or kapture a folder; without it, npz and mat go "
        "beside the images",
    )
    parser.add_argument(
        "--format", choices=names(FeatureFormat), default="h5", help="what to write, see below; default: h5"
    )
    parser.add_argument(
        "--half",
        action="store_true",
        help="h5: store float16, as hloc does: half the size, but positions beyond 1024 px lose their "
        "fractions",
    )
    add_quiet(parser)
    group = parser.add_argument_group("going on")
    add_overwrite(group, "begin anew and replace what is there, which stays until the end", "--restart")
    group.add_argument(
        "--retry-failed",
        action="store_true",
        help="try again images that failed before and have not changed since",
    )
    group.add_argument(
        "--checksum",
        action="store_true",
        help="h5: tell whether an image has changed by its content (SHA-256) instead of size and time; "
        "works for images that were extracted with this option",
    )
    workers.add(parser)
    add_extraction(parser)
    parser.add_argument(
        "--workers",
        type=whole_number,
        metavar="N",
        help="work on N images side by side and share the threads between them: 1 takes the least memory, "
        "one for each thread is the fastest (by 1 to 15 %%), each of them up to half a gigabyte; the results "
        "do not depend on it; default: one for each thread; where little memory is free, fewer are used",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    _check(options)
    workers.check(options)
    from .. import dataset
    from ..weights import catalogue

    entries = dataset.listing(options.images, beside=options.output is None, tell=note)
    if options.output is not None:
        _check_against(Path(options.output), entries)
    net = network.load(options.weights, options.threads)
    how = settings(options)
    output: Output
    if options.format in _BESIDE:
        folder = None if options.output is None else Path(options.output)
        kind = dataset.NpzOutput if options.format == "npz" else dataset.MatOutput
        output = kind(folder, restart=options.overwrite)
    elif options.format == "kapture":
        weights = options.weights or catalogue.default()
        if weights not in catalogue.PACKAGED:
            weights = net.provenance.name if net.provenance else None
        output = dataset.KaptureOutput(Path(options.output), weights, restart=options.overwrite)
    else:
        output = dataset.HlocOutput(
            Path(options.output),
            how.recorded(net),
            half=options.half,
            checksum=options.checksum,
            restart=options.overwrite,
        )
    start = perf_counter()
    try:
        report = _extract(net, entries, output, how, options)
    except KeyboardInterrupt:
        without = " without --overwrite" if options.overwrite else ""
        complain(f"interrupted: what is done is kept, and the same command{without} goes on from there")
        return 130
    finally:
        output.close()
    code = _tell(report, options, output.failed_list, perf_counter() - start)
    if isinstance(output, dataset.KaptureOutput) and len(types := output.types()) > 1:
        note(
            f"{options.output} holds features of several weights ({', '.join(types)}): kapture's tools need "
            f"to be told which, for these: --keypoints-type {output.kind} --descriptors-type {output.kind}"
        )
    return code


def _check(options: argparse.Namespace) -> None:
    for option in ("half", "checksum"):
        if getattr(options, option) and options.format != "h5":
            raise OptionError(f"--{option} is for --format h5 only")
    if options.dask is not None and options.format != "h5":
        raise OptionError("--dask is for --format h5 only")
    if options.orient and options.format == "kapture":
        raise OptionError("--orient is not for --format kapture, whose images are as they are stored")
    if options.output is None and options.format not in _BESIDE:
        example = "features.h5" if options.format == "h5" else options.format
        raise OptionError(f"say where to write with -o OUT, such as -o {example}")
    if options.format == "h5" and Path(options.output).suffix.lower() not in (".h5", ".hdf5", ""):
        raise OptionError(f"{options.output}: the format is h5: give it the extension .h5, or see --format")


def _check_against(output: Path, entries: list[Entry]) -> None:
    local = (entry.path for entry in entries if isinstance(entry.path, Path))
    if output.is_file() and any(path.exists() and output.samefile(path) for path in local):
        raise OptionError(f"{output} would overwrite what it is made from: choose another output")


def _extract(
    net: Net, entries: list[Entry], output: Output, how: Settings, options: argparse.Namespace
) -> Report:
    from .. import dataset
    from ..dataset.extraction import not_held

    job = partial(
        dataset.extract,
        *(net, entries, output, how),
        workers=options.workers,
        threads=options.threads,
        retry_failed=options.retry_failed or options.overwrite,
    )
    lacking, _ = not_held(entries, output)
    if not lacking:
        return job()
    with (
        workers.connected(options) as cluster,
        progress.bar(
            "extracting", "image", len(entries), len(entries) - len(lacking), quiet=options.quiet
        ) as bar,
        finishing("the current image") as stop,
    ):
        return job(progress=bar, stop=stop, **cluster)


def _tell(report: Report, options: argparse.Namespace, failed_list: Path | None, duration: float) -> int:
    parts = [f"{count(report.done, 'image')} extracted"]
    if report.skipped:
        parts.append(f"{report.skipped:,} there already")
    if report.failed:
        parts.append(f"{len(report.failed):,} failed")
    if report.done:
        parts.append(f"{count(report.keypoints, 'keypoint')} in {seconds(duration)}")
    say(", ".join(parts))
    if options.format != "h5":
        say(f"feature files are {'beside the images' if options.output is None else f'in {options.output}'}")
    elif (path := Path(options.output)).exists():
        say(f"{path}: {file_size(path.stat().st_size)}")
    for _, reason in report.failed:
        complain(reason)
    if report.failed_before:
        note(
            f"not tried again, as unchanged: {count(report.failed_before, 'image')} that failed before; "
            "--retry-failed tries them"
        )
    if report.failed and failed_list is not None:
        note(f"these are listed in {failed_list}")
    return 1 if report.failed else 0
