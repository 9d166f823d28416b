"""Time the forward pass of every installed engine side by side: same weights, image and threads.

    python benchmarks/compare.py --sizes 640x480 --threads 2 --rounds 7

The engines take turns, round by round, so that a machine that slows down slows all of them; a ratio is the
median over the rounds of the engine's time over d2np's in the same round. Every engine's map must agree with
d2np's to 1e-4 of the maximum, but for MNN's, which rounds more. Peak memory is that of a fresh process that
runs the engine once.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import subprocess
import sys
import time

import numpy as np
from engines import ENGINES, installed, random_weights


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", default=["320x240", "640x480", "1600x1200"], metavar="WxH")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--engines", nargs="+", choices=list(ENGINES), default=list(ENGINES))
    parser.add_argument("--memory", action="store_true", help="measure peak memory too, in fresh processes")
    parser.add_argument("--one", choices=list(ENGINES), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        return peak_memory(options.one, options.sizes[0], options.threads[0])
    print(f"{machine()}\n")
    agree = True
    for size in options.sizes:
        for threads in options.threads:
            agree &= compare(size, threads, options)
    return 0 if agree else 1


def compare(size: str, threads: int, options: argparse.Namespace) -> bool:
    width, height = map(int, size.split("x"))
    pixels = image(width, height)
    arrays = random_weights()
    names = [name for name in options.engines if installed(ENGINES[name][0])]
    forwards = {name: ENGINES[name][1](arrays, height, width, threads) for name in names}
    maps = {name: forward(pixels) for name, forward in forwards.items()}  # the warm-up as well
    largest = max(float(np.abs(cells).max()) for cells in maps.values())
    ours = maps[names[0]]
    differences = {name: float(np.abs(cells - ours).max()) / largest for name, cells in maps.items()}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(options.rounds):
        for name in names:
            # Some engines' threads go on spinning for a while; nobody else's time shall pay for that.
            time.sleep(0.3)
            start = time.perf_counter()
            forwards[name](pixels)
            seconds[name].append(time.perf_counter() - start)
    reference = np.array(seconds[names[0]])
    print(f"{size}, {threads} thread{'s' * (threads > 1)}, {options.rounds} rounds\n")
    print(f"| engine | seconds | over {names[0]} | difference |" + (" peak MB |" if options.memory else ""))
    print("| --- | --- | --- | --- |" + (" --- |" if options.memory else ""))
    for name in names:
        ratio = np.median(np.array(seconds[name]) / reference)
        row = f"| {name} | {np.median(seconds[name]):.3f} | {ratio:.2f} | {differences[name]:.1e} |"
        print(row + (f" {measured_memory(name, size, threads)} |" if options.memory else ""), flush=True)
    print()
    return all(difference <= 1e-4 for name, difference in differences.items() if name != "MNN")


def image(width: int, height: int) -> np.ndarray:
    random = np.random.RandomState(0)
    return (random.standard_normal((height, width, 3)) * 60).astype(np.float32)


def measured_memory(name: str, size: str, threads: int) -> str:
    command = [sys.executable, __file__, "--one", name, "--sizes", size, "--threads", str(threads)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def peak_memory(name: str, size: str, threads: int) -> int:
    width, height = map(int, size.split("x"))
    ENGINES[name][1](random_weights(), height, width, threads)(image(width, height))
    # Not ru_maxrss: a child inherits its parent's.
    with open("/proc/self/status") as lines:
        kilobytes = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    print(f"{kilobytes / 1024:.0f}")
    return 0


def machine() -> str:
    model = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as lines:
            model = next(
                (line.split(":")[1].strip() for line in lines if line.startswith("model name")), model
            )
    packages = ["numba", "onnxruntime", "openvino", "torch", "ncnn", "opencv-python-headless", "MNN"]
    versions = []
    for package in packages:
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return f"{model}, {len(os.sched_getaffinity(0))} cores; {', '.join(versions)}"


if __name__ == "__main__":
    sys.exit(main())
