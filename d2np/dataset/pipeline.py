"""Work on many images at once, within the memory there is.

Some threads take an image each: they open it, decode and shrink it, wait for a share of the processor cores,
and have the caller's function work on it with these. One thread more than there are shares reads ahead; one
image at a time is read, in their order, so that none waits for memory that a later one holds.

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
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import ImageError
from ..images.messages import reading
from ..images.open import Source, most_bytes, open_file, open_source
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
    if workers is not None:
        workers = whole_number("workers", workers)
    elif not opens:
        # Of images that somebody else opens no size is known: one at a time.
        workers, ahead = 1, ahead or 1
    free = free_memory()
    free = sys.maxsize if free is None else free
    wanted = sys.maxsize if workers else _MEMORY_PER_THREAD * cores
    at_work = min(wanted, free // _WORKING_SHARE) if memory is None else whole_number("memory", memory)
    waiting = max(1, free // _WAITING_SHARE // _FEATURE_BYTES)
    most = min(4 * (workers or cores), waiting) if ahead is None else whole_number("ahead", ahead)
    shares = _Shares(cores, workers, at_work, settings.scales, wanted if memory is None else at_work)
    if isinstance(entries, Sequence):
        count = len(entries)
    options = settings.options()
    opening = ("max_edge", "max_sum_edges", "orient", "stretch", "max_pixels")
    line = _Line(
        work,
        {name: options[name] for name in opening} if opens else None,
        shares,
        seats=_Semaphore(shares.most_workers),
        threads=_Semaphore(shares.total, count),
        room=_Semaphore(min(_DECODED_BYTES, free // _DECODED_SHARE)),
        pool=ThreadPoolExecutor(shares.most_workers + opens, "d2np-image"),
        stop=stop or threading.Event(),
    )
    return _in_order(line, entries, most)


def working_bytes(height: int, width: int, scales: Sequence[float]) -> int:
    """Return about how much memory the network works in on an image, beside the image and its features."""
    pixels = sum(height * scale * width * scale for scale in scales)
    columns = sum(width * scale for scale in scales)
    low, high = _WORKING_BYTES_OF_A_PIXEL * pixels, _WORKING_BYTES + _WORKING_BYTES_OF_A_COLUMN * columns
    return max(1, int(min(low, high)))


@dataclass(frozen=True)
class _Shares:
    """How images share the threads: between so many workers, or such that the memory is enough."""

    threads: int
    workers: int | None
    memory: int
    scales: Sequence[float]
    wanted: int = 0
    """The memory that would be used if enough of it were free."""

    @property
    def most_workers(self) -> int:
        return self.workers or self.threads

    @property
    def total(self) -> int:
        """Threads, or one for each worker where these are more."""
        return max(self.threads, self.most_workers)

    @property
    def each(self) -> int:
        """Threads for an image of which nothing is known."""
        return max(1, self.threads // self.most_workers)

    def of(self, shape: tuple[int, int], memory: int | None = None) -> int:
        """Return the threads for an image of this height and width, as the network sees it."""
        fit = max(1, (memory or self.memory) // working_bytes(*shape, self.scales))
        # Where memory is short, the same share of the threads as of the memory, or more: together they never
        # take more than all.
        return self.each if fit >= self.most_workers else -(-self.total // fit)

    def side_by_side(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Return how many images of this size at a time, and how many if enough memory were free."""
        now, then = (min(self.most_workers, self.total // self.of(shape, of)) for of in (None, self.wanted))
        return now, then


class _Stopped(Exception):
    """Raised in our own threads where work that nobody waits for any more is given up."""


class _Semaphore:
    """A semaphore of which several units are taken at once, by one thread after the other.

    Parameters
    ----------
    total : int
    users : int, optional
        How many will take some, if that is known: the last ones share what is free.
    """

    def __init__(self, total: int, users: int | None = None) -> None:
        self.total = self._free = total
        self._users = users
        self._closed = False
        self._changed = threading.Condition()

    def take(self, least: int) -> int:
        """Wait until ``least`` units are free, and take them; return how many were taken.

        Raises
        ------
        _Stopped
            If the semaphore was closed.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._free >= least)
            if self._closed:
                raise _Stopped
            taken = max(least, self._free // self._users if self._users else 0)
            self._free -= taken
        self.pass_by()
        return taken

    def pass_by(self) -> None:
        """Expect one user less."""
        with self._changed:
            if self._users is not None:
                self._users -= 1

    def release(self, count: int) -> None:
        """Make units free again."""
        with self._changed:
            self._free += count
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


@dataclass(eq=False)
class _Line(Generic[AnEntry, Result]):
    """The threads, and what they do with an image.

    Attributes
    ----------
    work : callable
    opening : dict or None
        Options for opening an image; None if the network opens it itself.
    shares : _Shares
    seats, threads, room : _Semaphore
        Images that are worked on, their threads, and bytes of decoded images that wait or are worked on.
    pool : ThreadPoolExecutor
    stop : threading.Event
        Once it is set, nothing is begun.
    """

    work: Callable[[AnEntry, Any, int], Result]
    opening: dict[str, Any] | None
    shares: _Shares
    seats: _Semaphore
    threads: _Semaphore
    room: _Semaphore
    pool: ThreadPoolExecutor
    stop: threading.Event
    given_up: threading.Event = field(default_factory=threading.Event)
    # Those that are open, wherever the caller is interrupted.
    sources: set[Source] = field(default_factory=set)
    told_of_shortage: bool = False
    turn: threading.Event | None = None

    def submit(self, entry: AnEntry) -> Future[Result]:
        """Have an image worked on, after those before it were opened and have their threads."""
        before, self.turn = self.turn, threading.Event()
        return self.pool.submit(self._worked_on, entry, before, self.turn)

    def close(self) -> None:
        """Give up what is being worked on, and end all threads."""
        self.given_up.set()
        for semaphore in (self.seats, self.threads, self.room):
            semaphore.close()
        self.pool.shutdown(cancel_futures=True)
        # An interrupted pool may not know a thread that it has just started.
        for source in [*self.sources]:
            source.close()

    @property
    def stopping(self) -> bool:
        """Whether nothing more is to be begun."""
        return self.stop.is_set() or self.given_up.is_set()

    def _worked_on(self, entry: AnEntry, before: threading.Event | None, after: threading.Event) -> Result:
        with ExitStack() as held:
            try:
                if before is not None:
                    before.wait()
                entry, source, least = self._opened_or_not(entry, held)
                self.seats.take(1)
                held.callback(self.seats.release, 1)
                threads = self.threads.take(least)
                held.callback(self.threads.release, threads)
            except BaseException:
                self.threads.pass_by()
                raise
            finally:
                after.set()
            if self.stopping:
                raise _Stopped
            if self.opening is not None and source is None:
                source = self._open(entry, held)
            return self.work(entry, source or entry.path, min(threads, self.shares.threads))

    def _opened_or_not(self, entry: AnEntry, held: ExitStack) -> tuple[AnEntry, Source | None, int]:
        """Return an image and its threads; it is opened, unless that is to wait until it has them."""
        if self.stopping:
            raise _Stopped
        if self.opening is None:
            return entry, None, self.shares.each
        with reading(os.fspath(entry.path)):
            entry = _fetched(entry, self.opening["max_pixels"])
            width, height, pixel_bytes = _header(entry, self.opening["max_pixels"])
            needed = width * height * pixel_bytes
            if needed > self.room.total:
                if needed <= _DECODED_BYTES:
                    self._tell_of_shortage(1, self.shares.most_workers)
                content = entry.path.content if isinstance(entry.path, RemoteFile) else None
                kept = min(len(content or b""), self.room.total)
                self.room.take(kept)
                held.callback(self.room.release, kept)
                return entry, None, self.threads.total
            self.room.take(needed)
            kept = 0
            try:
                source = self._open(entry, held)
                # The image as it was before it was shrunk is gone.
                kept = min(needed, source.shape[0] * source.shape[1] * pixel_bytes)
            finally:
                self.room.release(needed - kept)
                held.callback(self.room.release, kept)
        self._tell_of_shortage(*self.shares.side_by_side(source.shape))
        return entry, source, self.shares.of(source.shape)

    def _open(self, entry: Entry, held: ExitStack) -> Source:
        opened = _Opened(entry.path, open_source(entry.path, **(self.opening or {})), self.given_up)
        self.sources.add(opened)
        held.callback(self.sources.discard, opened)
        return held.enter_context(opened)

    def _tell_of_shortage(self, now: int, wanted: int) -> None:
        if now < wanted and not self.told_of_shortage:
            self.told_of_shortage = True
            images = "1 image" if now == 1 else f"{now} images"
            _LOGGER.warning("%s at a time instead of %d: little memory is free", images, wanted)


def _in_order(
    line: _Line[AnEntry, Result], entries: Iterable[AnEntry], most: int
) -> Generator[tuple[AnEntry, Result | Exception]]:
    coming = iter(entries)
    waiting: deque[tuple[AnEntry, Future[Result]]] = deque()
    try:
        while True:
            for entry in islice(coming, 0 if line.stopping else most - len(waiting)):
                waiting.append((entry, line.submit(entry)))
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
        line.close()


def _fetched(entry: AnEntry, max_pixels: int | None) -> AnEntry:
    """Return an image at a URL with its content, which is asked for once."""
    if not isinstance(entry.path, RemoteFile):
        return entry
    content = entry.path.read(most_bytes(max_pixels))
    return replace(entry, path=replace(entry.path, content=content))


def _header(entry: Entry, max_pixels: int | None) -> tuple[int, int, int]:
    """Return width and height of an image file, and the bytes of a pixel once it is decoded."""
    with open_file(entry.path, max_pixels) as opened:
        if isinstance(opened, TiffRows):
            return *opened.size, 3 if opened.dtype == np.uint8 else 12
        # What has more than eight bits becomes float32.
        deep = opened.mode in ("I", "F") or opened.mode.startswith("I;16")
        return *opened.size, 12 if deep else 3
