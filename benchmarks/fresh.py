"""Peak memory, and processes of their own to measure it in."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import d2np

MB = 1e6


def in_fresh_process(script: str, *options: object) -> Any:
    """Return the JSON that the script prints, started anew with these options."""
    command = [sys.executable, script, *map(str, options)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def peak_bytes() -> int:
    """The largest resident memory that this process has had."""
    # Not ru_maxrss: a child inherits its parent's.
    return _status("VmHWM")


def own_bytes(features: d2np.Features) -> int:
    """Return the bytes that the arrays of features take."""
    return features.keypoints.nbytes + features.scores.nbytes + features.descriptors.nbytes


def restart_peak() -> int:
    """Let the peak count from now on, and return the resident memory of now in bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return resident_bytes()


def resident_bytes() -> int:
    """The resident memory of now."""
    return _status("VmRSS")


def _status(name: str) -> int:
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def noise(width: int, height: int) -> NDArray[np.uint8]:
    """An image of noise, made row by row so that its making leaves no peak."""
    random = np.random.RandomState(0)
    image = np.empty((height, width, 3), np.uint8)
    for row in image:
        row[:] = noise_row(random, width)
    return image


def noise_row(random: np.random.RandomState, width: int) -> NDArray[np.uint8]:
    return random.randint(0, 256, (width, 3), np.uint8)
