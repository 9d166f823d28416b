"""What the worker processes of a cluster on this machine begin with; a preload script, as Dask calls it."""

from __future__ import annotations

import signal
from contextlib import suppress


def dask_setup(worker: object) -> None:
    """Ctrl-C goes to all processes of a terminal; what becomes of the job is for the client to decide."""
    with suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGINT, signal.SIG_IGN)
