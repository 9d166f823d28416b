"""The limits of one input: memory, and time of the processor."""

from __future__ import annotations

import ctypes
import faulthandler
import resource
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

MEMORY = 256 << 20
"""Bytes that a reader may ask for, beyond what the process has already; inputs have a few kilobytes."""

SECONDS = 2.0
"""Of the processor, for one input."""

_HANGS_AFTER = 120.0


class TooSlow(Exception):
    """An input took more than its time."""


class TooMuchMemory(Exception):
    """A reader took more memory than it may, or asked for that, and only then refused the file."""


def bound_memory(most: int = MEMORY) -> None:
    """From here on this process gets only so much more memory, and sees warnings as errors."""
    warnings.simplefilter("error")
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most += pages * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (most, hard))


@contextmanager
def bounded_time() -> Iterator[None]:
    """Complains where the block took too long."""
    start = time.thread_time()
    yield
    taken = time.thread_time() - start
    if taken > SECONDS:
        raise TooSlow(f"{taken:.1f} s")


@contextmanager
def bounded_resident(most: int) -> Iterator[None]:
    """Complains where the block has used more memory than that: libraries tell nobody what they ask for."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak is what is used now
    before = _peak()
    yield
    if (taken := _peak() - before) > most:
        raise TooMuchMemory(f"{taken:,} bytes")


def _peak() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) << 10


class MemoryMadeUp(Exception):
    """The result depends on what was in memory before."""


def read_twice(read: Callable[[], Sequence[NDArray[Any]]]) -> None:
    """Complains where a reader takes numbers from memory that nobody has written to.

    Before the two calls the C library is told to fill new memory with different bytes.
    """
    found = []
    for byte in (0x11, 0xEE):
        if _fill is not None:
            _fill(_PERTURB, byte)
        found.append([array.tobytes() for array in read()])
    if found[0] != found[1]:
        raise MemoryMadeUp


_fill = getattr(ctypes.CDLL(None), "mallopt", None)
_PERTURB = -6  # M_PERTURB of glibc


def watch_for_hangs() -> None:
    """End this process, telling where it is, if this is not called again soon: for what never returns."""
    faulthandler.dump_traceback_later(_HANGS_AFTER, exit=True)
