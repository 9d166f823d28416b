"""The errors d2np raises. All are subclasses of :class:`Error`, so one ``except`` catches them all."""

from __future__ import annotations

from collections.abc import Iterable


class Error(Exception):
    """Base class of every error that d2np raises on purpose."""


class ImageError(Error, ValueError):
    """An image (or its mask) cannot be read or is not of a kind that the network takes."""


class WeightsError(Error, ValueError):
    """Weights cannot be read, are not those of a D2-Net, or are too large to compute with."""


class FormatError(Error, ValueError):
    """A feature or match file, or arrays meant to become one, do not have the expected layout."""


class OptionError(Error, ValueError):
    """An option has a value that makes no sense, such as an unknown detector."""


class CacheWarning(RuntimeWarning):
    """Compiled kernels cannot be kept for other processes; said once in a process, and never an error.

    Everything works, but each process compiles the kernels that it uses, which takes some seconds.
    """


def closest(given: object, known: Iterable[str]) -> str | None:
    """Return the known name that is most like the given one, or None if none is like it."""
    from difflib import get_close_matches

    if not isinstance(given, str):
        return None
    lower = {name.lower(): name for name in known}
    found = get_close_matches(given.lower(), lower, 1)
    return lower[found[0]] if found else None


def did_you_mean(given: object, known: Iterable[str]) -> str:
    """Return the end of a message that proposes the closest known name; empty if there is none."""
    name = closest(given, known)
    return f"; did you mean {name}?" if name else ""


def several(names: Iterable[str], most: int = 10) -> str:
    """Return names for a message; of very many, the first ones and how many more there are."""
    listed = list(names)
    shown = ", ".join(listed[:most])
    return shown if len(listed) <= most else f"{shown} and {len(listed) - most:,} more"


def count(number: int, what: str) -> str:
    """Return a number of things for a message: ``1 match``, ``2,000 matches``."""
    if number == 1:
        return f"1 {what}"
    return f"{number:,} {what}{'es' if what.endswith('ch') else 's'}"
