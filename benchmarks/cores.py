"""How a forward pass would spread over many cores, by counting: no machine with so many is needed.

    python benchmarks/cores.py --sizes 640x480 1600x1200 --cores 4 8 16 32

The pass is cut into tasks as for so many threads, but one thread does them all, and the processor time of
each is taken. Then the tasks of each round are handed out in order to whichever core is free first, as the
threads take them; the next round begins when all are done. Handing out costs what it is measured to cost.
What is done between the rounds is done by one core. Shared caches and memory are not counted.
"""

from __future__ import annotations

import argparse
import heapq
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from engines import random_weights

from d2np.network.bands import whole_map
from d2np.network.stages import PackedWeights, stages
from d2np.threads import Team, Workspace


class Recorder(Team):
    """A team of one thread that cuts the work as for ``size`` of them, and takes the time of each task."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.rounds: list[list[float]] = []

    def share(self, work: Callable[[Any], object], tasks: Iterable[Any]) -> None:
        spent = []
        for task in tasks:
            start = time.thread_time()
            work(task)
            spent.append(time.thread_time() - start)
        self.rounds.append(spent)


def record(packed: PackedWeights, width: int, height: int, cores: int) -> tuple[list[list[float]], float]:
    """Return the seconds of each task of each round, and of what is done between the rounds."""
    pixels = (np.random.RandomState(0).standard_normal((height, width, 3)) * 60).astype(np.float32)
    workspace = Workspace()
    for _ in range(2):  # the second finds its memory
        team = Recorder(cores)
        start = time.thread_time()
        made = stages(packed, width, workspace, relu=True)
        whole_map(lambda first, last: pixels[first:last], height, made, team)
        spent = time.thread_time() - start
    return team.rounds, spent - sum(map(sum, team.rounds))


def makespan(tasks: list[float], cores: int, start: float, take: float) -> float:
    """Return when the last task ends: core k begins ``k * start`` later, taking a task costs ``take``."""
    free = [number * start for number in range(min(cores, len(tasks)))]
    heapq.heapify(free)
    for seconds in tasks:
        heapq.heappush(free, heapq.heappop(free) + take + seconds)
    return max(free)


def costs() -> tuple[float, float]:
    """Return the seconds that one more thread costs in a round, and that taking a task costs."""
    with Team(2) as team:
        team.share(int, range(2))

        def seconds(tasks: int) -> float:
            found = []
            for _ in range(200):
                start = time.perf_counter()
                team.share(int, range(tasks))
                found.append(time.perf_counter() - start)
            return float(np.median(found))

        few, many = seconds(2), seconds(2002)
    return few, (many - few) / 2000


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", default=["640x480", "1600x1200"], metavar="WxH")
    parser.add_argument("--cores", nargs="+", type=int, default=[2, 4, 8, 16, 32])
    options = parser.parse_args()
    start, take = costs()
    print(f"a thread costs {1e6 * start:.0f} µs in each round, a task {1e6 * take:.1f} µs\n")
    packed = PackedWeights(random_weights(), "winograd")
    print("| size | cores | rounds | tasks | seconds of all tasks | between | longest way | of ideal |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for size in options.sizes:
        width, height = map(int, size.split("x"))
        for cores in options.cores:
            rounds, between = record(packed, width, height, cores)
            work = sum(map(sum, rounds)) + between
            way = between + sum(makespan(tasks, cores, start, take) for tasks in rounds)
            print(
                f"| {size} | {cores} | {len(rounds)} | {sum(map(len, rounds))} | {work:.3f} | {between:.4f} "
                f"| {way:.4f} | {work / cores / way:.0%} |",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
