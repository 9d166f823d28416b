"""Peak resident memory of one extraction in a fresh process, beyond input and result, against the height.

    python benchmarks/memory.py --tall

Beyond input and result: the peak of the whole process, interpreter and weights included, without the bytes of
the image and of the features. The tall image is a file that is mapped, not read, and its features are
counted, not kept; pages of the file that were read are given back band by band (the system would do so only
when memory is short), and nothing is subtracted. Its row of the same width tells what the height adds.
"""

from __future__ import annotations

import argparse
import json
import mmap
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from fresh import MB, in_fresh_process, noise, noise_row, own_bytes, peak_bytes

import d2np

PYRAMIDS = {1: (1.0,), 3: (0.5, 1.0, 2.0)}
# What is asked of 1600 x 1200, in MB, and of an image four times as high, as a ratio to that.
LIMITS = {1: (500, 1.05), 3: (750, 1.1)}
UNBOUNDED = {"max_edge": None, "max_sum_edges": None}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--sizes",
        nargs="+",
        default=["1600x1200", "1600x4800"],
        metavar="WxH",
        help="ratios are to the first",
    )
    parser.add_argument("--scales", nargs="+", type=int, choices=list(PYRAMIDS), default=[1, 3])
    parser.add_argument("--threads", type=int, help="as many as there are cores, unless given")
    parser.add_argument("--tall", action="store_true", help="stream an image of --tall-size from a file too")
    parser.add_argument("--tall-size", default="2000x100000", metavar="WxH")
    parser.add_argument("--one", metavar="WxH", help=argparse.SUPPRESS)
    parser.add_argument("--file", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(stream(options) if options.file else extract(options)))
        return 0
    # What only the table needs is not loaded where memory is measured.
    from compare import machine
    from size import loaded_bytes

    print(f"{machine()}\n\nA process that only loads the weights: {loaded_bytes() / MB:.0f} MB\n")
    print("| size | scales | keypoints | beyond input and result, MB | limit | ratio | limit |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for scales in options.scales:
        megabytes, ratio = LIMITS[scales]
        first = None
        for size in options.sizes:
            limits = (str(megabytes), "") if first is None else ("", str(ratio))
            first = row(size, scales, first, limits, options)
        if options.tall and scales == 1:
            width, height = dimensions(options.tall_size)
            row(f"{width}x{width * 3 // 4}", scales, first, ("", ""), options)
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "tall.raw"
                random = np.random.RandomState(0)
                with path.open("wb") as file:
                    for _ in range(height):
                        file.write(noise_row(random, width).tobytes())
                row(options.tall_size, scales, first, ("", ""), options, "--file", path)
    return 0


def row(
    size: str,
    scales: int,
    first: int | None,
    limits: tuple[str, str],
    options: argparse.Namespace,
    *further: object,
) -> int:
    """Measure and print one row; returns the first row's bytes, to which the ratios are."""
    threads = ["--threads", options.threads] if options.threads else []
    found = in_fresh_process(__file__, "--one", size, "--scales", scales, *threads, *further)
    first = first or found["beyond"]
    width, height = dimensions(size)
    print(
        f"| {width} x {height} | {scales} | {found['keypoints']} | {found['beyond'] / MB:.0f} | {limits[0]} "
        f"| {found['beyond'] / first:.2f} | {limits[1]} |",
        flush=True,
    )
    return first


def extract(options: argparse.Namespace) -> dict[str, Any]:
    net = d2np.Net.load("analytic")
    image = noise(*dimensions(options.one))
    features = net(image, scales=PYRAMIDS[options.scales[0]], threads=options.threads, **UNBOUNDED)
    return {"keypoints": len(features), "beyond": peak_bytes() - image.nbytes - own_bytes(features)}


def stream(options: argparse.Namespace) -> dict[str, Any]:
    width, height = dimensions(options.one)
    net = d2np.Net.load("analytic")
    image = np.memmap(options.file, np.uint8, "r", shape=(height, width, 3))
    keypoints = 0
    for features in net.stream(
        image, scales=PYRAMIDS[options.scales[0]], threads=options.threads, **UNBOUNDED
    ):
        keypoints += len(features)
        image.base.madvise(mmap.MADV_DONTNEED)
    return {"keypoints": keypoints, "beyond": peak_bytes()}


def dimensions(size: str) -> tuple[int, int]:
    width, height = map(int, size.split("x"))
    return width, height


if __name__ == "__main__":
    sys.exit(main())
