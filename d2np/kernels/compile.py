"""How kernels are compiled: without the interpreter lock, kept in Numba's cache where that can be written."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba import extending

from ..errors import CacheWarning
from . import internals

# Numba logs each step of the compiler, some 90,000 lines. A program that wants them sets a level for this
# logger, before or after; one that sets the root's does not mean them.
_logger = logging.getLogger("numba")
if _logger.level == logging.NOTSET:
    _logger.setLevel(logging.WARNING)

# Taken by the first who says it, and never given back.
_said = threading.Lock()


def _say_that_nothing_is_kept(reason: str) -> None:
    """Warn, once in a process."""
    if not _said.acquire(blocking=False):
        return
    text = (
        f"d2np cannot keep its compiled kernels ({reason}), so every process compiles them anew: set "
        "NUMBA_CACHE_DIR to a folder that can be written"
    )
    try:
        warnings.warn(text, CacheWarning, stacklevel=3)
    except CacheWarning as warning:
        # Where warnings are errors this is none all the same, for everything works; it is shown, though.
        warnings.showwarning(warning, CacheWarning, __file__, 0)


def jit(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Numba's ``njit`` as all kernels use it; ``options`` are added to it."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        if internals.is_jit_disabled():
            # Compiled code does not warn of what overflows, either.
            return np.errstate(all="ignore")(function)
        kernel = numba.njit(nogil=True, **options)(function)
        internals.keep(kernel, _say_that_nothing_is_kept)
        return kernel

    return decorate


def intrinsic(plain: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Numba's ``intrinsic`` with literal constants.

    Parameters
    ----------
    plain : callable
        What takes its place where nothing is compiled, with the same arguments but the first.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        if internals.is_jit_disabled():
            return plain
        return extending.intrinsic(prefer_literal=True)(function)

    return decorate
