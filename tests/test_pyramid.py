import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import d2np
from d2np import pyramid
from d2np.detect import Candidates
from d2np.threads import Team


@pytest.fixture
def team():
    with Team(2) as team:
        yield team


def test_levels_from_coarse_to_fine_with_truncated_sizes():
    found = pyramid.levels(97, 131, (2, 0.5, 1))
    assert [(level.number, level.scale, level.height, level.width) for level in found] == [
        (1, 0.5, 48, 65),
        (2, 1, 97, 131),
        (3, 2, 194, 262),
    ]


@pytest.mark.parametrize(
    "scales", [(), (0,), (-1,), (1, 1), (np.nan,), (np.inf,), "ab", 0.5, None, (1, None), [[1], [2]]]
)
def test_senseless_scales(scales):
    with pytest.raises(d2np.OptionError, match="scales"):
        pyramid.levels(100, 100, scales)


@pytest.mark.parametrize(
    ("height", "width", "scales", "message"),
    [
        (7, 8, (1,), "8 x 7 px at scale 1, and it needs 8 px"),
        (15, 40, (0.5, 1, 2), "20 x 7 px at scale 0.5.*leave that scale out"),
        (40, 15, (0.5,), "7 x 20 px at scale 0.5"),
    ],
)
def test_too_small(height, width, scales, message):
    with pytest.raises(d2np.ImageError, match=message):
        pyramid.levels(height, width, scales)


def test_just_large_enough():
    assert pyramid.levels(16, 40, (0.5, 1, 2))[0].height == 8
    assert pyramid.levels(8, 8, (1,))


SIDE = st.integers(1, 30)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(SIDE, SIDE, SIDE, SIDE, st.integers(0, 99))
def test_nearest_equals_naive(height, width, new_height, new_width, seed):
    flags = np.random.RandomState(seed).rand(height, width) < 0.5
    found = pyramid._nearest(flags, new_height, new_width)
    np.testing.assert_array_equal(found, naive.nearest_resize(flags, new_height, new_width))


def test_resized_equals_naive(team):
    pixels = np.random.RandomState(0).rand(31, 45, 3).astype(np.float32)
    assert pyramid.resized(pixels, 31, 45, team) is pixels
    found = pyramid.resized(pixels, 62, 90, team)
    np.testing.assert_allclose(found, naive.resize(pixels.astype(np.float64), 62, 90), atol=1e-5)


def climb(found_at, team):
    """Climb three levels whose maps hold 1, 10 and 100; a detector finds cell (0, 0) where told to."""
    values = iter([1, 10, 100])
    seen = []

    def forward(pixels, level):
        return np.full((pixels.shape[0] // 4 - 1, pixels.shape[1] // 4 - 1, 2), next(values), np.float32)

    def detector(cells, banned, team):
        seen.append(banned.copy())
        finds = found_at[len(seen) - 1]
        taken = np.zeros_like(banned)
        taken[:1, :1] = finds
        return Candidates(np.zeros((finds, 2), np.float32), np.ones(finds, np.float32), taken)

    steps = pyramid.levels(40, 48, (0.5, 1, 2))
    pixels = np.zeros((40, 48, 3), np.float32)
    sums = [cells[0, 0, 0] for _, cells, _ in pyramid.climb(pixels, steps, forward, detector, team)]
    return sums, seen


def test_maps_are_summed_and_cells_banned_from_level_to_level(team):
    sums, banned = climb([1, 1, 1], team)
    assert sums == [1, 11, 111]
    assert not banned[0].any()
    for coarse, fine in ((np.eye(4, 5, dtype=bool) & False, banned[1]), (banned[1], banned[2])):
        coarse = coarse.copy()
        coarse[0, 0] = True
        np.testing.assert_array_equal(fine, naive.nearest_resize(coarse, *fine.shape))
    assert banned[2].any()


def test_a_level_without_keypoints_hands_no_map_on(team):
    sums, _ = climb([1, 0, 1], team)
    assert sums == [1, 11, 100]
