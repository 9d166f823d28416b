"""Images that are looked at turned: keypoints, matches, files and commands."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

import d2np
from d2np import dataset
from d2np.cli import main
from d2np.dataset import extraction
from d2np.features import Features, Matches
from d2np.formats import hloc, hloc_matches, tables
from d2np.matching import best_of

ALL = (0, 90, 180, 270)


@pytest.fixture(scope="module")
def net():
    return d2np.Net.load("analytic")


def turned_back(xy, quarters, width, height):
    """Where pixels of ``np.rot90(image, quarters)`` are in the image of this size."""
    x, y = xy.T
    right, bottom = np.float32(width - 1), np.float32(height - 1)
    return np.column_stack([(x, y), (right - y, x), (right - x, bottom - y), (y, bottom - x)][quarters])


# --- keypoints --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"scales": (0.5, 1.0, 2.0), "centered": True},
        {"max_keypoints": 5},
        {"max_keypoints": 17, "spread": True},
        {"detector": "strength", "max_keypoints": 9, "preprocessing": "torch"},
    ],
    ids=str,
)
def test_each_rotation_is_an_image_of_its_own(net, make_image, options):
    image = make_image(75, 110)
    found = net(image, rotations=ALL, **options)
    assert found.image_size == (110, 75)
    assert (np.diff(found.rotations) >= 0).all()
    for quarters in range(4):
        alone = net(np.rot90(image, quarters), **options)
        assert alone.rotations is None
        assert len(alone) > 3
        these = found.select(found.rotations == 90 * quarters)
        np.testing.assert_array_equal(these.descriptors, alone.descriptors)
        np.testing.assert_array_equal(these.scores, alone.scores)
        np.testing.assert_array_equal(these.keypoints[:, 2], alone.keypoints[:, 2])
        expected = turned_back(alone.keypoints[:, :2], quarters, 110, 75)
        np.testing.assert_array_equal(these.keypoints[:, :2], expected)


def test_a_mask_turns_with_the_image(net, make_image, assert_same_features):
    image = make_image(75, 110)
    mask = np.zeros((75, 110), bool)
    mask[:30, 20:] = True
    found, whole = net(image, rotations=(0, 90), mask=mask), net(image, rotations=(0, 90))
    column, row = np.floor(whole.keypoints[:, :2].T + 0.5).astype(int)
    inside = mask[row, column]
    assert 0 < inside[whole.rotations == 90].sum() < (whole.rotations == 90).sum()
    assert_same_features(found, whole.select(inside))
    np.testing.assert_array_equal(found.rotations, whole.rotations[inside])


def test_an_image_that_is_shrunk_is_turned_afterwards(net, make_image):
    image = make_image(72, 120)
    small = np.asarray(Image.fromarray(image).resize((90, 54), Image.Resampling.BILINEAR))
    found = net(image, rotations=(0, 90), max_edge=90, centered=True)
    alone = net(np.rot90(small), centered=True)
    these = found.select(found.rotations == 90)
    np.testing.assert_array_equal(these.descriptors, alone.descriptors)
    expected = (turned_back(alone.keypoints[:, :2], 1, 90, 54) + 0.5) * [120 / 90, 72 / 54] - 0.5
    np.testing.assert_allclose(these.keypoints[:, :2], expected, atol=1e-3)
    assert len(these) > 3


def test_threads_and_streams_change_nothing(net, make_image, assert_same_features):
    image = make_image(75, 110)
    found = net(image, rotations=ALL, threads=1)
    assert_same_features(net(image, rotations=reversed(ALL), threads=3), found)
    pieces = list(net.stream(image, rotations=ALL))
    assert [piece.rotations[0] for piece in pieces] == [0, 90, 180, 270]
    keypoints = np.concatenate([piece.keypoints for piece in pieces])
    np.testing.assert_array_equal(keypoints, found.keypoints)


def test_features_check_rotations():
    arrays = np.zeros((2, 3)), np.zeros(2), np.zeros((2, 512)), (9, 9)
    features = Features(*arrays, rotations=[0, 90])
    assert features.rotations.dtype == np.int16
    assert features.select([1]).rotations == [90]
    with pytest.raises(d2np.FormatError, match="rotations must have shape"):
        Features(*arrays, rotations=[0])


# --- matches ----------------------------------------------------------------------------------------------


def features_of(rows, rotations):
    """Features with the rows of a unit matrix as descriptors, along a line."""
    count = len(rows)
    keypoints = np.column_stack([np.arange(count) * 7.0, np.arange(count) ** 2 % 50, np.ones(count)])
    return Features(keypoints, np.ones(count), np.eye(512)[rows], (400, 60), rotations)


def test_the_rotation_with_the_most_matches_counts():
    # What only other rotations of the first image show has no part in it.
    a = features_of([0, 1, 2, 3, 9, 8, 7, 6], [0, 0, 0, 0, 90, 90, 90, 90])
    b = features_of([0, 9, 8, 7, 6, 3, 2, 1], [0, 90, 90, 90, 90, 270, 270, 270])
    matches = d2np.match(a, b)
    assert matches.rotation == 270
    np.testing.assert_array_equal(matches.indices, [[1, 7], [2, 6], [3, 5]])
    assert d2np.match(a, features_of([9, 8], [90, 90]), min_similarity=0.5).rotation == 0
    assert d2np.match(features_of([0], None), features_of([0], None)).rotation is None
    assert d2np.match(b, features_of([0, 1], None)).rotation == 0
    assert matches.select([0]).rotation == 270
    nothing = features_of([], []), features_of([], [])
    assert len(d2np.match(*nothing)) == 0


def test_inliers_count_more_than_matches():
    def matches(count, inliers):
        marks = None if inliers is None else np.arange(count) < inliers
        return Matches(np.zeros((count, 2), np.int64), np.zeros(count), marks)

    candidates = [matches(9, 2), matches(5, 4), matches(8, 4), matches(8, 4)]
    assert best_of(candidates) is candidates[2]
    assert best_of([matches(3, None), matches(4, None)]).indices.shape == (4, 2)


def test_verified_matches_have_a_rotation(net, make_image):
    image = make_image(72, 96)
    a, b = net(image), net(np.rot90(image, 3), rotations=ALL)
    matches = d2np.match(a, b, verify="homography")
    assert matches.rotation == 90
    assert matches.inliers.sum() == len(a)


def test_opencv_has_rotations_as_angles(net, make_image):
    found = net(make_image(75, 110), rotations=(0, 270))
    assert [each.angle for each in d2np.opencv.to_keypoints(found)] == found.rotations.tolist()
    assert set(found.rotations) == {0, 270}


def test_tables_tell_the_rotation(tmp_path):
    a, b = features_of([0, 1], None), features_of([0, 1], [90, 90])
    matches = d2np.match(a, b)
    for extension in ("json", "npz"):
        tables.write(tmp_path / f"m.{extension}", a, b, matches)
    assert json.loads((tmp_path / "m.json").read_text())["rotation"] == 90
    assert np.load(tmp_path / "m.npz")["rotation"] == 90


# --- files and jobs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("half", [False, True])
def test_feature_files(tmp_path, half):
    given = features_of([0, 1, 2], [0, 90, 270])
    with h5py.File(tmp_path / "f.h5", "w") as file:
        hloc.write(file, "turned.jpg", given, half=half)
        hloc.write(file, "plain.jpg", replace(given, rotations=None), half=half)
        assert "rotations" not in file["plain.jpg"]
        assert file["turned.jpg/rotations"].dtype == np.int16
    np.testing.assert_array_equal(hloc.read(tmp_path / "f.h5", "turned.jpg").rotations, [0, 90, 270])
    assert hloc.read(tmp_path / "f.h5", "plain.jpg").rotations is None


def test_match_files_in_both_orders(tmp_path):
    matches = Matches([[0, 1], [2, 0]], [1.0, 0.5], rotation=90)
    with h5py.File(tmp_path / "m.h5", "w") as file:
        hloc_matches.write(file, "a", "b", matches, (3, 3))
        hloc_matches.write(file, "a", "c", replace(matches, rotation=None), (3, 3))
        assert hloc_matches.read(file, "a", "b").rotation == 90
        assert hloc_matches.read(file, "b", "a").rotation == 270
        assert hloc_matches.read(file, "c", "a").rotation is None


@pytest.fixture
def photos(tmp_path, monkeypatch, make_image):
    """An image, and the same turned by a quarter to the right."""
    monkeypatch.chdir(tmp_path)
    image = make_image(72, 96)
    Path("photos").mkdir()
    Image.fromarray(image).save("photos/a.png")
    Image.fromarray(np.rot90(image, 3)).save("photos/b.png")
    return tmp_path


def test_large_images_are_stored_in_blocks(photos, net, monkeypatch, assert_same_features):
    monkeypatch.setattr(extraction, "_LARGE_PIXELS", 100)
    monkeypatch.setattr(extraction, "_KEYPOINTS_OF_A_BLOCK", 2)
    settings = dataset.Settings(rotations=ALL)
    output = dataset.HlocOutput(Path("f.h5"), settings.recorded(net))
    dataset.extract(net, dataset.listing(["photos/a.png"]), output, settings)
    found, expected = hloc.read("f.h5", "a.png"), net("photos/a.png", rotations=ALL)
    assert_same_features(found, expected)
    np.testing.assert_array_equal(found.rotations, expected.rotations)


def test_only_hdf5_keeps_rotations(photos, net):
    output = dataset.NpzOutput(photos / "npz")
    with pytest.raises(d2np.OptionError, match=r"rotations.*format h5"):
        dataset.extract(net, dataset.listing(["photos"]), output, dataset.Settings(rotations=ALL))


def test_commands(photos, capsys):
    def run(*arguments):
        code = main([*arguments])
        return code, *capsys.readouterr()

    weights = ("--weights", "analytic")
    assert run("extract", "photos", "-o", "plain.h5", *weights)[0] == 0
    code, _, err = run("extract", "photos", "-o", "plain.h5", "--rotations", *weights)
    assert code == 1
    assert "rotations [0] there, [0, 90, 180, 270] now" in err
    assert run("extract", "photos", "-o", "f.h5", "--rotations", *weights)[0] == 0
    code, out, _ = run("pairs", "f.h5", "-o", "m.h5")
    assert code == 0
    assert re.match(r"1 pair matched, \d+ matches in .* s, 1 pair with an image turned\n", out)
    matches = hloc_matches.read("m.h5", "a.png", "b.png")
    assert matches.rotation == 90
    a, b = hloc.read("f.h5", "a.png"), hloc.read("f.h5", "b.png")
    here, there = (
        features.keypoints[chosen, :2] for features, chosen in zip((a, b), matches.indices.T, strict=True)
    )
    # A quarter to the right takes the left side to the top.
    np.testing.assert_array_equal(there, np.column_stack([71 - here[:, 1], here[:, 0]]))
    assert len(matches) == (a.rotations == 0).sum() > 3
    code, out, _ = run("match", "photos/a.png", "photos/b.png", "-o", "m.json", "-q", "--rotations", *weights)
    assert (code, out.count("\n")) == (0, 1)
    assert out.endswith("; photos/b.png turned by 90 degrees\n")
    assert json.loads(Path("m.json").read_text())["settings"]["rotations"] == list(ALL)
    code, out, _ = run("show", "photos/a.png", "-o", "k.png", "--rotations", *weights)
    assert out.startswith(f"{len(a)} keypoints in 96 x 72 px")
    code, _, err = run("extract", "photos", "--format", "npz", "--rotations", *weights)
    assert (code, err) == (2, "d2np: --rotations is for --format h5 only\n")
