"""Many small images through one extraction: does it take ever more memory, or leave files open?

    python benchmarks/soak.py --count 2000

Sampled whenever an image is done: resident memory, open files, threads; the table has medians. Flat means
that after the first hundred images the median of each hundred stays within 5 % of the first one's, and that
no more files are open.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
from compare import machine
from dataset import write_images
from fresh import MB, resident_bytes

import d2np
from d2np.dataset import HlocOutput, Settings, extract, listing

WARM_UP = 100
ALLOWED = 0.05


class Samples:
    """Takes a sample at each image, as the progress of an extraction."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, int, int]] = []

    def update(self, n: int = 1) -> None:
        files = len(os.listdir("/proc/self/fd"))
        self.rows.append((resident_bytes(), files, threading.active_count()))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--size", default="80x64", metavar="WxH")
    parser.add_argument("--warm-up", type=int, default=WARM_UP, metavar="N", help="images that do not count")
    options = parser.parse_args()
    net, settings, samples = d2np.Net.load("analytic"), Settings(), Samples()
    with tempfile.TemporaryDirectory() as folder:
        photos = Path(folder) / "photos"
        photos.mkdir()
        write_images(photos, *map(int, options.size.split("x")), options.count)
        output = HlocOutput(Path(folder) / "features.h5", settings.recorded(net))
        report = extract(net, listing([photos]), output, settings, progress=samples)
    assert report.done == options.count
    print(f"{machine()}; {options.count} images of {options.size}\n")
    return 0 if tell(np.array(samples.rows), options.warm_up) else 1


def tell(rows: np.ndarray, warm_up: int) -> bool:
    """Print the table and the verdict; returns whether memory and files stayed flat."""
    print("| images | resident MB | open files | threads |\n| --- | --- | --- | --- |")
    step = max(1, len(rows) // 10)
    for first in range(0, len(rows), step):
        part = rows[first : first + step]
        memory, files, threads = np.median(part, axis=0)
        print(f"| {first + 1} to {first + len(part)} | {memory / MB:.1f} | {files:.0f} | {threads:.0f} |")
    counted = rows[warm_up:]
    # By hundreds: a single sample tells what happened to be worked on at that moment.
    hundreds = np.array_split(counted, max(1, len(counted) // 100))
    memory = np.array([np.median(part[:, 0]) for part in hundreds])
    files = np.array([part[:, 1].min() for part in hundreds])
    change = np.abs(memory / memory[0] - 1).max()
    is_flat = bool(change <= ALLOWED and (files == files[0]).all())
    print(
        f"\nafter the first {warm_up}: resident memory within {change:.1%}, "
        f"{counted[:, 1].min()} to {counted[:, 1].max()} open files: {'flat' if is_flat else 'NOT FLAT'}"
    )
    return is_flat


if __name__ == "__main__":
    sys.exit(main())
