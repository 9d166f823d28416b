"""Tell what this process may use of its machine: processor cores, memory, and a folder for caches.

Containers and batch systems limit both by control groups, which Linux describes in files: version 1 has a
tree of groups for each controller, version 2 one tree for all. A group's limits hold for those below it too.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

_PROC, _CONTROL_GROUPS = Path("/proc"), Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """Return how many cores this process may use: those it may run on, or fewer by a quota of its groups."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min([allowed or 1, *_quotas(_PROC)]))


def free_memory() -> int | None:
    """Return how many bytes this process may still use, about; None where the system does not tell.

    It is the least of what is installed, what is available, and what the limits of its control groups and
    of the process itself (``ulimit -v`` and ``-d``) leave.
    """
    found = [*_of_the_system(), *_of_the_groups(), *_of_the_process()]
    return max(0, min(found)) if found else None


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


@functools.cache  # asked for by every call of a network
def _quotas(proc: Path) -> list[int]:
    """Return cores, rounded up: a thread more than the quota loses less than one fewer."""
    found = []
    for folder in _groups(proc, "cpu"):
        limit = _numbers(folder / "cpu.max")
        limit = limit or _numbers(folder / "cpu.cfs_quota_us", folder / "cpu.cfs_period_us")
        # No quota is written as "max", which is no number, or as -1.
        if len(limit) == 2 and min(limit) > 0:
            found.append(-(-limit[0] // limit[1]))
    return found


def _of_the_system() -> Iterator[int]:
    with suppress(AttributeError, ValueError, OSError):
        yield os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    available = _table(_PROC / "meminfo").get("MemAvailable:")
    if available is not None:
        yield available << 10


def _of_the_groups() -> Iterator[int]:
    for folder in _groups(_PROC, "memory"):
        limits = _numbers(*(folder / f"memory.{name}" for name in ("max", "high", "limit_in_bytes")))
        if limits:
            used = max(_numbers(folder / "memory.current", folder / "memory.usage_in_bytes"), default=0)
            stat = _table(folder / "memory.stat")
            # What was read from files and written to them goes where room is needed. Of version 1 the sums
            # over the groups below count.
            total = "total_" if "total_active_file" in stat else ""
            reclaimed = sum(stat.get(f"{total}{kind}_file", 0) for kind in ("active", "inactive"))
            yield min(limits) - max(0, used - reclaimed)


def _of_the_process() -> Iterator[int]:
    try:
        import resource
    except ImportError:  # Windows
        return
    used = _numbers(_PROC / "self" / "statm") or [0] * 6
    for limit, pages in ((resource.RLIMIT_AS, used[0]), (resource.RLIMIT_DATA, used[5])):
        bytes_at_most, _ = resource.getrlimit(limit)
        if bytes_at_most != resource.RLIM_INFINITY:
            yield bytes_at_most - pages * resource.getpagesize()


def _groups(proc: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of the control groups that this process is in, and of those above them."""
    for line in _lines(proc / "self" / "cgroup"):
        _, _, group = line.partition(":")
        controllers, _, path = group.partition(":")
        if not controllers or controller in controllers.split(","):  # version 2 or 1
            top = _CONTROL_GROUPS / controller if controllers else _CONTROL_GROUPS
            own = PurePosixPath(path.lstrip("/"))
            # A container may see its own group only, mounted as if it were the top.
            yield from (top / part for part in (own, *own.parents))


def _numbers(*paths: Path) -> list[int]:
    """Return the numbers in files; what is none is left out."""
    words = " ".join(line for path in paths for line in _lines(path)).split()
    return [int(word) for word in words if word.lstrip("-").isdecimal()]


def _table(path: Path) -> dict[str, int]:
    rows = (line.split() for line in _lines(path))
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdecimal()}


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return []


def _home(*parts: str) -> Path | None:
    try:
        home = _absolute(Path.home())
    except RuntimeError:  # no HOME, and no such user
        return None
    return home and home.joinpath(*parts)


def _absolute(path: str | Path | None) -> Path | None:
    return Path(path) if path and os.path.isabs(path) else None
