"""Properties that hold for any image: shifts, scales, flat parts, order of arguments, masks, odd numbers.

That ``describe`` at a keypoint gives its descriptor, and that a mask changes nothing else, stands in
``test_net.py`` for many options.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import d2np

# Convolutions, poolings and the detector's 3 x 3 cells look so far, in pixels.
REACH = 56
LAYERS = ("conv1_1", "conv1_2", "conv2_1", "conv2_2", "conv3_1", "conv3_2", "conv3_3")
LAYERS += ("conv4_1", "conv4_2", "conv4_3")
SHIFTS = [(4, 0), (0, 4), (8, 4)]


def scaled(arrays, exponents):
    """Weights with each layer scaled by a power of two, and the biases so that the whole map is."""
    result, product = {}, np.float32(1)
    for layer, exponent in zip(LAYERS, exponents, strict=True):
        factor = np.float32(2) ** np.float32(exponent)
        product *= factor
        result[f"{layer}/weight"] = arrays[f"{layer}/weight"] * factor
        result[f"{layer}/bias"] = arrays[f"{layer}/bias"] * product
    return result


@pytest.fixture(scope="module")
def direct(weights_arrays):
    return d2np.Net(weights_arrays, algorithm="direct")


@pytest.fixture(scope="module")
def packaged():
    return d2np.Net.load("analytic")


# Shifts


@pytest.fixture(scope="module")
def scene(make_image):
    return make_image(224, 240, seed=3)


def inner(features, size, margin):
    """The keypoints that are at least so many pixels away from the frame."""
    x, y = features.keypoints[:, :2].T
    height, width = size
    inside = (x >= margin) & (x < width - margin) & (y >= margin) & (y < height - margin)
    return features.select(inside)


@pytest.mark.parametrize(("right", "down"), SHIFTS)
def test_a_shift_by_cells_shifts_keypoints(direct, scene, right, down):
    """A keypoint depends on the pixels around it alone, bit for bit; its position has fewer digits
    further from the corner, and its descriptor is sampled there."""
    height, width = scene.shape[0] - down, scene.shape[1] - right
    a = direct(scene[:height, :width])
    b = direct(scene[down:, right:])
    # Those of a that lie inside b too are REACH away from the frames of both.
    x, y = a.keypoints[:, :2].T
    inside_both = (x >= REACH + right) & (y >= REACH + down) & (x < width - REACH) & (y < height - REACH)
    expected = a.select(inside_both)
    x, y = b.keypoints[:, :2].T
    found = b.select((x >= REACH) & (y >= REACH) & (x < width - right - REACH) & (y < height - down - REACH))
    assert len(found) >= 3
    np.testing.assert_array_equal(found.scores, expected.scores)
    np.testing.assert_allclose(found.descriptors, expected.descriptors, atol=1e-5)
    moved = found.keypoints + np.array([right, down, 0], np.float32)
    np.testing.assert_allclose(moved, expected.keypoints, atol=1e-4)


@pytest.mark.parametrize(("right", "down"), SHIFTS)
def test_a_shift_by_cells_shifts_the_map(net, scene, right, down):
    """Winograd's tiles lie differently then, so there it holds up to rounding."""
    height, width = scene.shape[0] - down, scene.shape[1] - right
    a = net.dense(scene[:height, :width])
    b = net.dense(scene[down:, right:])
    cells = REACH // 4
    rows, columns = down // 4, right // 4
    expected = a[rows + cells : a.shape[0] - cells, columns + cells : a.shape[1] - cells]
    found = b[cells : b.shape[0] - rows - cells, cells : b.shape[1] - columns - cells]
    assert expected.size > 20 * 512
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * a.max())


# Flat images


@pytest.mark.parametrize("value", [0, 7, 128, 255])
def test_nothing_is_found_inside_a_flat_image(direct, value):
    """The zeros around an image look like an edge to a network; what lies further in cannot.

    With Winograd's method that holds for a map of zeros only: its rounding makes peaks of 1e-6 of others.
    """
    size = (144, 152)
    assert len(inner(direct(np.full((*size, 3), value, np.uint8)), size, 64)) == 0


@pytest.mark.parametrize("algorithm", ["winograd", "direct"])
@pytest.mark.parametrize("scales", [(1.0,), (0.5, 1.0, 2.0)])
@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (128, 128, 128), (255, 0, 0), (3, 90, 255)])
@pytest.mark.parametrize("size", [(144, 152), (101, 163)])
def test_a_flat_image_has_no_keypoints(packaged, size, colour, scales, algorithm):
    """With the analytic weights, which take out again what the zeros around an image make."""
    net = packaged if algorithm == "winograd" else d2np.Net(packaged.arrays, algorithm="direct")
    assert len(net(np.full((*size, 3), colour, np.uint8), scales=scales)) == 0


@settings(deadline=None, max_examples=15, derandomize=True)
@given(st.integers(8, 90), st.integers(8, 90), st.tuples(*3 * [st.integers(0, 255)]))
def test_no_flat_image_has_keypoints(packaged, height, width, colour):
    assert len(packaged(np.full((height, width, 3), colour, np.uint8))) == 0


# Scales of the weights


@pytest.mark.parametrize("algorithm", ["winograd", "direct"])
@pytest.mark.parametrize(
    "exponents",
    [
        (0, 0, 0, 0, 0, 0, 0, 0, 0, 10),
        (3, -1, 2, -4, 5, 0, -3, 1, 2, -2),
        (-2, -2, -2, -2, -2, 0, 0, 0, 0, 0),
    ],
)
def test_scaled_weights_scale_the_map(weights_arrays, image, algorithm, exponents):
    """By powers of two, which change no digit: the map scales, keypoints and descriptors stay."""
    plain = d2np.Net(weights_arrays, algorithm=algorithm)
    other = d2np.Net(scaled(weights_arrays, exponents), algorithm=algorithm)
    factor = np.float32(2) ** np.float32(sum(exponents))
    np.testing.assert_array_equal(other.dense(image), plain.dense(image) * factor)
    expected, found = plain(image), other(image)
    assert len(expected) > 3
    np.testing.assert_array_equal(found.keypoints, expected.keypoints)
    np.testing.assert_array_equal(found.scores, expected.scores * factor)
    np.testing.assert_allclose(found.descriptors, expected.descriptors, atol=1e-7)
    np.testing.assert_allclose(other.strength(image), plain.strength(image), atol=1e-7)


# Matches in both directions


def descriptors(count, seed, kind):
    rng = np.random.RandomState(seed)
    if kind == "whole numbers":  # with many equal products
        return rng.randint(-2, 3, (count, 6)).astype(np.float32)
    vectors = rng.standard_normal((count, 6))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    st.integers(0, 70),
    st.integers(0, 70),
    st.integers(0, 99),
    st.sampled_from(["unit vectors", "whole numbers"]),
    st.none() | st.floats(0.5, 1),
    st.none() | st.floats(-1, 1),
)
def test_matches_mirror_each_other(count_a, count_b, seed, kind, ratio, min_similarity):
    a, b = descriptors(count_a, seed, kind), descriptors(count_b, seed + 100, kind)
    options = {"ratio": ratio, "min_similarity": min_similarity}
    there, back = d2np.match(a, b, **options), d2np.match(b, a, **options)
    order = np.argsort(back.indices[:, 1], kind="stable")
    np.testing.assert_array_equal(there.indices, back.indices[order][:, ::-1])
    np.testing.assert_array_equal(there.similarities, back.similarities[order])


@settings(deadline=None, max_examples=30, derandomize=True)
@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 99), st.integers(0, 50))
def test_nearest_pairs_mirror_each_other(count_a, count_b, seed, n):
    a, b = descriptors(count_a, seed, "unit vectors"), descriptors(count_b, seed + 100, "unit vectors")
    there, back = d2np.nearest_pairs(a, b, n), d2np.nearest_pairs(b, a, n)
    np.testing.assert_array_equal(there.similarities, back.similarities)
    if len(np.unique(there.similarities)) == len(there):
        np.testing.assert_array_equal(there.indices, back.indices[:, ::-1])


# Masks


@pytest.fixture(scope="module", params=["d2", "strength"])
def unmasked(request, net, image):
    return request.param, net(image, detector=request.param)


@settings(deadline=None, max_examples=20, derandomize=True)
@given(
    st.integers(0, 60),
    st.integers(0, 82),
    st.integers(0, 61),
    st.integers(0, 83),
)
def test_a_mask_and_its_opposite_share_the_keypoints(net, image, unmasked, top, left, height, width):
    """Each keypoint is in one of both, as the pixel nearest to it says, and is the same there."""
    detector, whole = unmasked
    mask = np.zeros((61, 83), bool)
    mask[top : top + height, left : left + width] = True
    inside, outside = (net(image, detector=detector, mask=part) for part in (mask, ~mask))
    x, y = np.floor(whole.keypoints[:, :2].T + 0.5).astype(int)
    allowed = mask[np.clip(y, 0, 60), np.clip(x, 0, 82)]
    for found, expected in ((inside, whole.select(allowed)), (outside, whole.select(~allowed))):
        np.testing.assert_array_equal(found.keypoints, expected.keypoints)
        np.testing.assert_array_equal(found.scores, expected.scores)
        np.testing.assert_array_equal(found.descriptors, expected.descriptors)


# Odd numbers


def spots(value, background=0.0, dtype=np.float32):
    """A few pixels of one value."""
    image = np.full((40, 48, 3), background, dtype)
    image[::7, ::5] = value
    return image


IMAGES = {
    "zeros": np.zeros((40, 48)),
    "denormals and one pixel": spots(1e-42),
    "denormals in float64": spots(5e-324, dtype=np.float64),
    "half precision": spots(6e-8, dtype=np.float16),
    "all that is allowed": spots(510.0, -255.0),
    "the whole of uint16": spots(65535, dtype=np.uint16),
}
IMAGES["denormals and one pixel"][20, 20] = 255
IMAGES["denormals in float64"][20, 20] = 255
IMAGES["half precision"][20, 20] = 255


def assert_finite(net, image):
    for options in ({}, {"scales": (0.5, 1.0)}, {"detector": "strength"}, {"relu": False}):
        found = net(image, **options)
        for values in (found.keypoints, found.scores, found.descriptors):
            assert np.isfinite(values).all()
        described, _ = net.describe(image, found.keypoints)
        assert np.isfinite(described).all()
    assert np.isfinite(net.dense(image)).all()
    assert np.isfinite(net.strength(image)).all()


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("preprocessing", ["caffe", "torch"])
def test_odd_images_give_finite_numbers(net, packaged, name, preprocessing):
    image = IMAGES[name]
    for one in (net, packaged):
        assert_finite(one, image)
        assert np.isfinite(one.dense(image, preprocessing=preprocessing)).all()


@pytest.mark.parametrize("algorithm", ["winograd", "direct"])
@pytest.mark.parametrize("exponent", [-140, -120, -60, 60, 100])
def test_tiny_and_huge_maps_give_finite_numbers(weights_arrays, image, algorithm, exponent):
    """From maps of denormals to those whose squares are beyond float32."""
    exponents = [0] * 9 + [exponent]
    assert_finite(d2np.Net(scaled(weights_arrays, exponents), algorithm=algorithm), image)


@pytest.mark.parametrize("algorithm", ["winograd", "direct"])
@pytest.mark.parametrize(
    "exponents", [[0] * 9 + [126], [0] * 5 + [126, -126, 0, 0, 0]], ids=["the last layer", "a layer within"]
)
def test_a_map_beyond_float32_is_told(weights_arrays, image, algorithm, exponents):
    """Also where it is a layer within that overflows: what is not a number must not become 0 on its way."""
    net = d2np.Net(scaled(weights_arrays, exponents), algorithm=algorithm)
    for call in (
        lambda: net(image),
        lambda: net(image, scales=(0.5, 1.0)),
        lambda: net(image, max_keypoints=0),
        lambda: net(image, detector="strength", max_keypoints=5),
        lambda: list(net.stream(image)),
        lambda: net.strength(image),
        lambda: net.describe(image, [[30, 30]]),
        lambda: net.dense(image),
        lambda: net.dense(image, relu=False),
    ):
        with pytest.raises(d2np.WeightsError, match="beyond what float32 holds"):
            call()


@pytest.mark.parametrize("size", [0.0, 1e-45, 1e-20, 1.0, 1e17])
def test_descriptors_of_any_size_match(size):
    a = np.float32(size) * descriptors(9, 0, "unit vectors")
    for found in (d2np.match(a, a), d2np.match(a, a, ratio=0.9), d2np.nearest_pairs(a, a, 20)):
        assert np.isfinite(found.similarities).all()
        assert ((found.indices >= 0) & (found.indices < 9)).all()


@pytest.mark.parametrize("a", [[[1e30, 1e30]], [[-1e30, 0.0]]])
def test_descriptors_whose_products_overflow(a):
    b = [[1e30, -1e30], [1e30, 1.0]]
    for call in (d2np.match, lambda a, b: d2np.nearest_pairs(a, b, 2)):
        with pytest.raises(d2np.FormatError, match="L2-normalised"):
            call(a, b)
