"""Ctrl-C during long jobs."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from .report import note


@contextmanager
def finishing(what: str) -> Iterator[Callable[[], bool]]:
    """Within this block the first Ctrl-C is only noted; the second interrupts as usual.

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

    # Signals go to the main thread only. Where they are ignored, as behind nohup, that is meant.
    if threading.current_thread() is not threading.main_thread() or (
        signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield pressed.is_set
        return
    before = signal.signal(signal.SIGINT, press)
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, before)
