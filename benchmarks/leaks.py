"""Thousands of small calls of each kind in one process: does it take ever more memory, or leave things open?

    python benchmarks/leaks.py --calls 10000

Each kind of call is warmed up first. Flat means: from the first quarter of the calls that count to the last
one, the median of resident memory has grown by no more than 2 MB; and after the last call there are as many
threads, open files and child processes as before the first.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from compare import machine
from fresh import MB, noise, resident_bytes

import d2np
from d2np.formats import hloc, npz

WARM_UP = 500
ALLOWED_BYTES = 2 * MB
# Of what takes longer, there are fewer calls: one in so many.
RARE = 20


@dataclass(frozen=True)
class Counts:
    """The quantities that must be as they were."""

    threads: int
    files: int
    children: int


def counts() -> Counts:
    tasks = Path("/proc/self/task").iterdir()
    children = sum(len((task / "children").read_text().split()) for task in tasks)
    return Counts(threading.active_count(), len(os.listdir("/proc/self/fd")), children)


def work(folder: Path) -> Iterator[tuple[str, int, Callable[[], object]]]:
    """Return the calls: the name of each, of how many calls only one is made, and the call."""
    net, image = d2np.Net.load("analytic"), noise(40, 32)
    features = net(image, max_keypoints=20, detector="strength")
    places = features.keypoints[:, :2]
    weights = folder / "net.h5"
    net.save(weights)
    bad = folder / "bad.h5"
    bad.write_bytes(weights.read_bytes()[:5000])

    def refuse() -> None:
        for wrong in (lambda: d2np.Net.load(bad), lambda: net(folder / "bad.h5"), lambda: net(image[:1])):
            try:
                wrong()
            except d2np.Error:
                continue
            raise AssertionError("it should have been refused")

    def save_and_load() -> None:
        path = folder / "image.d2-net"
        npz.write(path, features)
        npz.read(path, features.image_size)

    def save_and_load_hdf() -> None:
        path = folder / "features.h5"
        with h5py.File(path, "w") as file:
            hloc.write(file, "image", features)
        hloc.read(path, "image")

    yield "net(image)", 1, lambda: net(image, threads=1)
    yield "net(image), 2 threads, 2 scales", 1, lambda: net(image, scales=(0.5, 1.0), threads=2)
    yield "net.dense", 1, lambda: net.dense(image, threads=1)
    yield "net.describe", 1, lambda: net.describe(image, places, threads=1)
    yield "d2np.match", 1, lambda: d2np.match(features, features, ratio=0.9)
    yield "npz: write, read", 1, save_and_load
    yield "hloc: write, read", 1, save_and_load_hdf
    yield "what is refused", 1, refuse
    yield "Net.load, call, del", RARE, lambda: d2np.Net.load(weights)(image, threads=1)


@dataclass(frozen=True)
class Result:
    """The memory, threads and files that a kind of call left behind."""

    name: str
    calls: int
    first: float
    last: float
    before: Counts
    after: Counts

    @property
    def is_flat(self) -> bool:
        grown = self.last - self.first
        return grown <= ALLOWED_BYTES and self.before == self.after


def measure(name: str, call: Callable[[], object], calls: int, warm_up: int) -> Result:
    """Call it, and look at the process after every call."""
    for _ in range(warm_up):
        call()
    gc.collect()
    before, memory = counts(), []
    for _ in range(calls):
        call()
        memory.append(resident_bytes())
    gc.collect()
    quarters = np.array_split(memory, 4)
    return Result(
        name, calls, float(np.median(quarters[0])), float(np.median(quarters[-1])), before, counts()
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=10_000, help="of each kind; fewer of what takes long")
    parser.add_argument("--warm-up", type=int, default=WARM_UP, metavar="N", help="calls that do not count")
    options = parser.parse_args()
    print(f"{machine()}\n")
    print("| call | calls | resident MB, first quarter | last quarter | threads, files, children | |")
    print("| --- | --- | --- | --- | --- | --- |")
    is_flat = True
    with tempfile.TemporaryDirectory() as folder:
        for name, rarity, call in work(Path(folder)):
            result = measure(name, call, max(8, options.calls // rarity), options.warm_up // rarity)
            is_flat &= result.is_flat
            after, verdict = result.after, "flat" if result.is_flat else "NOT FLAT"
            print(
                f"| {name} | {result.calls:,} | {result.first / MB:.1f} | {result.last / MB:.1f} | "
                f"{after.threads}, {after.files}, {after.children} | {verdict} |",
                flush=True,
            )
    return 0 if is_flat else 1


if __name__ == "__main__":
    sys.exit(main())
