"""Where this user's caches are."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def user_cache(name: str) -> Path | None:
    """Return the platform's folder for the cache of a program; it need not exist.

    ``$XDG_CACHE_HOME/NAME`` or ``~/.cache/NAME``, on macOS ``~/Library/Caches/NAME``, on Windows
    ``%LOCALAPPDATA%\\NAME\\Cache``. Relative paths do not count: what is cached must not depend on the
    working folder, and the XDG specification says so too.

    Returns
    -------
    Path or None
        None where the user has no home folder.
    """
    if sys.platform == "win32":
        local = _absolute(os.environ.get("LOCALAPPDATA")) or _home("AppData", "Local")
        return local and local / name / "Cache"
    if sys.platform == "darwin":
        caches = _home("Library", "Caches")
    else:
        caches = _absolute(os.environ.get("XDG_CACHE_HOME")) or _home(".cache")
    return caches and caches / name


def _home(*parts: str) -> Path | None:
    try:
        home = _absolute(Path.home())
    except RuntimeError:  # no HOME, and no such user
        return None
    return home and home.joinpath(*parts)


def _absolute(path: str | Path | None) -> Path | None:
    return Path(path) if path and os.path.isabs(path) else None
