import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2np import reference
from d2np.kernels import pool

UNTOUCHED = np.float32(12345)


def pooled(kernel, x, step, *, cut=0, start=2, margin=1, extra=1):
    """A pooling kernel on a whole map (H, W, C), in two spans; what it must not touch is checked.

    The rows of the input stand in memory from the last to the first.
    """
    height, width, channels = x.shape
    source = np.full((height, width + margin, channels + extra), np.nan, np.float32)
    source[::-1, :width, :channels] = x
    source_rows = np.arange(height)[::-1] * (width + margin)
    rows, columns = (height - 2) // step + 1, (width - 2) // step + 1
    target = np.full((start + rows * (columns + margin), channels + extra), UNTOUCHED)
    for span in ((0, cut), (cut, rows)):
        kernel(
            source.reshape(-1, channels + extra), np.ascontiguousarray(source_rows),
            target, start + np.arange(rows) * (columns + margin), columns, channels, *span,
        )  # fmt: skip
    written = np.zeros(target.shape, bool)
    written[start:].reshape(rows, columns + margin, -1)[:, :columns, :channels] = True
    assert (target[~written] == UNTOUCHED).all()
    return target[written].reshape(rows, columns, channels)


SIZES = {
    "height": st.integers(2, 9),
    "width": st.integers(2, 9),
    "channels": st.integers(1, 20),
    "cut": st.integers(0, 1),
    "seed": st.integers(0, 99),
}


@settings(deadline=None, max_examples=30, derandomize=True)
@given(**SIZES)
def test_max_pool_equals_the_reference(height, width, channels, cut, seed):
    x = np.random.RandomState(seed).standard_normal((height, width, channels)).astype(np.float32)
    np.testing.assert_array_equal(pooled(pool.max_pool, x, 2, cut=cut), reference.max_pool(x))


@settings(deadline=None, max_examples=30, derandomize=True)
@given(**SIZES)
def test_average_pool_equals_the_reference(height, width, channels, cut, seed):
    x = np.random.RandomState(seed).standard_normal((height, width, channels)).astype(np.float32)
    found = pooled(pool.average_pool, x, 1, cut=cut)
    np.testing.assert_allclose(found, reference.average_pool(x.astype(np.float64)), atol=1e-6)


def test_max_pool_of_negative_values():
    x = np.full((2, 2, 3), -7, np.float32)
    assert (pooled(pool.max_pool, x, 2) == -7).all()


@pytest.mark.parametrize("corner", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_every_corner_counts(corner):
    x = np.zeros((2, 2, 1), np.float32)
    x[corner] = 8
    assert pooled(pool.max_pool, x, 2) == 8
    assert pooled(pool.average_pool, x, 1) == 2


def test_relu_equals_the_reference():
    x = np.random.RandomState(0).standard_normal((7, 19)).astype(np.float32)
    x[2, 3] = -0.0
    expected = reference.relu(x)
    pool.relu(x)
    np.testing.assert_array_equal(x, expected)
    pool.relu(x[:0])  # nothing to do is no error
