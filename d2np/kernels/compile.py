"""How kernels are compiled: without the interpreter lock, kept in Numba's cache where that can be written.

No other module uses names of Numba and llvmlite that these do not document. Another version of Numba may
change any of them; ``tests/test_internals.py`` fails then, and names what is missing:

``numba.core.base.BaseContext.make_array``
    The address of an array's data, inside an intrinsic: Numba has no public way to it.
``numba.core.base.BaseContext.get_dummy_value``
    What an intrinsic that returns nothing must return.
``numba.core.config.CACHE_DIR``
    The folder that ``NUMBA_CACHE_DIR`` asks for.
``numba.core.caching.FunctionCache`` (``load_overload``, ``save_overload``, ``flush``)
    Numba lets a call fail when a file of its cache is damaged, belongs to somebody else, or cannot be
    written since the disk is full. Here the kernel is compiled instead.
``numba.core.caching.CompileResultCacheImpl`` (``_locator_classes``), ``_cache`` of compiled functions
    Numba decides by the file that a kernel stands in where it is kept, and whether it is out of date. A
    frozen program has no such file, and Numba takes a path below the working folder for it; and it does not
    look at the files that hold what is compiled into the kernel. So d2np names the folder itself, by a
    digest of all kernels.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import sys
import tempfile
import warnings
from collections.abc import Callable
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import Any

import numba
from numba.core import caching

from ..errors import CacheWarning
from ..machine import user_cache

# Numba logs each step of the compiler, some 90,000 lines. A program that wants them sets a level for this
# logger, before or after; one that sets the root's does not mean them.
_logger = logging.getLogger("numba")
if _logger.level == logging.NOTSET:
    _logger.setLevel(logging.WARNING)

_listeners: list[Callable[[], None]] = []
_said: list[str] = []


def jit(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return Numba's ``njit`` as all kernels use it; ``options`` are added to it."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        kernel = numba.njit(nogil=True, **options)(function)
        if _folder() is None:
            _say_that_nothing_is_kept("no folder can be written")
        else:
            kernel._cache = _Cache(function)
        return kernel

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


class _Locator:
    """Where Numba keeps a kernel; what it calls a cache locator."""

    def __init__(self, function: Any, file: str) -> None:
        self._line = function.__code__.co_firstlineno

    @classmethod
    def from_function(cls, function: Any, file: str) -> _Locator:
        return cls(function, file)

    def get_cache_path(self) -> str:
        return str(_folder())

    def ensure_cache_path(self) -> None:
        Path(self.get_cache_path()).mkdir(parents=True, exist_ok=True)

    def get_source_stamp(self) -> str:
        return _digest()

    def get_disambiguator(self) -> str:
        return str(self._line)


class _Cache(caching.FunctionCache):
    """A cache in which what cannot be read is not there, and what cannot be written is not kept."""

    _impl_class: Any = type("Kept", (caching.CompileResultCacheImpl,), {"_locator_classes": [_Locator]})

    def load_overload(self, *kernel: Any) -> Any:
        found = None
        try:
            found = super().load_overload(*kernel)
        except Exception:  # damaged: unpickling may raise anything
            # The index would stand in the way of saving, too; if it stays, saving tells.
            with suppress(Exception):
                self.flush()
        while found is None and _listeners:
            _listeners.pop()()
        return found

    def save_overload(self, *kernel: Any) -> None:
        try:
            super().save_overload(*kernel)
        except Exception as error:
            _say_that_nothing_is_kept(getattr(error, "strerror", None) or repr(error))


@functools.cache
def _folder() -> Path | None:
    """Return a folder for kernels: the one asked for, beside this module, or of the user.

    It is the first that holds kernels already, as in a container image, or that can be written.
    """
    beside = Path(__file__).parent
    is_installed = beside.is_dir() and not getattr(sys, "frozen", False)
    for parent in (
        getattr(numba.config, "CACHE_DIR", None),
        is_installed and beside / "__pycache__",
        user_cache("numba"),
    ):
        if parent:
            with suppress(OSError, RuntimeError):  # RuntimeError: ~ without a home
                # Two installations of the same kernels share them, but not with two versions of Numba.
                folder = Path(parent, f"d2np_{_digest()[:16]}").expanduser().absolute()
                if not any(folder.glob("*.nbi")):
                    folder.mkdir(parents=True, exist_ok=True)
                    tempfile.TemporaryFile(dir=folder).close()
                return folder
    return None


@functools.cache
def _digest() -> str:
    """Return that of Numba's version and the modules beside this one, or of a program frozen without them."""
    files: list[Any] = []
    with suppress(TypeError, NotImplementedError, OSError):  # as the loaders of frozen programs may have it
        beside = resources.files(__package__).iterdir()
        files = [file for file in beside if file.name.endswith((".py", ".pyc"))]
    digest = hashlib.sha256(numba.__version__.encode())
    for file in sorted(files, key=lambda file: file.name) or [Path(sys.executable)]:
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


def _say_that_nothing_is_kept(reason: str) -> None:
    """Warn, once in a process."""
    if not _said:
        _said.append(reason)
        text = (
            f"d2np cannot keep its compiled kernels ({reason}), so every process compiles them anew: set "
            "NUMBA_CACHE_DIR to a folder that can be written"
        )
        try:
            warnings.warn(text, CacheWarning, stacklevel=3)
        except CacheWarning as warning:
            # Where warnings are errors this is none all the same, for everything works; it is shown, though.
            warnings.showwarning(warning, CacheWarning, __file__, 0)
