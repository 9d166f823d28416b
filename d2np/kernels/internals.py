"""What d2np uses of Numba and llvmlite beyond their public names; no other module does.

Another version of Numba may change any of this. The names, why they are used, and what becomes of d2np where
one is gone:

``numba.core.base.BaseContext.make_array``
    The address of an array's data, inside an intrinsic: Numba has no public way to it. Without it no kernel
    that uses vector registers can be compiled, and the first call of a network fails.
``numba.core.base.BaseContext.get_dummy_value``
    What an intrinsic that returns nothing must return. Without it, the same.
``numba.core.config.DISABLE_JIT``
    Whether ``NUMBA_DISABLE_JIT`` is set: intrinsics cannot be called from Python, so their equivalents in
    plain NumPy have to take their place. Without it, it is taken not to be set.
``numba.core.dispatcher.Dispatcher._cache`` (``load_overload``, ``save_overload``, ``flush``)
    Numba lets a call fail when a file of its cache is damaged, belongs to somebody else, or cannot be
    written since the disk is full. With this attribute replaced, the kernel is compiled instead. Without it
    such calls fail, as they would with Numba alone.
``numba.core.caching.FunctionCache`` (``_impl``), ``CompileResultCacheImpl`` (``_locator_classes``)
    Where Numba keeps a kernel, and by what it tells that it is out of date: by the file that the kernel
    stands in. A frozen program has no such file, and Numba takes a path below the working folder for it;
    and it does not look at the files that hold what is compiled into the kernel. So d2np names the folder
    itself, and adds a digest of all kernels. Without these names Numba's own rules hold.
``numba.core.config.CACHE_DIR``
    The folder that ``NUMBA_CACHE_DIR`` asks for. Without it, it is taken not to be set.

``tests/test_internals.py`` fails, and names what is missing, where a version of Numba has changed any of it.
"""

from __future__ import annotations

import functools
import hashlib
import os
import sys
import tempfile
from collections.abc import Callable
from importlib import import_module, resources
from pathlib import Path
from typing import Any

from ..machine import user_cache

NAMES = (
    "numba.core.base:BaseContext.make_array",
    "numba.core.base:BaseContext.get_dummy_value",
    "numba.core.config:DISABLE_JIT",
    "numba.core.config:CACHE_DIR",
    "numba.core.caching:FunctionCache",
    "numba.core.caching:CompileResultCacheImpl",
    "numba.core.caching:_Cache.load_overload",
    "numba.core.caching:_Cache.save_overload",
    "numba.core.caching:_Cache.flush",
)
"""What can be looked up without a kernel, as ``module:name``."""

INSTANCE_NAMES = ("_cache", "_cache._impl", "_cache._impl._locator_classes")
"""What a compiled function must have."""


def array_data(context: Any, builder: Any, array_type: Any, array: Any) -> Any:
    """Pointer to the first element of an array, inside an intrinsic."""
    return context.make_array(array_type)(context, builder, array).data


def nothing(context: Any) -> Any:
    """The value of an intrinsic that returns nothing."""
    return context.get_dummy_value()


def is_jit_disabled() -> bool:
    """Whether ``NUMBA_DISABLE_JIT`` asks for kernels as plain Python."""
    return bool(_configured("DISABLE_JIT"))


def _configured(name: str) -> Any:
    return getattr(import_module("numba.core.config"), name, None)


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


def keep(kernel: Any, say: Callable[[str], None], compiling: Callable[[], None]) -> None:
    """Have a kernel kept on the disk, so that no call fails by it and a change of any kernel is noticed.

    Parameters
    ----------
    kernel : numba dispatcher
        Not called yet; changed in place.
    say : callable
        Told why a kernel cannot be kept.
    compiling : callable
        Called before a kernel that is not there is compiled.
    """
    try:
        if _folder() is None:
            say("no folder can be written")
        elif (own := _own_cache()) is None or not hasattr(kernel, "_cache"):
            kernel.enable_caching()
        else:
            kernel._cache = _ForgivingCache(own(kernel.py_func), say, compiling)
    except (
        RuntimeError,
        OSError,
    ) as error:  # Numba's own search, where the user or a new version asks for it
        say(str(error))


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
    chosen = _configured("CACHE_DIR")
    candidates = [
        chosen and Path(chosen, name),
        is_installed and beside / "__pycache__",
        (cache := user_cache("numba")) and cache / name,
    ]
    filled = None
    for number, candidate in enumerate(candidates):
        if not candidate:
            continue
        try:
            folder = candidate.expanduser().absolute()
            if any(folder.glob("*.nbi")):
                filled = filled or folder
                if number == 0:
                    break
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
            return folder
        except (OSError, RuntimeError):  # RuntimeError: ~ without a home
            continue
    return filled


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
def _own_cache() -> Any:
    """Numba's cache with :class:`_Locator`; None where this Numba has no such thing."""
    caching = import_module("numba.core.caching")
    try:
        implementation = type("_Kept", (caching.CompileResultCacheImpl,), {"_locator_classes": [_Locator]})
        return type("_KernelCache", (caching.FunctionCache,), {"_impl_class": implementation})
    except AttributeError:
        return None


class _ForgivingCache:
    """A kernel's cache in which what cannot be read is not there, and what cannot be written is not kept."""

    def __init__(self, cache: Any, say: Callable[[str], None], compiling: Callable[[], None]) -> None:
        self._inner = cache
        self._say = say
        self._compiling = compiling

    def load_overload(self, signature: Any, target: Any) -> Any:
        found = None
        try:
            found = self._inner.load_overload(signature, target)
        except OSError:
            pass
        except Exception:  # damaged: unpickling may raise anything
            self._forget()
        if found is None:
            self._compiling()
        return found

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
def _digest() -> str:
    """Return that of Numba's version and the modules beside this one, or of a program frozen without them."""
    digest = hashlib.sha256(import_module("numba").__version__.encode())
    try:
        files = [
            file for file in resources.files(__package__).iterdir() if file.name.endswith((".py", ".pyc"))
        ]
    except (TypeError, NotImplementedError, OSError):  # as the loaders of frozen programs may have it
        files = []
    for file in sorted(files, key=lambda file: file.name) or [Path(sys.executable)]:
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()
