"""A network that is small and slow enough to be killed while it works, and a job of it on a cluster."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

from d2np.dataset import HlocOutput, Settings, cluster, extract, listing
from d2np.errors import ImageError
from d2np.features import Features


def _limit(log):
    return Path(f"{log}.limit")


def hold(log, count):
    """Let networks that write to this log begin so many images, and wait before they go on."""
    _limit(log).write_text(str(count))


def is_held(log):
    """Whether to wait."""
    try:
        return len(Path(log).read_text().splitlines()) >= int(_limit(log).read_text())
    except FileNotFoundError:
        return False


def go_on(log):
    """End the waiting."""
    _limit(log).unlink()


class StubNet:
    """Gives every image as many keypoints as it is wide, and writes down what it is asked for.

    Parameters
    ----------
    log : str
        A file that gets a line with the process and the name for each image.
    pause : float
        Seconds for each image.
    deadly : str
        The name of an image on which the process dies.
    """

    provenance = None
    preprocessing = "caffe"

    def __init__(self, log, pause=0.0, deadly=""):
        self.log, self.pause, self.deadly = str(log), pause, deadly

    def __call__(self, path, *, threads=None, **options):
        with open(self.log, "a") as log:
            log.write(f"{os.getpid()} {path.name}\n")
        if path.name == self.deadly:
            os.kill(os.getpid(), 9)
        time.sleep(self.pause)
        while is_held(self.log):
            time.sleep(0.01)
        try:
            with Image.open(path) as image:
                width, height = image.size
        except OSError:
            raise ImageError(f"{path} is no image") from None
        rng = np.random.default_rng(width)
        return Features(rng.random((width, 3)), rng.random(width), rng.random((width, 512)), (width, height))


def main(folder, out, log, where):
    net = StubNet(log, 0.05)
    output = HlocOutput(Path(out), Settings().recorded(net))
    with cluster.connected(where) as client:
        report = extract(net, listing([folder]), output, Settings(), client=client)
    print(report.done, report.skipped, len(report.failed))


if __name__ == "__main__":
    main(*sys.argv[1:])
