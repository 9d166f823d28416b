"""Time whole extractions, from a decoded image to features: d2np beside the published steps in PyTorch.

python benchmarks/extraction.py --size 640x480 --threads 2 --rounds 5
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np
from compare import machine
from engines import random_weights
from published_steps import PublishedPipeline

import d2np


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", default="640x480", metavar="WxH")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    width, height = map(int, options.size.split("x"))
    image = np.random.RandomState(0).randint(0, 256, (height, width, 3)).astype(np.uint8)
    arrays = random_weights()
    net, published = d2np.Net(arrays), PublishedPipeline(arrays, options.threads)
    print(f"{machine()}\n\n{options.size}, {options.threads} threads\n")
    print("| scales | d2np | published steps | ratio | keypoints |\n| --- | --- | --- | --- | --- |")
    for scales in ((1.0,), (0.5, 1.0, 2.0)):
        seconds = []
        for round_number in range(options.rounds + 1):
            start = time.perf_counter()
            ours = net(image, scales=scales, threads=options.threads, max_edge=None, max_sum_edges=None)
            middle = time.perf_counter()
            theirs, _, _ = published(image, scales)
            if round_number:  # the first is the warm-up
                seconds.append((middle - start, time.perf_counter() - middle))
        a, b = np.array(seconds).T
        print(
            f"| {', '.join(f'{scale:g}' for scale in scales)} | {np.median(a):.2f} s | {np.median(b):.2f} s "
            f"| {np.median(b / a):.1f} | {len(ours)}, {len(theirs)} |",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
