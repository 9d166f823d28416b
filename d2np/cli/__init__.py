"""D2-Net keypoints and descriptors, without a framework.

examples:
  d2np demo                                does it work here, and how well?
  d2np match left.jpg right.jpg            writes matches.png
  d2np extract photos/ -o features.h5      for hloc; started again, it goes on

d2np COMMAND --help tells more about each.
"""

# The text above is what `d2np --help` says; the docstring of a command's function is its help text. Nothing
# heavy is imported before a command runs, so that help appears at once.

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .. import __version__
from ..errors import Error, OptionError
from .arguments import Parser
from .console import complain, silence
from .looking import demo, match, profile, show, warmup
from .many import colmap, export, extract, pairs
from .training import train
from .weight_files import convert, fetch, info

if TYPE_CHECKING:
    from logging import LogRecord

__all__ = ["main"]

_COMMANDS = (demo, match, extract, pairs, colmap, export, show, info, convert, fetch, train, profile, warmup)

_MOST_MESSAGES = 100


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    argv : list of str, optional
        Without the program's name; those of the process by default.

    Returns
    -------
    int
        0: done. 1: the job failed, or a part of it. 2: bad usage. 130: interrupted. 141: whoever read the
        output stopped reading.
    """
    _open_closed_streams()
    try:
        code = _run(argv)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        silence(sys.stdout)
        return 141
    except KeyboardInterrupt as interrupt:
        complain(str(interrupt) or "interrupted")
        return 130
    except Error as error:
        complain(error)
        return 2 if isinstance(error, OptionError) else 1
    except MemoryError as error:
        complain(": ".join(["not enough memory", *map(str, error.args)]))
        return 1
    except OSError as error:
        complain(": ".join(str(part) for part in (error.filename, error.strerror or error) if part))
        return 1


def _run(argv: Sequence[str] | None) -> int:
    try:
        options = _parser().parse_args(argv)
    # How argparse ends after a help text.
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 2
    from ..images.messages import collected

    # Below the progress bar, which is gone by then.
    records: list[LogRecord] = []
    try:
        with collected() as records:
            code: int = options.run(options)
        return code
    finally:
        for record in records[:_MOST_MESSAGES]:
            complain(record.getMessage())
        if len(records) > _MOST_MESSAGES:
            complain(f"and {len(records) - _MOST_MESSAGES:,} more such messages")


def _parser() -> Parser:
    description, _, epilog = (__doc__ or "").partition("\n\n")
    parser = Parser(prog="d2np", description=description, epilog=epilog)
    parser.add_argument("--version", action="version", version=f"d2np {__version__}")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND", required=True)
    for command in _COMMANDS:
        command.add(commands)
    return parser


def _open_closed_streams() -> None:
    """Open the standard streams that are closed: services may start a program without them.

    Python may then have None for them; and the files that it opens next would get their numbers, so that what
    a C library writes to "standard error" would end up in an image or in features.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free, which is this one
        if getattr(sys, name) is None:
            nowhere = open(os.devnull, "w" if number else "r", encoding="utf-8")  # noqa: SIM115
            setattr(sys, name, nowhere)
