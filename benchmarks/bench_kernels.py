"""Each kernel by itself, on the shapes it meets in a 640 x 480 image, one thread.

pytest benchmarks --benchmark-only
"""

from __future__ import annotations

import numpy as np
import pytest
from engines import random_weights

from d2np import matching
from d2np.features import strongest
from d2np.layers import LAYERS
from d2np.network.bands import Rows
from d2np.network.detect import MapRows, descriptors, hard_detection, strength
from d2np.network.pyramid import Level, reader
from d2np.network.stages import DirectConvolution, PackedWeights, Pooling, WinogradConvolution
from d2np.threads import Team

CONVOLUTIONS = [layer for layer in LAYERS if layer.type == "convolution"]
# Width of each convolution's input, and a few rows of it: time grows with the rows alone.
WIDTHS = {"1": 640, "2": 320, "3": 160, "4": 159}
ROWS = 48


def fresh(size):
    """Memory that no other stage uses."""
    return np.empty(size, np.float32)


@pytest.fixture(scope="module")
def arrays():
    return random_weights()


def run(stage, rows, channels):
    values = np.random.default_rng(0).standard_normal((rows, stage.source.width, channels), np.float32)
    with Team(1) as team:

        def once():
            stage.source.drop(stage.source.count)
            stage.source.add(stage.source.margin).fill(0)
            stage.source.add(rows).fill(values)
            stage.finish()
            ready = stage.ready()
            out = np.empty((ready * stage.width, stage.channels), np.float32)
            stage.put_out(Rows(out, np.arange(ready) * stage.width, stage.width), team)
            return out

        yield once


@pytest.mark.parametrize("layer", CONVOLUTIONS, ids=lambda layer: layer.name)
@pytest.mark.parametrize("algorithm", ["direct", "winograd"])
def test_convolution(benchmark, arrays, layer, algorithm):
    packed = PackedWeights(arrays, algorithm)
    width = WIDTHS[layer.name[4]]
    if packed.uses_winograd(layer):
        stage = WinogradConvolution(layer, packed, width, 0.0, False, fresh, 896)
    else:
        stage = DirectConvolution(layer, packed, width, 0.0, fresh)
    for once in run(stage, ROWS, layer.in_channels):
        benchmark(once)


@pytest.mark.parametrize("layer", [layer for layer in LAYERS if "pool" in layer.name], ids=lambda la: la.name)
def test_pooling(benchmark, layer):
    for once in run(Pooling(layer, WIDTHS[layer.name[4]], fresh), ROWS, layer.in_channels):
        benchmark(once)


@pytest.fixture(scope="module")
def cells():
    random = np.random.default_rng(0)
    return np.maximum(random.standard_normal((119, 159, 512), np.float32), 0)


def test_detection_and_localisation(benchmark, cells):
    free = np.zeros(cells.shape[:2], bool)
    with Team(1) as team:
        rows = MapRows(cells, 0, len(cells))
        benchmark(lambda: hard_detection(rows, free.copy(), 0, len(cells), team))


def test_descriptors(benchmark, cells):
    positions = (np.random.default_rng(0).random((2000, 2)) * (118, 158)).astype(np.float32)
    with Team(1) as team:
        benchmark(descriptors, MapRows(cells, 0, len(cells)), positions, team, relu=False)


def test_strength(benchmark, cells):
    with Team(1) as team:
        benchmark(strength, cells, team)


def test_strongest(benchmark):
    benchmark(strongest, np.random.default_rng(0).random(100_000, np.float32), 1000)


def test_resize(benchmark, cells):
    with Team(1) as team:
        read = reader(lambda first, last: cells[first:last], len(cells), Level(1, 2.0, 239, 319), team)
        benchmark(read, 0, 239)


@pytest.mark.parametrize("count", [500, 2000])
def test_match(benchmark, count):
    random = np.random.default_rng(0)
    a, b = (random.standard_normal((count, 512), np.float32) for _ in range(2))
    benchmark(matching.match, a, b, threads=1)
