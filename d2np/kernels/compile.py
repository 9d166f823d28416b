"""How kernels are compiled: without the interpreter lock, for all processors with the same instructions.

They are kept in Numba's cache where that can be written.

No other module uses names of Numba and llvmlite that these do not document. Another version of Numba may
change any of them; ``tests/test_internals.py`` fails then, and names what is missing:

``numba.core.base.BaseContext.make_array``
    The address of an array's data, inside an intrinsic: Numba has no public way to it.
``numba.core.base.BaseContext.get_dummy_value``
    What an intrinsic that returns nothing must return.
``numba.core.registry.CPUDispatcher`` (``targetdescr``, ``compile``), ``numba.core.registry.cpu_target``,
``numba.core.codegen.JITCPUCodegen`` (``_get_host_cpu_name``, ``_get_host_cpu_features``),
``numba.core.base.BaseContext.subtarget`` (``_internal_codegen``)
    Numba compiles for the very processor that it runs on, and looks for kernels under its name. d2np compiles
    for the instructions that the kernels use, and so finds what another machine has compiled.
    ``NUMBA_CPU_NAME`` would do so for all that the process compiles, and only if Numba is not imported yet.
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
import gc
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
from numba.core import caching, codegen, registry

from ..errors import CacheWarning
from ..machine import user_cache
from .processor import target

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
        kernel: Any = _Kernel(function, targetoptions={**_OPTIONS, **options})
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


# Kernels are no callbacks of C, and divide by nothing that can be zero: that needs no code.
_OPTIONS = {"nopython": True, "nogil": True, "no_cfunc_wrapper": True, "error_model": "numpy"}


class _Codegen(codegen.JITCPUCodegen):
    """Numba's generator of machine code, for any processor with the instructions that d2np has chosen."""

    def _get_host_cpu_name(self) -> str:
        return target()[0]

    def _get_host_cpu_features(self) -> str:
        return target()[1]


class _Target(type(registry.cpu_target)):  # type: ignore[misc]
    """Numba's target with that generator; it knows the same types and functions."""

    @property
    def typing_context(self) -> Any:
        return registry.cpu_target.typing_context

    @functools.cached_property
    def target_context(self) -> Any:
        return registry.cpu_target.target_context.subtarget(_internal_codegen=_Codegen("d2np"))


class _Kernel(registry.CPUDispatcher):
    """A function that is compiled for that target when it is first called with some types."""

    targetdescr = _Target("cpu")

    def compile(self, sig: Any) -> Any:
        # A compiler makes many objects and few cycles: to search for these takes a tenth of its time.
        collecting = gc.isenabled()
        gc.disable()
        try:
            return super().compile(sig)
        finally:
            if collecting:
                gc.enable()


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
