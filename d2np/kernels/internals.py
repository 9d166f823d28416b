"""What d2np uses of Numba and llvmlite beyond their public names; no other module does.

Another version of Numba may change any of this. The names, why they are used, and what becomes of d2np where
one is gone:

``numba.core.base.BaseContext.make_array``
    The address of an array's data, inside an intrinsic: Numba has no public way to it. Without it no kernel
    that uses vector registers can be compiled, and the first call of a network fails.
``numba.core.base.BaseContext.get_dummy_value``
    What an intrinsic that returns nothing must return. Without it, the same.
``numba.core.config.DISABLE_JIT``
    Whether ``NUMBA_DISABLE_JIT`` is set: intrinsics cannot be called from Python, so their twins in plain
    NumPy have to take their place. Without it, it is taken not to be set.
``numba.core.dispatcher.Dispatcher._cache`` (``load_overload``, ``save_overload``, ``flush``)
    Numba lets a call fail when a file of its cache is damaged, belongs to somebody else, or cannot be
    written since the disk is full. With this attribute replaced, the kernel is compiled instead. Without it
    such calls fail, as they would with Numba alone.
``numba.core.caching.IndexDataCacheFile._source_stamp`` (and ``Cache._cache_file``, which leads to it)
    By what Numba tells that a cached kernel is out of date: the file that the kernel stands in, and not those
    that hold what is compiled into it. A digest of all kernels is added. Without it Numba's own rule holds:
    after an edit of ``simd.py`` the cache has to be emptied by hand.

``tests/test_internals.py`` fails, and names what is missing, where a version of Numba has changed any of it.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

NAMES = (
    "numba.core.base:BaseContext.make_array",
    "numba.core.base:BaseContext.get_dummy_value",
    "numba.core.config:DISABLE_JIT",
    "numba.core.caching:_Cache.load_overload",
    "numba.core.caching:_Cache.save_overload",
    "numba.core.caching:_Cache.flush",
)
"""What can be looked up without a kernel, as ``module:name``."""

INSTANCE_NAMES = ("_cache", "_cache._cache_file", "_cache._cache_file._source_stamp")
"""What a compiled function must have."""


def array_data(context: Any, builder: Any, array_type: Any, array: Any) -> Any:
    """Pointer to the first element of an array, inside an intrinsic."""
    return context.make_array(array_type)(context, builder, array).data


def nothing(context: Any) -> Any:
    """The value of an intrinsic that returns nothing."""
    return context.get_dummy_value()


def is_jit_disabled() -> bool:
    """Whether ``NUMBA_DISABLE_JIT`` asks for kernels as plain Python."""
    try:
        return bool(import_module("numba.core.config").DISABLE_JIT)
    except (ImportError, AttributeError):
        return False


def missing(kernel: Any) -> list[str]:
    """Which of the names this Numba has not.

    Parameters
    ----------
    kernel : numba dispatcher
        A function compiled by Numba with its cache switched on.
    """
    gone = []
    for name in NAMES:
        module, _, path = name.partition(":")
        try:
            functools.reduce(getattr, path.split("."), import_module(module))
        except (ImportError, AttributeError):
            gone.append(name)
    for path in INSTANCE_NAMES:
        try:
            functools.reduce(getattr, path.split("."), kernel)
        except AttributeError:
            gone.append(f"{type(kernel).__module__}:{type(kernel).__name__}.{path}")
    return gone


def guard_cache(kernel: Any, say: Callable[[str], None]) -> None:
    """See to it that no call fails by its cache, and that changes of any kernel make it out of date.

    Parameters
    ----------
    kernel : numba dispatcher
        Not called yet; changed in place.
    say : callable
        Told why a kernel cannot be kept.
    """
    cache = getattr(kernel, "_cache", None)
    if cache is None:
        return
    index: Any = getattr(cache, "_cache_file", None)
    digest = _digest_of_kernels()
    if digest and hasattr(index, "_source_stamp"):
        index._source_stamp = (index._source_stamp, digest)
    kernel._cache = _ForgivingCache(cache, say)


class _ForgivingCache:
    """A kernel's cache in which what cannot be read is not there, and what cannot be written is not kept."""

    def __init__(self, cache: Any, say: Callable[[str], None]) -> None:
        self._inner = cache
        self._say = say

    def load_overload(self, signature: Any, target: Any) -> Any:
        try:
            return self._inner.load_overload(signature, target)
        except OSError:
            return None
        except Exception:  # damaged: unpickling may raise anything
            self._forget()
            return None

    def save_overload(self, signature: Any, compiled: Any) -> None:
        try:
            self._inner.save_overload(signature, compiled)
        except Exception as error:
            self._say(getattr(error, "strerror", None) or str(error) or type(error).__name__)

    def _forget(self) -> None:
        """Begin anew: an index that is damaged would stand in the way of saving, too."""
        try:
            self._inner.flush()
        except Exception:  # then saving will fail as well, and tell
            return

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


@functools.cache
def _digest_of_kernels() -> str:
    """Of all modules beside this one; empty where their sources cannot be read."""
    digest = hashlib.sha256()
    paths = sorted(Path(__file__).parent.glob("*.py"))
    try:
        for path in paths:
            digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    except OSError:
        return ""
    return digest.hexdigest() if paths else ""
