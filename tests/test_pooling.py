"""The global descriptor: what it is, that it depends on nothing else, and that it gets into feature files."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from PIL import Image

import d2np
from d2np import dataset
from d2np.dataset import extraction
from d2np.errors import FormatError
from d2np.features import Features
from d2np.formats import hloc


def naive(cells):
    """The generalised mean of a map's cells, L2-normalised, in float64."""
    vector = np.cbrt((np.maximum(cells.astype(np.float64), 0) ** 3).mean(axis=(0, 1)))
    return vector / np.linalg.norm(vector)


@pytest.mark.parametrize("options", [{}, {"detector": "strength"}, {"relu": False}], ids=str)
def test_it_is_the_generalised_mean_of_the_map(net, image, options):
    found = net(image, global_descriptor=True, **options)
    truth = naive(net.dense(image, relu=options.get("relu", True)))
    assert found.global_descriptor.dtype == np.float32
    np.testing.assert_allclose(found.global_descriptor, truth, rtol=1e-5, atol=1e-7)


def test_it_changes_no_keypoint(net, image, assert_same_features):
    plain = net(image)
    assert plain.global_descriptor is None
    assert_same_features(net(image, global_descriptor=True), plain)


def test_it_depends_on_nothing_but_the_map(net, make_image):
    image = make_image(90, 70, seed=3)
    mask = np.zeros((90, 70), np.uint8)
    first = net(image, global_descriptor=True, threads=1).global_descriptor
    for options in (
        {"threads": 2},
        {"threads": 5},
        {"max_keypoints": 3},
        {"max_keypoints": 0},
        {"mask": mask},
    ):
        found = net(image, global_descriptor=True, **options).global_descriptor
        np.testing.assert_array_equal(found, first)
    *others, last = net.stream(image, global_descriptor=True)
    np.testing.assert_array_equal(last.global_descriptor, first)
    assert all(piece.global_descriptor is None for piece in others)


def test_of_several_scales_it_is_that_of_the_image_itself(net, make_image):
    """Or of the first one; a coarser level's map is part of it, as it is of the map that is searched."""
    image = make_image(64, 64)
    alone = net(image, global_descriptor=True).global_descriptor
    for scales in ((1.0, 2.0), (2.0, 1.0)):
        found = net(image, global_descriptor=True, scales=scales).global_descriptor
        np.testing.assert_array_equal(found, alone)
    halves = [net(image, global_descriptor=True, scales=scales) for scales in ((0.5,), (0.5, 2.0))]
    np.testing.assert_array_equal(halves[0].global_descriptor, halves[1].global_descriptor)
    assert not np.array_equal(halves[0].global_descriptor, alone)


def test_maps_without_a_direction():
    """A map of zeros has no direction; powers of one that is too large are beyond float32."""
    arrays = {name: np.zeros_like(array) for name, array in d2np.weights.load("analytic")[0].items()}
    image = np.zeros((16, 16, 3), np.uint8)
    assert not d2np.Net(arrays)(image, global_descriptor=True).global_descriptor.any()
    arrays["conv4_3/bias"] = np.full(512, 1e20, np.float32)
    assert not d2np.Net(arrays)(image, global_descriptor=True).global_descriptor.any()


def test_features_keep_it():
    vector = np.arange(512.0)
    given = Features(np.zeros((2, 3)), np.zeros(2), np.zeros((2, 512)), (9, 9), global_descriptor=vector)
    assert given.global_descriptor.dtype == np.float32
    np.testing.assert_array_equal(given.select([1]).global_descriptor, vector)
    with pytest.raises(FormatError, match=r"global_descriptor must have shape \(512\); got \(3,\)"):
        Features(np.zeros((2, 3)), np.zeros(2), np.zeros((2, 512)), (9, 9), global_descriptor=np.zeros(3))


# --- in feature files -------------------------------------------------------------------------------------


def extracted(path, photos, net, **options):
    """The report of a job, as ``d2np extract`` does it."""
    settings = dataset.Settings()
    output = dataset.HlocOutput(path, settings.recorded(net), **options)
    return dataset.extract(net, dataset.listing([photos]), output, settings)


@pytest.fixture
def photos(tmp_path, make_image):
    """Three images, of which one is turned into many blocks."""
    (tmp_path / "photos").mkdir()
    for name, size in (("a", (60, 90)), ("b", (200, 64)), ("c", (40, 40))):
        Image.fromarray(make_image(*size)).save(tmp_path / "photos" / f"{name}.png")
    return tmp_path / "photos"


@pytest.mark.parametrize("half", [False, True])
def test_extraction_stores_it(tmp_path, photos, net, monkeypatch, half):
    """Also where features are stored as they are found, and the vector is known at last."""
    monkeypatch.setattr(extraction, "_LARGE_PIXELS", 10_000)
    monkeypatch.setattr(extraction, "_KEYPOINTS_OF_A_BLOCK", 5)
    assert extracted(tmp_path / "f.h5", photos, net, half=half).done == 3
    names = ["a.png", "b.png", "c.png"]
    truth = np.array([net(photos / name, global_descriptor=True).global_descriptor for name in names])
    found = hloc.read_global_descriptors(tmp_path / "f.h5", names)
    np.testing.assert_allclose(found, truth, atol=2e-4 if half else 1e-7)
    with h5py.File(tmp_path / "f.h5") as file:
        assert file["b.png/global_descriptor"].dtype == (np.float16 if half else np.float32)
        if not half:
            np.testing.assert_array_equal([file[name]["global_descriptor"] for name in names], truth)
        # As hloc reads those of its retrieval: get_descriptors in pairs_from_retrieval.py.
        assert np.stack([file[name]["global_descriptor"].__array__() for name in names]).shape == (3, 512)


def test_files_of_earlier_versions_are_continued(tmp_path, photos, net):
    """Their options are the same; what they lack is told where it is needed."""
    extracted(tmp_path / "f.h5", photos, net)
    with h5py.File(tmp_path / "f.h5", "a") as file:
        del file["b.png/global_descriptor"]
    (photos / "d.png").write_bytes((photos / "a.png").read_bytes())
    report = extracted(tmp_path / "f.h5", photos, net)
    assert (report.done, report.skipped) == (1, 3)
    with pytest.raises(FormatError, match=r"^no global descriptor of b\.png: .* again with --overwrite$"):
        hloc.read_global_descriptors(tmp_path / "f.h5", hloc.names(tmp_path / "f.h5"))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.full(512, np.nan), r"b\.png/global_descriptor: expected a list of finite numbers"),
        (np.zeros(()), r"expected shape \(512,\), found \(\)"),
        (np.zeros(3), r"expected shape \(512,\), found \(3,\)"),
        (np.zeros(512, "S3"), r"expected an array of numbers"),
    ],
)
def test_damaged_vectors(tmp_path, photos, net, array, message):
    extracted(tmp_path / "f.h5", photos, net)
    with h5py.File(tmp_path / "f.h5", "a") as file:
        del file["b.png/global_descriptor"]
        file["b.png/global_descriptor"] = array
    with pytest.raises(FormatError, match=message):
        hloc.read_global_descriptors(tmp_path / "f.h5", ["a.png", "b.png"])
