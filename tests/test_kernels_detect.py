import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2np import reference
from d2np.kernels import detect as kernels

THRESHOLD = np.float32(5)


def detect(cells, banned=None, *, capacity=None, cut=0):
    """The kernel on a whole map, in two spans of rows."""
    height, width, channels = cells.shape
    banned = np.zeros((height, width), bool) if banned is None else banned
    capacity = height * width * channels if capacity is None else capacity
    blocked = banned.copy()
    parts = []
    for span in ((0, cut), (cut, height)):
        positions = np.full((capacity, 2), -1, np.float32)
        scores = np.full(capacity, -1, np.float32)
        # No other rows than those around the span.
        top = max(span[0] - 1, 0)
        rows = cells[top : span[1] + 1].copy()
        largest = cells[slice(*span)].max(axis=2)
        near = np.full((3, 3), np.nan, np.float32)
        count = kernels.detect(rows, top, height, largest, blocked, THRESHOLD, positions, scores, near, *span)
        parts.append((positions[:count], scores[:count]))
    return (*(np.concatenate(part) for part in zip(*parts, strict=True)), blocked & ~banned)


def assert_equals_naive(cells, banned, cut=0):
    expected = naive.detect(cells, banned)
    for found, wanted in zip(detect(cells, banned, cut=cut), expected[1:], strict=True):
        np.testing.assert_array_equal(found, wanted)
    return expected


@settings(deadline=None, max_examples=150, derandomize=True)
@given(
    st.integers(1, 8),
    st.integers(1, 8),
    st.integers(1, 4),
    st.integers(1, 6),
    st.floats(0, 0.5),
    st.integers(0, 8),
    st.integers(0, 10_000),
)
def test_whole_numbers_with_ties_equal_the_reference(height, width, channels, largest, share, cut, seed):
    """Small whole numbers: ties between channels and neighbours, flat places, steps of just half a cell."""
    rng = np.random.RandomState(seed)
    cells = rng.randint(-1, largest + 1, (height, width, channels)).astype(np.float32)
    assert_equals_naive(cells, rng.rand(height, width) < share, min(cut, height))


@pytest.mark.parametrize("seed", range(5))
def test_smooth_maps_equal_the_reference(seed):
    rng = np.random.RandomState(seed)
    cells = reference.resize(rng.standard_normal((6, 7, 18)), 23, 29).astype(np.float32)
    places, positions, *_ = assert_equals_naive(cells, rng.rand(23, 29) < 0.1, 11)
    # Otherwise this test would say nothing.
    assert len(places) > 5
    assert (positions % 1 != 0).any()


def test_a_peak_is_found_at_its_place():
    y, x = np.mgrid[:9, :9]
    cells = np.zeros((9, 9, 3), np.float32)
    cells[:, :, 1] = 100 - (y - 4.2) ** 2 - (x - 3.7) ** 2
    positions, scores, taken = detect(cells)
    # One Newton step finds the peak of a parabola.
    np.testing.assert_allclose(positions, [[4.2, 3.7]], atol=1e-4)
    assert scores[0] == cells[4, 4, 1]
    assert taken.sum() == taken[4, 4] == 1


@pytest.mark.parametrize(("stretch", "found"), [(1, True), (4.9, True), (5.1, False), (20, False)])
def test_the_edge_test(stretch, found):
    """Principal curvatures of a ratio above 5 make an edge."""
    y, x = np.mgrid[:9, :9]
    cells = (1000 - stretch * (y - 4) ** 2 - (x - 4.0) ** 2).astype(np.float32)[:, :, np.newaxis]
    assert len(detect(cells)[0]) == found


def test_flat_maps_have_a_detection_only_where_zeros_outside_bend_them():
    flat = np.ones((5, 6, 2), np.float32)
    positions, _, taken = detect(flat)
    # In the corners both second differences see a zero, but the step towards the inside is half a cell.
    assert {tuple(place[:2]) for place in np.argwhere(taken)} == {(0, 0), (0, 5), (4, 0), (4, 5)}
    assert len(positions) == len(naive.detect(flat, np.zeros((5, 6), bool))[0])
    assert len(detect(np.zeros((5, 6, 2), np.float32))[0]) == 0


@settings(deadline=None, max_examples=50, derandomize=True)
@given(st.floats(-30, 30), st.integers(0, 10_000))
def test_rounding_of_a_flat_map_is_no_keypoint(exponent, seed):
    """Neither in the map nor along its borders, whatever the size of the values; nor does it block a cell."""
    rng = np.random.RandomState(seed)
    cells = (2.0**exponent * (1 + 2e-5 * rng.rand(9, 11, 3))).astype(np.float32)
    positions, _, taken = detect(cells)
    assert len(positions) == 0
    corners = {(0, 0), (0, 10), (8, 0), (8, 10)}
    assert {(i, j) for i, j in np.argwhere(taken)} <= corners
    assert_equals_naive(cells, np.zeros((9, 11), bool), 4)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("curvature", "found"), [(9e-3, True), (1.5e-4, True), (0.5e-4, False)])
def test_a_keypoint_needs_curvature_in_both_directions(curvature, found, sign):
    y, x = np.mgrid[:9, :9] - 4
    # Second differences of the given share of the value; without ReLU, values may be negative.
    for stretch in ((1, 1), (1, 4), (4, 1)):
        bend = curvature / 2 * (stretch[0] * y**2 + stretch[1] * x**2)
        cells = (1000 * (sign - bend)).astype(np.float32)[:, :, np.newaxis]
        assert len(detect(cells)[0]) == found
        assert detect(cells)[2][4, 4] == found


def test_a_neighbour_that_is_higher_by_rounding_is_tied():
    """The corner of a plateau: which of its cells is the highest must not depend on rounding."""
    cells = np.zeros((5, 5, 1), np.float32)
    cells[1:4, 1:4, 0] = [[195.7, 195.7, 195.3], [197.3, 197.3, 196.9], [197.3, 197.3, 196.9]]
    expected = detect(cells)
    assert expected[2][2, 2]
    cells[2, 1] += np.float32(3e-5)
    found = detect(cells)
    np.testing.assert_allclose(found[0], expected[0], atol=1e-4)
    cells[2, 1] += np.float32(0.01)
    assert not detect(cells)[2][2, 2]


def test_a_single_cell():
    positions, scores, _ = detect(np.array([[[1, 3, 2]]], np.float32))
    np.testing.assert_array_equal(positions, [[0, 0]])
    np.testing.assert_array_equal(scores, [3])


def test_banned_cells_hold_nothing_and_hide_nothing():
    cells = reference.resize(np.random.RandomState(3).standard_normal((5, 5, 4)), 17, 17).astype(np.float32)
    positions, *_ = detect(cells)
    banned = np.zeros((17, 17), bool)
    banned[tuple(positions[0].round().astype(int))] = True
    left, _, taken = detect(cells, banned)
    np.testing.assert_array_equal(left, positions[1:])
    assert not taken[banned].any()


def test_what_exceeds_the_capacity_is_counted_and_not_written():
    cells = reference.resize(np.random.RandomState(3).standard_normal((5, 5, 4)), 17, 17).astype(np.float32)
    expected, *_ = detect(cells)
    assert len(expected) > 3
    positions, scores = np.full((3, 2), -1, np.float32), np.empty(2, np.float32)
    largest, blocked = cells.max(axis=2), np.zeros((17, 17), bool)
    near = np.empty((3, 3), np.float32)
    count = kernels.detect(cells, 0, 17, largest, blocked, THRESHOLD, positions[:2], scores, near, 0, 17)
    assert count == len(expected)
    np.testing.assert_array_equal(positions, [*expected[:2], [-1, -1]])
