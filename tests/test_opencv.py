"""D2-Net among OpenCV's features: the same keypoints, in OpenCV's types, put to work by OpenCV."""

from __future__ import annotations

import pickle
import subprocess
import sys

import cv2
import numpy as np
import pytest
from evaluation import MEDIUM, warp
from skimage import data

import d2np
import d2np.opencv
from d2np.opencv import D2Net, to_dmatches, to_keypoints
from d2np.verification import transformed

SCALES = (0.5, 1.0, 2.0)


@pytest.fixture(scope="module")
def analytic():
    return d2np.Net.load("analytic")


@pytest.fixture(scope="module")
def coffee():
    """Two views, blue first, and the homography between them."""
    image = cv2.resize(data.coffee(), (450, 300), interpolation=cv2.INTER_AREA)
    view, truth = warp(image, MEDIUM, 7)
    return image[:, :, ::-1].copy(), view[:, :, ::-1].copy(), truth


def places(keypoints):
    return np.array([keypoint.pt for keypoint in keypoints], np.float32).reshape(-1, 2)


def test_two_views_are_registered_by_opencv(analytic, coffee):
    a, b, truth = coffee
    detector = D2Net(analytic)
    (keypoints_a, descriptors_a), (keypoints_b, descriptors_b) = (
        detector.detectAndCompute(each, None) for each in (a, b)
    )
    found = cv2.BFMatcher(detector.defaultNorm(), crossCheck=True).match(descriptors_a, descriptors_b)
    from_a = places([keypoints_a[match.queryIdx] for match in found])
    to_b = places([keypoints_b[match.trainIdx] for match in found])
    matrix, inliers = cv2.findHomography(from_a, to_b, cv2.USAC_MAGSAC, 3.0)
    assert inliers.sum() > 60
    corners = np.array([[0, 0], [449, 0], [449, 299], [0, 299]])
    assert np.abs(transformed(matrix, corners) - transformed(truth, corners)).max() < 4
    # The image laid over its view is the view, but for the light.
    laid = cv2.warpPerspective(a, matrix, (450, 300))
    inside = cv2.warpPerspective(np.ones_like(a[..., 0]), matrix, (450, 300)) > 0
    assert np.abs(laid * 0.8 + 15 - b)[inside].mean() < 3


def test_opencv_matches_as_d2np_does(analytic, coffee):
    a, b, _ = coffee
    one, other = analytic(a[:, :, ::-1]), analytic(b[:, :, ::-1])
    expected = d2np.match(one, other)
    found = cv2.BFMatcher(cv2.NORM_L2, crossCheck=True).match(one.descriptors, other.descriptors)
    pairs = {(match.queryIdx, match.trainIdx) for match in found}
    assert len(pairs ^ set(map(tuple, expected.indices.tolist()))) <= 0.01 * len(expected)
    ours = {(match.queryIdx, match.trainIdx): match.distance for match in to_dmatches(expected)}
    for match in found:
        distance = ours.get((match.queryIdx, match.trainIdx), match.distance)
        assert match.distance == pytest.approx(distance, abs=1e-3)
    drawn = cv2.drawMatches(a, to_keypoints(one), b, to_keypoints(other), to_dmatches(expected), None)
    assert drawn.shape == (300, 900, 3)


def test_keypoints_and_descriptors_are_those_of_the_net(net, make_image):
    image = make_image(97, 131)
    features = net(image, scales=SCALES, max_keypoints=40)
    found, descriptors = D2Net(net, scales=SCALES, max_keypoints=40).detectAndCompute(image[:, :, ::-1], None)
    assert isinstance(found, tuple)
    assert isinstance(found[0], cv2.KeyPoint)
    np.testing.assert_array_equal(places(found), features.keypoints[:, :2])
    np.testing.assert_array_equal(np.float32([each.response for each in found]), features.scores)
    np.testing.assert_array_equal(np.float32([each.size for each in found]), 8 * features.keypoints[:, 2])
    octaves = {2.0: 1, 1.0: 0, 0.5: -1}
    assert [each.octave for each in found] == [octaves[scale] for scale in features.keypoints[:, 2].tolist()]
    assert len({each.octave for each in found}) > 1
    assert {each.angle for each in found} == {-1}
    assert descriptors.dtype == np.float32
    np.testing.assert_array_equal(descriptors, features.descriptors)


def test_what_opencv_asks_for(net):
    detector = D2Net(net)
    assert detector.descriptorSize() == 512
    assert detector.defaultNorm() == cv2.NORM_L2
    calls = ("detect", "compute", "detectAndCompute", "descriptorSize", "defaultNorm")
    assert all(hasattr(cv2.Feature2D, name) for name in calls)


def test_every_kind_of_image(net, make_image):
    img = make_image(61, 83)
    detector = D2Net(net)
    expected = places(detector.detect(img))
    alpha = np.dstack([img, np.full((61, 83), 7, np.uint8)])
    for image in (alpha, img.astype(np.float32), img.astype(np.uint16) * 257):
        np.testing.assert_array_equal(places(detector.detect(image)), expected)
    grey = img[:, :, 0]
    expected = net(grey).keypoints[:, :2]
    for image in (grey, grey[:, :, np.newaxis], np.dstack([grey] * 3), np.asfortranarray(grey)):
        np.testing.assert_array_equal(places(detector.detect(image)), expected)
    # Blue and red are not the same.
    assert len(places(detector.detect(img[:, :, ::-1]))) != len(places(detector.detect(img)))


def test_masks(net, make_image):
    image = make_image(97, 131)
    mask = np.zeros((97, 131), np.uint8)
    mask[:, :60] = 255
    detector = D2Net(net)
    for given in (mask, mask > 0):
        found, descriptors = detector.detectAndCompute(image, given)
        assert len(found) == len(descriptors) > 0
        assert places(found)[:, 0].max() < 60
        np.testing.assert_array_equal(places(detector.detect(image, given)), places(found))
    assert len(detector.detect(image)) > len(found)


def test_nothing_found_is_what_opencv_returns(net, image):
    assert D2Net(net).detectAndCompute(image, np.zeros(image.shape[:2], np.uint8)) == ((), None)
    assert D2Net(net).detect(image, np.zeros(image.shape[:2], np.uint8)) == ()
    assert D2Net(net).compute(image, []) == ((), None)
    outside = [cv2.KeyPoint(-50, 5, 1), cv2.KeyPoint(5, 900, 1)]
    assert D2Net(net).compute(image, outside) == ((), None)
    sift = cv2.SIFT_create()
    assert sift.detectAndCompute(np.zeros((60, 60), np.uint8), None) == ((), None)


def test_descriptors_of_given_keypoints(net, image):
    detector = D2Net(net, detector="strength", max_keypoints=5, relu=False)
    given = [cv2.KeyPoint(20.5, 30.25, 9), cv2.KeyPoint(-50, 5, 1), cv2.KeyPoint(41, 17, 3)]
    given[2].class_id = 7
    kept, descriptors = detector.compute(image, given)
    assert [(each.pt, each.class_id) for each in kept] == [((20.5, 30.25), -1), ((41, 17), 7)]
    expected, _ = net.describe(image[:, :, ::-1], [[20.5, 30.25], [41, 17]], relu=False)
    np.testing.assert_array_equal(descriptors, expected)


def test_keypoints_of_sift(net, make_image):
    image = make_image(97, 131)
    found = cv2.SIFT_create().detect(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY))
    kept, descriptors = D2Net(net).compute(image, found)
    assert len(kept) == len(descriptors) > 0
    np.testing.assert_allclose(np.linalg.norm(descriptors, axis=1), 1, rtol=1e-5)


def test_its_own_keypoints_have_its_own_descriptors(net, image):
    detector = D2Net(net)
    found, descriptors = detector.detectAndCompute(image, None)
    kept, again = detector.compute(image, found)
    assert len(kept) == len(found)
    np.testing.assert_allclose(again, descriptors, atol=1e-5)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (None, "cv2.imread returns"),
        ("A.jpg", "an image is an array here, not str"),
        (np.zeros((0, 0), np.uint8), "empty"),
        (np.zeros((5, 5, 2), np.uint8), "shape"),
        (np.zeros((5, 5, 3), np.uint8), "8 px"),
        (np.zeros((50, 50, 3), np.int32), "uint8"),
    ],
)
def test_what_is_no_image(net, image, message):
    with pytest.raises(d2np.ImageError, match=message):
        D2Net(net).detectAndCompute(image, None)
    with pytest.raises(d2np.ImageError, match=message):
        D2Net(net).compute(image, [cv2.KeyPoint(2, 2, 1)])


def test_bad_options_and_arguments(net, image):
    with pytest.raises(TypeError, match="nfeatures"):
        D2Net(net, nfeatures=50)
    with pytest.raises(d2np.OptionError, match="detector"):
        D2Net(net, detector="sift")
    with pytest.raises(d2np.ImageError, match="mask"):
        D2Net(net).detect(image, np.ones((5, 5), np.uint8))
    with pytest.raises(d2np.OptionError, match=r"keypoints must be cv2\.KeyPoint"):
        D2Net(net).compute(image, [(1, 2)])


def test_it_can_be_pickled(net, image):
    detector = pickle.loads(pickle.dumps(D2Net(net, max_keypoints=3)))
    assert len(detector.detect(image)) == 3


def test_without_opencv(net, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(d2np.FormatError, match=r"^OpenCV's types need .*: pip install 'd2np\[opencv\]'$"):
        D2Net(net)


def test_opencv_is_imported_when_it_is_needed():
    script = (
        "import sys, d2np; d2np.opencv.D2Net; assert 'cv2' not in sys.modules; import d2np.opencv as o\n"
        "assert o is d2np.opencv and 'opencv' in dir(d2np); o.D2Net('analytic'); assert 'cv2' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_weights_are_loaded_by_name_or_path(tmp_path, analytic, coffee):
    analytic.save(tmp_path / "own.h5")
    expected = D2Net(analytic, max_keypoints=9).detectAndCompute(coffee[0])[1]
    for source in ("analytic", tmp_path / "own.h5"):
        np.testing.assert_array_equal(D2Net(source, max_keypoints=9).detectAndCompute(coffee[0])[1], expected)


def test_what_is_no_network_is_refused():
    with pytest.raises(d2np.WeightsError, match="expected a name or a file of weights"):
        D2Net(3)
    with pytest.raises(d2np.WeightsError, match="analytik: no such file"):
        D2Net("analytik")
