import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import d2np
from d2np.features import evenly, strongest


def features(n=4):
    rng = np.random.RandomState(0)
    return d2np.Features(rng.rand(n, 3), rng.rand(n), rng.rand(n, 512), (640, 480))


def test_types_and_length():
    found = features()
    assert len(found) == 4
    assert found.keypoints.dtype == found.scores.dtype == found.descriptors.dtype == np.float32
    assert found.image_size == (640, 480)
    assert "4 keypoints" in repr(found)
    assert "640 x 480" in repr(found)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ((np.zeros((4, 2)), np.zeros(4), np.zeros((4, 512)), (1, 1)), "keypoints must have shape"),
        ((np.zeros(3), np.zeros(4), np.zeros((4, 512)), (1, 1)), "keypoints must have shape"),
        ((np.zeros((4, 3)), np.zeros(5), np.zeros((4, 512)), (1, 1)), "scores must have shape"),
        ((np.zeros((4, 3)), np.zeros((4, 1)), np.zeros((4, 512)), (1, 1)), "scores must have shape"),
        ((np.zeros((4, 3)), np.zeros(4), np.zeros((512, 4)), (1, 1)), "descriptors must have shape"),
        ((np.zeros((4, 3)), np.zeros(4), np.zeros((3, 512)), (1, 1)), "descriptors must have shape"),
        ((np.zeros((4, 3)), np.zeros(4), np.zeros((4, 512)), 640), "image_size"),
        ((np.zeros((4, 3)), np.zeros(4), np.zeros((4, 512)), (1, 2, 3)), "image_size"),
        (([["a"] * 3], np.zeros(1), np.zeros((1, 512)), (1, 1)), "keypoints must be float32"),
    ],
)
def test_features_that_do_not_fit(arrays, message):
    with pytest.raises(d2np.FormatError, match=message):
        d2np.Features(*arrays)


@pytest.mark.parametrize("which", [[2, 0], np.array([2, 0], np.uint8), [-2, 0]])
def test_select_by_index(which):
    whole = features()
    chosen = whole.select(which)
    np.testing.assert_array_equal(chosen.keypoints, whole.keypoints[[2, 0]])
    np.testing.assert_array_equal(chosen.scores, whole.scores[[2, 0]])
    np.testing.assert_array_equal(chosen.descriptors, whole.descriptors[[2, 0]])
    assert chosen.image_size == whole.image_size


def test_select_by_mask_and_nothing():
    whole = features()
    np.testing.assert_array_equal(whole.select(whole.scores > 0.6).scores, whole.scores[whole.scores > 0.6])
    assert len(whole.select([])) == 0
    assert len(whole.select(np.zeros(4, bool))) == 0


@pytest.mark.parametrize("which", [[4], [-5], [0.5], [[0, 1]], [True], np.zeros(5, bool), "0", 3])
def test_select_of_what_is_not_there(which):
    with pytest.raises(d2np.FormatError, match="select"):
        features().select(which)


def test_matches():
    found = d2np.Matches([[0, 1], [2, 3]], [0.5, 1])
    assert len(found) == 2
    assert found.indices.dtype == np.int64
    assert found.similarities.dtype == np.float32
    assert "2 pairs" in repr(found)
    assert len(d2np.Matches(np.empty((0, 2)), [])) == 0


@pytest.mark.parametrize(
    ("indices", "similarities", "message"),
    [
        ([[0, 1, 2]], [1], "match indices must have shape"),
        ([0, 1], [1, 1], "match indices must have shape"),
        ([[0.5, 1]], [1], "must be int64"),
        ([[0, 1]], [1, 2], "similarities must have shape"),
        ([[0, 1]], ["a"], "similarities must be float32"),
    ],
)
def test_matches_that_do_not_fit(indices, similarities, message):
    with pytest.raises(d2np.FormatError, match=message):
        d2np.Matches(indices, similarities)


def verified():
    return d2np.Matches([[0, 1], [2, 3], [4, 5]], [0.5, 1, 0.7], [True, False, True], np.eye(3))


def test_verified_matches():
    found = verified()
    assert found.inliers.dtype == bool
    assert found.model.dtype == np.float64
    assert "3 pairs, 2 of them inliers" in repr(found)
    assert d2np.Matches([[0, 1]], [1]).inliers is None
    assert d2np.Matches([[0, 1]], [1]).model is None
    assert len(d2np.Matches(np.empty((0, 2)), [], []).inliers) == 0


@pytest.mark.parametrize("which", [[2, 0], np.array([2, 0], np.uint8), [-1, -3]])
def test_select_of_matches_keeps_all_in_step(which):
    chosen = verified().select(which)
    np.testing.assert_array_equal(chosen.indices, [[4, 5], [0, 1]])
    np.testing.assert_array_equal(chosen.similarities, np.float32([0.7, 0.5]))
    np.testing.assert_array_equal(chosen.inliers, [True, True])
    np.testing.assert_array_equal(chosen.model, np.eye(3))
    assert d2np.Matches([[0, 1]], [1]).select([0]).inliers is None


def test_select_of_inliers_and_of_nothing():
    found = verified()
    np.testing.assert_array_equal(found.select(found.inliers).indices, [[0, 1], [4, 5]])
    np.testing.assert_array_equal(found.select(~found.inliers).indices, [[2, 3]])
    assert len(found.select([])) == 0


@pytest.mark.parametrize("which", [[3], [-4], [0.5], [[0, 1]], [True], np.zeros(4, bool), "0", 3])
def test_select_of_matches_that_are_not_there(which):
    with pytest.raises(d2np.FormatError, match="select"):
        verified().select(which)


@pytest.mark.parametrize(
    ("inliers", "model", "message"),
    [
        ([True], None, "inliers must have shape"),
        ([0, 1], None, "inliers must be bool"),
        ([[True, False]], None, "inliers must have shape"),
        ([True, False], np.eye(4), "model must have shape"),
        ([True, False], "abc", "model must be float64"),
    ],
)
def test_verified_matches_that_do_not_fit(inliers, model, message):
    with pytest.raises(d2np.FormatError, match=message):
        d2np.Matches([[0, 1], [2, 3]], [1, 1], inliers, model)


def test_every_error_is_one_of_ours_and_a_value_error():
    for error in (d2np.FormatError, d2np.ImageError, d2np.OptionError, d2np.WeightsError):
        assert issubclass(error, d2np.Error)
        assert issubclass(error, ValueError)


# Few different values, so that there are many ties.
VALUES = st.lists(st.integers(-3, 3).map(float) | st.just(-np.inf), max_size=40)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(VALUES, st.integers(0, 45))
def test_strongest_equals_the_reference(values, k):
    found = strongest(np.array(values, np.float32), k)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, naive.strongest(values, k))


@pytest.mark.parametrize("k", [0, 1, 2, 999, 1000, 1001, np.iinfo(np.int64).max])
def test_strongest_of_many_different_values(k):
    values = np.random.RandomState(0).permutation(1000).astype(np.float32)
    np.testing.assert_array_equal(strongest(values, k), np.argsort(-values)[:k])


def test_strongest_keeps_the_order_of_equals():
    np.testing.assert_array_equal(strongest(np.ones(9, np.float32), 4), [0, 1, 2, 3])


SIZE = (90, 40)


@st.composite
def scattered(draw):
    """Places, mostly in one corner, and values, of which many are equal."""
    count, seed = draw(st.integers(0, 150)), draw(st.integers(0, 99))
    rng = np.random.RandomState(seed)
    xy = (rng.rand(count, 2) ** draw(st.sampled_from([1, 3])) * (np.array(SIZE) - 1)).astype(np.float32)
    return xy, rng.randint(0, draw(st.sampled_from([2, 1000])), count).astype(np.float32)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(scattered(), st.integers(0, 160))
def test_the_best_of_each_cell(given, k):
    np.testing.assert_array_equal(evenly(*given, k, SIZE), naive.evenly(*given, k, SIZE))


@settings(deadline=None, max_examples=60, derandomize=True)
@given(scattered(), st.integers(0, 60), st.integers(0, 99), st.integers(0, 150))
def test_what_cannot_be_chosen_can_be_left_out_before(given, k, seed, cut):
    """Whatever parts the whole comes in."""
    xy, values = given
    expected = evenly(xy, values, k, SIZE)
    parts = np.split(np.arange(len(xy)), sorted([min(cut, len(xy)), min(2 * cut, len(xy))]))
    kept = np.concatenate([np.sort(part[evenly(xy[part], values[part], k, SIZE)]) for part in parts])
    np.testing.assert_array_equal(kept[evenly(xy[kept], values[kept], k, SIZE)], expected)
