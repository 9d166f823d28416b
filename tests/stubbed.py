"""Extraction with a network that is quick and writes down what it is asked for; to be killed.

python stubbed.py PHOTOS OUT CALLS [SECONDS]
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import numpy as np

from d2np.dataset import HlocOutput, Settings, extract, listing
from d2np.errors import ImageError
from d2np.features import Features


class StubNet:
    """Features that depend on the image's content; each one that is finished is a line of a file."""

    provenance = None
    preprocessing = "caffe"

    def __init__(self, calls: Path, seconds: float = 0.0) -> None:
        self.calls = calls
        self.seconds = seconds

    def __call__(self, path, *, threads=None, **options):
        data = Path(path).read_bytes()
        if data.startswith(b"bad"):
            raise ImageError(f"{path}: not an image")
        if mask := options.get("mask"):
            if not mask.exists():
                raise ImageError(f"{mask}: no mask")
            data += mask.read_bytes()
        time.sleep(self.seconds)
        rng = np.random.default_rng(list(data))
        n = len(data)
        with open(self.calls, "ab", buffering=0) as stream:
            stream.write(f"{Path(path).name}\n".encode())
        return Features(rng.random((n, 3)), rng.random(n), rng.random((n, 512)), (640, 480))


def run(photos, out, calls, seconds=0.0, *, masks=None, checksum=False, restart=False, **options):
    """Extract from a folder; the report."""
    settings = Settings()
    net = StubNet(Path(calls), seconds)
    output = HlocOutput(Path(out), settings.recorded(net), checksum=checksum, restart=restart)
    return extract(net, listing([photos], masks=masks), output, settings, **options)


if __name__ == "__main__":
    photos, out, calls, seconds = [*sys.argv[1:], "0.0"][:4]
    report = run(photos, out, calls, float(seconds))
    print(report.done, report.skipped)
    sys.stdout.flush()
    os._exit(0)
