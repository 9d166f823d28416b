import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2np.kernels import topk

# Few different values, so that there are many ties.
VALUES = st.lists(st.integers(-3, 3).map(float) | st.just(-np.inf), max_size=40)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(VALUES, st.integers(-1, 45))
def test_equals_the_reference(values, k):
    found = topk.strongest(np.array(values, np.float32), k)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, naive.strongest(values, k))


@pytest.mark.parametrize("k", [0, 1, 2, 999, 1000, 1001, np.iinfo(np.int64).max])
def test_many_different_values(k):
    values = np.random.RandomState(0).permutation(1000).astype(np.float32)
    np.testing.assert_array_equal(topk.strongest(values, k), np.argsort(-values)[:k])


def test_equal_values_keep_their_order():
    np.testing.assert_array_equal(topk.strongest(np.ones(9, np.float32), 4), [0, 1, 2, 3])
