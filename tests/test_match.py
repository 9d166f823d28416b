import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import d2np
from d2np import reference


def unit(rows, depth=16, seed=0):
    vectors = np.random.RandomState(seed).standard_normal((rows, depth))
    return reference.l2_normalize(vectors).astype(np.float32)


def noisy(vectors, seed=1, size=0.15):
    return reference.l2_normalize(vectors + size * unit(*vectors.shape, seed=seed)).astype(np.float32)


def expected_matches(a, b, mutual, ratio, min_similarity):
    indices, similarities = reference.match(a.astype(np.float64), b, mutual=mutual, ratio=ratio)
    return indices if min_similarity is None else indices[similarities >= min_similarity]


@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    st.integers(1, 60),
    st.integers(1, 60),
    st.booleans(),
    st.none() | st.floats(0.5, 1),
    st.none() | st.floats(-1, 1),
    st.integers(0, 99),
)
def test_match_equals_the_reference(count_a, count_b, mutual, ratio, min_similarity, seed):
    a, b = unit(count_a, seed=seed), unit(count_b, seed=seed + 1)
    shared = min(count_a, count_b) // 2
    b[:shared] = noisy(a[:shared])
    options = {"mutual": mutual, "ratio": ratio, "min_similarity": min_similarity}
    found = d2np.match(a, b, **options)
    np.testing.assert_array_equal(found.indices, expected_matches(a, b, **options))
    np.testing.assert_allclose(
        found.similarities, (a[found.indices[:, 0]] * b[found.indices[:, 1]]).sum(1), atol=1e-6
    )


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_more_than_one_task(threads):
    """More rows than one task takes: partners are merged over tasks."""
    a = unit(2500)
    b = noisy(a)[np.random.RandomState(0).permutation(2500)[:1700]]
    found = d2np.match(a, b, threads=threads)
    np.testing.assert_array_equal(found.indices, expected_matches(a, b, True, None, None))
    one = d2np.match(a, b, threads=1)
    np.testing.assert_array_equal(found.similarities, one.similarities)
    pairs, first = d2np.nearest_pairs(a, b, 40, threads=threads), d2np.nearest_pairs(a, b, 40, threads=1)
    np.testing.assert_array_equal(pairs.indices, first.indices)
    np.testing.assert_array_equal(pairs.similarities, first.similarities)


@settings(deadline=None, max_examples=40, derandomize=True)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 1000), st.integers(0, 99))
def test_nearest_pairs_equal_the_reference(count_a, count_b, n, seed):
    # Small whole numbers, so that there are ties; they need not be unit vectors.
    rng = np.random.RandomState(seed)
    a, b = (rng.randint(-2, 3, (count, 5)).astype(np.float32) for count in (count_a, count_b))
    found = d2np.nearest_pairs(a, b, n)
    expected = naive.closest_pairs(a @ b.T, n)
    np.testing.assert_array_equal(found.indices, expected)
    np.testing.assert_array_equal(found.similarities, (a @ b.T)[tuple(expected.T)])


def test_of_equals_the_first_counts():
    a = np.repeat(unit(3), 2, axis=0)
    found = d2np.match(a, a)
    np.testing.assert_array_equal(found.indices, [[0, 0], [2, 2], [4, 4]])
    np.testing.assert_array_equal(d2np.match(a, a, mutual=False).indices[:, 1], [0, 0, 2, 2, 4, 4])


def test_identical_sets_match_themselves():
    a = unit(70, 512)
    found = d2np.match(a, a)
    np.testing.assert_array_equal(found.indices, np.stack([np.arange(70)] * 2, axis=1))
    np.testing.assert_allclose(found.similarities, 1, atol=1e-5)


def test_a_lone_neighbour_passes_the_ratio_test():
    assert len(d2np.match(unit(1), unit(1, seed=1), ratio=0.5)) == 1


def test_the_ratio_is_one_of_distances():
    a = np.array([[1, 0]], np.float32)
    near, far = np.radians(20), np.radians(40)
    b = np.array([[np.cos(near), np.sin(near)], [np.cos(far), np.sin(far)]], np.float32)
    ratio = np.sin(near / 2) / np.sin(far / 2)
    assert len(d2np.match(a, b, ratio=ratio + 1e-4, mutual=False)) == 1
    assert len(d2np.match(a, b, ratio=ratio - 1e-4, mutual=False)) == 0


def test_with_mutual_the_ratio_holds_in_both_directions():
    def at(*degrees):
        return np.array([(np.cos(angle), np.sin(angle)) for angle in np.radians(degrees)], np.float32)

    # The first of b is a clear choice, seen from a; but two of a are about as near to it.
    a, b = at(0, 11), at(5, 90)
    assert d2np.match(a, b, ratio=0.8, mutual=False).indices.tolist() == [[0, 0], [1, 0]]
    assert d2np.match(a, b).indices.tolist() == [[0, 0]]
    assert len(d2np.match(a, b, ratio=0.8)) == 0


@pytest.mark.parametrize(("rows_a", "rows_b"), [(0, 5), (5, 0), (0, 0)])
def test_nothing_to_match(rows_a, rows_b):
    a, b = np.ones((rows_a, 16), np.float32), np.ones((rows_b, 16), np.float32)
    for found in (d2np.match(a, b, ratio=0.9), d2np.nearest_pairs(a, b, 3)):
        assert found.indices.shape == (0, 2)
        assert found.similarities.shape == (0,)


def test_features_and_arrays_of_any_layout():
    a, b = unit(20, 512), unit(30, 512, seed=1)
    wanted = d2np.match(a, b)
    features = [d2np.Features(np.zeros((len(d), 3)), np.zeros(len(d)), d, (9, 9)) for d in (a, b)]
    read_only = a.copy()
    read_only.flags.writeable = False
    for left, right in (
        features,
        (np.asfortranarray(a), b[::-1][::-1]),
        (read_only, b),
        (a.astype(float), b.tolist()),
    ):
        found = d2np.match(left, right)
        np.testing.assert_array_equal(found.indices, wanted.indices)
        np.testing.assert_array_equal(found.similarities, wanted.similarities)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (unit(3, 16), unit(3, 17), "the same D"),
        (unit(3)[0], unit(3), "arrays"),
        (unit(3), unit(3)[0], "arrays"),
        (np.full((2, 16), np.nan), unit(3), "finite"),
        (unit(3), np.full((2, 16), np.inf), "finite"),
        ("words", unit(3), "numbers"),
    ],
)
def test_descriptors_that_do_not_fit(a, b, message):
    with pytest.raises(d2np.FormatError, match=message):
        d2np.match(a, b)
    with pytest.raises(d2np.FormatError, match=message):
        d2np.nearest_pairs(a, b, 2)


@pytest.mark.parametrize("ratio", [0, -0.5, 1.01, np.nan])
def test_senseless_ratios(ratio):
    with pytest.raises(d2np.OptionError, match="ratio"):
        d2np.match(unit(3), unit(3), ratio=ratio)


@pytest.mark.parametrize("n", [-1, 1.5, True, "2", None])
def test_senseless_numbers_of_pairs(n):
    with pytest.raises(d2np.OptionError, match="n must be"):
        d2np.nearest_pairs(unit(3), unit(3), n)


@pytest.mark.parametrize("options", [{"ratio": "a"}, {"min_similarity": "x"}, {"min_similarity": np.nan}])
def test_options_that_are_no_numbers(options):
    with pytest.raises(d2np.OptionError, match=next(iter(options))):
        d2np.match(np.eye(3), np.eye(3), **options)
