"""How far a long job is."""

from __future__ import annotations

import functools
import sys
from typing import Any

from .report import silence


def bar(what: str, unit: str, total: int, done: int = 0) -> Any:
    """A progress bar on standard error, as :class:`tqdm.tqdm`.

    Parameters
    ----------
    what : str
        What is being done.
    unit : str
        What is counted.
    total, done : int
        How many there are, and how many of them were done before.
    """
    # In a log file a line now and then will do.
    pause = 0.1 if sys.stderr.isatty() else 30.0
    return unwatched()(
        total=total, initial=done, desc=what, unit=unit, mininterval=pause, miniters=1, file=sys.stderr
    )


@functools.cache
def unwatched() -> Any:
    """tqdm's class of progress bars, without the thread that it would leave behind for good.

    That thread wakes bars that count several steps at once: not needed where ``miniters`` is 1. Where nobody
    can take what is shown, as where the disk of a log is full, the work goes on without.
    """
    from tqdm import tqdm

    class Bar(tqdm):  # type: ignore[misc]
        monitor_interval = 0

        def display(self, *args: Any, **options: Any) -> Any:
            try:
                return super().display(*args, **options)
            except OSError:
                silence(sys.stderr)
                return True

    return Bar
