import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2np import reference
from d2np.kernels import winograd
from d2np.kernels.simd import BLOCKS

EVERY_TILE = pytest.mark.parametrize("outputs", winograd.PAIRS)
EVERY_BLOCK = pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS)
UNTOUCHED = np.float32(12345)
# Of results of about 1: larger tiles round more.
TOLERANCE = {4: 2e-5, 6: 5e-5}


def convolve(
    x, weights, bias, *, block, outputs, dilation=1, relu=False, pooled=False, cuts=(), groups=2, parts=1,
    extra=0,
):  # fmt: skip
    """The kernel on a whole map (H, W, in), in spans of tiles that end at ``cuts``.

    ``groups`` blocks of tiles share a pass over the weights; the output's channels are computed in so many
    ``parts``. Whatever the kernel may read but must not use
    is NaN; whatever it must not write is checked.
    """
    height, width, channels = x.shape
    out_channels = len(weights)
    reach = outputs * dilation
    lines, across = -(-height // reach), -(-width // reach)
    columns, rows = width + dilation, lines * reach + 2 * dilation
    band = np.full((rows * columns + dilation, channels + extra), np.nan, np.float32)
    band[:, :channels] = 0
    inner = band[: rows * columns].reshape(rows, columns, -1)
    inner[dilation : dilation + height, dilation:, :channels] = x

    shrink = 2 if pooled else 1
    out_height, out_width = height // shrink, width // shrink
    start, stride = 3, out_width + 2
    target = np.full((start + out_height * stride, out_channels + extra), UNTOUCHED)
    tiles = groups * block.rows
    at_a_time = -(-out_channels // block.columns // parts) * block.columns
    scratch = [
        np.full((winograd.point_count(outputs), *shape), np.nan, np.float32)
        for shape in ((tiles, channels + 16), (tiles, at_a_time), (max(channels, out_channels),))
    ]
    # The rows of the input stand in a ring that begins somewhere in the middle.
    turn = rows // 2
    band[: rows * columns] = np.roll(inner, turn, axis=0).reshape(rows * columns, -1)
    source_rows = (np.arange(rows) + turn) % rows * columns
    target_rows = start + np.arange(out_height) * stride
    kernel = winograd.kernel(block)
    last = lines * across * dilation**2
    ends = [*sorted(cut % last for cut in cuts), last]
    for first, end in zip([0, *ends], ends):  # noqa: B905 - the last end begins no span
        kernel(
            band, source_rows, dilation, outputs, winograd.pack(weights, block, outputs), bias,
            np.float32(0 if relu else -np.inf), target, target_rows, width, height, shrink,
            *scratch, np.empty(8, np.int64), winograd.ALL_PHASES, first, end,
        )  # fmt: skip

    written = np.zeros(target.shape, bool)
    written[start:].reshape(out_height, stride, out_channels + extra)[:, :out_width, :out_channels] = True
    assert (target[~written] == UNTOUCHED).all()
    return target[written].reshape(out_height, out_width, out_channels)


def example(height, width, in_channels, out_channels, seed=0):
    rng = np.random.RandomState(seed)
    return (
        rng.standard_normal((height, width, in_channels)).astype(np.float32),
        (rng.standard_normal((out_channels, in_channels, 3, 3)) / np.sqrt(9 * in_channels)).astype(
            np.float32
        ),
        rng.standard_normal(out_channels).astype(np.float32),
    )


def expected_map(x, weights, bias, dilation=1, relu=False, pooled=False):
    result = reference.convolution(x.astype(np.float64), weights, bias, dilation)
    result = reference.relu(result) if relu else result
    return reference.max_pool(result) if pooled else result


class Numbers:
    """Plain numbers where the kernel has vectors."""

    def fma(self, a, b, c):
        return a * b + c

    def mul(self, a, b):
        return a * b

    def add(self, a, b):
        return a + b

    def sub(self, a, b):
        return a - b


@EVERY_TILE
def test_the_transforms_of_a_tile_are_a_convolution(outputs):
    rng = np.random.RandomState(0)
    row, taps = rng.standard_normal(outputs + 2), rng.standard_normal(3)
    points = np.multiply(winograd._input_1d(Numbers(), list(row)), winograd.weight_transform(outputs) @ taps)
    found = winograd._output_1d(Numbers(), list(points))
    np.testing.assert_allclose(found, np.correlate(row, taps), rtol=0, atol=1e-13)


@pytest.mark.parametrize("rows", [6, 12, 14])
def test_rows_computed_for_a_number_of_tiles(rows):
    for tiles in range(1, 100):
        computed = winograd.computed_rows(tiles, rows)
        # Not less than there are, and never more than with whole blocks, or the scratch arrays would not do.
        assert tiles <= computed <= -(-tiles // rows) * rows
    short = rows * 3 // 4
    assert winograd.computed_rows(short, rows) == short
    assert winograd.computed_rows(rows + short, rows) == rows + short


@EVERY_BLOCK
@EVERY_TILE
@pytest.mark.parametrize(
    ("dilation", "relu", "pooled"), [(1, False, False), (1, True, False), (1, True, True), (2, True, False)]
)
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (2, 2), (4, 4), (7, 13), (9, 31), (12, 18)])
def test_equals_the_reference(block, outputs, size, dilation, relu, pooled):
    x, weights, bias = example(*size, 2 * block.lanes, 2 * block.columns)
    options = {"outputs": outputs, "dilation": dilation, "relu": relu, "pooled": pooled}
    found = convolve(x, weights, bias, block=block, **options, extra=3)
    np.testing.assert_allclose(
        found, expected_map(x, weights, bias, dilation, relu, pooled), atol=TOLERANCE[outputs]
    )


@EVERY_BLOCK
@settings(deadline=None, max_examples=10, derandomize=True)
@given(
    outputs=st.sampled_from(list(winograd.PAIRS)),
    height=st.integers(1, 19),
    width=st.integers(1, 30),
    vectors=st.integers(1, 3),
    kind=st.sampled_from([(1, True), (1, False), (2, False)]),
    relu=st.booleans(),
    extra=st.integers(0, 2),
    cuts=st.lists(st.integers(0, 400), max_size=3),
    groups=st.integers(1, 3),
    parts=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_any_size_and_any_cut(
    block, outputs, height, width, vectors, kind, relu, extra, cuts, groups, parts, seed
):
    x, weights, bias = example(height, width, vectors * block.lanes, 3 * block.columns, seed)
    dilation, pooled = kind
    options = {"block": block, "outputs": outputs, "dilation": dilation, "relu": relu, "pooled": pooled}
    whole = convolve(x, weights, bias, **options)
    np.testing.assert_allclose(
        whole, expected_map(x, weights, bias, dilation, relu, pooled), atol=TOLERANCE[outputs]
    )
    # However the tiles are shared out, the figures are the same to the last bit.
    again = convolve(x, weights, bias, **options, extra=extra, cuts=cuts, groups=groups, parts=parts)
    np.testing.assert_array_equal(again, whole)


@EVERY_BLOCK
@EVERY_TILE
def test_the_networks_depth(block, outputs):
    x, weights, bias = example(7, 9, 512, 64)
    found = convolve(x, weights, bias, block=block, outputs=outputs, dilation=2)
    np.testing.assert_allclose(found, expected_map(x, weights, bias, 2), atol=TOLERANCE[outputs])


@EVERY_BLOCK
@EVERY_TILE
def test_the_sign_and_place_of_every_tap(block, outputs):
    """A single bright pixel shows the filter, turned by 180 degrees."""
    x = np.zeros((9, 9, block.lanes), np.float32)
    x[4, 4, 0] = 1
    weights = np.zeros((64, block.lanes, 3, 3), np.float32)
    weights[:, 0] = np.arange(64 * 9).reshape(64, 3, 3)
    found = convolve(x, weights, np.zeros(64, np.float32), block=block, outputs=outputs)
    expected = np.zeros((9, 9, 64))
    expected[3:6, 3:6] = weights[:, 0, ::-1, ::-1].transpose(1, 2, 0)
    np.testing.assert_allclose(found, expected, atol={4: 1e-3, 6: 5e-3}[outputs])
