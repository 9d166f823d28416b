"""Features of many images: reading, computing and whatever the caller does with them overlap.

    entries --> one thread that     --> some threads, each  --> the caller's loop,
                opens, decodes and      with an image and      which writes them
                shrinks                 its share of cores

The reading thread is a few images ahead, never more than a fixed number of them and of bytes. What was
computed waits for the caller, in the order of the entries. Of a large image the caller may have the
features in pieces, while the image is still worked on, so that nobody holds them all.

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
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from ..errors import ImageError
from ..images.messages import reading
from ..images.open import Source, most_bytes, open_file, open_source
from ..images.remote import RemoteFile
from ..images.tiff import TiffRows
from ..machine import free_memory
from ..network.scan import in_blocks
from ..options import whole_number
from ..threads import thread_count
from .listing import Entry
from .pieces import Pieces

if TYPE_CHECKING:
    from ..features import Features
    from ..network.net import Net
    from .extraction import Settings

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
# From which on features come in pieces: more than the published limits let through. Those of smaller images
# take 50 MB at most, about.
_LARGE_PIXELS = 2_000_000
# In a piece, at least: 8 MB of descriptors.
_KEYPOINTS_OF_A_PIECE = 4096


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

    They come in the order of the entries and not in that of their completion: what is written is then the
    same whatever the machine does, and so is the list of failures. An image that takes long keeps back the
    few behind it that are done, which are bounded by ``ahead``.

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
        those side by side, or fewer where little memory is free. So many at most are worked out again after a
        job was killed.
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
    found = _found(net, entries, settings, workers, threads, memory, ahead, stop, in_pieces=False)
    return cast("Generator[tuple[Entry, Features | Exception]]", found)


def features_or_pieces_of(
    net: Net,
    entries: Iterable[Entry],
    settings: Settings,
    *,
    workers: int | None = None,
    threads: int | None = None,
    stop: threading.Event | None = None,
) -> Generator[tuple[Entry, Features | Pieces | Exception]]:
    """As :func:`features_of`, but large images have their features in pieces, if these come in their order.

    They do at one scale, without ``max_keypoints``, and with the detector ``"d2"``. Pieces that are not gone
    through before the next image is asked for are lost.
    """
    return _found(net, entries, settings, workers, threads, None, None, stop, in_pieces=True)


def _found(
    net: Net,
    entries: Iterable[Entry],
    settings: Settings,
    workers: int | None,
    threads: int | None,
    memory: int | None,
    ahead: int | None,
    stop: threading.Event | None,
    *,
    in_pieces: bool,
) -> Generator[tuple[Entry, Features | Pieces | Exception]]:
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
    count = len(entries) if isinstance(entries, Sequence) else None
    in_order = settings.detector == "d2" and len(settings.scales) == 1 and settings.max_keypoints is None
    room = min(_DECODED_BYTES, free // _DECODED_SHARE)
    line = _Line(net, settings, shares, room, stop or threading.Event(), opens, count, in_pieces and in_order)
    return _in_order(line, entries, most)


def working_bytes(height: int, width: int, scales: Sequence[float]) -> int:
    """About how much memory the network works in on an image of this size, beside image and features."""
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
    """Return what ``memory`` would be if enough of it were free."""

    @property
    def most_workers(self) -> int:
        return self.workers or self.threads

    @property
    def total(self) -> int:
        """Threads, or one for each worker where these are more."""
        return max(self.threads, self.most_workers)

    def of(self, shape: tuple[int, int], memory: int | None = None) -> int:
        """Threads for an image of this height and width, as the network sees it."""
        fit = max(1, (memory or self.memory) // working_bytes(*shape, self.scales))
        # Where memory is short, the same share of the threads as of the memory, or more: together they never
        # take more than all.
        return self.each if fit >= self.most_workers else -(-self.total // fit)

    def side_by_side(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Images of this size at a time, and how many there would be if enough memory were free."""
        now, then = (min(self.most_workers, self.total // self.of(shape, of)) for of in (None, self.wanted))
        return now, then

    @property
    def each(self) -> int:
        """Threads for an image of which nothing is known."""
        return max(1, self.threads // self.most_workers)


class _Stopped(Exception):
    """Raised in our own threads where work that nobody waits for any more is given up."""


class _Stock:
    """So many of something, taken and given back.

    If it is known how many ``takers`` there will be, the last ones share what is free.
    """

    def __init__(self, total: int, takers: int | None = None) -> None:
        self.total = self._free = total
        self._takers = takers
        self._closed = False
        self._entrance = threading.Lock()
        self._changed = threading.Condition()

    def take(self, least: int) -> int:
        """Wait until ``least`` are free, and take them; returns how many were taken.

        Raises
        ------
        _Stopped
            If the stock was closed.
        """
        # One at a time: who needs many would wait for ever behind those who need few.
        with self._entrance, self._changed:
            self._changed.wait_for(lambda: self._closed or self._free >= least)
            if self._closed:
                raise _Stopped
            taken = max(least, self._free // self._takers if self._takers else 0)
            self._free -= taken
            self._count_off()
        return taken

    def pass_by(self) -> None:
        """One of the takers takes nothing."""
        with self._changed:
            self._count_off()

    def give(self, count: int) -> None:
        """Give so many back."""
        with self._changed:
            self._free += count
            self._changed.notify_all()

    def close(self) -> None:
        """Nobody waits any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _count_off(self) -> None:
        if self._takers is not None:
            self._takers -= 1


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


class _Read(NamedTuple):
    """An image before the network, the threads that it gets, and the bytes it takes.

    ``source`` is None where it is to be opened when it is its turn.
    """

    source: Source | None
    threads: int
    nbytes: int


class _Line:
    """The threads, and what they do with an image.

    Parameters
    ----------
    net : Net
    settings : Settings
    shares : _Shares
    room : int
        Bytes of decoded images that wait or are worked on.
    stop : threading.Event
        Once it is set, nothing is begun.
    opens : bool
        Whether the network takes images that were opened, or only their paths.
    count : int or None
        Of all images, if it is known.
    in_pieces : bool
        Whether the features of large images are handed out in pieces.
    """

    def __init__(
        self,
        net: Net,
        settings: Settings,
        shares: _Shares,
        room: int,
        stop: threading.Event,
        opens: bool,
        count: int | None,
        in_pieces: bool,
    ) -> None:
        self._in_pieces = in_pieces and opens
        self._net, self._shares, self._opens = net, shares, opens
        self._options = settings.options()
        self._limits = {name: self._options[name] for name in ("max_edge", "max_sum_edges")}
        self._opening = {name: self._options[name] for name in ("orient", "stretch", "max_pixels")}
        self._stop, self._given_up = stop, threading.Event()
        self._threads = _Stock(shares.total, count)
        self._room = _Stock(room)
        self._told_of_shortage = False
        # What waits to be opened, with its content if that was fetched.
        self._fetched: dict[str, Entry] = {}
        # Each from when it is opened until it is closed, wherever the caller is interrupted.
        self._sources: set[Source] = set()
        self._reader = ThreadPoolExecutor(1, "d2np-read")
        self._computers = ThreadPoolExecutor(shares.most_workers, "d2np-net")

    def submit(self, entry: Entry) -> _Waiting:
        """Have an image read and worked on."""
        read = self._reader.submit(self._read, entry)
        found: Future[Features | Pieces] = Future()
        self._computers.submit(self._compute, entry, read, found)
        return _Waiting(entry, found)

    def close(self) -> None:
        """Give up what is being worked on, end all threads and close what was opened."""
        self._given_up.set()
        self._threads.close()
        self._room.close()
        self._reader.shutdown(cancel_futures=True)
        self._computers.shutdown(cancel_futures=True)
        for source in self._sources:
            source.close()

    @property
    def stopping(self) -> bool:
        """Whether nothing more is to be begun."""
        return self._stop.is_set() or self._given_up.is_set()

    def _read(self, entry: Entry) -> _Read:
        try:
            return self._opened_or_not(entry)
        except BaseException:
            self._threads.pass_by()
            raise

    def _opened_or_not(self, entry: Entry) -> _Read:
        if self.stopping:
            raise _Stopped
        if not self._opens:
            return _Read(None, self._shares.each, 0)
        with reading(os.fspath(entry.path)):
            return self._looked_at(entry)

    def _looked_at(self, entry: Entry) -> _Read:
        entry = _fetched(entry, self._options["max_pixels"])
        width, height, pixel_bytes = _header(entry, self._options["max_pixels"])
        needed = width * height * pixel_bytes
        if needed > self._room.total:
            if needed <= _DECODED_BYTES:
                self._tell_of_shortage(1, self._shares.most_workers)
            content = entry.path.content if isinstance(entry.path, RemoteFile) else None
            kept = min(len(content or b""), self._room.total)
            self._room.take(kept)
            self._fetched[entry.name] = entry
            return _Read(None, self._threads.total, kept)
        self._room.take(needed)
        kept = 0
        try:
            source = self._open(entry)
            # The image as it was before it was shrunk is gone.
            kept = min(needed, source.shape[0] * source.shape[1] * pixel_bytes)
        finally:
            self._room.give(needed - kept)
        self._tell_of_shortage(*self._shares.side_by_side(source.shape))
        return _Read(source, self._shares.of(source.shape), kept)

    def _tell_of_shortage(self, now: int, wanted: int) -> None:
        if now < wanted and not self._told_of_shortage:
            self._told_of_shortage = True
            images = "1 image" if now == 1 else f"{now} images"
            _LOGGER.warning("%s at a time instead of %d: little memory is free", images, wanted)

    def _open(self, entry: Entry) -> Source:
        source = open_source(entry.path, **self._limits, **self._opening)
        opened = _Opened(entry.path, source, self._given_up)
        self._sources.add(opened)
        return opened

    def _compute(self, entry: Entry, reading: Future[_Read], found: Future[Features | Pieces]) -> None:
        """Work on an image; what is found is told once all is done, or if it is in pieces, before."""
        try:
            features = self._worked_on(entry, reading, found)
        except BaseException as error:
            if not found.done():
                found.set_exception(error)
        else:
            if features is not None:
                found.set_result(features)

    def _worked_on(
        self, entry: Entry, reading: Future[_Read], found: Future[Features | Pieces]
    ) -> Features | None:
        read = reading.result()
        source = read.source
        try:
            threads = self._threads.take(read.threads)
            try:
                if self.stopping:
                    raise _Stopped
                if self._opens and source is None:
                    source = self._open(self._fetched.pop(entry.name, entry))
                threads_inside = min(threads, self._shares.threads)
                if source is not None and self._comes_in_pieces(source):
                    self._hand_on(source, threads_inside, found)
                    return None
                return self._net(source or entry.path, threads=threads_inside, **self._options)
            finally:
                self._threads.give(threads)
        finally:
            if source is not None:
                source.close()
                self._sources.discard(source)
            self._room.give(read.nbytes)

    def _comes_in_pieces(self, source: Source) -> bool:
        return self._in_pieces and source.shape[0] * source.shape[1] >= _LARGE_PIXELS

    def _hand_on(self, source: Source, threads: int, found: Future[Features | Pieces]) -> None:
        options = {name: value for name, value in self._options.items() if name != "max_keypoints"}
        height, width = source.given
        with closing(self._net.stream(source, threads=threads, **options)) as stream:
            pieces = Pieces((width, height))
            found.set_result(pieces)
            pieces.fill(in_blocks(stream, _KEYPOINTS_OF_A_PIECE))


class _Waiting(NamedTuple):
    entry: Entry
    found: Future[Features | Pieces]


def _in_order(
    line: _Line, entries: Iterable[Entry], most: int
) -> Generator[tuple[Entry, Features | Pieces | Exception]]:
    coming = iter(entries)
    waiting: deque[_Waiting] = deque()
    try:
        while True:
            for entry in islice(coming, 0 if line.stopping else most - len(waiting)):
                waiting.append(line.submit(entry))
            if not waiting:
                return
            try:
                found = _outcome(waiting[0].found)
            except _Stopped:
                waiting.popleft()
                continue
            # Only now, so that it is not lost sight of if the caller is interrupted while it waits.
            entry = waiting.popleft().entry
            try:
                yield entry, found
            finally:
                if isinstance(found, Pieces):
                    found.close()
            # Not held while the next one is awaited.
            del found
    finally:
        line.close()


def _outcome(found: Future[Features | Pieces]) -> Features | Pieces | Exception:
    try:
        return found.result()
    except (ImageError, MemoryError) as error:
        return error


def _fetched(entry: Entry, max_pixels: int | None) -> Entry:
    """An image at a URL with its content, which is asked for once."""
    if not isinstance(entry.path, RemoteFile):
        return entry
    content = entry.path.read(most_bytes(max_pixels))
    return replace(entry, path=replace(entry.path, content=content))


def _header(entry: Entry, max_pixels: int | None) -> tuple[int, int, int]:
    """Width and height of an image file, and the bytes of a pixel once it is decoded."""
    with open_file(entry.path, max_pixels) as opened:
        if isinstance(opened, TiffRows):
            return *opened.size, 3 if opened.dtype == np.uint8 else 12
        # What has more than eight bits becomes float32.
        deep = opened.mode in ("I", "F") or opened.mode.startswith("I;16")
        return *opened.size, 12 if deep else 3
