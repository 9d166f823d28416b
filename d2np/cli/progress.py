"""How far a long job is."""

from __future__ import annotations

import sys
from typing import Any


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
    from tqdm import tqdm

    # In a log file a line now and then will do.
    pause = 0.1 if sys.stderr.isatty() else 30.0
    return tqdm(total=total, initial=done, desc=what, unit=unit, mininterval=pause, file=sys.stderr)
