"""Images per second of a whole extraction, from files to a file, beside the computing alone.

    python benchmarks/dataset.py --sizes 640x480 --count 12 --rounds 3 --memory

The images are scikit-image's, resized, as PNG and JPEG files in turn. One core: the process may use a
single one. Computing alone: the same images, decoded beforehand, and nothing is written; side by side (a
plain pool of threads with an image each), and one after the other with all threads. The arrangements take
turns, round by round; a ratio is the median over the rounds, and to the faster way of computing alone. The
processor's seconds tell what reading and writing cost even where other programs run. Peak memory is that of a
fresh process.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from compare import machine
from fresh import MB, in_fresh_process, peak_bytes
from PIL import Image
from skimage import data

import d2np
from d2np.dataset import HlocOutput, Settings, extract, listing
from d2np.images.open import open_image
from d2np.machine import usable_cores

NAMES = ("astronaut", "coffee", "chelsea", "rocket")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", default=["320x240", "640x480", "1600x1200"], metavar="WxH")
    parser.add_argument("--count", type=int, default=12, help="images in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", action="store_true", help="measure peak memory too, in fresh processes")
    parser.add_argument("--one", metavar="FOLDER", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        extraction(d2np.Net.load("analytic"), Path(options.one))()
        print(json.dumps(peak_bytes()))
        return 0
    print(f"{machine()}; {options.count} images, median of {options.rounds} rounds\n")
    print("| size | arrangement | images/s | over one core | of computing alone | CPU s/image | peak MB |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    net = d2np.Net.load("analytic")
    for size in options.sizes:
        with tempfile.TemporaryDirectory() as folder:
            write_images(Path(folder), *map(int, size.split("x")), options.count)
            compare(net, size, Path(folder), options)
    return 0


def compare(net: d2np.Net, size: str, folder: Path, options: argparse.Namespace) -> None:
    cores = usable_cores()
    ways: dict[str, Callable[[], None]] = {
        "one core": on_one_core(extraction(net, folder)),
        f"{cores} cores": extraction(net, folder),
        "computing alone, side by side": computing(net, folder, cores),
        "computing alone, all threads on one": computing(net, folder, 1),
    }
    seconds, busy = np.empty((2, options.rounds, len(ways)))
    ways[f"{cores} cores"]()  # the warm-up
    for wall_row, busy_row in zip(seconds, busy, strict=True):
        for number, way in enumerate(ways.values()):
            start, used = time.perf_counter(), time.process_time()
            way()
            wall_row[number], busy_row[number] = time.perf_counter() - start, time.process_time() - used
    alone = seconds[:, 2:].min(axis=1)
    for number, name in enumerate(ways):
        spent = seconds[:, number]
        peak = ""
        if options.memory and number == 1:
            peak = f"{in_fresh_process(__file__, '--one', folder) / MB:.0f}"
        print(
            f"| {size.replace('x', ' x ')} | {name} | {options.count / np.median(spent):.2f} "
            f"| {np.median(seconds[:, 0] / spent):.2f} | {np.median(alone / spent):.3f} "
            f"| {np.median(busy[:, number]) / options.count:.3f} | {peak} |",
            flush=True,
        )


def write_images(folder: Path, width: int, height: int, count: int) -> None:
    for number in range(count):
        img = Image.fromarray(getattr(data, NAMES[number % len(NAMES)])()).resize((width, height))
        img.save(folder / f"{number:04}.{('png', 'jpg')[number // len(NAMES) % 2]}")


def extraction(net: d2np.Net, folder: Path) -> Callable[[], None]:
    """All images of a folder into a file in hloc's layout."""

    def run() -> None:
        settings = Settings()
        with tempfile.TemporaryDirectory() as target:
            output = HlocOutput(Path(target) / "features.h5", settings.recorded(net))
            report = extract(net, listing([folder]), output, settings)
        assert not report.failed

    return run


def computing(net: d2np.Net, folder: Path, beside: int) -> Callable[[], None]:
    """The features of all images, so many at a time, decoded now and not written."""
    images = [open_image(entry.path) for entry in listing([folder])]
    threads = max(1, usable_cores() // beside)

    def run() -> None:
        with ThreadPoolExecutor(beside) as pool:
            for _ in pool.map(lambda img: len(net(img, threads=threads)), images):
                pass

    return run


def on_one_core(work: Callable[[], None]) -> Callable[[], None]:
    """The same with the calling thread, and those that it starts, on one core."""

    def run() -> None:
        cores = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(cores)})
        try:
            work()
        finally:
            os.sched_setaffinity(0, cores)

    return run


if __name__ == "__main__":
    sys.exit(main())
