import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2np import reference
from d2np.kernels import interpolate


def resized(source, height, width, *, cut=0, onto=None):
    target = np.full((height, width, source.shape[2]), np.nan, np.float32) if onto is None else onto.copy()
    for first, last in ((0, cut), (cut, height)):
        if first < last:
            # No other rows than those that are said to be needed.
            top, bottom = interpolate.rows_needed(len(source), height, first, last)
            rows, part = source[top:bottom].copy(), target[first:last].copy()
            interpolate.resize(rows, top, len(source), part, first, height, onto is not None, first, last)
            target[first:last] = part
    return target


def sampled(cells, positions, first=0, last=None):
    last = len(positions) if last is None else last
    target = np.full((len(positions), cells.shape[2]), 99, np.float32)
    valid = np.ones(len(positions), bool)
    places = np.array(positions, np.float32).reshape(-1, 2)
    interpolate.sample(cells, 0, len(cells), places, target, valid, first, last)
    return target, valid


def random_map(*shape, seed=0):
    return np.random.RandomState(seed).standard_normal(shape).astype(np.float32)


SIDE = st.integers(1, 12)


@settings(deadline=None, max_examples=40, derandomize=True)
@given(SIDE, SIDE, SIDE, SIDE, st.integers(1, 5), st.integers(0, 12), st.integers(0, 99))
def test_resize_equals_the_reference(height, width, new_height, new_width, channels, cut, seed):
    source = random_map(height, width, channels, seed=seed)
    expected = reference.resize(source.astype(np.float64), new_height, new_width)
    found = resized(source, new_height, new_width, cut=min(cut, new_height))
    np.testing.assert_allclose(found, expected, atol=3e-5)
    onto = random_map(new_height, new_width, channels, seed=seed + 1)
    np.testing.assert_allclose(resized(source, new_height, new_width, onto=onto), onto + expected, atol=3e-5)


def test_resize_to_the_same_size_changes_nothing():
    source = random_map(7, 5, 3)
    np.testing.assert_array_equal(resized(source, 7, 5), source)


def test_resize_keeps_the_corners():
    source = random_map(9, 14, 2)
    found = resized(source, 31, 40)
    for i in (0, -1):
        for j in (0, -1):
            np.testing.assert_allclose(found[i, j], source[i, j], atol=1e-5)


def test_resize_of_large_images_stays_inside():
    """(size - 1) / (size - 1) in float32, times a row number, may step a little over the last row."""
    source = random_map(1601, 3, 1)
    for height in (801, 1199, 1600, 2399, 3202):
        found = resized(source, height, 3)
        np.testing.assert_allclose(found, reference.resize(source.astype(np.float64), height, 3), atol=2e-3)


@settings(deadline=None, max_examples=40, derandomize=True)
@given(
    st.integers(1, 7),
    st.integers(1, 7),
    st.lists(st.tuples(st.floats(-2, 8, width=32), st.floats(-2, 8, width=32)), max_size=9),
    st.integers(0, 99),
)
def test_sample_equals_the_reference(height, width, positions, seed):
    cells = random_map(height, width, 6, seed=seed)
    values, valid = sampled(cells, positions)
    places = np.array(positions).reshape(-1, 2)
    expected, expected_valid = reference.sample(cells.astype(np.float64), places)
    np.testing.assert_array_equal(valid, expected_valid)
    np.testing.assert_allclose(values, expected, atol=2e-6)


def test_sample_from_some_rows_of_a_map():
    cells = random_map(9, 5, 3)
    positions = np.array([(4.5, 1.25), (5, 3), (6.75, 0.5), (3, 4)], np.float32)
    expected, _ = sampled(cells, positions)
    found, valid = np.empty_like(expected), np.empty(4, bool)
    interpolate.sample(cells[3:8].copy(), 3, 9, positions, found, valid, 0, 4)
    np.testing.assert_array_equal(found, expected)
    assert valid.all()


def test_sample_on_cells_is_the_cell():
    cells = random_map(4, 5, 3)
    positions = [(i, j) for i in range(4) for j in range(5)]
    values, valid = sampled(cells, positions)
    assert valid.all()
    np.testing.assert_array_equal(values.reshape(cells.shape), cells)


@pytest.mark.parametrize(
    ("position", "inside"),
    [
        ((0, 0), True),
        ((-0.0, 4), True),
        ((3, 4), True),
        ((np.nextafter(np.float32(0), np.float32(-1)), 0), False),
        ((np.nextafter(np.float32(3), np.float32(4)), 0), False),
        ((0, np.nextafter(np.float32(4), np.float32(5))), False),
        ((np.nan, 0), False),
        ((0, np.inf), False),
        ((-np.inf, 0), False),
    ],
)
def test_sample_at_the_border(position, inside):
    values, valid = sampled(random_map(4, 5, 3), [position])
    assert valid[0] == inside
    assert (values != 0).all() if inside else (values == 0).all()


def test_sample_writes_its_rows_alone():
    values, valid = sampled(random_map(4, 5, 3), [(9, 9)] * 4, 1, 3)
    np.testing.assert_array_equal(valid, [True, False, False, True])
    assert (values[[0, 3]] == 99).all()
    assert (values[1:3] == 0).all()
