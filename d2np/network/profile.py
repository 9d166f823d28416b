"""Where the time goes: per layer and phase, beside what the machine can do."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..kernels import direct, winograd
from ..kernels.simd import host_block
from ..layers import LAYERS, output_sizes
from ..threads import Clock
from .pyramid import Level


@dataclass(frozen=True)
class Row:
    """One step of the work.

    Attributes
    ----------
    name : str
        A layer, or a step behind the network.
    phase : str
    seconds : float
        Added up over the threads.
    gflops : float
        Multiplications and additions per second and thread, in thousand millions; 0 where they are not what
        the time goes into.
    """

    name: str
    phase: str
    seconds: float
    gflops: float


@dataclass(frozen=True)
class Profile:
    """Time per layer and phase; printed as a table.

    Attributes
    ----------
    rows : tuple of Row
        In the order of the image's way through the network.
    wall_seconds : float
        From the decoded image to the features.
    threads : int
    peak_gflops : float
        What one thread reaches in the bare multiplication, measured on this machine just before.
    """

    rows: tuple[Row, ...]
    wall_seconds: float
    threads: int
    peak_gflops: float

    @property
    def total_seconds(self) -> float:
        """Seconds of all rows, added up over the threads."""
        return sum(row.seconds for row in self.rows)

    def phases(self) -> dict[str, float]:
        """Return the seconds of each phase, over all layers."""
        sums: dict[str, float] = {}
        for row in self.rows:
            sums[row.phase] = sums.get(row.phase, 0.0) + row.seconds
        return sums

    def __str__(self) -> str:
        head = f"{'layer':<14}{'phase':<24}{'ms':>9}{'share':>8}{'GFLOP/s':>10}{'of peak':>9}"
        lines = [head, "-" * len(head)]
        for row in self.rows:
            share = row.seconds / self.total_seconds
            line = f"{row.name:<14}{row.phase:<24}{row.seconds * 1e3:>9.1f}{share:>8.1%}"
            if row.gflops:
                line += f"{row.gflops:>10.0f}{row.gflops / self.peak_gflops:>9.0%}"
            lines.append(line)
        lines.append("-" * len(head))
        for phase, seconds in self.phases().items():
            lines.append(f"{'all':<14}{phase:<24}{seconds * 1e3:>9.1f}{seconds / self.total_seconds:>8.1%}")
        lines.append("-" * len(head))
        busy = self.total_seconds / self.threads / self.wall_seconds
        lines.append(
            f"{self.wall_seconds * 1e3:.0f} ms on {self.threads} thread{'s' * (self.threads > 1)}, "
            f"each busy {busy:.0%} of it; peak of one thread {self.peak_gflops:.0f} GFLOP/s"
        )
        return "\n".join(lines)


def summarise(clock: Clock, wall_seconds: float, threads: int, levels: Sequence[Level]) -> Profile:
    """Turn what a clock has added up into a profile; ``levels`` are those that went through the network."""
    operations: defaultdict[tuple[str, str], float] = defaultdict(float)
    steps = (step for level in levels for step in output_sizes(level.height, level.width))
    for layer, rows, columns in steps:
        if layer.type == "convolution":
            channels = layer.in_channels * layer.out_channels
            operations[layer.name, "direct convolution"] += 2 * 9 * rows * columns * channels
            side = winograd.OUTPUTS * layer.dilation
            tiles = -(-rows // side) * -(-columns // side) * layer.dilation**2
            operations[layer.name, "block multiplication"] += 2 * winograd.POINTS * tiles * channels
    found = [
        Row(name, phase, seconds, operations[name, phase] / seconds / 1e9)
        for (name, phase), seconds in clock.seconds.items()
    ]
    order: dict[str, int] = {layer.name: number for number, layer in enumerate(LAYERS)}
    found.sort(key=lambda row: order.get(row.name, len(order)))
    return Profile(tuple(found), wall_seconds, threads, peak_gflops())


def peak_gflops(seconds: float = 0.1) -> float:
    """Measure what one thread reaches in the micro-kernel on data that stays in the nearest cache."""
    block = host_block()
    depth, channels = 64, block.columns
    kernel = direct.kernel(block.lanes, block.rows)
    positions = 64 * block.rows
    source = np.ones((positions + block.rows + 1, depth), np.float32)
    weights = direct.pack(np.ones((channels, depth, 3, 3), np.float32), block)
    taps = np.zeros(9, np.int64)
    target, rows = np.empty((positions, channels), np.float32), np.zeros(1, np.int64)
    best, end = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        kernel(
            source, taps, weights, np.zeros(channels, np.float32), np.float32(0), positions,
            target, rows, positions, 0, positions,
        )  # fmt: skip
        spent = time.perf_counter() - start
        best = max(best, 2 * 9 * positions * depth * channels / spent / 1e9)
    return best
