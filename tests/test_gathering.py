import itertools
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2np import Features
from d2np.network.scan import Gathering, in_blocks


def pieces_of(scores, cuts):
    count = len(scores)
    keypoints = np.column_stack([np.arange(count), np.zeros((count, 2))])
    whole = Features(keypoints, scores, np.zeros((count, 512)), (9, 7))
    bounds = [0, *sorted(min(cut, count) for cut in cuts), count]
    return whole, [whole.select(np.arange(a, b)) for a, b in itertools.pairwise(bounds)]


@settings(deadline=None, max_examples=60, derandomize=True)
@given(st.lists(st.integers(0, 5), max_size=30), st.lists(st.integers(0, 30), max_size=4), st.integers(0, 35))
def test_the_best_of_pieces_are_the_best_of_all(scores, cuts, most):
    whole, pieces = pieces_of(scores, cuts)
    gathering, everything = Gathering((9, 7), most), Gathering((9, 7))
    for piece in pieces:
        gathering.add(piece)
        everything.add(piece)
        assert len(gathering) <= most
    order = sorted(range(len(scores)), key=lambda n: (-scores[n], n))[:most]
    np.testing.assert_array_equal(gathering.features().keypoints[:, 0], order)
    np.testing.assert_array_equal(everything.features().keypoints, whole.keypoints)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(st.lists(st.integers(0, 9), max_size=8), st.integers(1, 12), st.sampled_from([None, 3]))
def test_levels_are_put_in_front(sizes, moved, most):
    whole, pieces = pieces_of(np.arange(sum(sizes)) // 3, np.cumsum(sizes)[:-1].tolist())
    gathering, expected = Gathering((9, 7), most), Gathering((9, 7), most)
    expected.add(whole)
    with mock.patch("d2np.network.scan._ROWS_MOVED", moved):
        for piece in reversed(pieces):
            gathering.prepend(piece)
    np.testing.assert_array_equal(gathering.features().scores, expected.features().scores)
    np.testing.assert_array_equal(gathering.features().keypoints, expected.features().keypoints)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(st.lists(st.integers(0, 9), max_size=8), st.integers(1, 12))
def test_small_pieces_are_joined(sizes, least):
    whole, pieces = pieces_of(np.arange(sum(sizes)), np.cumsum(sizes)[:-1].tolist())
    blocks = list(in_blocks(pieces, least))
    assert all(len(block) >= least for block in blocks[:-1])
    assert sum(map(len, blocks)) == len(whole)
    for name in ("keypoints", "scores", "descriptors"):
        joined = np.concatenate([getattr(block, name) for block in blocks])
        np.testing.assert_array_equal(joined, getattr(whole, name))


@pytest.mark.parametrize("most", [None, 3])
def test_nothing_comes(most):
    features = Gathering((640, 480), most).features()
    assert len(features) == 0
    assert features.image_size == (640, 480)
