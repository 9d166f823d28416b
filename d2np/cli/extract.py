"""``d2np extract``: features of many pictures, into files."""

from __future__ import annotations

import argparse
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from ..errors import OptionError
from . import network, progress
from .parser import Commands, add_extraction, settings, whole_number
from .report import complain, count, file_size, note, say, seconds

if TYPE_CHECKING:
    from ..dataset import Entry, Output, Report, Settings
    from ..net import Net

_EPILOG = """\
IMAGES are any of
  house.jpg        a picture, filed under its file's name
  photos/          a folder: all pictures in it and below it, filed under their path inside it
  'photos/*.png'   a pattern (*, ?, [ab], and ** for any folders), quoted or not
  @list.txt        a path on each line, relative to the list's folder or else to the working folder;
                   the path as written is the name

formats
  h5    one file as hloc's: for each picture keypoints (N, 2), scores (N,), descriptors (512, N),
        image_size (2,), scales (N,)
  npz   a file IMAGE.d2-net for each picture, as the published script writes it: keypoints (N, 3) with
        x, y, scale, scores (N,), descriptors (N, 512); beside the pictures, or under OUT
  mat   the same for MATLAB
  kapture
        a kapture folder, new or there already; the features go under reconstruction/ and the name of the
        weights, pictures it does not know yet get a camera, a record and a link to them

Started again, it leaves out pictures that are done, and goes on with OUT.partial if it was stopped.

examples:
  d2np extract photos/ -o features.h5
  d2np extract photos/ -o features.h5 --max-keypoints 4000 --half
  d2np extract @list.txt --format npz
  d2np extract photos/ -o kapture/ --format kapture
"""

# Formats of a file for each picture, which can lie beside it.
_BESIDE = ("npz", "mat")


def add(commands: Commands) -> None:
    parser = commands.add_parser(
        "extract",
        help="write the features of many pictures into files",
        description="Finds and describes keypoints in many pictures and writes them into files.",
        epilog=_EPILOG,
    )
    parser.add_argument("images", nargs="+", metavar="IMAGES", help="pictures, folders, patterns, lists")
    parser.add_argument(
        "-o",
        "--output",
        metavar="OUT",
        help="the file; with --format npz, mat or kapture a folder, which npz and mat can do without",
    )
    parser.add_argument("--format", choices=("h5", "npz", "mat", "kapture"), default="h5", help="default: h5")
    parser.add_argument(
        "--half",
        action="store_true",
        help="h5: store float16, as hloc does: half the size, but positions beyond 1024 px lose their "
        "fractions",
    )
    parser.add_argument("--overwrite", action="store_true", help="begin anew whatever is there")
    add_extraction(parser)
    parser.add_argument(
        "--workers",
        type=whole_number,
        metavar="N",
        help="work on N pictures side by side and share the threads between them: 1 takes the least memory, "
        "one for each thread is the fastest (by 1 to 15 %%), each of them up to half a gigabyte; the results "
        "do not depend on it; default: one for each thread, fewer where large pictures need more memory",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    _check(options)
    from .. import dataset

    entries = dataset.listing(options.images)
    if options.output is not None:
        _check_against(Path(options.output), entries)
    net = network.load(options.weights, options.threads)
    how = settings(options)
    output: Output
    if options.format in _BESIDE:
        folder = None if options.output is None else Path(options.output)
        kind = dataset.NpzOutput if options.format == "npz" else dataset.MatOutput
        output = kind(folder, overwrite=options.overwrite)
    elif options.format == "kapture":
        weights = net.provenance.name if net.provenance else None
        output = dataset.KaptureOutput(Path(options.output), weights, overwrite=options.overwrite)
    else:
        output = dataset.HlocOutput(
            Path(options.output), how.recorded(net), half=options.half, overwrite=options.overwrite
        )
        if output.damaged:
            note(f"{output.partial} is damaged: beginning anew")
    start = perf_counter()
    try:
        report = _extract(net, entries, output, how, options)
    except KeyboardInterrupt:
        again = "begins anew" if options.overwrite else "goes on from there"
        complain(f"interrupted: what is done is kept, and the same command {again}")
        return 130
    return _tell(report, options, perf_counter() - start)


def _check(options: argparse.Namespace) -> None:
    if options.half and options.format != "h5":
        raise OptionError("--half is for --format h5 only")
    if options.orient and options.format == "kapture":
        raise OptionError("--orient is not for --format kapture, whose pictures are as they are stored")
    if options.output is None and options.format not in _BESIDE:
        example = "features.h5" if options.format == "h5" else options.format
        raise OptionError(f"say where to write with -o OUT, such as -o {example}")
    if options.format == "h5" and Path(options.output).suffix.lower() not in (".h5", ".hdf5", ""):
        raise OptionError(f"{options.output}: the format is h5: give it the extension .h5, or see --format")


def _check_against(output: Path, entries: list[Entry]) -> None:
    if output.is_file() and any(entry.path.exists() and output.samefile(entry.path) for entry in entries):
        raise OptionError(f"{output} would overwrite what it is made from: choose another output")


def _extract(
    net: Net, entries: list[Entry], output: Output, how: Settings, options: argparse.Namespace
) -> Report:
    from .. import dataset

    share = {"workers": options.workers, "threads": options.threads}
    waiting = sum(not output.holds(entry) for entry in entries)
    if not waiting:
        return dataset.extract(net, entries, output, how, **share)
    with progress.bar("extracting", "picture", len(entries), len(entries) - waiting) as bar:
        return dataset.extract(net, entries, output, how, **share, progress=bar)


def _tell(report: Report, options: argparse.Namespace, duration: float) -> int:
    parts = [f"{count(report.done, 'picture')} extracted"]
    if report.skipped:
        parts.append(f"{report.skipped:,} there already")
    if report.failed:
        parts.append(f"{len(report.failed):,} failed")
    if report.done:
        parts.append(f"{count(report.keypoints, 'keypoint')} in {seconds(duration)}")
    say(", ".join(parts))
    if options.format != "h5":
        say(
            f"feature files are {'beside the pictures' if options.output is None else f'in {options.output}'}"
        )
    elif (path := Path(options.output)).exists():
        say(f"{path}: {file_size(path.stat().st_size)}")
    for _, reason in report.failed:
        complain(reason)
    return 1 if report.failed else 0
