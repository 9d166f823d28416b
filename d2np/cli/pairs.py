"""``d2np pairs``: matches of many pairs of images, into a file."""

from __future__ import annotations

import argparse
from collections.abc import Collection
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from ..errors import OptionError
from . import network, progress, workers
from .images import check_place, check_there
from .interrupt import finishing
from .parser import Commands, add_matching, add_overwrite, add_quiet, add_threads
from .report import complain, count, file_size, say, seconds

if TYPE_CHECKING:
    from ..dataset import MatchOutput, MatchReport, MatchSettings

_EPILOG = (
    """\
MATCHES.h5 is hloc's match file: for each pair a group A/B, slashes in the names
replaced by hyphens, with matches0 (N,), the keypoint of B for each one of A or
-1, and matching_scores0 (N,), (1 + cosine) / 2.

LIST is hloc's: two names a line, separated by a space, as they are in
FEATURES.h5. Names that hold spaces are separated by a tab or written in
"quotes"; else they are found where a line has only one reading. With - the list
is read from standard input.

Whatever ends it (Ctrl-C, kill, a full disk), what is done is kept in
MATCHES.h5.parts/: start the same command again, and it goes on. MATCHES.h5 is
there as a whole or not at all; the file is assembled at the end, which needs
room for the matches twice. Pairs that are done are left out, unless the
features of one of their images have changed. With other options, or features
made with others, it refuses and says which; --overwrite begins anew.

a cluster
"""
    + workers.HELP.format(what="feature file", out="MATCHES.h5.parts")
    + """
examples:
  d2np extract photos/ -o features.h5
  d2np pairs features.h5 -o matches.h5
  d2np pairs features.h5 --pairs pairs.txt -o matches.h5 --ratio 0.95
"""
)


def add(commands: Commands) -> None:
    parser = commands.add_parser(
        "pairs",
        help="match many pairs of images whose features are in a file",
        description="Matches the images of a feature file, each with every other or the pairs of a list, and "
        "writes hloc's match file.",
        epilog=_EPILOG,
    )
    parser.add_argument("features", metavar="FEATURES.h5", help="what d2np extract or hloc wrote")
    parser.add_argument("-o", "--output", required=True, metavar="MATCHES.h5", help="the file to write")
    parser.add_argument(
        "--pairs", metavar="LIST", help="which pairs to match; default: every image with every other"
    )
    add_overwrite(parser, "begin anew and replace what is there, which stays until the end", "--restart")
    add_quiet(parser)
    workers.add(parser)
    add_matching(parser)
    add_threads(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    if Path(options.output).suffix.lower() not in (".h5", ".hdf5"):
        raise OptionError(f"{options.output}: matches are written as HDF5: give it the extension .h5")
    workers.check(options)
    listed = [options.pairs] if options.pairs not in (None, "-") else []
    check_there(options.features, *listed)
    check_place(options.output, [options.features, *listed])
    from .. import dataset

    settings = dataset.MatchSettings(options.mutual, options.ratio, options.min_similarity)
    recorded = settings.recorded(options.features)
    pairs: Collection[tuple[str, str]]
    if options.pairs is None:
        pairs = dataset.all_pairs(options.features)
    else:
        pairs = dataset.listed_pairs(options.pairs, options.features)
    output = dataset.MatchOutput(
        Path(options.output), recorded, features=options.features, restart=options.overwrite
    )
    start = perf_counter()
    try:
        report = _match(pairs, output, settings, options)
    except KeyboardInterrupt:
        without = " without --overwrite" if options.overwrite else ""
        complain(f"interrupted: what is done is kept, and the same command{without} goes on from there")
        return 130
    finally:
        output.close()
    _tell(report, options.output, perf_counter() - start)
    return 0


def _match(
    pairs: Collection[tuple[str, str]],
    output: MatchOutput,
    settings: MatchSettings,
    options: argparse.Namespace,
) -> MatchReport:
    import numpy as np

    from .. import dataset
    from ..matching import match

    job = partial(dataset.match_pairs, options.features, pairs, output, settings, threads=options.threads)
    waiting = sum(not output.holds(*pair) for pair in pairs)
    if not waiting:
        return job()
    network.tell_of_compiling()
    match(np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32), threads=1)
    with (
        workers.connected(options) as cluster,
        progress.bar("matching", "pair", len(pairs), len(pairs) - waiting, quiet=options.quiet) as bar,
        finishing("the current pairs") as stop,
    ):
        return job(progress=bar, stop=stop, **cluster)


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
