"""Options that take names: the types have all of them, and a wrong one is answered with the list."""

from __future__ import annotations

import numpy as np
import pytest

import d2np
from d2np import layers, options, verification
from d2np.draw import colours
from d2np.network import detect
from d2np.weights import catalogue, onnx_graph

IMAGE = np.zeros((16, 16, 3), np.uint8)
FEATURES = d2np.Features(np.zeros((0, 3)), np.zeros(0), np.zeros((0, 512)), (16, 16))


@pytest.mark.parametrize(
    ("alias", "known"),
    [
        (options.Detector, detect.DETECTORS),
        (options.GeometricModel, verification.SAMPLE),
        (options.ColourMap, colours._ANCHORS),
        (options.Preprocessing, onnx_graph.STEPS),
        (options.PublishedWeights, catalogue.SOURCES),
        (layers.LayerName, [layer.name for layer in layers.LAYERS]),
        (layers.LayerType, dict.fromkeys(layer.type for layer in layers.LAYERS)),
    ],
)
def test_types_name_what_there_is(alias, known):
    assert set(options.names(alias)) == set(known)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda net: net(IMAGE, detector="strenght"), "detector .* d2, strength; got 'strenght'.*strength"),
        (
            lambda net: net(IMAGE, preprocessing="Torch"),
            "preprocessing .* caffe, torch; got 'Torch'.*torch",
        ),
        (lambda net: d2np.Net(net.arrays, algorithm="winograt"), "algorithm .* winograd, direct; .*winograd"),
        (
            lambda _: d2np.match(FEATURES, FEATURES, verify="homografy"),
            "verify must be one of homography, fundamental, or None; got 'homografy'.*homography",
        ),
        (
            lambda _: d2np.draw.keypoints(IMAGE, FEATURES, colours="viridi"),
            "colours .* viridis, plasma, inferno, magma; .*viridis",
        ),
        (
            lambda net: d2np.weights.onnx.serialize(net.arrays, preprocessing="cafe"),
            "preprocessing .* caffe, torch, or None .*caffe",
        ),
    ],
)
def test_wrong_names(net, call, message):
    with pytest.raises(d2np.OptionError, match=rf"{message.rpartition('.*')[0]}.*; did you mean ") as caught:
        call(net)
    assert str(caught.value).endswith(f"; did you mean {message.rpartition('.*')[2]}?")


@pytest.mark.parametrize("given", [None, 3, "sift", ["d2"], b"d2", ""])
def test_nothing_is_proposed_where_nothing_is_alike(net, given):
    with pytest.raises(d2np.OptionError, match=r"^detector must be one of d2, strength; got .*[^?]$"):
        net(IMAGE, detector=given)
