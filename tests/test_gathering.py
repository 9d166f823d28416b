import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from d2np import Features
from d2np.network.scan import in_blocks, join


def pieces_of(sizes):
    count = sum(sizes)
    numbers = np.arange(count)
    keypoints = np.column_stack([numbers, np.zeros((count, 2))])
    whole = Features(keypoints, numbers, np.repeat(numbers[:, np.newaxis], 512, axis=1), (9, 7))
    bounds = np.cumsum([0, *sizes])
    return whole, [whole.select(np.arange(a, b)) for a, b in itertools.pairwise(bounds)]


def assert_same(found, expected):
    assert found.image_size == expected.image_size
    for name in ("keypoints", "scores", "descriptors"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


@settings(deadline=None, max_examples=30, derandomize=True)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=8), st.integers(1, 12))
def test_pieces_are_joined(sizes, least):
    whole, pieces = pieces_of(sizes)
    blocks = list(in_blocks(pieces, least))
    assert blocks
    assert all(len(block) >= least for block in blocks[:-1])
    assert_same(join(blocks), whole)
    assert_same(join(pieces), whole)
    assert pieces == blocks == []
