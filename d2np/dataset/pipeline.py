"""Work on many images at once, within the memory there is.

Whether the cores work on one image together or each on an image of its own was measured
(``benchmarks/NOTES.md``): each on its own is faster at every size, most of all for small images, and takes
the working memory of an image for each. So images are worked on side by side, as many as the memory allows
for, and share the threads; one that needs more than half of the memory is worked on alone, by all threads.
"""

from __future__ import annotations

import logging
import math
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from fractions import Fraction
from itertools import islice
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from ..errors import ImageError
from ..images.messages import reading
from ..images.open import most_bytes, open_file, open_source
from ..images.pixels import network_size
from ..images.remote import RemoteFile
from ..images.tiff import TiffRows
from ..machine import free_memory
from ..threads import thread_count
from .listing import Entry

if TYPE_CHECKING:
    from ..features import Features
    from ..network.net import Net
    from .extraction import Settings

AnEntry = TypeVar("AnEntry", bound=Entry)
Result = TypeVar("Result")

MB = 1 << 20

# Memory that comes with each thread: enough for a photograph of its own, at one scale or three.
_MEMORY_PER_THREAD = 640 * MB
# Of the memory that is free, images that are worked on take a half at most, and features that wait a quarter:
# each of so many bytes, about. The rest is for what others do, and for estimates.
_WORKING_SHARE, _WAITING_SHARE = 2, 4
_FEATURE_BYTES = 50 * MB
# What the network works in, as measured: it grows with the pixels until the layers have all the rows that
# they wait for, and then only with the width.
_WORKING_BYTES_OF_A_PIXEL = 800
_WORKING_BYTES = 300 * MB
_WORKING_BYTES_OF_A_COLUMN = 36 << 10


def features_of(
    net: Net,
    entries: Iterable[Entry],
    settings: Settings,
    *,
    threads: int | None = None,
    stop: threading.Event | None = None,
) -> Generator[tuple[Entry, Features | Exception]]:
    """Features of images, worked out while the caller deals with those before them.

    They come in the order of the entries and not in that of their completion. An image that takes long keeps
    back the few behind it that are done: no more than four for each thread.

    The features are those of ``net(entry.path, ...)``, bit for bit, whatever these options say.

    Parameters
    ----------
    net : Net
        Anything else that is called like one opens the images itself, from their paths, one at a time.
    entries : iterable of Entry
    settings : Settings
    threads : int, optional
        By default every core that this process may use. Images are worked on side by side, one for each
        thread if there are as many and if there is memory for them; where too little is free, that is logged
        on ``d2np``.
    stop : threading.Event, optional
        Once it is set, no further image is begun, and those that were begun are the last ones.

    Yields
    ------
    (Entry, Features or Exception)
        The exception is an ImageError or a MemoryError: this image has no features, the others have.
        Any other is raised.

    Raises
    ------
    OptionError
        If an option has a value that makes no sense.

    Notes
    -----
    Closing the iterator (``contextlib.closing``) ends all threads before it returns; images that are being
    worked on are given up.
    """

    def work(entry: Entry, image: Any, threads: int) -> Features:
        return net(image, threads=threads, **options_of(entry, settings))

    count = len(entries) if isinstance(entries, Sequence) else None
    return worked_on(net, entries, settings, work, threads=threads, stop=stop, count=count)


def worked_on(
    net: Net,
    entries: Iterable[AnEntry],
    settings: Settings,
    work: Callable[[AnEntry, Any, int], Result],
    *,
    threads: int | None = None,
    stop: threading.Event | None = None,
    count: int | None = None,
) -> Generator[tuple[AnEntry, Result | Exception]]:
    """Yield what a function makes of each image, in the order of the entries; see :func:`features_of`.

    Parameters
    ----------
    work : callable
        Called in several threads with an entry, the image, which was opened if the network takes that, and
        how many threads to use.
    count : int, optional
        How many entries there are, if that is known.
    """
    from ..network.net import Net  # here, since it takes a second and the caller has it already

    cores = thread_count(threads)
    opens = isinstance(net, Net)
    workers = max(1, min(cores, count or cores)) if opens else 1
    free = free_memory()
    free = sys.maxsize if free is None else free
    # Images that somebody else opens are not begun before those before them are dealt with.
    most = min(4 * workers, max(1, free // _WAITING_SHARE // _FEATURE_BYTES)) if opens else 1
    line = _Line(work, settings, opens, cores, workers, free, stop or threading.Event())
    return line.in_order(entries, most)


def options_of(entry: Entry, settings: Settings) -> dict[str, Any]:
    """Return an image's options, with its mask if it has one, as keyword arguments of the network's call."""
    return settings.options() if entry.mask is None else {**settings.options(), "mask": entry.mask}


def working_bytes(height: int, width: int, scales: Sequence[float]) -> int:
    """Return about how much memory the network works in on an image, beside the image and its features."""
    pixels = sum(height * scale * width * scale for scale in scales)
    columns = sum(width * scale for scale in scales)
    low, high = _WORKING_BYTES_OF_A_PIXEL * pixels, _WORKING_BYTES + _WORKING_BYTES_OF_A_COLUMN * columns
    return max(1, int(min(low, high)))


class _Stopped(Exception):
    """Raised in our own threads where work that nobody waits for any more is given up."""


class _Line(Generic[AnEntry, Result]):
    """The threads, and what they do with an image.

    Of the memory, and of the cores, an image has one part of as many as there are images of its size side by
    side: so the parts of all that are worked on make no more than a whole.
    """

    def __init__(
        self,
        work: Callable[[AnEntry, Any, int], Result],
        settings: Settings,
        opens: bool,
        cores: int,
        workers: int,
        free: int,
        stop: threading.Event,
    ) -> None:
        self._work, self._settings, self._opens = work, settings, opens
        self._cores, self._workers, self._stop = cores, workers, stop
        self._wanted = _MEMORY_PER_THREAD * cores
        self._memory = min(self._wanted, free // _WORKING_SHARE)
        self._told_of_shortage = self._given_up = False
        self._left = Fraction(1)
        self._changed = threading.Condition()
        self._pool = ThreadPoolExecutor(workers, "d2np-image")

    def in_order(
        self, entries: Iterable[AnEntry], most: int
    ) -> Generator[tuple[AnEntry, Result | Exception]]:
        """Yield the results, of which at most so many are under way or wait to be handed out."""
        coming = iter(entries)
        waiting: deque[tuple[AnEntry, Future[Result]]] = deque()
        try:
            while True:
                for entry in islice(coming, 0 if self._stop.is_set() else most - len(waiting)):
                    waiting.append((entry, self._pool.submit(self._do, entry)))
                if not waiting:
                    return
                entry, future = waiting.popleft()
                found: Result | Exception
                try:
                    found = future.result()
                except (ImageError, MemoryError) as error:
                    found = error
                except _Stopped:
                    continue
                del future
                yield entry, found
                # Not held while the next one is awaited.
                del found
        finally:
            with self._changed:
                self._given_up = True
                self._changed.notify_all()
            self._pool.shutdown(cancel_futures=True)

    def _do(self, entry: AnEntry) -> Result:
        """Work on an image once there is a part of the memory for it."""
        if self._stop.is_set() or self._given_up:
            raise _Stopped
        if not self._opens:
            return self._work(entry, entry.path, self._cores)
        with ExitStack() as held:
            with reading(os.fspath(entry.path)):
                if isinstance(entry.path, RemoteFile):
                    # Its content is asked for once.
                    content = entry.path.read(most_bytes(self._settings.max_pixels))
                    entry = replace(entry, path=replace(entry.path, content=content))
                side_by_side = self._side_by_side(entry)
                held.enter_context(self._part(Fraction(1, side_by_side)))
                source = held.enter_context(open_source(entry.path, self._settings))
            source.on_read = self._go_on
            return self._work(entry, source, max(1, self._cores // side_by_side))

    def _side_by_side(self, entry: Entry) -> int:
        """Return how many images of this size are worked on at a time."""
        width, height, pixel_bytes = _header(entry, self._settings.max_pixels)
        seen = network_size(width, height, self._settings)
        # An image may be held twice while it is shrunk.
        # Turned by 90 degrees it is as wide as it was high; and an image that is turned is held as well.
        turned = max(seen) if set(self._settings.rotations) & {90, 270} else seen[0]
        size = working_bytes(math.prod(seen) // turned, turned, self._settings.scales)
        size += 2 * width * height * pixel_bytes
        size += width * height * (entry.mask is not None)
        now, wanted = (max(1, min(self._workers, memory // size)) for memory in (self._memory, self._wanted))
        if now < wanted and not self._told_of_shortage:
            self._told_of_shortage = True
            images = "1 image" if now == 1 else f"{now} images"
            logging.getLogger("d2np").warning(
                "%s at a time instead of %d: little memory is free", images, wanted
            )
        return now

    @contextmanager
    def _part(self, part: Fraction) -> Iterator[None]:
        """Wait until such a part of the memory and the cores is free, and hold it."""
        with self._changed:
            self._changed.wait_for(lambda: self._given_up or self._left >= part)
            self._go_on()
            self._left -= part
        try:
            yield
        finally:
            with self._changed:
                self._left += part
                self._changed.notify_all()

    def _go_on(self, rows: int = 0) -> None:
        """Raise _Stopped once the work is given up: asked whenever rows have been read."""
        if self._given_up:
            raise _Stopped


def _header(entry: Entry, max_pixels: int | None) -> tuple[int, int, int]:
    """Return width and height of an image file, and the bytes of a pixel once it is decoded."""
    with open_file(entry.path, max_pixels) as opened:
        if isinstance(opened, TiffRows):
            return *opened.size, 3 if opened.dtype == np.uint8 else 12
        # What has more than eight bits becomes float32; RAW images are developed in 16 bits.
        deep = opened.mode in ("I", "F") or opened.mode.startswith("I;16") or opened.format == "RAW"
        return *opened.size, 12 if deep else 3
