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

    is_done = False

    def match(self, text: str) -> bool:
        return not self.is_done and _take(text)


logging.getLogger("tifffile").addFilter(
    lambda record: record.levelno < logging.WARNING or not _take(record.getMessage())
)


@contextmanager
def reading(name: str, known: set[str] | None = None) -> Iterator[None]:
    """Log what libraries have to say while this image is read in this thread, each message once.

    Parameters
    ----------
    name : str
        What the image is called.
    known : set of str, optional
        Messages on this image that were logged before; those that are new are added.
    """
    if getattr(_heard, "texts", None) is not None:  # the outer block tells all
        yield
        return
    # At the head again for each image: others may have put theirs in front. Other threads may exchange the
    # list meanwhile, so what they bring back of earlier images is taken out.
    pattern = _Pattern()
    warnings.filters.insert(0, ("ignore", pattern, Warning, None, 0))  # type: ignore[attr-defined]
    _heard.texts = {}
    try:
        yield
    finally:
        texts, _heard.texts = _heard.texts, None
        pattern.is_done = True
        for other in [*warnings.filters]:
            if isinstance(other[1], _Pattern) and other[1].is_done:
                with suppress(ValueError):  # another thread was faster
                    warnings.filters.remove(other)
        for text in texts:
            if known is None or text not in known:
                LOGGER.warning("%s", text if name in text else f"{name}: {text}")
        if known is not None:
            known.update(texts)


ONCE = {"d2np_once": True}
"""``extra`` of a message that is to be shown for one image of a job only, in a process without jobs once."""

_collectors = 0
_shown = False


def _first_of_its_kind(record: logging.LogRecord) -> bool:
    global _shown
    if not hasattr(record, "d2np_once") or _collectors:
        return True
    first, _shown = not _shown, True
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
    global _collectors
    found: dict[str, logging.LogRecord] = {}
    records: list[logging.LogRecord] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.setdefault("once" if hasattr(record, "d2np_once") else record.getMessage(), record)

    handler, propagated = Collector(logging.WARNING), LOGGER.propagate
    LOGGER.addHandler(handler)
    LOGGER.propagate = False
    _collectors += 1
    try:
        yield records
    finally:
        _collectors -= 1
        LOGGER.removeHandler(handler)
        LOGGER.propagate = propagated
        records.extend(found.values())
