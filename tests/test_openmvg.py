"""openMVG's folders: read back by kapture, which imports them; all or nothing."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import h5py
import kapture
import kapture.io.csv
import numpy as np
import pytest
from kapture.converter.openmvg.import_openmvg import import_openmvg
from kapture.io.features import (
    get_descriptors_fullpath,
    get_keypoints_fullpath,
    get_matches_fullpath,
    image_descriptors_from_file,
    image_keypoints_from_file,
    image_matches_from_file,
)
from kapture.io.records import TransferAction
from PIL import Image

import d2np
from d2np.cli import main
from d2np.errors import FormatError, ImageError
from d2np.features import Features, Matches
from d2np.formats import hloc, hloc_matches, openmvg

# In hloc's match file, the first of a pair need not be the first in alphabetical order.
IMAGES = {"a.jpg": (40, 30), "yard/gate.png": (30, 40), "yard/z z.jpg": (40, 30), "lonely.jpg": (40, 30)}
PAIRS = {("a.jpg", "yard/gate.png"): 5, ("yard/z z.jpg", "a.jpg"): 8, ("a.jpg", "lonely.jpg"): 0}
COUNTS = {"a.jpg": 12, "yard/gate.png": 9, "yard/z z.jpg": 10, "lonely.jpg": 3}


def save_pair(file, a, b, number, rng):
    indices = np.column_stack([rng.permutation(COUNTS[name])[:number] for name in (a, b)])
    indices = indices[np.argsort(indices[:, 0])].reshape(-1, 2)
    found = Matches(indices, rng.random(number, np.float32))
    hloc_matches.write(file, a, b, found, (COUNTS[a], COUNTS[b]))
    return indices


@pytest.fixture
def job(tmp_path, monkeypatch):
    """A folder of images, their features and matches."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    features = {}
    with h5py.File("features.h5", "w") as file:
        for name, size in IMAGES.items():
            path = Path("photos", name)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", size).save(path)
            keypoints = rng.uniform(0, 30, (COUNTS[name], 3)).astype(np.float32)
            rows = rng.standard_normal((COUNTS[name], d2np.features.DESCRIPTOR_SIZE))
            features[name] = Features(keypoints, rng.random(COUNTS[name]), rows, size)
            hloc.write(file, name, features[name])
    with h5py.File("matches.h5", "w") as file:
        matches = {pair: save_pair(file, *pair, number, rng) for pair, number in PAIRS.items()}
    return SimpleNamespace(features=features, matches=matches)


ARGUMENTS = ["features.h5", "matches.h5", "photos"]


def test_kapture_reads_it(job, capsys):
    assert main(["export", *ARGUMENTS, "--format", "openmvg", "-o", "mvg"]) == 0
    assert capsys.readouterr().out == (
        "4 images of 2 cameras, 34 keypoints\n2 pairs matched, 13 matches\nwrote mvg\n"
    )
    import_openmvg("mvg", "mvg", "mvg/matches.putative.txt", "kap", TransferAction.link_absolute)

    read = kapture.io.csv.kapture_from_dir("kap")
    assert {name for _, _, name in kapture.flatten(read.records_camera)} == {f"photos/{n}" for n in IMAGES}
    for _, camera, name in kapture.flatten(read.records_camera):
        width, height = IMAGES[name.removeprefix("photos/")]
        assert read.sensors[camera].camera_type == kapture.CameraType.RADIAL
        assert read.sensors[camera].camera_params == [width, height, 48, width / 2, height / 2, 0, 0]
        # What they link to is there.
        assert Path("kap/sensors/records_data", name).stat().st_size
    for name, given in job.features.items():
        path = get_keypoints_fullpath("SIFT_Regions", "kap", f"photos/{name}")
        keypoints = image_keypoints_from_file(path, np.float64, 4)
        np.testing.assert_array_equal(keypoints[:, :2].astype(np.float32), given.keypoints[:, :2])
        path = get_descriptors_fullpath("SIFT_Image_describer", "kap", f"photos/{name}")
        assert image_descriptors_from_file(path, np.uint8, 128).shape == (len(given), 128)
    expected = {frozenset(pair) for pair, number in PAIRS.items() if number}
    found = {frozenset(n.removeprefix("photos/") for n in pair) for pair in read.matches["SIFT_Regions"]}
    assert found == expected
    for (a, b), indices in job.matches.items():
        if not len(indices):
            continue
        first, second = sorted(f"photos/{name}" for name in (a, b))
        rows = image_matches_from_file(get_matches_fullpath((first, second), "SIFT_Regions", "kap"))[:, :2]
        if first != f"photos/{a}":
            rows = rows[:, ::-1]
        np.testing.assert_array_equal(rows, indices)


def test_the_first_image_of_a_pair_has_the_smaller_number(job):
    summary = openmvg.write("mvg", *ARGUMENTS)
    assert summary == openmvg.Summary(images=4, cameras=2, keypoints=34, pairs=2, matches=13)
    views = json.loads(Path("mvg/sfm_data.json").read_text())["views"]
    names = [view["value"]["ptr_wrapper"]["data"] for view in views]
    assert [f"{data['local_path']}/{data['filename']}".strip("/") for data in names] == sorted(IMAGES)
    # z z.jpg is image 3, and the first of its pair in the match file.
    lines = Path("mvg/matches.putative.txt").read_text().splitlines()
    assert lines[0] == "0 2"
    assert lines[1] == "5"
    assert lines[7] == "0 3"
    assert [tuple(map(int, line.split())) for line in lines[9:]] == [
        (b, a) for a, b in job.matches["yard/z z.jpg", "a.jpg"].tolist()
    ]


def test_an_image_without_keypoints(job):
    with h5py.File("features.h5", "a") as file:
        hloc.write(file, "none.jpg", job.features["a.jpg"].select(np.arange(0)))
    Image.new("RGB", (40, 30)).save("photos/none.jpg")
    assert openmvg.write("mvg", *ARGUMENTS).images == 5
    assert Path("mvg/none.feat").read_bytes() == b""
    assert Path("mvg/none.desc").read_bytes() == bytes(8)


def empty(job):
    Path("mvg").mkdir()


def same_stem(job):
    with h5py.File("features.h5", "a") as file:
        hloc.write(file, "a.png", job.features["a.jpg"])
    Image.new("RGB", (40, 30)).save("photos/a.png")


def missing_image(job):
    Path("photos/a.jpg").unlink()


def other_features(job):
    with h5py.File("features.h5", "a") as file:
        del file["a.jpg"]
        hloc.write(file, "a.jpg", job.features["a.jpg"].select(np.arange(2)))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (empty, FormatError, "mvg is there already: choose another name, or delete it"),
        (same_stem, FormatError, "openMVG would look for both a.jpg and a.png in a.feat: rename one"),
        (missing_image, ImageError, "photos lacks images that features.h5 holds: a.jpg"),
        (other_features, FormatError, "matches.h5 was made from other features than features.h5"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_left(job, change, error, message):
    change(job)
    before = sorted(Path().rglob("*"))
    with pytest.raises(error, match=message):
        openmvg.write("mvg", *ARGUMENTS)
    assert sorted(Path().rglob("*")) == before


def test_a_place_that_is_not_there(job, capsys):
    assert main(["export", *ARGUMENTS, "--format", "openmvg", "-o", "no/mvg"]) == 1
    assert capsys.readouterr().err == "d2np: no/mvg: cannot be written: No such file or directory\n"
