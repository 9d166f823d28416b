"""Pairs that are verified as they are matched: what is stored of them, and ``d2np pairs --verify``."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

import d2np
from d2np import verification
from d2np.cli import main
from d2np.dataset import MatchOutput, MatchReport, MatchSettings, all_pairs, match_pairs
from d2np.errors import Error, FormatError, OptionError
from d2np.features import Features
from d2np.formats import hloc, hloc_matches
from d2np.hdf5 import write_text

TRUTH = np.array([[0.9, 0.1, 30], [-0.1, 1.0, 20], [1e-4, 0, 1]])


@pytest.fixture
def features(tmp_path, monkeypatch):
    """Two views of a plane, a to b by a homography and some noise; and an image of something else."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    points = rng.uniform(60, 420, (80, 2))
    moved = verification.transformed(TRUTH, points) + rng.normal(0, 3, (80, 2))
    shared = rng.standard_normal((80, 512))
    with h5py.File("f.h5", "w") as file:
        for name, xy in (("a", points), ("b", moved), ("c", rng.uniform(60, 420, (80, 2)))):
            vectors = shared + 0.3 * rng.standard_normal((80, 512))
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            found = Features(np.column_stack([xy, np.ones(80)]), np.ones(80), vectors, (480, 480))
            hloc.write(file, name, found, uncertainty=4.0 if name == "b" else 1.0)
    return tmp_path / "f.h5"


def job(features, settings, path="m.h5", **options):
    output = MatchOutput(features.parent / path, settings.recorded(features), features=features)
    return match_pairs(features, all_pairs(features), output, settings, **options)


@pytest.mark.parametrize("model", ["homography", "fundamental"])
def test_only_inliers_are_stored(features, model):
    a, b = hloc.read(features, "a"), hloc.read(features, "b")
    # The network saw b at a quarter of its size.
    truth = d2np.match(a, b, verify=model, threshold=12.0)
    inliers = truth.select(truth.inliers)
    report = job(features, MatchSettings(verify=model))
    assert report == MatchReport(done=3, matches=len(inliers), unmatched=2)
    assert 40 < len(inliers) <= 80
    np.testing.assert_array_equal(hloc_matches.read("m.h5", "a", "b").indices, inliers.indices)
    with h5py.File("m.h5") as file:
        kind, matrix = hloc_matches.read_model(file, "a/b")
        assert kind == model
        np.testing.assert_array_equal(matrix, truth.model)
        # The others are held, without matches, and say that they were verified.
        for name in ("a/c", "b/c"):
            assert not len(hloc_matches.read_pair(file, name))
            assert not hloc_matches.read_model(file, name)[1].any()


def test_verified_pairs_are_not_matched_again(features):
    job(features, MatchSettings(verify="homography"))
    assert job(features, MatchSettings(verify="homography")) == MatchReport(skipped=3)
    with h5py.File(features, "a") as file:
        hloc.put(file, "c", hloc.arrays_of(hloc.read(file, "b")), stamp="{}")
    report = job(features, MatchSettings(verify="homography"))
    assert (report.done, report.skipped, report.unmatched) == (2, 1, 0)


def test_verified_matches_do_not_depend_on_threads(features):
    for threads in (1, 3):
        job(features, MatchSettings(verify="fundamental"), f"{threads}.h5", threads=threads)
    with h5py.File("1.h5") as one, h5py.File("3.h5") as other:
        for name in ("a/b", "a/c", "b/c"):
            for key in ("matches0", "matching_scores0"):
                np.testing.assert_array_equal(one[name][key], other[name][key])
            np.testing.assert_array_equal(
                hloc_matches.read_model(one, name)[1], hloc_matches.read_model(other, name)[1]
            )


def test_threshold_and_least_number(features):
    counts = [
        job(features, MatchSettings(verify="homography", **options), f"{number}.h5").matches
        for number, options in enumerate(
            [{}, {"threshold": 12.0}, {"threshold": 5.0}, {"min_inliers": 80}, {"min_inliers": 81}]
        )
    ]
    assert counts[0] == counts[1] > counts[2] > 15
    assert counts[3:] in ([counts[0], 0], [0, 0])


def test_other_options_are_refused(features):
    job(features, MatchSettings(verify="homography"))
    for settings, message in (
        (MatchSettings(), "verify 'homography' there, None now"),
        (MatchSettings(verify="fundamental"), "verify 'homography' there, 'fundamental' now"),
        (MatchSettings(verify="homography", threshold=2), "threshold None there, 2 now"),
        (MatchSettings(verify="homography", min_inliers=9), "min_inliers 15 there, 9 now"),
    ):
        with pytest.raises(FormatError, match=message):
            job(features, settings)


def test_files_of_earlier_versions_are_not_verified(features):
    job(features, MatchSettings())
    with h5py.File("m.h5", "a") as file:
        write_text(file, "d2np_settings", '{"mutual": true, "ratio": null, "min_similarity": null}')
        assert hloc_matches.read_model(file, "a/b") is None
    assert job(features, MatchSettings()).skipped == 3
    with pytest.raises(FormatError, match="verify None there, 'homography' now"):
        job(features, MatchSettings(verify="homography"))


@pytest.mark.parametrize(
    "attribute", [3.0, np.full((3, 3), np.nan), np.zeros((3, 2)), "text", np.zeros((3, 3), "S1")]
)
def test_attributes_that_are_no_model(features, attribute):
    job(features, MatchSettings())
    with h5py.File("m.h5", "a") as file:
        file["a/b/matches0"].attrs["homography"] = attribute
        assert hloc_matches.read_model(file, "a/b") is None
        with pytest.raises(FormatError, match="no matches in a/x"):
            hloc_matches.read_model(file, "a/x")


def test_wrong_settings(monkeypatch):
    for options, message in (
        ({"verify": "plane"}, "verify must be one of homography, fundamental"),
        ({"verify": "homography", "threshold": 0}, "threshold must be a positive number"),
        ({"verify": "homography", "min_inliers": 0}, "min_inliers must be a whole number from 1 up"),
    ):
        with pytest.raises(OptionError, match=message):
            MatchSettings(**options)
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    with pytest.raises(Error, match=r"verifying matches needs .*'d2np\[verify\]'"):
        MatchSettings(verify="homography")


@pytest.mark.usefixtures("features")
def test_command(capsys):
    assert main(["pairs", "f.h5", "-o", "m.h5", "--verify", "homography", "--min-inliers", "20"]) == 0
    out, error = capsys.readouterr()
    assert out.startswith("3 pairs matched, ")
    assert " inliers in " in out
    assert ", 2 pairs with fewer than 20\n" in out
    assert error == ""
    for wrong, message in (
        (["--threshold", "2"], "--threshold is for --verify only"),
        (["--min-inliers", "2"], "--min-inliers is for --verify only"),
        (["--verify", "none"], "none' is none of homography, fundamental"),
        (["--verify", "homography", "--min-inliers", "0"], "--min-inliers: a whole number from 1 up"),
        (["--verify", "homography", "--threshold", "nan"], "--threshold: a number above 0 is expected"),
    ):
        assert main(["pairs", "f.h5", "-o", "n.h5", *wrong]) == 2
        assert message in capsys.readouterr().err
