import itertools
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2np import Features
from d2np.network.gathering import Gathering, Pile


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
@given(st.lists(st.integers(0, 9), max_size=8), st.integers(1, 12))
def test_a_pile_gives_back_what_came_in_order(sizes, block):
    whole, pieces = pieces_of(np.arange(sum(sizes)), np.cumsum(sizes)[:-1].tolist())
    with mock.patch("d2np.network.gathering._BLOCK", block):
        pile, gathering = Pile(), Gathering((9, 7))
        for piece in pieces:
            pile.add(piece)
        for found in pile.blocks():
            assert len(found) <= max([block, *sizes])
            gathering.add(found)
    features = gathering.features()
    np.testing.assert_array_equal(features.scores, whole.scores)
    np.testing.assert_array_equal(features.keypoints, whole.keypoints)
    assert list(pile.blocks()) == []


@pytest.mark.parametrize("most", [None, 3])
def test_nothing_comes(most):
    features = Gathering((640, 480), most).features()
    assert len(features) == 0
    assert features.image_size == (640, 480)
