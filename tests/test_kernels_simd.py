import numpy as np
import pytest

import d2np
from d2np.kernels import processor, simd
from d2np.kernels.compile import jit


@pytest.fixture
def fresh_choice():
    simd.host_block.cache_clear()
    yield
    simd.host_block.cache_clear()


@pytest.mark.parametrize("name", simd.BLOCKS)
def test_a_width_can_be_forced(fresh_choice, monkeypatch, name):
    monkeypatch.setenv("D2NP_SIMD", name)
    assert simd.host_block() == simd.BLOCKS[name]


def test_an_unknown_width_is_refused(fresh_choice, monkeypatch):
    monkeypatch.setenv("D2NP_SIMD", "mmx")
    with pytest.raises(d2np.OptionError, match="avx2"):
        simd.host_block()


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        (dict.fromkeys(processor.INSTRUCTIONS["avx512"], True), "avx512"),
        # As Knights Landing, which has some of AVX-512 only.
        ({"avx512f": True, "avx2": True, "fma": True}, "avx2"),
        ({"avx512f": False, "avx2": True, "fma": True}, "avx2"),
        ({"avx": True, "fma": False}, "avx"),
        ({"avx2": True, "fma": False}, "sse"),
        ({"neon": True}, "neon"),
        ({}, "sse"),
    ],
)
def test_the_choice_follows_the_processor(fresh_choice, monkeypatch, features, expected):
    monkeypatch.delenv("D2NP_SIMD", raising=False)
    monkeypatch.setattr(processor.binding, "get_host_cpu_features", lambda: features)
    monkeypatch.setattr(processor.binding, "get_default_triple", lambda: "x86_64-unknown-linux-gnu")
    assert simd.host_block() == simd.BLOCKS[expected]


def test_there_is_a_block_for_all_instructions():
    assert simd.BLOCKS.keys() == processor.INSTRUCTIONS.keys()


def test_blocks_divide_the_networks_channels():
    # Packing cuts the output channels of a layer, 64 at least, into whole blocks.
    assert all(64 % block.columns == 0 for block in simd.BLOCKS.values())
    assert all(np.log2(block.lanes).is_integer() for block in simd.BLOCKS.values())


def multiply_kernel(lanes, rows, steps):
    @jit()
    def multiply(a, a_start, a_step, depth, b, c, c_start, c_step, add):
        simd.multiply_block(
            a, a_start, a_step, depth, b, 0, 0, c, c_start, c_step, add, lanes, rows, steps
        )  # fmt: skip

    return multiply


NEON = simd.BLOCKS["neon"]
ROWS = [NEON.rows, simd.short_rows(NEON.rows)]
MULTIPLY = {
    (rows, steps): multiply_kernel(NEON.lanes, rows, steps) for rows in ROWS for steps in (1, NEON.steps)
}


@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("depth", [*range(1, 21), 27, 32, 33, 64, 127, 128])
def test_by_element_the_sums_are_the_same(depth, rows, add):
    rng = np.random.RandomState(depth)
    # What is not of the block is NaN, so that a sum with any of it is none.
    a = np.full((rows + 2, depth + 3), np.nan, np.float32)
    a[1:-1, 1 : 1 + depth] = rng.standard_normal((rows, depth))
    b = rng.standard_normal((depth, NEON.columns)).astype(np.float32)
    untouched = rng.standard_normal((rows + 2, NEON.columns + 2)).astype(np.float32)
    found, expected = untouched.copy(), untouched.copy()
    for steps, c in ((NEON.steps, found), (1, expected)):
        MULTIPLY[rows, steps](a, a.shape[1] + 1, a.shape[1], depth, b, c, c.shape[1] + 1, c.shape[1], add)
    np.testing.assert_array_equal(found, expected)
    exact = a[1:-1, 1 : 1 + depth].astype(np.float64) @ b + add * untouched[1:-1, 1:-1]
    np.testing.assert_allclose(found[1:-1, 1:-1], exact, atol=1e-5 * depth)
    found[1:-1, 1:-1] = untouched[1:-1, 1:-1]
    np.testing.assert_array_equal(found, untouched)
