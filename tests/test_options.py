"""Options that take names: the types have all of them, and a wrong one is answered with the list."""

from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest

import d2np
from d2np import layers, options, verification
from d2np.network import detect
from d2np.weights import catalogue

IMAGE = np.zeros((16, 16, 3), np.uint8)
FEATURES = d2np.Features(np.zeros((0, 3)), np.zeros(0), np.zeros((0, 512)), (16, 16))


@pytest.mark.parametrize(
    ("alias", "known"),
    [
        (options.Detector, detect.DETECTORS),
        (options.GeometricModel, verification.SAMPLE),
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
            "preprocessing .* caffe, torch, or None; got 'Torch'.*torch",
        ),
        (lambda net: d2np.Net(net.arrays, algorithm="winograt"), "algorithm .* winograd, direct; .*winograd"),
        (
            lambda _: d2np.match(FEATURES, FEATURES, verify="homografy"),
            "verify must be one of homography, fundamental, or None; got 'homografy'.*homography",
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


# Options of images


@pytest.mark.parametrize(
    ("name", "values"),
    {
        "detector": ["sift", "", None, [], {}],
        "scales": [(), (0,), (-1,), (1, 1), (np.nan,), (np.inf,), "ab", 0.5, None, (1, None), [[1], [2]]],
        "rotations": [(), (90,), (0, 45), (0, 0), (0, 360), (0, -90), (0, 90.0), 0, None, (0, "90")],
        "max_keypoints": [-1, True, "10", 2.5, np.nan],
        "preprocessing": ["", "Caffe", 1],
        "max_edge": [0, -5, 0.5, np.nan, True, "800"],
        "max_sum_edges": [0, -5, 0.5, np.nan, True, "800"],
        "max_pixels": [0, -1, 2.5, True, "9"],
    }.items(),
)
def test_senseless_values(net, name, values):
    for value in values:
        with pytest.raises(d2np.OptionError, match=name):
            d2np.Options(**{name: value})
        with pytest.raises(d2np.OptionError, match=name):
            net(IMAGE, **{name: value})


def test_spread_is_for_a_number_of_keypoints(net):
    with pytest.raises(d2np.OptionError, match=r"spread chooses where max_keypoints are: .*--max-keypoints"):
        net(IMAGE, spread=True)
    assert len(net(IMAGE, spread=True, max_keypoints=0)) == 0


def test_options_are_values():
    given = d2np.Options(scales=[1, np.float32(0.5)], max_edge=None, max_keypoints=np.int64(7))
    assert given == d2np.Options(scales=(1.0, 0.5), max_edge=None, max_keypoints=7) != d2np.Options()
    assert pickle.loads(pickle.dumps(given)) == given
    assert hash(given) == hash(dataclasses.replace(given))
    with pytest.raises(dataclasses.FrozenInstanceError):
        given.relu = False


def test_keywords_have_the_names_and_types_of_the_fields():
    fields = {field.name: field.type for field in dataclasses.fields(d2np.Options)}
    keywords = {name: hint.__forward_arg__ for name, hint in options.OptionChanges.__annotations__.items()}
    assert fields == keywords


def test_keywords_count_where_there_are_options_too(net, make_image, assert_same_features):
    image = make_image(60, 80)
    both = net(image, d2np.Options(max_keypoints=3, max_edge=40), max_edge=None)
    assert_same_features(both, net(image, max_keypoints=3, max_edge=None))
    assert_same_features(net(image, d2np.Options(scales=(0.5, 1))), net(image, scales=(0.5, 1)))
    assert len(both) == 3


def test_calls_take_the_options_that_have_an_effect(net, make_image):
    image, xy = make_image(60, 80), [[30, 30]]
    one = d2np.Options(max_keypoints=3, detector="strength", scales=(2,), max_edge=40)
    assert net.dense(image, one).shape[:2] == net.strength(image, one).shape == (6, 9)
    np.testing.assert_array_equal(net.dense(image, one), net.dense(image, max_edge=40))
    np.testing.assert_array_equal(net.strength(image, one), net.strength(image, max_edge=40))
    np.testing.assert_array_equal(net.describe(image, xy, one)[0], net.describe(image, xy, max_edge=40)[0])
    with pytest.raises(TypeError, match="no_such_option"):
        net.dense(image, no_such_option=1)
    with pytest.raises(d2np.OptionError, match=r"d2np\.Options; got str"):
        net(image, "strength")
