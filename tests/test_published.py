"""The figures of the published code, see reference/README.md.

With the trained weights in full precision: with_trained/test_trained.py.
"""

import naive
import numpy as np
import pytest
from published import MODES, assert_dense, assert_features

import d2np
from d2np import reference

IMAGES = ("shared_0", "shared_1", "shared_2")
TRAINED = ("trained_0", "trained_1", "trained_2")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", IMAGES)
def test_features(net, output, name, mode):
    assert_features(net, output(name), mode)


@pytest.mark.parametrize("name", IMAGES)
def test_dense(net, output, name):
    assert_dense(net, output(name), 1e-4)


# The packaged weights are float16: what the rounding changes is small, and nothing else changes.
@pytest.mark.parametrize("name", TRAINED)
def test_dense_with_trained_weights_rounded_to_half(trained, output, name):
    assert_dense(trained, output(name), 5e-4)


@pytest.mark.parametrize("name", TRAINED)
def test_features_with_trained_weights_rounded_to_half(trained, output, name):
    expected = output(name)
    found = trained(expected["image"])
    keypoints = expected["ss_keypoints"]
    pairs = naive.pair_up(found.keypoints, keypoints, tolerance=0.1)
    assert max(len(found), len(keypoints)) - len(pairs) <= len(keypoints) / 100
    a, b = pairs.T
    np.testing.assert_allclose(found.scores[a], expected["ss_scores"][b], rtol=5e-3)
    published = reference.l2_normalize(expected["ss_descriptors"].astype(np.float64))
    assert ((found.descriptors[a] * published[b]).sum(1) >= 0.9999).all()


# Rounding


@pytest.mark.parametrize("algorithm", ["winograd", "direct"])
@pytest.mark.parametrize("weights", ["random", "vgg16", "d2np"])
def test_maps_are_close_to_those_in_double_precision(weights_arrays, output, weights, algorithm):
    net = d2np.Net.load(weights, algorithm=algorithm) if weights != "random" else None
    net = net or d2np.Net(weights_arrays, algorithm=algorithm)
    image = output("trained_0")["image"][:120, :150]
    pixels = reference.preprocess(image.astype(np.float64))
    expected = reference.feature_map(pixels, {name: a.astype(float) for name, a in net.arrays.items()})
    assert expected.dtype == np.float64
    np.testing.assert_allclose(net.dense(image), expected, rtol=0, atol=5e-6 * expected.max())


# Saturated areas


def texture(height, width, seed=0):
    """Squares of 6 px of random colours."""
    colours = np.random.RandomState(seed).randint(0, 256, (-(-height // 6), -(-width // 6), 3))
    return np.kron(colours, np.ones((6, 6, 1)))[:height, :width].astype(np.uint8)


def saturated(name):
    image = np.full((150, 200, 3), 0 if name == "black border" else 255, np.uint8)
    if name == "white sky":
        image[90:] = texture(60, 200)
    elif name in ("page", "black border"):
        image[50:110, 60:150] = texture(60, 90)
    return image


@pytest.mark.parametrize("scales", [(1.0,), MODES["ms"]["scales"]], ids=["one scale", "three scales"])
@pytest.mark.parametrize("name", ["white", "white sky", "page", "black border"])
def test_saturated_areas(trained, name, scales):
    """Both algorithms find the same keypoints, and none where the image has one colour."""
    image = saturated(name)
    found = trained(image, scales=scales)
    direct = d2np.Net(trained.arrays, algorithm="direct")(image, scales=scales)
    pairs = naive.pair_up(found.keypoints, direct.keypoints)
    assert max(len(found), len(direct)) - len(pairs) <= len(direct) / 200
    # Further from any texture, and from the zeros around the image, than the network sees.
    changes = np.pad((image != image[0, 0]).any(2), 1, constant_values=True)
    reach = int(48 / min(scales))
    for x, y in np.rint(found.keypoints[:, :2]).astype(int):
        assert changes[max(y - reach, 0) : y + reach + 3, max(x - reach, 0) : x + reach + 3].any()


def test_strength(net, output):
    expected = output("shared_strength")
    strength = net.strength(expected["image"])
    assert strength.shape == (55, 55)
    assert net.dense(expected["image"]).shape == (55, 55, 512)
    np.testing.assert_allclose(strength, expected["strength"], rtol=1e-4)


def test_strongest_cells_in_order(net, output):
    expected = output("shared_strength")
    found = net(expected["image"], detector="strength", max_keypoints=50)
    columns, rows = np.rint((found.keypoints[:, :2].T - 1.5) / 4).astype(int)
    np.testing.assert_array_equal(rows * 55 + columns, expected["order"])
