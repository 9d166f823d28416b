"""``d2np pairs``: matches of many pairs of pictures, into a file."""

from __future__ import annotations

import argparse
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from ..errors import OptionError
from . import network, progress
from .parser import Commands, add_matching, add_threads
from .pictures import check_place
from .report import complain, count, file_size, note, say, seconds

if TYPE_CHECKING:
    from ..dataset import MatchOutput, MatchReport, MatchSettings

_EPILOG = """\
MATCHES.h5 is hloc's match file: for each pair a group A/B, slashes in the names replaced by hyphens, with
matches0 (N,), the keypoint of B for each one of A or -1, and matching_scores0 (N,), (1 + cosine) / 2.

LIST is hloc's: two names a line, separated by a space, as they stand in FEATURES.h5.

Started again, it leaves out pairs that are done, and goes on with MATCHES.h5.partial if it was stopped.

examples:
  d2np extract photos/ -o features.h5
  d2np pairs features.h5 -o matches.h5
  d2np pairs features.h5 --pairs pairs.txt -o matches.h5 --ratio 0.95
"""


def add(commands: Commands) -> None:
    parser = commands.add_parser(
        "pairs",
        help="match many pairs of pictures whose features are in a file",
        description="Matches pictures of a feature file with each other, each with every other or those of a "
        "list, and writes hloc's match file.",
        epilog=_EPILOG,
    )
    parser.add_argument("features", metavar="FEATURES.h5", help="what d2np extract or hloc wrote")
    parser.add_argument("-o", "--output", required=True, metavar="MATCHES.h5", help="the file to write")
    parser.add_argument(
        "--pairs", metavar="LIST", help="which pairs; default: every picture with every other"
    )
    parser.add_argument("--overwrite", action="store_true", help="begin anew whatever is there")
    add_matching(parser)
    add_threads(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    if Path(options.output).suffix.lower() not in (".h5", ".hdf5"):
        raise OptionError(f"{options.output}: matches are written as HDF5: give it the extension .h5")
    check_place(options.output, [options.features, *([options.pairs] if options.pairs else [])])
    from .. import dataset

    settings = dataset.MatchSettings(options.mutual, options.ratio, options.min_similarity)
    recorded = settings.recorded(options.features)
    if options.pairs is None:
        pairs = dataset.all_pairs(options.features)
    else:
        pairs = dataset.listed_pairs(options.pairs, options.features)
    output = dataset.MatchOutput(Path(options.output), recorded, overwrite=options.overwrite)
    if output.damaged:
        note(f"{output.partial} is damaged: beginning anew")
    start = perf_counter()
    try:
        report = _match(pairs, output, settings, options)
    except KeyboardInterrupt:
        again = "begins anew" if options.overwrite else "goes on from there"
        complain(f"interrupted: what is done is kept, and the same command {again}")
        return 130
    _tell(report, options.output, perf_counter() - start)
    return 0


def _match(
    pairs: list[tuple[str, str]], output: MatchOutput, settings: MatchSettings, options: argparse.Namespace
) -> MatchReport:
    import numpy as np

    from .. import dataset
    from ..matching import match

    waiting = sum(not output.holds(*pair) for pair in pairs)
    if not waiting:
        return dataset.match_pairs(options.features, pairs, output, settings, threads=options.threads)
    with network.patience():
        match(np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32), threads=1)
    with progress.bar("matching", "pair", len(pairs), len(pairs) - waiting) as bar:
        return dataset.match_pairs(
            options.features, pairs, output, settings, threads=options.threads, progress=bar
        )


def _tell(report: MatchReport, output: str, duration: float) -> None:
    parts = [f"{count(report.done, 'pair')} matched"]
    if report.skipped:
        parts.append(f"{report.skipped:,} there already")
    if report.done:
        parts.append(f"{count(report.matches, 'match')} in {seconds(duration)}")
    if report.unmatched:
        parts.append(f"{count(report.unmatched, 'pair')} without any")
    say(", ".join(parts))
    say(f"{output}: {file_size(Path(output).stat().st_size)}")
