"""Cost against size: time and peak memory of whole extractions with the packaged weights.

    python benchmarks/size.py --megapixels 0.1 0.5 2 8 --scales 1 3 --plot size.png

Every size has a fresh process of its own, which extracts an image of noise (4:3) once, tells its peak
resident memory, and then times further extractions. Beside it stand the peak of a process that only loads the
weights, and the peak without the image's and the features' own bytes.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from math import sqrt
from typing import Any

import numpy as np
from fresh import MB, in_fresh_process, noise, own_bytes, peak_bytes
from memory import PYRAMIDS

import d2np


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--megapixels", nargs="+", type=float, default=[0.1, 0.2, 0.5, 1, 2, 4, 8])
    parser.add_argument("--scales", nargs="+", type=int, choices=list(PYRAMIDS), default=[1])
    parser.add_argument("--threads", type=int, help="as many as there are cores, unless given")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--plot", metavar="FILE", help="draw the curves too; needs matplotlib")
    parser.add_argument("--one", choices=["load", "extract"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(load() if options.one == "load" else extract(options)))
        return 0
    # What only the table needs is not loaded where memory is measured.
    from compare import machine

    print(f"{machine()}\n")
    loaded = loaded_bytes()
    print(f"A process that only loads the weights: {loaded / MB:.0f} MB", flush=True)
    curves = {scales: curve(scales, options) for scales in options.scales}
    if options.plot:
        plot(curves, loaded, options.plot)
    return 0


def curve(scales: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    print(f"\n{scales} scale{'s' * (scales > 1)}, median of {options.rounds} rounds\n")
    print("| megapixels | size | keypoints | seconds | peak MB | beyond input and result, MB |")
    print("| --- | --- | --- | --- | --- | --- |")
    points = []
    for megapixels in options.megapixels:
        command = ["--one", "extract", "--megapixels", megapixels, "--scales", scales]
        if options.threads:
            command += ["--threads", options.threads]
        point = in_fresh_process(__file__, *command, "--rounds", options.rounds)
        print(
            f"| {megapixels:g} | {point['width']} x {point['height']} | {point['keypoints']} "
            f"| {point['seconds']:.2f} | {point['peak'] / MB:.0f} | {point['beyond'] / MB:.0f} |",
            flush=True,
        )
        points.append(point)
    return points


def loaded_bytes() -> int:
    """The peak of a process that only loads the packaged weights."""
    return in_fresh_process(__file__, "--one", "load")


def load() -> int:
    d2np.Net.load("analytic")
    return peak_bytes()


def extract(options: argparse.Namespace) -> dict[str, Any]:
    height = round(sqrt(options.megapixels[0] * 1e6 * 3 / 4))
    width = round(height * 4 / 3)
    net = d2np.Net.load("analytic")
    image = noise(width, height)
    settings = {"scales": PYRAMIDS[options.scales[0]], "max_edge": None, "max_sum_edges": None}
    features = net(image, threads=options.threads, **settings)  # the warm-up as well
    peak = peak_bytes()
    keypoints, own = len(features), own_bytes(features)
    del features
    seconds = []
    for _ in range(options.rounds):
        start = time.perf_counter()
        net(image, threads=options.threads, **settings)
        seconds.append(time.perf_counter() - start)
    return {
        "megapixels": options.megapixels[0],
        "width": width,
        "height": height,
        "keypoints": keypoints,
        "seconds": float(np.median(seconds)),
        "peak": peak,
        "beyond": peak - image.nbytes - own,
    }


def plot(curves: dict[int, list[dict[str, Any]]], loaded: int, path: str) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

    figure = Figure(figsize=(11, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for color, (scales, points) in zip(("tab:blue", "tab:orange"), curves.items(), strict=False):
        x = [point["megapixels"] for point in points]
        label = f"{scales} scale{'s' * (scales > 1)}"
        left.plot(x, [point["seconds"] for point in points], "o-", color=color, label=label)
        right.plot(x, [point["peak"] / MB for point in points], "o-", color=color, label=f"{label}: peak")
        right.plot(
            x,
            [point["beyond"] / MB for point in points],
            "s--",
            color=color,
            markersize=4,
            label=f"{label}: beyond input and result",
        )
    right.axhline(loaded / MB, color="0.4", linestyle=":", label="weights loaded, nothing extracted")
    left.set(title="Time of one extraction", ylabel="seconds")
    right.set(title="Peak resident memory of a fresh process", ylabel="MB")
    for axes in (left, right):
        axes.set(xscale="log", yscale="log", xlabel="megapixels (4:3)")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_major_locator(FixedLocator(x))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.grid(True, color="0.9")
        axes.legend(frameon=False)
    # From nothing much upward, so that a flat curve looks flat.
    right.set_ylim(bottom=100, top=max(1000, right.get_ylim()[1]))
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    sys.exit(main())
