"""How far a long job is: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from typing import Any

from tqdm import tqdm

from .console import note, silence

_LOG = {"mininterval": 30, "delay": 30, "smoothing": 0, "leave": False}
_LINE = "{desc}: {n_fmt} of {total_fmt} ({percentage:.0f}%), {rate_fmt}, {remaining} left{postfix}"


class Bar(tqdm):  # type: ignore[misc]
    """Show progress on standard error: in a log, which is no terminal, as a line every half minute.

    Where nobody can take what is shown, the work goes on without.

    Parameters
    ----------
    **options
        Those of tqdm.
    """

    # Without tqdm's thread, which would be left behind for good. It wakes bars that count several steps at
    # once: not needed where ``miniters`` is 1.
    monitor_interval = 0

    def __init__(self, **options: Any) -> None:
        self._logs = not sys.stderr.isatty()
        super().__init__(miniters=1, file=sys.stderr, **{**options, **(_LOG if self._logs else {})})

    def reach(self, done: int, total: int | None) -> None:
        """Show that so much is done, in all; less than before where a further attempt begins again."""
        if done < self.n or total != self.total:
            self.reset(total)
        self.update(done - self.n)

    def note(self, text: str) -> None:
        """Print a remark, on a terminal above the bar."""
        with nullcontext() if self._logs else self.external_write_mode(file=sys.stderr):
            note(text)

    def display(self, msg: str | None = None, pos: int | None = None) -> Any:
        if self._logs:
            # An empty message is to clear the bar: the summary of the command is the end of a log.
            if self.n and msg is None:
                self.bar_format = _LINE if self.total else "{desc}: {n_fmt}, {rate_fmt}"
                note(" ".join(str(self).split()))
            return False
        try:
            return super().display(msg, pos)
        except OSError:
            silence(sys.stderr)
            return True
