"""Fixtures of all tests: random weights and images that anyone can make again."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest

import d2np
from d2np.layers import PARAMETER_SHAPES
from d2np.machine import usable_cores

REFERENCE_SEED = 20190509


def random_weights(seed):
    """Weights of the size that keeps activations of one size through all layers, from a frozen stream."""
    rng = np.random.RandomState(seed)
    arrays = {}
    for name, shape in PARAMETER_SHAPES.items():
        size = np.sqrt(2 / (9 * shape[1])) if name.endswith("weight") else 0.1
        arrays[name] = (rng.standard_normal(shape) * size).astype(np.float32)
    return arrays


def random_image(height, width, seed=0):
    """Blobs of several sizes: smooth enough to have keypoints at every scale."""
    rng = np.random.RandomState(seed)
    y, x = np.mgrid[:height, :width]
    image = np.full((height, width, 3), 127.0)
    for _ in range(min(max(6, height * width // 150), 150)):
        size = rng.uniform(1, 6)
        blob = np.exp(-((y - rng.uniform(0, height)) ** 2 + (x - rng.uniform(0, width)) ** 2) / (2 * size**2))
        image += blob[:, :, np.newaxis] * rng.uniform(-150, 150, 3)
    return np.clip(image, 0, 255).astype(np.uint8)


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    """Share the files of the whole suite out to some processes, by pytest-xdist, unless ``-n`` is given.

    Not where files or tests are chosen: these have begun before the processes would have. Nor in one of these
    processes, whose own ``-n`` is not set.
    """
    options = config.option
    whole = config.args_source is config.ArgsSource.TESTPATHS and not options.keyword and not options.usepdb
    if "PYTEST_XDIST_WORKER" in os.environ:
        return
    if whole and getattr(options, "numprocesses", 0) is None and usable_cores() > 1:
        options.numprocesses, options.dist = min(4, usable_cores()), "loadfile"


@pytest.fixture(scope="session", autouse=True)
def ctrl_c():
    """Ctrl-C interrupts tests and the programs that they start, though it be ignored as under ``nohup``."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def weights_arrays():
    """The weights of the reference files."""
    return random_weights(REFERENCE_SEED)


@pytest.fixture(scope="session")
def net(weights_arrays):
    return d2np.Net(weights_arrays)


@pytest.fixture(scope="module")
def client():
    """Two workers of a Dask cluster that are threads of this process."""
    import distributed

    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0"
        ) as local,
        distributed.Client(local, set_as_default=False) as client,
    ):
        yield client


@pytest.fixture(scope="session")
def trained():
    """The packaged trained network."""
    return d2np.Net.load(Path(__file__).parent.parent / "weights" / "vgg16.h5")


@pytest.fixture(scope="session")
def make_weights():
    return random_weights


@pytest.fixture(scope="session")
def make_image():
    return random_image


@pytest.fixture(scope="session")
def image():
    """61 x 83 pixels, of odd sizes on purpose."""
    return random_image(61, 83)


@pytest.fixture(scope="session")
def output():
    """Arrays that the published code has put out, by the name of their file in ``reference/``."""

    def load(name):
        with np.load(Path(__file__).parent / "reference" / f"{name}.npz") as file:
            return dict(file)

    return load


@pytest.fixture
def assert_same_features():
    """Fails unless two :class:`d2np.Features` are the same, bit for bit."""

    def check(a, b):
        assert a.image_size == b.image_size
        for name in ("keypoints", "scores", "descriptors"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)

    return check
