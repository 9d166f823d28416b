"""The cost of a job of very many images beside the network: receipts, the index, assembling the file.

The images have a few made-up keypoints each, so that a million of them fit on a small disk; what bytes cost
is measured with a few images of full size. No network runs, and the archives are such as workers of a cluster
write. Figures and what follows from them: ``docs/scale.md``.

    python benchmarks/scale.py --entries 1000000
"""

from __future__ import annotations

import argparse
import os
import pickle
import resource
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from d2np.dataset import Entry, HlocOutput, cluster
from d2np.dataset.extraction import IMAGES
from d2np.dataset.outputs import Task
from d2np.features import Features

SETTINGS = {"weights": "none"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--entries", type=int, nargs="+", default=[10_000], help="images of a few keypoints")
    parser.add_argument("--keypoints", type=int, default=2, help="of each of these")
    parser.add_argument("--full", type=int, nargs=2, default=[200, 1500], help="full-size images, keypoints")
    parser.add_argument("--tasks", type=int, default=2000, help="tasks that do nothing, through Dask")
    parser.add_argument(
        "--no-look",
        action="store_true",
        help="leave out the last step, which takes nearly as long as the one before",
    )
    parser.add_argument("--folder", default=tempfile.gettempdir(), help="where there is room")
    options = parser.parse_args()
    print(
        "| images | keypoints of each | step | seconds | images per second | MB per second | "
        "bytes for each | memory of the client, MB |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    through_dask(options.tasks)
    for count, keypoints in [*((n, options.keypoints) for n in options.entries), options.full]:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            job(Path(folder) / "features.h5", count, keypoints, look=not options.no_look)


def through_dask(tasks: int) -> None:
    """Batches that take no time, to three processes and back."""
    entries = [Entry(Path(f"/photos/{k}.jpg"), f"{k}.jpg") for k in range(tasks * IMAGES)]
    with cluster.connected("local:2") as client:
        list(cluster.results(client, nothing, entries[:800], 800, IMAGES))
        start = time.perf_counter()
        for _ in cluster.results(client, nothing, entries, len(entries), IMAGES):
            pass
        seconds = time.perf_counter() - start
    size = len(pickle.dumps(([1000] * IMAGES, [])))
    row(tasks * IMAGES, 0, "receipts through Dask", seconds, size / IMAGES)


def nothing(batch: Iterable[Entry], count: int) -> Iterator[tuple[Entry, int]]:
    yield from ((entry, 1000) for entry in batch)


def job(path: Path, count: int, keypoints: int, *, look: bool) -> None:
    """All steps of a job but the network."""
    rng = np.random.default_rng(0)
    features = Features(
        *(rng.random((keypoints, 3)), rng.random(keypoints), rng.random((keypoints, 512))), (640, 480)
    )
    output = HlocOutput(path, SETTINGS)
    output.start()
    archives = output.archives()
    stamp = '{"size": 1, "mtime_ns": 2}'
    names = [f"{k // 1000:05d}/{k:08d}.jpg" for k in range(count)]

    with measured(count, keypoints, "archives are written", lambda: size_of(output.parts.folder)):
        for name in names:
            archives.put(Task(Path(name), name, stamp=stamp), [features], 1.0)
    with measured(count, keypoints, "client takes them in"):
        for name in names:
            output.parts.take(name, stamp, archives.store.archive_of(name), archives.store)
    output.close()
    with measured(count, keypoints, "client, started again, finds them"):
        output = HlocOutput(path, SETTINGS)
    assert len(output.parts.index) == count
    with measured(count, keypoints, "the file is assembled", lambda: path.stat().st_size):
        output.finish()
    output.close()
    if not look:
        return
    with measured(count, keypoints, "the file is looked through"):
        output = HlocOutput(path, SETTINGS)
    assert all(output.has(name) for name in names)
    output.close()


@contextmanager
def measured(count: int, keypoints: int, step: str, size=lambda: 0) -> Iterator[None]:
    start = time.perf_counter()
    yield
    row(count, keypoints, step, time.perf_counter() - start, size() / count)


def row(count: int, keypoints: int, step: str, seconds: float, size: float) -> None:
    rate = count / seconds
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    cells = [
        *(f"{count}", f"{keypoints}", step, f"{seconds:.2f}", f"{rate:.0f}"),
        *(f"{rate * size / 1e6:.0f}" if size else "", f"{size:.0f}" if size else "", f"{memory:.0f}"),
    ]
    print(f"| {' | '.join(cells)} |", flush=True)


def size_of(folder: Path) -> int:
    return sum(entry.stat().st_size for entry in os.scandir(folder))


if __name__ == "__main__":
    main()
