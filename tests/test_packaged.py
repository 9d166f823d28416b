"""The packaged weights ``d2np``: what they hold, and that they match better than those before training."""

import numpy as np
import pytest

import d2np
from d2np import demo, reference
from d2np.weights import catalogue


@pytest.fixture(scope="module")
def nets():
    return {name: d2np.Net.load(name) for name in ("d2np", "vgg16")}


def test_only_the_last_layer_is_trained(nets):
    before = nets["vgg16"].arrays
    changed = [name for name, array in nets["d2np"].arrays.items() if not np.array_equal(array, before[name])]
    assert changed == ["conv4_3/weight", "conv4_3/bias"]
    assert nets["d2np"].preprocessing == nets["vgg16"].preprocessing
    assert catalogue.resolve("d2np").stat().st_size < 5e6


def test_the_reference_implementation_reads_them(nets):
    arrays = reference.load(catalogue.resolve("d2np"))
    assert arrays.keys() == nets["d2np"].arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, nets["d2np"].arrays[name])


def test_more_matches_are_correct_than_before_the_training(nets):
    """At least 20 % more, and no smaller share; 83 % more when they were made."""
    found = {name: demo.run(net, demo.views()) for name, net in nets.items()}
    correct = {name: int(result.right.sum()) for name, result in found.items()}
    assert correct["d2np"] > 1.2 * correct["vgg16"]
    shares = {name: correct[name] / len(result.right) for name, result in found.items()}
    assert shares["d2np"] >= shares["vgg16"]
