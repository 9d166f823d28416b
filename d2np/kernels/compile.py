"""How kernels are compiled: without the interpreter lock, kept in Numba's cache where that can be written."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import numba


@functools.cache
def _say_that_nothing_is_kept() -> None:
    warnings.warn(
        "d2np cannot keep its compiled kernels, so every process compiles them anew: set "
        "NUMBA_CACHE_DIR to a folder that can be written",
        RuntimeWarning,
        stacklevel=2,
    )


def jit(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Numba's ``njit`` as all kernels use it; ``options`` are added to it."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        try:
            return numba.njit(nogil=True, cache=True, **options)(function)
        except RuntimeError:  # no folder for the cache
            _say_that_nothing_is_kept()
            return numba.njit(nogil=True, **options)(function)

    return decorate
