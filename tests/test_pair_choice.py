"""Which pairs of many images are matched: the choices, and the options of ``d2np pairs`` for them."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from d2np.dataset.pair_choice import in_window, natural_order
from d2np.errors import OptionError

NAMES = [f"{k}.jpg" for k in range(12)]


def test_numbers_in_names_count_as_numbers():
    names = ["10.jpg", "2.jpg", "b/1.jpg", "a10b2", "a10b10", "a9", "02.jpg", "", "x²", "a/10/1", "a/9/2"]
    assert natural_order(names) == [
        *("", "02.jpg", "2.jpg", "10.jpg", "a9", "a10b2", "a10b10", "a/9/2", "a/10/1", "b/1.jpg", "x²")
    ]


@given(st.lists(st.text("019a/.-", max_size=6), unique=True))
def test_natural_order_has_each_name_once_wherever_it_was(names):
    assert natural_order(names) == natural_order(names[::-1])
    assert sorted(natural_order(names)) == sorted(names)


def steps(pairs):
    """How far apart the images of the pairs are."""
    return {NAMES.index(b) - NAMES.index(a) for a, b in pairs}


@pytest.mark.parametrize(
    ("window", "options", "expected"),
    [
        (1, {}, {1}),
        (3, {}, {1, 2, 3}),
        (100, {}, set(range(1, 12))),
        (1, {"quadratic": True}, {1}),
        (3, {"quadratic": True}, {1, 2, 3, 4}),
        (4, {"quadratic": True}, {1, 2, 3, 4, 8}),
        (1, {"loop": True}, {1, 11}),
        (2, {"loop": True}, {1, 2, 10, 11}),
    ],
)
def test_window(window, options, expected):
    pairs = in_window(NAMES, window, **options)
    assert steps(pairs) == expected
    assert pairs == sorted(set(pairs), key=lambda pair: [NAMES.index(name) for name in pair])
    if "loop" not in options:
        assert len(pairs) == sum(12 - step for step in expected)
    else:
        assert len(pairs) == 12 * window


@given(st.integers(0, 7), st.integers(1, 9), st.booleans())
def test_a_wide_window_makes_all_pairs(count, window, loop):
    names = NAMES[:count]
    pairs = in_window(names, window, quadratic=True, loop=loop)
    assert set(pairs) <= set(combinations(names, 2))
    if window >= count - 1:
        assert pairs == list(combinations(names, 2))


@pytest.mark.parametrize("window", [0, -1, 1.5, True])
def test_what_is_no_window(window):
    with pytest.raises(OptionError, match=r"^window must be a whole number from 1 up; got "):
        in_window(NAMES, window)
