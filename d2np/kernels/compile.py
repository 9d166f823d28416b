"""How kernels are compiled: without the interpreter lock, kept in Numba's cache where that can be written.

No other module uses names of Numba and llvmlite that these do not document. Another version of Numba may
change any of them; ``tests/test_internals.py`` fails then, and names what is missing:

``numba.core.base.BaseContext.make_array``
    The address of an array's data, inside an intrinsic: Numba has no public way to it. Without it no kernel
    that uses vector registers can be compiled, and the first call of a network fails.
``numba.core.base.BaseContext.get_dummy_value``
    What an intrinsic that returns nothing must return. Without it, the same.
``numba.core.config.DISABLE_JIT``
    Whether ``NUMBA_DISABLE_JIT`` is set: intrinsics cannot be called from Python, so plain NumPy has to take
    their place. Without it, it is taken not to be set.
``numba.core.config.CACHE_DIR``
    The folder that ``NUMBA_CACHE_DIR`` asks for. Without it, it is taken not to be set.
``numba.core.caching.FunctionCache`` (``load_overload``, ``save_overload``, ``flush``)
    Numba lets a call fail when a file of its cache is damaged, belongs to somebody else, or cannot be
    written since the disk is full. Here the kernel is compiled instead.
``numba.core.caching.CompileResultCacheImpl`` (``_locator_classes``), ``_cache`` of compiled functions
    Numba decides by the file that a kernel stands in where it is kept, and whether it is out of date. A
    frozen program has no such file, and Numba takes a path below the working folder for it; and it does not
    look at the files that hold what is compiled into the kernel. So d2np names the folder itself, and adds a
    digest of all kernels. Without these names Numba's own rules hold.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numba import extending

from ..errors import CacheWarning
from ..machine import user_cache

# Numba logs each step of the compiler, some 90,000 lines. A program that wants them sets a level for this
# logger, before or after; one that sets the root's does not mean them.
_logger = logging.getLogger("numba")
if _logger.level == logging.NOTSET:
    _logger.setLevel(logging.WARNING)

# Locked by the first who says it, and never released.
_said = threading.Lock()
_listeners: list[Callable[[], None]] = []


def jit(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return Numba's ``njit`` as all kernels use it; ``options`` are added to it."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        if _is_jit_disabled():
            # Compiled code does not warn of what overflows, either.
            return np.errstate(all="ignore")(function)
        kernel = numba.njit(nogil=True, **options)(function)
        _keep(kernel)
        return kernel

    return decorate


def intrinsic(plain: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return Numba's ``intrinsic`` with literal constants.

    Parameters
    ----------
    plain : callable
        What takes its place where nothing is compiled, with the same arguments but the first.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        return plain if _is_jit_disabled() else extending.intrinsic(prefer_literal=True)(function)

    return decorate


def before_compiling(call: Callable[[], None]) -> None:
    """Have something called once, before the next kernel that is not in the cache is compiled."""
    _listeners[:] = [call]


def array_data(context: Any, builder: Any, array_type: Any, array: Any) -> Any:
    """Return a pointer to the first element of an array, inside an intrinsic."""
    return context.make_array(array_type)(context, builder, array).data


def nothing(context: Any) -> Any:
    """Return the value of an intrinsic that returns nothing."""
    return context.get_dummy_value()


def _is_jit_disabled() -> bool:
    return bool(getattr(numba.config, "DISABLE_JIT", False))


def _keep(kernel: Any) -> None:
    """Have a kernel kept on the disk, so that no call fails by it and a change of any kernel is noticed."""
    if _folder() is None:
        _say_that_nothing_is_kept("no folder can be written")
        return
    try:
        kernel._cache = _cache_class()(kernel.py_func)
    except (ImportError, AttributeError):  # another Numba
        kernel.enable_caching()
    except (RuntimeError, OSError) as error:  # Numba's own search, where the user asks for it
        _say_that_nothing_is_kept(str(error))


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


@functools.cache
def _cache_class() -> Any:
    """Return a cache in which what cannot be read is not there, and what cannot be written is not kept."""
    from numba.core import caching

    kept = {"_locator_classes": [_Locator]}

    class KernelCache(caching.FunctionCache):
        _impl_class: Any = type("Kept", (caching.CompileResultCacheImpl,), kept)

        def load_overload(self, sig: Any, target_context: Any) -> Any:
            found = None
            try:
                found = super().load_overload(sig, target_context)
            except OSError:
                pass
            except Exception:  # damaged: unpickling may raise anything
                # The index would stand in the way of saving, too; if it stays, saving tells.
                with suppress(Exception):
                    self.flush()
            while found is None and _listeners:
                _listeners.pop()()
            return found

        def save_overload(self, sig: Any, data: Any) -> None:
            try:
                super().save_overload(sig, data)
            except Exception as error:
                reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
                _say_that_nothing_is_kept(reason)

    return KernelCache


class _Locator:
    """Where Numba keeps a kernel, and what tells that it is out of date: what Numba calls a cache locator."""

    def __init__(self, function: Any, file: str) -> None:
        self._py_file = file
        self._line = function.__code__.co_firstlineno

    @classmethod
    def from_function(cls, function: Any, file: str) -> _Locator:
        return cls(function, file)

    def get_cache_path(self) -> str:
        return str(_folder())

    def ensure_cache_path(self) -> None:
        os.makedirs(self.get_cache_path(), exist_ok=True)

    def get_source_stamp(self) -> str:
        return _digest()

    def get_disambiguator(self) -> str:
        return str(self._line)


@functools.cache
def _folder() -> Path | None:
    """Return the first folder that can be written: the one asked for, beside this module, of the user.

    One that holds kernels is used as it is where it was asked for, as in a container image, or where none
    can be written.
    """
    # Two installations of the same kernels share them, but not with two versions of Numba.
    name = f"d2np_{_digest()[:16]}"
    beside = Path(__file__).parent
    is_installed = beside.is_dir() and not getattr(sys, "frozen", False)
    chosen, own = getattr(numba.config, "CACHE_DIR", None), user_cache("numba")
    candidates = [chosen and Path(chosen, name), is_installed and beside / "__pycache__", own and own / name]
    filled = None
    for candidate in filter(None, candidates):
        try:
            folder = candidate.expanduser().absolute()
            if any(folder.glob("*.nbi")):
                filled = filled or folder
                if candidate == candidates[0]:
                    break
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
            return folder
        except (OSError, RuntimeError):  # RuntimeError: ~ without a home
            continue
    return filled


@functools.cache
def _digest() -> str:
    """Return that of Numba's version and the modules beside this one, or of a program frozen without them."""
    digest = hashlib.sha256(numba.__version__.encode())
    try:
        beside = resources.files(__package__).iterdir()
        files = [file for file in beside if file.name.endswith((".py", ".pyc"))]
    except (TypeError, NotImplementedError, OSError):  # as the loaders of frozen programs may have it
        files = []
    for file in sorted(files, key=lambda file: file.name) or [Path(sys.executable)]:
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()
