import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import d2np
from d2np import reference
from d2np.network import pyramid
from d2np.network.bands import RowBuffer
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
def test_nearest_equals_the_reference(height, width, new_height, new_width, seed):
    flags = np.random.RandomState(seed).rand(height, width) < 0.5
    rows, columns = pyramid._nearest(height, new_height), pyramid._nearest(width, new_width)
    np.testing.assert_array_equal(
        flags[np.ix_(rows, columns)], reference.resize_nearest(flags, new_height, new_width)
    )
    middle = new_height // 2
    np.testing.assert_array_equal(pyramid._nearest(height, new_height, middle, new_height), rows[middle:])


def test_a_reader_resizes_some_rows_at_a_time(team):
    pixels = np.random.RandomState(0).rand(31, 45, 3).astype(np.float32)
    asked = []

    def read(first, last):
        asked.append(last - first)
        return pixels[first:last]

    same = pyramid.reader(read, 31, pyramid.Level(1, 1.0, 31, 45), team)
    assert same is read
    twice = pyramid.reader(read, 31, pyramid.Level(2, 2.0, 62, 90), team)
    found = np.concatenate([twice(first, min(first + 7, 62)) for first in range(0, 62, 7)])
    np.testing.assert_allclose(found, reference.resize(pixels.astype(np.float64), 62, 90), atol=1e-5)
    assert max(asked) <= 6


HEIGHTS = {1: 4, 2: 9, 3: 19}
VALUES = {1: 1, 2: 10, 3: 100}


def climb(found_at, team, bands=3):
    """Climb three levels whose maps hold 1, 10 and 100.

    ``found_at`` gives for each level the row in which a detector finds something, or None. Returns the summed
    maps, what was banned, and the most rows held of each level.
    """
    sums = {number: [] for number in HEIGHTS}
    banned = {number: [] for number in HEIGHTS}
    most = dict.fromkeys(HEIGHTS, 0)
    windows = {}

    def flows(level):
        height, width = HEIGHTS[level.number], HEIGHTS[level.number] + 1
        window = windows[level.number] = RowBuffer(width, 2, 0, straight=True, dense=True)

        def rows():
            for first in range(0, height, bands):
                count = min(bands, height - first)
                window.add(count).fill(VALUES[level.number])
                most[level.number] = max(most[level.number], window.count)
                yield first + count

        return rows(), window, height

    def visit(rows, first, last, blocked, level):
        number = level.number
        assert rows.height == HEIGHTS[number]
        assert rows.top <= max(first - 1, 0)
        assert rows.top + len(rows.cells) >= min(last + 1, rows.height)
        banned[number].append(blocked[first:last].copy())
        sums[number].append(rows.between(first, last).copy())
        finds = found_at[number] is not None and first <= found_at[number] < last
        if finds:
            blocked[found_at[number], 0] = True
        return finds

    for _ in pyramid.climb(pyramid.levels(40, 48, (0.5, 1, 2)), flows, visit, team):
        pass
    whole = {number: np.concatenate(parts) for number, parts in sums.items()}
    assert {number: len(cells) for number, cells in whole.items()} == HEIGHTS
    return whole, {number: np.concatenate(parts) for number, parts in banned.items()}, most


def values(whole):
    return [np.unique(whole[number].round(3)).tolist() for number in sorted(whole)]


@pytest.mark.parametrize("bands", [1, 2, 3, 50])
def test_maps_are_summed_and_cells_banned_from_level_to_level(team, bands):
    whole, banned, _ = climb({1: 2, 2: 0, 3: 5}, team, bands)
    assert values(whole) == [[1], [11], [111]]
    assert not banned[1].any()
    taken = {1: (2, 0), 2: (0, 0)}
    for number in (1, 2):
        coarse = banned[number].copy()
        coarse[taken[number]] = True
        finer = banned[number + 1]
        np.testing.assert_array_equal(finer, reference.resize_nearest(coarse, *finer.shape))
        assert finer.any()


@pytest.mark.parametrize("bands", [1, 2, 50])
def test_a_level_without_keypoints_hands_no_map_on(team, bands):
    whole, banned, _ = climb({1: 3, 2: None, 3: 0}, team, bands)
    assert values(whole) == [[1], [11], [100]]
    assert banned[3].any()  # what it was told itself it hands on


def test_rows_are_kept_while_they_are_needed_and_no_longer(team):
    _, _, most = climb({1: 0, 2: 0, 3: 0}, team, 1)
    assert max(most.values()) <= 4
    # Nothing on the second level until its last row: the third waits, and the second's rows pile up.
    _, _, most = climb({1: 0, 2: 8, 3: 0}, team, 1)
    assert most[1] <= 4
    assert most[2] == HEIGHTS[2]
    assert most[3] <= 4
