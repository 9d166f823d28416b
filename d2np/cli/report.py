"""What is printed."""

from __future__ import annotations

import os
import sys
from typing import TextIO

from ..errors import count as count
from ..images.names import printable


def say(text: str = "") -> None:
    """Print a line of a result on standard output."""
    _print(text, sys.stdout)


def note(text: str) -> None:
    """Print a remark on standard error, a line. Where nobody can take it, the work goes on without."""
    try:
        _print(text, sys.stderr)
    except OSError:
        silence(sys.stderr)


def complain(problem: object) -> None:
    """What went wrong, in one line on standard error."""
    note(f"d2np: {' '.join(str(problem).split())}")


def seconds(duration: float) -> str:
    """With the digits that matter."""
    return f"{duration:.{0 if duration >= 100 else 1 if duration >= 10 else 2}f} s"


def file_size(size: float) -> str:
    """In a unit that suits."""
    for unit, step in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= step:
            return f"{size / step:.1f} {unit}"
    return f"{size:.0f} bytes"


def silence(stream: TextIO) -> None:
    """Let what is written go nowhere, also what could not be written: Python tries that again at its end."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    except (OSError, ValueError, AttributeError):
        return


def _print(text: str, stream: TextIO) -> None:
    # A file's name may hold what the terminal has no letters for, or would obey.
    encoding = getattr(stream, "encoding", None) or "utf-8"
    shown = printable(text).encode(encoding, "backslashreplace").decode(encoding)
    print(shown, file=stream, flush=True)
