"""The figures of the published code, see reference/README.md."""

import math

import naive
import numpy as np
import pytest

PICTURES = ("shared_0", "shared_1", "shared_2")
MODES = {
    "ss": {},
    "ms": {"scales": (0.5, 1.0, 2.0)},
    "norelu": {"relu": False},
    "torchpre": {"preprocessing": "torch"},
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", PICTURES)
def test_features(net, reference, name, mode):
    expected = reference(name)
    keypoints = expected[f"{mode}_keypoints"]
    found = net(expected["image"], **MODES[mode])

    # On shared_1 one keypoint sits on a nearly flat summit, where the Newton step multiplies rounding:
    # float64 arithmetic itself lies 0.016 px from the published float32 figure. Hence the few left over.
    pairs = naive.pair_up(found.keypoints, keypoints, tolerance=1e-2)
    left_over = math.ceil(len(keypoints) / 200)
    assert len(keypoints) - len(pairs) <= left_over
    assert len(found) - len(pairs) <= left_over

    a, b = pairs.T
    x, y, scale = found.keypoints[a].T
    assert (np.lexsort((x, y, scale)) == np.arange(len(pairs))).all()
    np.testing.assert_allclose(found.scores[a], expected[f"{mode}_scores"][b], rtol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(found.descriptors, axis=1), 1, atol=1e-5)
    if f"{mode}_descriptors" in expected:
        published = naive.l2_normalize(expected[f"{mode}_descriptors"].astype(np.float64))
        assert ((found.descriptors[a] * published[b]).sum(1) >= 0.9999).all()


@pytest.mark.parametrize("name", PICTURES)
def test_dense(net, reference, name):
    expected = reference(name)
    dense = net.dense(expected["image"]).transpose(2, 0, 1)
    tolerance = 1e-4 * float(expected["dense_absmax"])
    assert dense.shape == tuple(expected["dense_shape"])
    np.testing.assert_allclose(dense[::16], expected["dense_slice"], rtol=0, atol=tolerance)
    np.testing.assert_allclose(np.abs(dense).max(), expected["dense_absmax"], rtol=1e-4)
    np.testing.assert_allclose(dense.mean((1, 2)), expected["dense_mean_per_channel"], rtol=0, atol=tolerance)


def test_strength(net, reference):
    expected = reference("shared_strength")
    strength = net.strength(expected["image"])
    assert strength.shape == (55, 55)
    assert net.dense(expected["image"]).shape == (55, 55, 512)
    np.testing.assert_allclose(strength, expected["strength"], rtol=1e-4)


def test_strongest_cells_in_order(net, reference):
    expected = reference("shared_strength")
    found = net(expected["image"], detector="strength", max_keypoints=50)
    columns, rows = np.rint((found.keypoints[:, :2].T - 1.5) / 4).astype(int)
    np.testing.assert_array_equal(rows * 55 + columns, expected["order"])
