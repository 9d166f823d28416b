"""How far a long job is: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable
from typing import Any

from .report import count, note, silence

_EVERY = 30.0
"""Seconds between two lines of a log."""

# Rates are told in the first unit that makes a number of two digits.
_RATES = (("a second", 1), ("a minute", 60), ("an hour", 3600))
_DIGITS = 10


def bar(
    what: str,
    unit: str,
    total: int | None,
    done: int = 0,
    *,
    quiet: bool = False,
    told: Callable[[float], str] | None = None,
    **options: Any,
) -> Any:
    """Return what shows progress on standard error: the part of :class:`tqdm.tqdm` that d2np uses.

    Parameters
    ----------
    what : str
        What is being done.
    unit : str
        What is counted.
    total, done : int
        How many there are, if that is known, and how many of them were done before.
    quiet : bool
        Show nothing.
    told : callable, optional
        How an amount is written in a log; by default with the unit.
    **options
        Those of tqdm, for a terminal.
    """
    if not (quiet or sys.stderr.isatty()):
        return Log(what, total, done, told or (lambda amount: count(round(amount), unit)))
    return unwatched()(
        total=total,
        initial=done,
        desc=what,
        unit=unit,
        mininterval=0.1,
        miniters=1,
        file=sys.stderr,
        disable=quiet,
        **options,
    )


class Log:
    """Progress as lines: how much is done of how much, how fast, and how long the rest will take.

    Parameters
    ----------
    what : str
        What is being done.
    total : int or None
        How much there is, if that is known.
    n : int
        How much was done before.
    told : callable
        How an amount is written.
    clock : callable, optional
        Seconds from any moment on.
    """

    def __init__(
        self,
        what: str,
        total: int | None,
        n: int,
        told: Callable[[float], str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total, self.n = total, n
        self._what, self._told, self._clock = what, told, clock
        self._before, self._start = n, clock()
        self._last = self._start

    def update(self, n: int = 1) -> None:
        """Count so much more as done."""
        self.n += n
        now = self._clock()
        if now - self._last >= _EVERY:
            self._last = now
            note(self._line((self.n - self._before) / (now - self._start)))

    def reset(self, total: int | None) -> None:
        """Begin again, with another total."""
        self.total, self.n = total, 0
        self._before, self._start = 0, self._clock()

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *error: object) -> None:
        """Leave the end to the summary of the command."""

    def _line(self, rate: float) -> str:
        line = f"{self._what}: {self._told(self.n)}"
        if self.total is not None:
            whole = self._told(self.total)
            unit = whole.rpartition(" ")[2]
            line = f"{line.removesuffix(f' {unit}')} of {whole} ({self.n / max(self.total, 1):.0%})"
        if rate <= 0:
            return line
        unit, length = next(item for item in _RATES if rate * item[1] >= _DIGITS or item is _RATES[-1])
        line += f", {self._told(rate * length)} {unit}"
        return line if self.total is None else f"{line}, {duration((self.total - self.n) / rate)} left"


def duration(seconds: float) -> str:
    """``40 s``, ``12 min``, ``2 h 05 min``."""
    if seconds < 100:
        return f"{max(0, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60:,} h {minutes % 60:02} min"


@functools.cache
def unwatched() -> Any:
    """Return tqdm's class of progress bars, without the thread that it would leave behind for good.

    That thread wakes bars that count several steps at once: not needed where ``miniters`` is 1. Where nobody
    can take what is shown, the work goes on without.
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
