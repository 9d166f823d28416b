"""``d2np fetch``: published weights over the network."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from ..errors import OptionError
from . import progress
from .parser import Commands, add_overwrite, add_quiet
from .report import file_size, note, say

if TYPE_CHECKING:
    from ..weights.download import Progress
    from ..weights.fetch import Plan

_EPILOG = """\
WHAT is any of
  tf                    trained on MegaDepth, as in the paper (default)
  ots                   off the shelf: VGG16 before that training
  tf_no_phototourism    trained on MegaDepth without its PhotoTourism scenes
  https://...           any other checkpoint of a D2-Net, also http://; is
                        written into the working folder

The sources of a name are tried in order: its authors' site, then others that
keep the same weights.

environment
  D2NP_CACHE           the folder in which weights are kept; default: the user's
                       folder for caches
  D2NP_FETCH_MIRROR    the address of a folder with d2_tf.pth and so on, to
                       download from instead of these sources
  HTTPS_PROXY, HTTP_PROXY, NO_PROXY, REQUESTS_CA_BUNDLE    as usual

examples:
  d2np fetch
  d2np match left.jpg right.jpg --weights tf
  d2np fetch ots --url https://intranet.example/d2_ots.pth
  d2np fetch https://example.org/my_d2.pth -o my_d2.h5
"""


def add(commands: Commands) -> None:
    parser = commands.add_parser(
        "fetch",
        help="download published weights and keep them where commands find them",
        description="Downloads a checkpoint, checks that it is a D2-Net, and keeps it as d2np's HDF5. "
        "Checkpoints are read without PyTorch and without running any code in them.",
        epilog=_EPILOG,
    )
    parser.add_argument("sources", nargs="*", metavar="WHAT", help="names or addresses; default: tf")
    parser.add_argument("-o", "--output", metavar="FILE", help="write this .h5 file; default: see WHAT")
    parser.add_argument("--url", metavar="URL", help="take the weights of that name from this address only")
    parser.add_argument("--sha256", metavar="SUM", help="refuse the download unless its SHA-256 is this one")
    add_overwrite(parser, "download it again and replace what is there", "--force")
    add_quiet(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from ..weights import fetch

    if options.url is not None and not options.sources:
        raise OptionError("--url is for weights that have a name: d2np fetch tf --url ...")
    sources = options.sources or ["tf"]
    if len(sources) > 1 and (options.output, options.sha256, options.url) != (None, None, None):
        raise OptionError("-o, --sha256 and --url are for one download: give one name or address")
    # Whether they make sense is found out before the first is downloaded.
    plans = [fetch.plan(source, options.output, options.sha256, options.url) for source in sources]
    for source, plan in zip(sources, plans, strict=True):
        _fetch(source, plan, options)
    return 0


def _fetch(source: str, plan: Plan, options: argparse.Namespace) -> None:
    from ..weights import catalogue, fetch, load

    if not options.overwrite and (found := plan.present()):
        say(f"{plan.target} is there already, from {found.name}, SHA-256 {found.sha256}")
        say("to fetch it again: --overwrite")
        return
    with _bar(plan.target.stem, options.quiet) as show:
        fetch.fetch(
            source,
            options.output,
            url=options.url,
            sha256=options.sha256,
            force=options.overwrite,
            progress=show,
            note=_note_above_the_bar,
        )
    provenance = load(plan.target)[1]
    say(f"read  {provenance.name}, SHA-256 {provenance.sha256}")
    say(f"wrote {plan.target}, {plan.target.stat().st_size:,} bytes")
    if plan.name:
        default = "; tf is what commands now use when none is given" if source == catalogue.default() else ""
        say(f"use it as --weights {source}{default}")
    else:
        say(f"use it as --weights {plan.target}")


@contextmanager
def _bar(name: str, quiet: bool) -> Iterator[Progress]:
    """A progress bar that appears with the first bytes: of a server that refuses, only the error is seen."""
    bar: Any = None

    def show(done: int, whole: int | None) -> None:
        nonlocal bar
        if bar is None:
            bar = stack.enter_context(
                progress.bar(name, "B", whole, done, quiet=quiet, told=file_size, unit_scale=True)
            )
        # A further attempt may have to begin again.
        if done < bar.n or whole != bar.total:
            bar.reset(whole)
        bar.update(done - bar.n)

    with ExitStack() as stack:
        yield show


def _note_above_the_bar(text: str) -> None:
    with progress.unwatched().external_write_mode(file=sys.stderr):
        note(text)
