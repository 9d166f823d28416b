import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2np import reference
from d2np.kernels import nearest
from d2np.kernels.simd import BLOCKS

EVERY_BLOCK = pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS)


def whole_numbers(rows, depth, seed):
    """Products of small whole numbers are exact, and full of ties."""
    return np.random.RandomState(seed).randint(-2, 3, (rows, depth)).astype(np.float32)


@EVERY_BLOCK
@settings(deadline=None, max_examples=10, derandomize=True)
@given(
    blocks=st.integers(1, 3),
    count_b=st.integers(1, 70),
    depth=st.integers(1, 6),
    seed=st.integers(0, 99),
)
def test_products_are_those_of_numpy(block, blocks, count_b, depth, seed):
    a, b = whole_numbers(blocks * block.rows, depth, seed), whole_numbers(count_b, depth, seed + 1)
    packed = nearest.pack(b, block)
    products = np.full((len(a), len(packed) * block.columns), np.nan, np.float32)
    nearest.kernel(block)(a, packed, products)
    np.testing.assert_array_equal(products[:, :count_b], a @ b.T)
    assert not products[:, count_b:].any()


@EVERY_BLOCK
def test_products_of_real_descriptors(block):
    rng = np.random.RandomState(0)
    a, b = (
        reference.l2_normalize(rng.standard_normal((n, 512))).astype(np.float32) for n in (block.rows, 83)
    )
    packed = nearest.pack(b, block)
    products = np.empty((len(a), len(packed) * block.columns), np.float32)
    nearest.kernel(block)(a, packed, products)
    np.testing.assert_allclose(products[:, :83], a.astype(np.float64) @ b.T, atol=1e-6)


@settings(deadline=None, max_examples=40, derandomize=True)
@given(st.integers(1, 40), st.integers(1, 70), st.integers(0, 99))
def test_two_best_equal_the_reference(rows, columns, seed):
    products = whole_numbers(rows, columns + 3, seed)
    best, second = np.full((2, columns), -np.inf, "f4")
    index = np.empty(columns, "i4")
    # In any order, as threads are done with them.
    for span in (slice(rows // 2, rows), slice(rows // 2)):
        nearest.two_best_of_columns(products[span], span.start or 0, best, index, second)
    expected = reference.two_best(products[:, :columns].T)
    for found, wanted in zip((best, index, second), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)
