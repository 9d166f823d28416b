import numpy as np
import pytest

import d2np
from d2np.kernels import processor, simd


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
