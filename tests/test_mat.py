"""MATLAB files: what the published script writes, read back by scipy."""

from __future__ import annotations

import io
import os
import sys

import numpy as np
import pytest
import scipy.io
from PIL import Image

import d2np
from d2np.cli import main
from d2np.errors import FormatError
from d2np.formats import mat


def features(count, seed=0):
    rng = np.random.default_rng(seed)
    keypoints = np.column_stack([rng.uniform(0, 480, (count, 2)), rng.choice([0.5, 1, 2], count)])
    return d2np.Features(keypoints, rng.uniform(0, 90, count), rng.standard_normal((count, 512)), (640, 480))


@pytest.mark.parametrize("count", [0, 1, 2, 33])
def test_round_trip(tmp_path, count, assert_same_features):
    given = features(count)
    path = tmp_path / "a.jpg.d2-net"
    mat.write(path, given)
    assert_same_features(mat.read(path, (640, 480)), given)
    assert mat.is_complete(path)
    assert os.listdir(tmp_path) == ["a.jpg.d2-net"]
    arrays = scipy.io.loadmat(path, appendmat=False)
    assert {name: arrays[name].shape for name in arrays if not name.startswith("__")} == {
        "keypoints": (count, 3),
        "scores": (1, count) if count else (0, 0),
        "descriptors": (count, 512),
    }
    assert arrays["keypoints"].dtype == arrays["scores"].dtype == arrays["descriptors"].dtype == np.float32


def test_the_bytes_are_those_of_the_published_script(tmp_path):
    given = features(7)
    mat.write(tmp_path / "a", given)
    stream = io.BytesIO()
    scipy.io.savemat(
        stream,
        {"keypoints": given.keypoints, "scores": given.scores, "descriptors": given.descriptors},
    )
    # The first 116 bytes are a text with the date.
    assert (tmp_path / "a").read_bytes()[116:] == stream.getvalue()[116:]


def test_damaged_and_other_files(tmp_path):
    path = tmp_path / "a.d2-net"
    mat.write(path, features(5))
    whole = path.read_bytes()
    for damaged in (b"", b"hello", whole[:100], whole[:200], whole[: len(whole) // 2], whole[:-1]):
        path.write_bytes(damaged)
        assert not mat.is_complete(path)
        with pytest.raises(FormatError, match=r"a\.d2-net"):
            mat.read(path, (1, 1))
    scipy.io.savemat(tmp_path / "other.mat", {"keypoints": np.zeros((1, 3))})
    assert not mat.is_complete(tmp_path / "other.mat")
    with pytest.raises(FormatError, match="scores"):
        mat.read(tmp_path / "other.mat", (1, 1))
    given = features(4)
    scipy.io.savemat(
        tmp_path / "uneven.mat",
        {"keypoints": given.keypoints[:3], "scores": given.scores, "descriptors": given.descriptors},
    )
    with pytest.raises(FormatError, match=r"not a feature file: .*scores"):
        mat.read(tmp_path / "uneven.mat", (1, 1))
    assert not mat.is_complete(tmp_path / "none")
    with pytest.raises(FormatError, match="No such file"):
        mat.read(tmp_path / "none", (1, 1))
    with pytest.raises(FormatError, match="cannot be written"):
        mat.write(tmp_path / "none" / "a", given)


def test_without_scipy(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(FormatError, match=r"^MATLAB files need .*: pip install 'd2np\[mat\]'$"):
        mat.write(tmp_path / "a", features(1))


# --- the command --------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path, monkeypatch, capsys, make_image):
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(["a.png", "sub/b.png"]):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(make_image(64, 96, seed)).save(path)

    def call(*arguments):
        code = main(["extract", "photos", "--weights", "analytic", "--max-keypoints", "20", *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_the_command(run, tmp_path, assert_same_features):
    code, out, _ = run("--format", "mat")
    assert code == 0
    assert "feature files are beside the images\n" in out
    expected = d2np.Net.load("analytic")("photos/sub/b.png", max_keypoints=20)
    assert_same_features(mat.read("photos/sub/b.png.d2-net", (96, 64)), expected)
    assert run("--format", "mat")[1].startswith("0 images extracted, 2 there already")
    path = tmp_path / "photos" / "a.png.d2-net"
    path.write_bytes(path.read_bytes()[:5000])
    assert run("--format", "mat")[1].startswith("1 image extracted, 1 there already")
    assert run("--format", "mat", "-o", "out")[0] == 0
    assert sorted(each.name for each in (tmp_path / "out").rglob("*.d2-net")) == [
        "a.png.d2-net",
        "b.png.d2-net",
    ]


def test_one_extension_two_formats(run, tmp_path):
    for first, second in (("npz", "mat"), ("mat", "npz")):
        assert run("--format", first, "--overwrite")[0] == 0
        before = (tmp_path / "photos" / "a.png.d2-net").read_bytes()
        code, out, err = run("--format", second)
        assert (code, out) == (1, "")
        assert f"is there in the format {first}: choose another folder with -o" in err
        assert (tmp_path / "photos" / "a.png.d2-net").read_bytes() == before


def test_the_command_without_scipy(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    code, out, err = run("--format", "mat")
    assert (code, out) == (1, "")
    assert err == "d2np: MATLAB files need the package scipy: pip install 'd2np[mat]'\n"
