"""How a forward pass would spread over many cores, by counting: no machine with so many is needed.

    python benchmarks/cores.py --sizes 640x480 1600x1200 --cores 4 8 16 32

The pass is cut into tasks as for so many threads, but one thread does them all, and the processor time of
each is taken. Then the tasks of each round are handed out in order to whichever core is free first, as the
threads take them; the next round begins when all are done. To hand out, to wake a thread and to take a task
costs what it is measured to cost. What is done between the rounds is done by one core. Shared caches and
memory are not counted.
"""

from __future__ import annotations

import argparse
import hashlib
import heapq
import sys
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from engines import random_weights

from d2np.network.bands import whole_map
from d2np.network.stages import PackedWeights, stages, tiles_at_a_time
from d2np.threads import Team, Workspace


class Recorder(Team):
    """A team of one thread that cuts the work as for ``size`` of them, and takes the time of each task."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.rounds: list[list[float]] = []
        self.seconds = 0.0

    def share(self, work: Callable[[Any], object], tasks: Iterable[Any]) -> None:
        began = time.thread_time()
        spent = []
        for task in tasks:
            start = time.thread_time()
            work(task)
            spent.append(time.thread_time() - start)
        self.rounds.append(spent)
        self.seconds += time.thread_time() - began


def record(packed: PackedWeights, width: int, height: int, cores: int) -> tuple[list[list[float]], float]:
    """Return the seconds of each task of each round, and of what is done between the rounds."""
    pixels = (np.random.RandomState(0).standard_normal((height, width, 3)) * 60).astype(np.float32)
    workspace = Workspace()
    for _ in range(2):  # the second finds its memory
        team = Recorder(cores)
        start = time.thread_time()
        made = stages(packed, width, workspace, relu=True, tiles=tiles_at_a_time(width, cores))
        memory = partial(workspace.array, "map")
        whole_map(lambda first, last: pixels[first:last], height, made, team, memory)
        spent = time.thread_time() - start
    return team.rounds, spent - team.seconds


class Costs(NamedTuple):
    """Seconds that it costs to hand a call to a thread, to wake one up, and to take a task."""

    hand: float
    wake: float
    take: float


def costs(threads: int = 16) -> Costs:
    """Measure them: the median of many rounds of tasks that need the interpreter only to begin."""
    caller, data = threading.get_ident(), bytes(1 << 20)
    began: dict[bool, float] = {}
    found: list[Costs] = []

    def work(_: int) -> None:
        began.setdefault(threading.get_ident() == caller, time.perf_counter())
        hashlib.sha256(data)

    with Team(threads) as team:
        for _ in range(200):
            began.clear()
            start = time.perf_counter()
            team.share(work, range(threads))
            middle = time.perf_counter()
            team.share(int, range(1000))
            take = (time.perf_counter() - middle) / 1000
            found.append(Costs((began[True] - start) / (threads - 1), began[False] - began[True], take))
    return Costs(*map(float, np.median(found, axis=0)))


def makespan(tasks: list[float], cores: int, costs: Costs) -> float:
    """Return when a round ends: the caller's core begins when all have been told, the others wake up."""
    helpers = min(cores, len(tasks)) - 1
    told = helpers * costs.hand
    free = [(told, False), *[(told + costs.wake, True)] * helpers]
    heapq.heapify(free)
    ends = [0.0, 0.0]
    for seconds in tasks:
        begin, is_helper = heapq.heappop(free)
        end = begin + costs.take + seconds
        ends[is_helper] = max(ends[is_helper], end)
        heapq.heappush(free, (end, is_helper))
    # The caller waits for the last helper, and is woken up in its turn.
    return max(ends[False], ends[True] + costs.wake if ends[True] > ends[False] else 0.0)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", default=["640x480", "1600x1200"], metavar="WxH")
    parser.add_argument("--cores", nargs="+", type=int, default=[2, 4, 8, 16, 32])
    options = parser.parse_args()
    cost = costs()
    print(
        f"to hand a call to a thread costs {1e6 * cost.hand:.1f} µs, to wake one {1e6 * cost.wake:.0f} µs, "
        f"to take a task {1e6 * cost.take:.1f} µs\n"
    )
    packed = PackedWeights(random_weights(), "winograd")
    print("| size | cores | rounds | tasks | seconds of all tasks | between | longest way | of ideal |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for size in options.sizes:
        width, height = map(int, size.split("x"))
        for cores in options.cores:
            rounds, between = record(packed, width, height, cores)
            work = sum(map(sum, rounds)) + between
            way = between + sum(makespan(tasks, cores, cost) for tasks in rounds)
            print(
                f"| {size} | {cores} | {len(rounds)} | {sum(map(len, rounds))} | {work:.3f} | {between:.4f} "
                f"| {way:.4f} | {work / cores / way:.0%} |",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
