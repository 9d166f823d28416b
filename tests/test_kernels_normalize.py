import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2np import reference
from d2np.kernels import normalize, processor
from d2np.kernels.simd import SUMS


def vectors(rows, channels, seed=0):
    return np.random.RandomState(seed).standard_normal((rows, channels)).astype(np.float32)


@settings(deadline=None, max_examples=30, derandomize=True)
@given(st.integers(0, 9), st.integers(1, 70), st.integers(0, 9), st.integers(0, 9), st.integers(0, 99))
def test_l2_normalize_equals_naive_in_its_rows_alone(rows, channels, first, last, seed):
    given_ = vectors(rows, channels, seed)
    first, last = sorted((min(first, rows), min(last, rows)))
    found = given_.copy()
    normalize.l2_normalize(found, first, last)
    expected = given_.astype(np.float64)
    expected[first:last] = reference.l2_normalize(expected[first:last])
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("size", [1e-18, 1e-6, 1, 1e12])
def test_l2_normalize_over_the_range_of_float32(size):
    found = (vectors(3, 512) * size).astype(np.float32)
    # Squares under the smallest float32 count as zero, and the length then as 1e-12.
    expected = reference.l2_normalize(found.astype(np.float64)) if size > 1e-12 else found / 1e-12
    normalize.l2_normalize(found, 0, 3)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-12)


def test_zeros_stay_zeros():
    found = np.zeros((2, 512), np.float32)
    normalize.l2_normalize(found, 0, 2)
    assert (found == 0).all()
    target = np.full(2, 5, np.float32)
    normalize.strength(found, found.max(axis=1), target)
    assert (target == 0).all()


@settings(deadline=None, max_examples=30, derandomize=True)
@given(st.integers(1, 9), st.integers(1, 70), st.booleans(), st.integers(0, 99))
def test_strength_equals_the_reference(rows, channels, negative, seed):
    cells = vectors(rows, channels, seed)
    if negative:
        cells = -abs(cells)
    target = np.full(rows, np.nan, np.float32)
    normalize.strength(cells, cells.max(axis=1), target)
    np.testing.assert_allclose(target, reference.strength(cells.astype(np.float64)), rtol=1e-6)


def test_norm_of_the_networks_length():
    cells = vectors(1, 512)
    assert normalize.squared_norm(cells[0]) == pytest.approx((cells.astype(np.float64) ** 2).sum(), rel=1e-6)


@pytest.mark.parametrize("rest", [0, 3])
def test_squares_are_added_in_one_order_on_every_processor(rest):
    vector = vectors(1, 512 + rest)[0]
    # Exact in double precision, and so rounded once, as by fused multiply-add.
    precision = np.float32 if processor.chosen() in ("avx", "sse") else np.float64
    sums = np.zeros(SUMS, np.float32)
    for values in vector[:512].reshape(-1, SUMS).astype(precision):
        sums = (values * values + sums).astype(np.float32)
    while len(sums) > 1:
        sums = sums[: len(sums) // 2] + sums[len(sums) // 2 :]
    for value in vector[512:]:
        sums += value * value
    assert normalize.squared_norm(vector) == sums[0]
