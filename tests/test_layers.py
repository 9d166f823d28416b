from collections import Counter
from itertools import pairwise

import pytest

from d2np.layers import LAYERS, PARAMETER_COUNT, PARAMETER_SHAPES, SMALLEST_SIDE, map_size, output_sizes


def test_the_22_layers():
    assert Counter(layer.type for layer in LAYERS) == {
        "convolution": 10,
        "relu": 9,
        "max_pooling": 2,
        "average_pooling": 1,
    }
    assert [layer.name for layer in LAYERS if layer.dilation == 2] == ["conv4_1", "conv4_2", "conv4_3"]
    assert LAYERS[-1].name == "conv4_3"
    assert len({layer.name for layer in LAYERS}) == 22


def test_channels_fit_each_other():
    assert LAYERS[0].in_channels == 3
    assert LAYERS[-1].out_channels == 512
    for layer, following in pairwise(LAYERS):
        assert layer.out_channels == following.in_channels


def test_the_parameters():
    assert PARAMETER_COUNT == 7_635_264
    assert sum(layer.parameter_count for layer in LAYERS) == PARAMETER_COUNT
    assert len(PARAMETER_SHAPES) == 20
    assert PARAMETER_SHAPES["conv1_1/weight"] == (64, 3, 3, 3)
    assert PARAMETER_SHAPES["conv4_3/bias"] == (512,)


@pytest.mark.parametrize(
    ("image", "cells"),
    [
        ((224, 224), (55, 55)),
        ((8, 8), (1, 1)),
        ((480, 640), (119, 159)),
        ((97, 131), (23, 31)),
        ((9, 12), (1, 2)),
    ],
)
def test_map_size(image, cells):
    assert map_size(*image) == cells


def test_output_sizes_of_every_layer():
    sizes = {layer.name: (height, width) for layer, height, width in output_sizes(101, 202)}
    assert sizes["conv1_2"] == (101, 202)
    assert sizes["pool1"] == sizes["conv2_2"] == (50, 101)
    assert sizes["pool2"] == sizes["conv3_3"] == (25, 50)
    assert sizes["pool3"] == sizes["conv4_3"] == (24, 49)


def test_the_smallest_side():
    assert map_size(SMALLEST_SIDE, SMALLEST_SIDE) == (1, 1)
    assert map_size(SMALLEST_SIDE - 1, 100)[0] == 0
