import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2np import reference
from d2np.kernels import nearest
from d2np.kernels.simd import BLOCKS

EVERY_BLOCK = pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS)
BLOCK = st.sampled_from(list(BLOCKS.values()))
NOBODY = np.iinfo(np.int64).max


def padded(a, block):
    """With the rows that the kernel may read and must not use."""
    return np.concatenate([a, np.full((block.rows, a.shape[1]), np.nan, np.float32)])


def nothing(count):
    return np.full(count, -np.inf, np.float32), np.full(count, NOBODY), np.full(count, -np.inf, np.float32)


def two_best(a, b, block, cut=0):
    """Both directions, in two spans of ``a`` whose findings about ``b`` are merged."""
    kernel = nearest.kernel(block.lanes, block.rows)
    of_a, of_b = nothing(len(a)), nothing(len(b))
    for span in ((0, cut), (cut, len(a))):
        part = nothing(len(b))
        kernel(padded(a, block), nearest.pack(b, block), len(b), *of_a, *part, *span)
        nearest.merge(*of_b, *part)
    return of_a, of_b


def closest(a, b, n, block, cut=0):
    kernel = nearest.closest_kernel(block.lanes, block.rows)
    values, keys = np.full(n, -np.inf, np.float32), np.full(n, NOBODY)
    for span in ((0, cut), (cut, len(a))):
        kernel(padded(a, block), nearest.pack(b, block), len(b), values, keys, *span)
    order = np.lexsort((keys, -values))
    return np.stack(np.divmod(keys[order], len(b)), axis=1), values[order]


def whole_numbers(rows, depth, seed):
    """Products of small whole numbers are exact, and full of ties."""
    return np.random.RandomState(seed).randint(-2, 3, (rows, depth)).astype(np.float32)


@settings(deadline=None, max_examples=40, derandomize=True)
@given(
    BLOCK, st.integers(1, 40), st.integers(1, 70), st.integers(1, 6), st.integers(0, 40), st.integers(0, 99)
)
def test_two_best_equal_the_reference(block, count_a, count_b, depth, cut, seed):
    a, b = whole_numbers(count_a, depth, seed), whole_numbers(count_b, depth, seed + 1)
    of_a, of_b = two_best(a, b, block, min(cut, count_a))
    for found, expected in ((of_a, reference.two_best(a @ b.T)), (of_b, reference.two_best(b @ a.T))):
        for found_part, expected_part in zip(found, expected, strict=True):
            np.testing.assert_array_equal(found_part, expected_part)


@settings(deadline=None, max_examples=40, derandomize=True)
@given(
    BLOCK, st.integers(1, 20), st.integers(1, 40), st.integers(1, 60), st.integers(0, 20), st.integers(0, 99)
)
def test_closest_pairs_equal_the_reference(block, count_a, count_b, n, cut, seed):
    a, b = whole_numbers(count_a, 4, seed), whole_numbers(count_b, 4, seed + 1)
    n = min(n, count_a * count_b)
    pairs, values = closest(a, b, n, block, min(cut, count_a))
    expected = naive.closest_pairs(a @ b.T, n)
    np.testing.assert_array_equal(pairs, expected)
    np.testing.assert_array_equal(values, (a @ b.T)[tuple(expected.T)])


@EVERY_BLOCK
def test_real_descriptors(block):
    rng = np.random.RandomState(0)
    a, b = (reference.l2_normalize(rng.standard_normal((n, 512))).astype(np.float32) for n in (50, 83))
    products = a.astype(np.float64) @ b.T
    (best, index, second), _ = two_best(a, b, block)
    expected = reference.two_best(products)
    np.testing.assert_array_equal(index, expected[1])
    np.testing.assert_allclose(best, expected[0], atol=1e-6)
    np.testing.assert_allclose(second, expected[2], atol=1e-6)
    pairs, _ = closest(a, b, 30, block)
    np.testing.assert_array_equal(pairs, naive.closest_pairs(products, 30))


def test_a_lone_partner_has_no_runner_up():
    block = BLOCKS["sse"]
    (_, index, second), _ = two_best(whole_numbers(3, 4, 0), whole_numbers(1, 4, 1), block)
    assert (index == 0).all()
    assert (second == -np.inf).all()


def test_negative_products_beat_the_filling():
    """The filling of the last block has product 0, more than any real partner here."""
    block = BLOCKS["sse"]
    a, b = np.ones((3, 4), np.float32), -np.ones((5, 4), np.float32)
    (best, _, second), (back, _, _) = two_best(a, b, block)
    assert (best == -4).all()
    assert (second == -4).all()
    assert (back == -4).all()
    assert (closest(a, b, 15, block)[1] == -4).all()
