"""Work on many images at once, within the memory there is.

One thread reads images, in their order, so that none waits for memory that a later one holds: it opens,
decodes and shrinks each, and waits until there is a share of the memory and the cores for it. Other threads
then have the caller's function work on an image each.

Whether the cores work on one image together or each on an image of its own was measured
(``benchmarks/NOTES.md``): each on its own is faster at every size, most of all for small images, and takes
the working memory of an image for each. So images are worked on side by side, as many as the memory allows
for, and share the threads; one that needs more than half of the memory is worked on alone, by all threads.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import islice
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import ImageError
from ..images.messages import reading
from ..images.open import Source, most_bytes, open_file, open_source
from ..images.pixels import network_size
from ..images.remote import RemoteFile
from ..images.tiff import TiffRows
from ..machine import free_memory
from ..options import whole_number
from ..threads import thread_count
from .listing import Entry

if TYPE_CHECKING:
    from ..features import Features
    from ..network.net import Net
    from .extraction import Settings

AnEntry = TypeVar("AnEntry", bound=Entry)
Result = TypeVar("Result")

MB = 1 << 20

_LOGGER = logging.getLogger("d2np")

# Of decoded images that wait or are worked on. One that is larger is opened when it is its turn, and alone.
_DECODED_BYTES = 256 * MB
# Working memory that comes with each thread by default: enough for an image of its own at one scale.
_MEMORY_PER_THREAD = 512 * MB
# Of the memory that is free, working memory takes a half at most, decoded images an eighth, and features
# that wait a quarter: each of so many bytes, about. The rest is for what others do, and for estimates.
_WORKING_SHARE, _DECODED_SHARE, _WAITING_SHARE = 2, 8, 4
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
    workers: int | None = None,
    threads: int | None = None,
    memory: int | None = None,
    ahead: int | None = None,
    stop: threading.Event | None = None,
) -> Generator[tuple[Entry, Features | Exception]]:
    """Features of images, worked out while the caller deals with those before them.

    They come in the order of the entries and not in that of their completion. An image that takes long keeps
    back the few behind it that are done, which are bounded by ``ahead``.

    The features are those of ``net(entry.path, ...)``, bit for bit, whatever these options say.

    Parameters
    ----------
    net : Net
        Anything else that is called like one opens the images itself, from their paths; by default one at a
        time.
    entries : iterable of Entry
    settings : Settings
    workers : int, optional
        Images side by side, with ``threads // workers`` threads each. By default as many as there are
        threads. Fewer if they take more than ``memory`` together.
    threads : int, optional
        In all, but for the one that reads; by default every core that this process may use.
    memory : int, optional
        Bytes of working memory that images worked on side by side take together, about; by default half of
        what this process may still use (:func:`d2np.machine.free_memory`), and without ``workers`` no more
        than 512 MB for each thread. An image that takes more is worked on alone. Where too little memory is
        free for as many as there would be, that is logged on ``d2np``.
    ahead : int, optional
        Most images that are read, worked on or done, and not handed out yet; by default four for each of
        those side by side, or fewer where little memory is free.
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
    options = settings.options()

    def work(entry: Entry, image: Any, threads: int) -> Features:
        return net(image, threads=threads, **options)

    limits = {"workers": workers, "threads": threads, "memory": memory, "ahead": ahead}
    return worked_on(net, entries, settings, work, stop=stop, **limits)


def worked_on(
    net: Net,
    entries: Iterable[AnEntry],
    settings: Settings,
    work: Callable[[AnEntry, Any, int], Result],
    *,
    workers: int | None = None,
    threads: int | None = None,
    memory: int | None = None,
    ahead: int | None = None,
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
        How many entries there are, if they do not tell.
    """
    from ..network.net import Net  # here, since it takes a second and the caller has it already

    cores = thread_count(threads)
    opens = isinstance(net, Net)
    free = free_memory()
    free = sys.maxsize if free is None else free
    wanted = sys.maxsize if workers else _MEMORY_PER_THREAD * cores
    at_work = min(wanted, free // _WORKING_SHARE) if memory is None else whole_number("memory", memory)
    if workers is not None:
        workers = whole_number("workers", workers)
    elif not opens:
        # Of images that somebody else opens no size is known: one at a time.
        workers, ahead = 1, ahead or 1
    waiting = max(1, free // _WAITING_SHARE // _FEATURE_BYTES)
    most = min(4 * (workers or cores), waiting) if ahead is None else whole_number("ahead", ahead)
    count = len(entries) if isinstance(entries, Sequence) else count
    line = _Line(
        work=work,
        settings=settings,
        opens=opens,
        cores=cores,
        workers=max(1, min(workers or cores, count or sys.maxsize)),
        memory=at_work,
        wanted=wanted if memory is None else at_work,
        room=_Semaphore(min(_DECODED_BYTES, free // _DECODED_SHARE)),
        stop=stop or threading.Event(),
    )
    return _in_order(line, entries, most)


def working_bytes(height: int, width: int, scales: Sequence[float]) -> int:
    """Return about how much memory the network works in on an image, beside the image and its features."""
    pixels = sum(height * scale * width * scale for scale in scales)
    columns = sum(width * scale for scale in scales)
    low, high = _WORKING_BYTES_OF_A_PIXEL * pixels, _WORKING_BYTES + _WORKING_BYTES_OF_A_COLUMN * columns
    return max(1, int(min(low, high)))


class _Stopped(Exception):
    """Raised in our own threads where work that nobody waits for any more is given up."""


class _Semaphore:
    """A semaphore of which several units are taken at once, by one thread after the other."""

    def __init__(self, total: float | Fraction) -> None:
        self.total = self._free = total
        self._closed = False
        self._changed = threading.Condition()

    @contextmanager
    def holding(self, units: float | Fraction) -> Iterator[None]:
        """Wait until so many units are free, and hold them; raise _Stopped if the semaphore is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._free >= units)
            if self._closed:
                raise _Stopped
            self._free -= units
        try:
            yield
        finally:
            with self._changed:
                self._free += units
                self._changed.notify_all()

    def close(self) -> None:
        """Let nobody wait any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class _Opened(Source):
    """An image file that was opened, which is still a path for those who want to know which one it is.

    Once the work is given up it cannot be read further, so that the network comes to an end.
    """

    def __init__(self, path: os.PathLike[str], source: Source, given_up: threading.Event) -> None:
        self.given, self.shape = source.given, source.shape
        self._path, self._source, self._given_up = path, source, given_up

    def __fspath__(self) -> str:
        return os.fspath(self._path)

    def read(self, first: int, last: int) -> NDArray[Any]:
        if self._given_up.is_set():
            raise _Stopped
        return self._source.read(first, last)

    def close(self) -> None:
        self._source.close()


@dataclass(eq=False, kw_only=True)
class _Line(Generic[AnEntry, Result]):
    """The threads, and what they do with an image.

    Of the memory, and of the cores, an image has one part of as many as there are images of its size side by
    side: so the parts of all that are worked on make no more than a whole.
    """

    work: Callable[[AnEntry, Any, int], Result]
    settings: Settings
    opens: bool
    cores: int
    workers: int
    memory: int
    wanted: int
    """Return what ``memory`` would be if enough of it were free."""
    room: _Semaphore
    """Bytes of decoded images that wait or are worked on."""
    stop: threading.Event
    given_up: threading.Event = field(default_factory=threading.Event)
    parts: _Semaphore = field(default_factory=lambda: _Semaphore(Fraction(1)))
    told_of_shortage: bool = False

    def __post_init__(self) -> None:
        self.reader = ThreadPoolExecutor(1, "d2np-reader")
        self.pool = ThreadPoolExecutor(self.workers, "d2np-image")
        options = self.settings.options()
        names = ("max_edge", "max_sum_edges", "orient", "max_pixels")
        self.opening = {name: options[name] for name in names}

    @property
    def stopping(self) -> bool:
        """Whether nothing more is to be begun."""
        return self.stop.is_set() or self.given_up.is_set()

    def read(self, entry: AnEntry) -> Future[Result]:
        """Open an image, and have it worked on once there is a part of the memory for it."""
        with ExitStack() as held:
            if self.stopping:
                raise _Stopped
            if not self.opens:
                held.enter_context(self.parts.holding(Fraction(1, self.workers)))
                return self.pool.submit(self._worked_on, entry, entry.path, self.workers, held.pop_all())
            limit = self.settings.max_pixels
            with reading(os.fspath(entry.path)):
                if isinstance(entry.path, RemoteFile):
                    # Its content is asked for once.
                    content = entry.path.read(most_bytes(limit))
                    entry = replace(entry, path=replace(entry.path, content=content))
                width, height, pixel_bytes = _header(entry, limit)
            seen = network_size(width, height, self.settings)
            decoded = width * height * pixel_bytes
            waits = decoded > self.room.total
            side_by_side = 1 if waits else self._side_by_side(seen, self.memory)
            if not waits or decoded <= _DECODED_BYTES:
                self._tell_of_shortage(side_by_side, self._side_by_side(seen, self.wanted))
            if not waits:
                # The image as it is before it is shrunk is soon gone.
                held.enter_context(self.room.holding(seen[0] * seen[1] * pixel_bytes))
                source = self._open(entry, held)
            held.enter_context(self.parts.holding(Fraction(1, side_by_side)))
            if waits:
                source = self._open(entry, held)
            return self.pool.submit(self._worked_on, entry, source, side_by_side, held.pop_all())

    def close(self) -> None:
        """Give up what is being worked on, and end all threads."""
        self.given_up.set()
        self.parts.close()
        self.room.close()
        self.reader.shutdown(cancel_futures=True)
        self.pool.shutdown()

    def _worked_on(self, entry: AnEntry, image: Any, side_by_side: int, held: ExitStack) -> Result:
        with held:
            if self.stopping:
                raise _Stopped
            return self.work(entry, image, max(1, self.cores // side_by_side))

    def _side_by_side(self, seen: tuple[int, int], memory: int) -> int:
        """Return how many images of this width and height are worked on at a time."""
        fit = memory // working_bytes(seen[1], seen[0], self.settings.scales)
        return max(1, min(self.workers, fit))

    def _open(self, entry: Entry, held: ExitStack) -> Source:
        if self.stopping:
            raise _Stopped
        with reading(os.fspath(entry.path)):
            return held.enter_context(
                _Opened(entry.path, open_source(entry.path, **self.opening), self.given_up)
            )

    def _tell_of_shortage(self, now: int, wanted: int) -> None:
        if now < wanted and not self.told_of_shortage:
            self.told_of_shortage = True
            images = "1 image" if now == 1 else f"{now} images"
            _LOGGER.warning("%s at a time instead of %d: little memory is free", images, wanted)


def _in_order(
    line: _Line[AnEntry, Result], entries: Iterable[AnEntry], most: int
) -> Generator[tuple[AnEntry, Result | Exception]]:
    coming = iter(entries)
    waiting: deque[tuple[AnEntry, Future[Future[Result]]]] = deque()
    try:
        while True:
            for entry in islice(coming, 0 if line.stopping else most - len(waiting)):
                waiting.append((entry, line.reader.submit(line.read, entry)))
            if not waiting:
                return
            entry, future = waiting.popleft()
            found: Result | Exception
            try:
                found = future.result().result()
            except (ImageError, MemoryError) as error:
                found = error
            except _Stopped:
                continue
            del future
            yield entry, found
            # Not held while the next one is awaited.
            del found
    finally:
        line.close()


def _header(entry: Entry, max_pixels: int | None) -> tuple[int, int, int]:
    """Return width and height of an image file, and the bytes of a pixel once it is decoded."""
    with open_file(entry.path, max_pixels) as opened:
        if isinstance(opened, TiffRows):
            return *opened.size, 3 if opened.dtype == np.uint8 else 12
        # What has more than eight bits becomes float32.
        deep = opened.mode in ("I", "F") or opened.mode.startswith("I;16")
        return *opened.size, 12 if deep else 3
