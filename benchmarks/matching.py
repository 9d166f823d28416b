"""Time ``d2np.match`` beside NumPy's bare product of the same descriptors, and measure its extra memory.

    python benchmarks/matching.py --size 8000 --rounds 7

Both take turns with a short rest before each; the ratio is the median over the rounds. Half of the
descriptors have a noisy partner on the other side, the others have none. The matches must be those of the
plain formula: mutual maxima of the product, which is computed by blocks of 8000 rows. A pair that differs may
only do so where two similarities are the same but for rounding. Extra memory is what Python's tracemalloc
traces (NumPy reports to it), and what one call adds to the resident memory of a fresh process.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import tracemalloc

import numpy as np
from compare import machine
from fresh import MB, in_fresh_process, peak_bytes, restart_peak
from numpy.typing import NDArray

import d2np

BLOCK = 8000
ROUNDING = 1e-6
FloatArray = NDArray[np.float32]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=8000, help="descriptors on either side")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    a, b = descriptors(options.size)
    if options.one:
        print(json.dumps(increase(a, b)))
        return 0
    print(f"{machine()}\n\n{options.size} x {options.size} x 512, median of {options.rounds} rounds\n")
    matches = d2np.match(a, b)  # the warm-up as well
    seconds = []
    for _ in range(options.rounds):
        time.sleep(0.3)
        start = time.perf_counter()
        d2np.match(a, b)
        ours = time.perf_counter() - start
        time.sleep(0.3)
        start = time.perf_counter()
        product(a, b)
        seconds.append((ours, time.perf_counter() - start))
    ours, bare = np.array(seconds).T
    tracemalloc.start()
    d2np.match(a, b)
    traced = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    resident = in_fresh_process(__file__, "--size", options.size, "--one")
    print("Limits at 8000: ratio 1.15, 60 MB extra\n")
    different, wrong = differences(matches, plain_formula(a, b), a, b)
    print("| d2np.match, s | a @ b.T, s | ratio | extra MB, traced | extra MB, resident | matches | differ |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    print(
        f"| {np.median(ours):.3f} | {np.median(bare):.3f} | {np.median(ours / bare):.2f} "
        f"| {traced / MB:.1f} | {resident / MB:.1f} | {len(matches)} | {different} |"
    )
    if wrong:
        print(
            f"{wrong} of the pairs that differ are not the plain formula's, rounding or not", file=sys.stderr
        )
    return 1 if wrong else 0


def descriptors(size: int) -> tuple[FloatArray, FloatArray]:
    random = np.random.RandomState(0)
    a, b = (random.standard_normal((size, 512)).astype(np.float32) for _ in "ab")
    b[: size // 2] = a[: size // 2] + b[: size // 2]
    b = b[random.permutation(size)]
    for vectors in (a, b):
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return a, b


def product(a: FloatArray, b: FloatArray) -> None:
    for start in range(0, len(a), BLOCK):
        a[start : start + BLOCK] @ b.T


def increase(a: FloatArray, b: FloatArray) -> int:
    """Resident bytes that one call adds at most, in this process."""
    d2np.match(a[:16], b[:16])  # loads the kernels
    before = restart_peak()
    d2np.match(a, b)
    return peak_bytes() - before


def plain_formula(a: FloatArray, b: FloatArray) -> set[tuple[int, int]]:
    """Pairs that are each other's largest similarity, the first of equal ones, block by block of rows."""
    partner = np.empty(len(a), np.int64)
    best, back = np.full(len(b), -np.inf, np.float32), np.zeros(len(b), np.int64)
    for start in range(0, len(a), BLOCK):
        products = a[start : start + BLOCK] @ b.T
        partner[start : start + BLOCK] = products.argmax(1)
        rows = products.argmax(0)
        largest = products[rows, np.arange(len(b))]
        back[largest > best] = start + rows[largest > best]
        np.maximum(best, largest, out=best)
    return {(i, int(j)) for i, j in enumerate(partner) if back[j] == i}


def differences(
    matches: d2np.Matches, plain: set[tuple[int, int]], a: FloatArray, b: FloatArray
) -> tuple[int, int]:
    """How many pairs are only on one side, and how many of these rounding does not explain."""
    different = set(map(tuple, matches.indices.tolist())) ^ plain
    wrong = 0
    for i, j in different:
        row, column = a[i].astype(np.float64) @ b.T, a @ b[j].astype(np.float64)
        wrong += bool(row[j] < max(row.max(), column.max()) - ROUNDING)
    return len(different), wrong


if __name__ == "__main__":
    sys.exit(main())
