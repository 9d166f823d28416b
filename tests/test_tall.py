"""Images of any height, read from a file that is mapped and never held."""

import tracemalloc

import numpy as np
import pytest

import d2np
from d2np.network import stages

WIDTH = 160
UNBOUNDED = {"max_edge": None, "max_sum_edges": None}


@pytest.fixture(autouse=True)
def few_tiles(monkeypatch):
    """Layers wait for as few rows as in wide images: for narrow ones these images are not high."""
    monkeypatch.setattr(stages, "tiles_at_a_time", lambda *_: 240)


@pytest.fixture
def tall(tmp_path):
    """Makes a mapped image of noise that is so high."""

    def make(height):
        path = tmp_path / f"{height}.raw"
        noise = np.random.RandomState(0).randint(0, 256, (height, WIDTH, 3), np.uint8)
        noise.tofile(path)
        return np.memmap(path, np.uint8, "r", shape=noise.shape)

    return make


@pytest.mark.parametrize(("scales", "low"), [((1.0,), 1000), ((0.5, 1.0, 2.0), 900)])
def test_memory_does_not_grow_with_the_height(net, tall, scales, low):
    peaks, counts = [], []
    for height in (32, low, 2 * low):  # the first loads the kernels
        image = tall(height)
        net._idle.clear()
        tracemalloc.start()
        counts.append(sum(map(len, net.stream(image, scales=scales, threads=1, **UNBOUNDED))))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert counts[2] > 1.8 * counts[1] > 0
    assert peaks[2] < 1.05 * peaks[1]


def test_the_features_are_those_of_the_array(net, tall):
    image = tall(600)
    pieces = list(net.stream(image, **UNBOUNDED))
    whole = net(np.array(image), **UNBOUNDED)
    assert len(pieces) > 1
    np.testing.assert_array_equal(np.concatenate([piece.keypoints for piece in pieces]), whole.keypoints)
    np.testing.assert_array_equal(np.concatenate([piece.descriptors for piece in pieces]), whole.descriptors)
    assert isinstance(whole, d2np.Features)
