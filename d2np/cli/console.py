"""Printing, and the answer of a long job to Ctrl-C."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TextIO

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
    """Print what went wrong, in one line on standard error."""
    note(f"d2np: {' '.join(str(problem).split())}")


def seconds(duration: float) -> str:
    """Return a duration with the digits that matter."""
    return f"{duration:.{0 if duration >= 100 else 1 if duration >= 10 else 2}f} s"


def file_size(size: float) -> str:
    """Return a size in a unit that suits."""
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


@contextmanager
def finishing(what: str) -> Iterator[Callable[[], bool]]:
    """Within this block only note the first Ctrl-C; the second interrupts as usual.

    Parameters
    ----------
    what : str
        What is being finished after the first one.

    Yields
    ------
    callable
        Whether there has been one.
    """
    pressed = threading.Event()

    def press(number: int, frame: FrameType | None) -> None:
        if pressed.is_set():
            raise KeyboardInterrupt
        pressed.set()
        note("")
        note(f"finishing {what}; Ctrl-C again stops at once")

    before = signal.getsignal(signal.SIGINT)
    # Signals go to the main thread only. Where they are ignored, as behind nohup, that is meant.
    heeded = threading.current_thread() is threading.main_thread() and before is signal.default_int_handler
    if heeded:
        signal.signal(signal.SIGINT, press)
    try:
        yield pressed.is_set
    finally:
        if heeded:
            signal.signal(signal.SIGINT, before)
