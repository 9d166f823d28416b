"""The network as it flows in bands, against the naive forward pass over whole maps."""

import itertools
import tracemalloc
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2np import reference
from d2np.kernels.simd import BLOCKS
from d2np.layers import LAYERS, PARAMETER_COUNT, map_size
from d2np.network import bands, stages
from d2np.threads import Team


@pytest.fixture(scope="module")
def packed(weights_arrays):
    return {name: stages.PackedWeights(weights_arrays, name) for name in ["winograd", "direct"]}


def random_pixels(height, width, seed=0):
    return np.random.RandomState(seed).uniform(-120, 130, (height, width, 3)).astype(np.float32)


def feature_map(pixels, packed, *, relu=True, rows_at_a_time=None, threads=2):
    usual = bands.band_height
    rows, columns = map_size(*pixels.shape[:2])
    whole = bands.RowBuffer(columns, 512, 0, straight=True, dense=True)
    with (
        Team(threads) as team,
        mock.patch.object(bands, "band_height", lambda *of: rows_at_a_time or usual(*of)),
    ):
        made = stages.stages(packed, pixels.shape[1], team.workspace, relu=relu)
        done = [
            *bands.flow(
                lambda first, last: pixels[first:last], len(pixels), made, whole, team,
            )
        ]  # fmt: skip
    assert done == sorted(set(done))
    assert done[-1] == rows
    return whole.held()


EVERY_ALGORITHM = pytest.mark.parametrize("algorithm", ["winograd", "direct"])


@EVERY_ALGORITHM
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("size", [(8, 8), (8, 9), (9, 31), (23, 8), (33, 50), (47, 41)])
def test_equals_the_reference(packed, weights_arrays, algorithm, size, relu):
    pixels = random_pixels(*size)
    expected = reference.feature_map(pixels.astype(np.float64), weights_arrays, relu)
    found = feature_map(pixels, packed[algorithm], relu=relu)
    assert found.dtype == np.float32
    assert found.shape == (*map_size(*size), 512)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * abs(expected).max())
    assert (found.min() < 0) != relu


@settings(deadline=None, max_examples=15, derandomize=True)
@given(
    height=st.integers(8, 70),
    width=st.integers(8, 40),
    algorithm=st.sampled_from(["winograd", "direct"]),
    rows_at_a_time=st.integers(1, 71),
    threads=st.sampled_from([1, 2, 5]),
)
def test_cuts_and_threads_change_no_bit(packed, height, width, algorithm, rows_at_a_time, threads):
    pixels = random_pixels(height, width)
    whole = feature_map(pixels, packed[algorithm], rows_at_a_time=height, threads=1)
    cut = feature_map(pixels, packed[algorithm], rows_at_a_time=rows_at_a_time, threads=threads)
    np.testing.assert_array_equal(cut, whole)


@EVERY_ALGORITHM
@pytest.mark.parametrize("rows_at_a_time", [1, 2, 3, 7, 8, 16, 101])
def test_every_band_height_gives_the_same_bits(packed, algorithm, rows_at_a_time):
    pixels = random_pixels(101, 26)
    expected = feature_map(pixels, packed[algorithm])
    found = feature_map(pixels, packed[algorithm], rows_at_a_time=rows_at_a_time)
    np.testing.assert_array_equal(found, expected)


@settings(deadline=None, max_examples=25, derandomize=True)
@given(
    height=st.integers(20, 120),
    width=st.integers(20, 60),
    band=st.integers(1, 130),
    waits=st.sampled_from([1, 40, 500]),
    threads=st.sampled_from([1, 2, 3]),
    detector=st.sampled_from(["d2", "strength"]),
    scales=st.sampled_from([(1.0,), (0.5, 1.0, 2.0)]),
    most=st.sampled_from([None, 7]),
)
def test_features_are_the_same_for_every_height_of_bands(
    net, make_image, height, width, band, waits, threads, detector, scales, most
):
    image = make_image(height, width, seed=height)
    options = {"detector": detector, "scales": scales, "max_keypoints": most}
    with pytest.MonkeyPatch.context() as patch:
        # All rows at once, and no layer waits for rows of its own.
        patch.setattr(bands, "band_height", lambda *_: 10_000)
        expected = net(image, threads=1, **options)
        patch.setattr(bands, "band_height", lambda *_: band)
        patch.setattr(stages, "tiles_at_a_time", lambda *_: waits)
        found = net(image, threads=threads, **options)
    for name in ("keypoints", "scores", "descriptors"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


@EVERY_ALGORITHM
@pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS)
def test_every_vector_width_gives_the_same_map(packed, weights_arrays, monkeypatch, algorithm, block):
    monkeypatch.setattr(stages, "host_block", lambda: block)
    forced = stages.PackedWeights(weights_arrays, algorithm)
    assert forced.block == block
    pixels = random_pixels(25, 30)
    found, expected = feature_map(pixels, forced), feature_map(pixels, packed[algorithm])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * abs(expected).max())


@EVERY_ALGORITHM
def test_memory_does_not_grow_with_the_height(packed, algorithm, monkeypatch):
    # An image as narrow as this one would otherwise be too low to fill the batches of the last layers.
    monkeypatch.setattr(stages, "tiles_at_a_time", lambda *_: 16)
    monkeypatch.setattr(bands, "band_height", lambda *_: 32)

    def most_memory(height):
        pixels = random_pixels(height, 24)
        window = bands.RowBuffer(map_size(height, 24)[1], 512, 0, straight=True, dense=True)
        with Team(1) as team:
            tracemalloc.start()
            made = stages.stages(packed[algorithm], 24, team.workspace, relu=True)
            for _ in bands.flow(
                lambda first, last: pixels[first:last], height, made, window, team,
            ):  # fmt: skip
                window.drop(window.count)
            _, most = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        return most

    low = most_memory(800)
    assert most_memory(1600) < 1.02 * low


@settings(deadline=None, max_examples=50, derandomize=True)
@given(tiles=st.integers(1, 2000), threads=st.integers(1, 16))
def test_threads_get_spans_of_tiles_that_fit_their_memory(packed, tiles, threads):
    layer = next(layer for layer in LAYERS if layer.name == "conv4_2")
    stage = stages.WinogradConvolution(
        layer, packed["winograd"], 80, 0.0, False, lambda size: np.empty(size, np.float32), 896
    )
    spans = stage._tasks(tiles, threads)
    assert [n for first, last in spans for n in range(first, last)] == list(range(tiles))
    assert max(last - first for first, last in spans) <= stage.most_tiles
    assert stage.most_tiles % stage.block.rows == 0


def test_weights_take_no_more_memory_than_asked(packed):
    held = sum(array.nbytes for array in packed["winograd"].weights.values())
    assert held + 4 * PARAMETER_COUNT < 260e6


def test_band_heights_suit_the_two_poolings():
    for width, threads in itertools.product((8, 100, 640, 1600, 100_000), (1, 2, 3, 16)):
        assert bands.band_height(width, threads) % 8 == 0
        assert bands.band_height(width, threads) >= 8
    assert bands.band_height(1600, 2) <= bands.band_height(640, 2)


def test_more_threads_get_more_at_a_time():
    assert bands.band_height(1600, 1) == bands.band_height(1600, 2) < bands.band_height(1600, 16)
    assert stages.tiles_at_a_time(1600, 1) == stages.tiles_at_a_time(1600, 2)
    assert stages.tiles_at_a_time(1600, 16) == 15 * stages.tiles_at_a_time(1600, 2)
    # Where a container has many cores and little memory, this must not fill it.
    assert bands.band_height(1600, 64) == bands.band_height(1600, 16)
    assert stages.tiles_at_a_time(1600, 64) == stages.tiles_at_a_time(1600, 16)
