"""Distribute a layer's work over plain Python threads.

Kernels release the interpreter lock, so ordinary threads run them side by side. A team lives as long as
one call of the network and no longer: there is no global pool that a forked child would inherit dead.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from .machine import usable_cores
from .options import whole_number

Task = TypeVar("Task")


def thread_count(threads: int | None) -> int:
    """Return a number of threads: by default, of the cores that this process may use.

    Raises
    ------
    OptionError
        If ``threads`` is not a positive whole number.
    """
    return usable_cores() if threads is None else whole_number("threads", threads)


class Clock:
    """Adds up the time that threads spend on named steps of the work."""

    def __init__(self) -> None:
        self.seconds: dict[tuple[str, str], float] = {}
        self._lock = threading.Lock()

    @contextmanager
    def measure(self, what: str, phase: str) -> Iterator[None]:
        """Add the time that the block takes to (what, phase)."""
        start = time.perf_counter()
        yield
        spent = time.perf_counter() - start
        with self._lock:
            self.seconds[what, phase] = self.seconds.get((what, phase), 0.0) + spent


class Workspace:
    """Memory that is used again for the next image, since fresh pages cost as much as a layer does."""

    def __init__(self) -> None:
        self._held: dict[object, NDArray[np.float32]] = {}

    def array(self, key: object, size: int) -> NDArray[np.float32]:
        """Return the (size,) float32 that belong to ``key``, holding whatever was left there.

        They begin a cache line, so that no vector of theirs lies in two. NumPy begins large arrays a quarter
        of a line further on, which costs transforms an eighth of their time.
        """
        held = self._held.get(key)
        if held is None or len(held) < size:
            memory = np.empty(size + 16, np.float32)
            first = -memory.ctypes.data % 64 // 4
            held = self._held[key] = memory[first : first + size]
        return held[:size]

    @property
    def nbytes(self) -> int:
        return sum(held.nbytes for held in self._held.values())


class Team:
    """A few threads that work through lists of tasks together; the caller's thread is one of them.

    Parameters
    ----------
    threads : int or None
        How many, the caller's included; None means every core this process may use.
    clock : Clock, optional
        Told how long the steps of the work take.
    workspace : Workspace, optional
        Where its memory comes from; nobody else may use it meanwhile.

    Raises
    ------
    OptionError
        If ``threads`` is not a positive whole number.
    """

    def __init__(
        self, threads: int | None = None, clock: Clock | None = None, workspace: Workspace | None = None
    ) -> None:
        self.size = thread_count(threads)
        self.clock = clock
        self.workspace = workspace or Workspace()
        self._seats = itertools.count()
        self._own = threading.local()
        # Threads start when there is work for them. Two queues are all that a round needs: with futures, to
        # hand out the work of sixteen threads took four times as long.
        self._threads: list[threading.Thread] = []
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._ended: SimpleQueue[BaseException | None] = SimpleQueue()

    def share(self, work: Callable[[Task], object], tasks: Iterable[Task]) -> None:
        """Call ``work(task)`` for every task, each in whichever thread is free, and wait for all.

        The first exception that a task raises is raised here, after the others have stopped.
        """
        waiting = deque(tasks)

        def run() -> None:
            while True:
                try:
                    task = waiting.popleft()
                except IndexError:
                    return
                try:
                    work(task)
                except BaseException:
                    waiting.clear()
                    raise

        helpers = self._started(min(self.size, len(waiting)) - 1)
        errors: list[BaseException | None] = []
        try:
            for _ in range(helpers):
                self._calls.put(run)
            run()
        finally:
            waiting.clear()
            with suppress(Empty):
                while self._calls.get_nowait():  # who has not begun by now need not be waited for
                    helpers -= 1
            errors += [self._ended.get() for _ in range(helpers)]
        for error in filter(None, errors):
            raise error

    def _started(self, count: int) -> int:
        """Start threads until there are so many, and return how many there are of these."""
        # Where no thread can be started, as the interpreter is ending or the system allows no more, those
        # that there are do the work.
        with suppress(RuntimeError):
            while len(self._threads) < count:
                thread = threading.Thread(target=self._serve, name="d2np", daemon=True)
                thread.start()
                self._threads.append(thread)
        return min(count, len(self._threads))

    def _serve(self) -> None:
        while call := self._calls.get():
            try:
                call()
                self._ended.put(None)
            except BaseException as error:
                self._ended.put(error)

    def timed(self, what: str, phase: str, work: Callable[[Task], object]) -> Callable[[Task], object]:
        """Return the same work, with the clock running if there is one."""
        clock = self.clock
        if clock is None:
            return work

        def measured(task: Task) -> None:
            with clock.measure(what, phase):
                work(task)

        return measured

    def scratch(self, size: int) -> NDArray[np.float32]:
        """Return memory of the calling thread: (size,) float32, holding whatever was left there."""
        if not hasattr(self._own, "seat"):
            self._own.seat = next(self._seats)
        return self.workspace.array(("scratch", self._own.seat), size)

    def __enter__(self) -> Team:
        return self

    def __exit__(self, *_: object) -> None:
        for _thread in self._threads:
            self._calls.put(None)
        for thread in self._threads:
            thread.join()


def spans(count: int, size: int) -> list[tuple[int, int]]:
    """Cut ``range(count)`` into consecutive (first, last) spans of ``size``, the last one shorter."""
    size = max(1, size)
    return [(first, min(first + size, count)) for first in range(0, count, size)]


def shrinking_spans(count: int, size: int, unit: int, threads: int) -> list[tuple[int, int]]:
    """Cut ``range(count)`` into spans of at most ``size``, shorter ones towards the end.

    So the threads end at nearly the same time: in a round, each of them takes a span of the same length, and
    the last rounds are short ones, which make up for whatever held a thread up. Where there are only two
    rounds, all spans are of one length, or a unit less. They are multiples of ``unit``, but for the last.
    """
    left, most = -(-count // unit), max(1, size // unit)
    lengths: list[int] = []
    if left > 2 * most * threads:
        # Not much below four units for each thread: the cost of a task does not shrink with it.
        while (share := -(-left // threads)) > 4:
            length = min(most, -(-share // 2))
            lengths += [length] * threads
            left -= length * threads
    if left:
        tasks = min(left, threads * -(-left // (most * threads)))
        length, longer = divmod(left, tasks)
        lengths += [length + 1] * longer + [length] * (tasks - longer)
    ends = list(itertools.accumulate(lengths, initial=0))
    return [(first * unit, min(last * unit, count)) for first, last in itertools.pairwise(ends)]
