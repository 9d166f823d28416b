"""All of D2-Net in plain NumPy, against the outputs of the published code and the rest of d2np.

Its functions one by one are compared with the kernels in ``test_kernels_*.py``.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import naive
import numpy as np
import pytest
from PIL import Image

import d2np
from d2np import reference
from d2np.images.pixels import shrink
from d2np.kernels import detect

PACKAGED = Path(__file__).parent.parent / "weights" / "vgg16.h5"


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("ss", {}),
        ("ms", {"scales": (0.5, 1.0, 2.0)}),
        ("norelu", {"last_relu": False}),
        ("torchpre", {"preprocessing": "torch"}),
    ],
)
def test_outputs_of_the_published_code(weights_arrays, output, mode, options):
    """In float32, as the published code."""
    expected = output("shared_0")
    keypoints, scores, descriptors = reference.extract(expected["image"], weights_arrays, **options)
    assert {keypoints.dtype, scores.dtype, descriptors.dtype} == {np.dtype(np.float32)}
    a, b = naive.pair_up(keypoints, expected[f"{mode}_keypoints"]).T
    assert len(a) == len(keypoints) == len(expected[f"{mode}_keypoints"])
    np.testing.assert_allclose(scores[a], expected[f"{mode}_scores"][b], rtol=1e-4)
    if f"{mode}_descriptors" in expected:
        published = reference.l2_normalize(expected[f"{mode}_descriptors"][b].astype(np.float32))
        assert ((descriptors[a] * published).sum(1) >= 0.9999).all()


def test_a_shrunk_image_with_packaged_weights(trained, output):
    image = output("trained_0")["image"]
    limits = {"max_edge": 200, "max_sum_edges": 300}
    found = reference.extract(image, reference.load(PACKAGED), **limits)
    expected = trained(image, **limits)
    a, b = naive.pair_up(found[0], expected.keypoints).T
    assert len(a) == len(expected) == len(found[0])
    np.testing.assert_allclose(found[2][a], expected.descriptors[b], atol=1e-4)
    indices, similarities = reference.match(found[2], found[2][::-1], ratio=0.9)
    assert (indices.sum(1) == len(a) - 1).all()
    np.testing.assert_allclose(similarities, 1, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("limits", [(1600, 2800), (50, 2800), (1600, 90), (50, 71)])
def test_shrink(make_image, dtype, limits):
    image = make_image(61, 83).astype(dtype)
    found = reference.shrink(image, *limits)
    np.testing.assert_array_equal(
        found, shrink(image, d2np.Options(max_edge=limits[0], max_sum_edges=limits[1]))
    )


def test_files(tmp_path, weights_arrays, image):
    d2np.Net(weights_arrays).save(tmp_path / "weights.h5")
    np.savez(tmp_path / "weights.npz", **weights_arrays)
    for name in ("weights.h5", "weights.npz"):
        found = reference.load(tmp_path / name)
        assert found.keys() == weights_arrays.keys()
        for key, array in weights_arrays.items():
            np.testing.assert_array_equal(found[key], array)
    Image.fromarray(image).save(tmp_path / "image.png")
    np.testing.assert_array_equal(reference.read_image(tmp_path / "image.png"), image)


def test_nothing_to_match():
    some, none = np.eye(3, dtype=np.float32), np.empty((0, 3), np.float32)
    for a, b in ((some, none), (none, some), (none, none)):
        indices, similarities = reference.match(a, b, ratio=0.9)
        assert (indices.shape, similarities.shape) == ((0, 2), (0,))


def test_thresholds_are_those_of_the_kernels():
    assert np.float32(reference.LEAST_CURVATURE) == detect.LEAST_CURVATURE
    assert np.float32(reference.TIE) == detect.TIE


def test_where_numba_is_missing():
    """The reference works, and what needs compiled kernels names it."""
    script = (
        "import sys, numpy as np\n"
        "sys.modules['numba'] = None\n"
        "import d2np.reference\n"
        "others = {'h5py', 'd2np.features', 'd2np.kernels', 'd2np.layers'} & sys.modules.keys()\n"
        "assert not others, others\n"
        f"arrays = d2np.reference.load({str(PACKAGED)!r})\n"
        "features = d2np.reference.extract(np.eye(32, dtype=np.uint8)[:, :, None].repeat(3, 2), arrays)\n"
        "for name in ('Net', 'match', 'nearest_pairs'):\n"
        "    try:\n"
        "        getattr(d2np, name)\n"
        "    except d2np.Error as error:\n"
        "        print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    sentence = (
        "kernels are compiled by the package numba, which cannot be imported (import of numba halted; "
        "None in sys.modules); d2np.reference computes the same in plain NumPy\n"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, 3 * sentence, "")
