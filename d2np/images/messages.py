"""Messages of the libraries that read images, told with the image's name on the logger ``d2np``.

What Pillow warns of and tifffile logs does not say which image is meant, and under ``-W error`` a warning
would make a good image unreadable. So they are taken up while an image is being read, in that thread only.
``warnings.catch_warnings`` would not do: it changes the warnings of all threads. Instead one more filter
stands at the head of Python's list meanwhile; it has the form of a regular expression, fits only in threads
that are reading an image, and remembers what it was compared with.
"""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from ..errors import Error, ImageError

LOGGER = logging.getLogger("d2np")


_heard = threading.local()
"""``texts``: the messages in this thread while an image is being read."""


def _take(text: str) -> bool:
    """Note a message if an image is being read in this thread; return whether that is so."""
    texts: dict[str, None] | None = getattr(_heard, "texts", None)
    # Images that d2np allows may be larger than Pillow expects.
    if texts is not None and "decompression bomb" not in text:
        texts[" ".join(text.split())] = None
    return texts is not None


class _Pattern:
    """Passes for the compiled pattern of a warning's message."""

    def match(self, text: str) -> bool:
        return _take(text)


_FILTER: Any = ("ignore", _Pattern(), Warning, None, 0)

logging.getLogger("tifffile").addFilter(
    lambda record: record.levelno < logging.WARNING or not _take(record.getMessage())
)


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Log what libraries have to say while this image is read in this thread, each message once.

    Parameters
    ----------
    name : str
        What the image is called.

    Raises
    ------
    ImageError
        In place of whatever else is raised meanwhile: readers raise almost anything on a damaged file.
    """
    if getattr(_heard, "texts", None) is not None:  # the outer block tells all
        yield
        return
    # At the head again for each image: others may have put theirs in front.
    warnings.filters.insert(0, _FILTER)  # type: ignore[attr-defined]
    texts: dict[str, None] = {}
    _heard.texts = texts
    try:
        yield
    except Error:
        raise
    except Exception as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise ImageError(f"{name} cannot be read: {reason}") from error
    finally:
        _heard.texts = None
        with suppress(ValueError):  # another thread has exchanged the list
            warnings.filters.remove(_FILTER)  # type: ignore[attr-defined]
        for text in texts:
            LOGGER.warning("%s", text if name in text else f"{name}: {text}")


ONCE = {"d2np_once": True}
"""``extra`` of a message that is to be shown for one image of a job only, in a process without jobs once."""

_shown = False


def _first_of_its_kind(record: logging.LogRecord) -> bool:
    global _shown
    first = not (_shown and hasattr(record, "d2np_once"))
    _shown = _shown or hasattr(record, "d2np_once")
    return first


LOGGER.addFilter(_first_of_its_kind)


@contextmanager
def collected() -> Iterator[list[logging.LogRecord]]:
    """Collect what is logged, each message once, instead of showing it at once: a job has other things there.

    Yields
    ------
    list of LogRecord
        Filled when the block ends.
    """
    global _shown
    _shown = False
    found: dict[str, logging.LogRecord] = {}
    records: list[logging.LogRecord] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.setdefault("once" if hasattr(record, "d2np_once") else record.getMessage(), record)

    handler, propagated = Collector(logging.WARNING), LOGGER.propagate
    LOGGER.addHandler(handler)
    LOGGER.propagate = False
    try:
        yield records
    finally:
        LOGGER.removeHandler(handler)
        LOGGER.propagate = propagated
        records.extend(found.values())
