import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2np import reference
from d2np.kernels import direct
from d2np.kernels.simd import BLOCKS, host_block

# Every shape is compiled on every machine: registers the processor lacks are made up by the compiler.
EVERY_BLOCK = pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS)
UNTOUCHED = np.float32(12345)


def convolve(x, weights, bias, *, block, dilation=1, relu=False, cuts=(), extra=0):
    """The kernel on a whole map (H, W, in), in spans that end at ``cuts``.

    Whatever the kernel may read but must not use is NaN; whatever it must not write is checked.
    """
    height, width, channels = x.shape
    columns, rows = width + dilation, height + 2 * dilation
    readable = rows * columns + dilation
    band = np.full((readable + block.rows + 2 * dilation, channels + extra), np.nan, np.float32)
    band[:readable, :channels] = 0
    inner = band[: rows * columns].reshape(rows, columns, -1)[dilation:-dilation, dilation:]
    inner[:, :, :channels] = x

    out_channels, start, stride = len(weights), 3, width + 2
    target = np.full((start + height * stride, out_channels + extra), UNTOUCHED)
    taps = direct.tap_offsets(columns, channels + extra, channels, dilation)
    kernel = direct.kernel(block)
    last = height * columns - dilation
    ends = [*sorted(cut % last for cut in cuts), last]
    for first, end in zip([0, *ends], ends):  # noqa: B905 - the last end begins no span
        kernel(
            band, taps, direct.pack(weights, block), bias, np.float32(0 if relu else -np.inf), columns,
            target, start + np.arange(height) * stride, width,
            *direct.scratch(block, channels, taps), first, end,
        )  # fmt: skip

    written = np.zeros(target.shape, bool)
    written[start:].reshape(height, stride, -1)[:, :width, :out_channels] = True
    assert (target[~written] == UNTOUCHED).all()
    return target[written].reshape(height, width, out_channels)


def example(height, width, in_channels, out_channels, seed=0):
    rng = np.random.RandomState(seed)
    return (
        rng.standard_normal((height, width, in_channels)).astype(np.float32),
        rng.standard_normal((out_channels, in_channels, 3, 3)).astype(np.float32),
        rng.standard_normal(out_channels).astype(np.float32),
    )


def expected_map(x, weights, bias, dilation=1, relu=False):
    result = reference.convolution(x.astype(np.float64), weights, bias, dilation)
    return reference.relu(result) if relu else result


@EVERY_BLOCK
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (2, 2), (7, 13), (3, 31)])
def test_equals_the_reference(block, size, dilation, relu):
    x, weights, bias = example(*size, 5, 2 * block.columns)
    found = convolve(x, weights, bias, block=block, dilation=dilation, relu=relu, extra=3)
    np.testing.assert_allclose(found, expected_map(x, weights, bias, dilation, relu), atol=2e-5)


@EVERY_BLOCK
@settings(deadline=None, max_examples=10, derandomize=True)
@given(
    height=st.integers(1, 9),
    width=st.integers(1, 40),
    in_channels=st.integers(1, 9),
    blocks=st.integers(1, 2),
    dilation=st.integers(1, 2),
    relu=st.booleans(),
    extra=st.integers(0, 2),
    cuts=st.lists(st.integers(0, 400), max_size=3),
    seed=st.integers(0, 99),
)
def test_any_size_and_any_cut(block, height, width, in_channels, blocks, dilation, relu, extra, cuts, seed):
    x, weights, bias = example(height, width, in_channels, blocks * block.columns, seed)
    options = {"block": block, "dilation": dilation, "relu": relu, "extra": extra}
    whole = convolve(x, weights, bias, **options)
    np.testing.assert_allclose(whole, expected_map(x, weights, bias, dilation, relu), atol=3e-5)
    # However the band is cut, the figures are the same to the last bit.
    np.testing.assert_array_equal(convolve(x, weights, bias, **options, cuts=cuts), whole)


@EVERY_BLOCK
def test_the_networks_depth(block):
    x, weights, bias = example(5, 6, 512, 64)
    found = convolve(x, weights / np.float32(68), bias, block=block, dilation=2)
    np.testing.assert_allclose(found, expected_map(x, weights / 68, bias, 2), atol=3e-5)


def test_a_row_above_moves_the_result_by_a_row():
    x, weights, bias = example(6, 11, 4, 64)
    block = host_block()
    lower = convolve(x[1:], weights, bias, block=block)
    # From the second row on, both see the same neighbours.
    np.testing.assert_array_equal(convolve(x, weights, bias, block=block)[2:], lower[1:])


def test_the_sign_and_place_of_every_tap():
    """A single bright pixel shows the filter, turned by 180 degrees."""
    block = host_block()
    x = np.zeros((5, 5, 1), np.float32)
    x[2, 2] = 1
    weights = np.arange(64 * 9, dtype=np.float32).reshape(64, 1, 3, 3)
    found = convolve(x, weights, np.zeros(64, np.float32), block=block)
    np.testing.assert_array_equal(found[1:4, 1:4].transpose(2, 0, 1), weights[:, 0, ::-1, ::-1])
    assert found.sum() == weights.sum()


def test_not_a_number_and_infinity_are_not_hidden_by_the_margin():
    """Zeros outside the map multiply weights only: no value of another row or column leaks in."""
    block = host_block()
    x, weights, bias = example(6, 9, 3, 64)
    clean = convolve(x, weights, bias, block=block)
    x[:, -1] = np.inf
    found = convolve(x, weights, bias, block=block)
    np.testing.assert_array_equal(found[:, :-2], clean[:, :-2])
