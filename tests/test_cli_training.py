"""``d2np train``: what it writes, how it goes on, and what it refuses."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data

import d2np
from d2np import training
from d2np.cli import main


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Three small photographs in a folder of the working folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("astronaut", "coffee", "camera"):
        image = Image.fromarray(getattr(data, name)())
        image.thumbnail((160, 160))
        Path("photos").mkdir(exist_ok=True)
        image.save(f"photos/{name}.png")


@pytest.fixture
def train(capsys):
    def call(*arguments):
        code = main(["train", *(str(argument) for argument in arguments), "--size", "64", "-q"])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_a_training_that_is_killed_goes_on_to_the_same_weights(photos, train, monkeypatch):
    assert train("photos", "-o", "whole.h5", "--iterations", 8, "--threads", 1)[0] == 0
    program = (
        "import sys; from d2np.training import loop; loop.CHECKPOINT_EVERY = 2; "
        "from d2np.cli import main; sys.exit(main())"
    )
    options = ["train", "photos", "-o", "my.h5", "--iterations", "8", "--size", "64", "-q", "--threads", "1"]
    process = subprocess.Popen([sys.executable, "-c", program, *options])
    checkpoint = Path("my.h5.checkpoint.npz")
    while not checkpoint.exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not Path("my.h5").exists()
    with np.load(checkpoint) as saved:
        assert 0 < np.isfinite(saved["history"]).all(axis=1).sum() < 8
    assert main(options) == 0
    assert not checkpoint.exists()
    whole, resumed = (d2np.Net.load(name).arrays for name in ("whole.h5", "my.h5"))
    for name, array in whole.items():
        np.testing.assert_array_equal(resumed[name], array)


def test_photographs_of_one_name(photos, train):
    Path("more").mkdir()
    Image.open("photos/camera.png").rotate(180).save("more/camera.png")
    assert "trained on 4 photographs" in train("photos", "more", "-o", "my.h5", "--iterations", 4)[1]


def test_a_full_disk_keeps_the_checkpoint(photos, train, monkeypatch):
    monkeypatch.setattr(training.loop, "CHECKPOINT_EVERY", 3)
    savez, saved = np.savez, []

    def save(stream, **arrays):
        saved.append(arrays["state"])
        if len(saved) > 1:
            stream.write(b"PK")
            raise OSError(28, "No space left on device")
        savez(stream, **arrays)

    with monkeypatch.context() as patched:
        patched.setattr(np, "savez", save)
        code, _, err = train("photos", "-o", "my.h5", "--iterations", 6)
    assert (code, err) == (1, "d2np: my.h5.checkpoint.npz: cannot be written: No space left on device\n")
    with np.load("my.h5.checkpoint.npz") as found:
        assert str(found["state"]) == str(saved[0])


@pytest.mark.parametrize(
    ("arguments", "code", "problem"),
    [
        (("photos", "-o", "my.h5", "--layers", "conv4_2"), 2, "--layers conv4_2: conv4_3 alone is trained"),
        (("photos", "-o", "my.pth"), 2, "use one of .h5, .hdf5"),
        (("photos", "-o", "none/my.h5"), 1, "there is no folder none"),
        (("photos", "-o", "my.h5", "--from", "nothing.h5"), 1, "nothing.h5"),
        (("empty", "-o", "my.h5"), 1, "empty holds no images"),
        (
            ("small.png", "-o", "my.h5"),
            1,
            "small.png has 90 x 50 px, less than a view of 64 px: leave it out",
        ),
        (("photos", "pair.npz", "-o", "my.h5"), 2, "cannot be trained on together"),
        (("pair.npz", "-o", "my.h5"), 1, "no such file or folder: pair.npz"),
        (("photos", "photos", "-o", "my.h5", "--colmap", "photos"), 2, "PHOTOS is one folder"),
        (("photos", "-o", "there.h5"), 1, "there.h5 is there already: choose another name"),
        (("photos", "-o", "small.h5"), 1, "small.png is there already: choose another name"),
        (("photos", "-o", "photos/camera.h5", "--overwrite"), 2, "photos/camera.png"),
        (("photos", "-o", "my.h5", "--validate", "photos/coffee.png"), 2, "photos/coffee.png is trained on"),
        (
            ("photos", "-o", "my.h5", "--rate", "2"),
            2,
            "--rate: a number between 0 and 1 is expected, not '2'",
        ),
    ],
)
def test_bad_input(photos, train, arguments, code, problem):
    Path("empty").mkdir()
    Image.new("RGB", (90, 50)).save("small.png")
    Path("there.h5").write_bytes(b"")
    before = sorted(Path().rglob("*"))
    found, out, err = train(*arguments)
    assert (found, out) == (code, "")
    assert problem in err
    assert len(err.splitlines()) == 1
    assert sorted(Path().rglob("*")) == before


def test_a_checkpoint_of_other_options(photos, train, monkeypatch):
    monkeypatch.setattr(
        training.loop.Training, "trained", lambda _: (_ for _ in ()).throw(d2np.Error("stop"))
    )
    assert train("photos", "-o", "my.h5", "--iterations", 2)[2] == "d2np: stop\n"
    code, _, err = train("photos", "-o", "my.h5", "--iterations", 3)
    assert code == 1
    assert "is of a training with other settings, photographs or weights" in err
    # The same weights, for another preprocessing.
    net = d2np.Net.load("vgg16")
    d2np.Net(net.arrays, provenance=replace(net.provenance, preprocessing="torch")).save("torch.h5")
    kept = Path("my.h5.checkpoint.npz").read_bytes()
    code, _, err = train("photos", "-o", "my.h5", "--iterations", 2, "--from", "torch.h5")
    assert code == 1
    assert "is of a training with other settings, photographs or weights" in err
    assert Path("my.h5.checkpoint.npz").read_bytes() == kept


def test_the_preprocessing_stays(photos, train):
    net = d2np.Net.load("vgg16")
    d2np.Net(net.arrays, provenance=replace(net.provenance, preprocessing="torch")).save("torch.h5")
    assert train("photos", "-o", "my.h5", "--iterations", 4, "--from", "torch.h5")[0] == 0
    assert d2np.Net.load("my.h5").preprocessing == "torch"


def test_photographs_without_anything_in_common(photos, train):
    """A view of a smooth gradient has correspondences; an archive without depth has none."""
    arrays = {f"image{number}": np.zeros((64, 64, 3), np.uint8) for number in (1, 2)}
    disparity = np.zeros((64, 64))
    disparity[0, 0] = 1
    np.savez("pair.npz", **arrays, disparity=disparity)
    code, _, err = train("pair.npz", "-o", "my.h5", "--iterations", 5)
    assert code == 1
    assert "no pair has 128 correspondences: give a larger --size" in err


def test_what_is_told_and_replaced(photos, train):
    Path("my.h5").write_bytes(b"old")
    Path("my.png").write_bytes(b"old")
    Image.open("photos/camera.png").rotate(90).save("held.png")
    arguments = ("photos", "-o", "my.h5", "--iterations", 4, "--validate", "held.png", "--overwrite")
    code, out, err = train(*arguments)
    assert (code, err) == (0, "")
    assert "trained on 3 photographs" in out
    assert re.search(r"^held out: loss \d\.\d+ before, \d\.\d+ now; ", out, re.M)
    assert d2np.Net.load("my.h5").provenance.name.endswith("; conv4_3 trained by d2np for 4 iterations")
    with Image.open("my.png") as curve:
        assert curve.size == (960, 420)


def test_interrupted(photos, train, monkeypatch):
    """Ctrl-C ends it after the pair, with a checkpoint; held out photographs belong to it."""
    monkeypatch.setattr(training.loop.Adam, "step", lambda *_: signal.raise_signal(signal.SIGINT))
    code, _, err = train("photos", "-o", "my.h5", "--iterations", 9)
    assert code == 130
    assert "goes on from the last checkpoint" in err
    assert sorted(path.name for path in Path().iterdir()) == ["my.h5.checkpoint.npz", "photos"]
    code, _, err = train("photos", "-o", "my.h5", "--iterations", 9, "--validate", "photos/camera.png")
    assert (code, err.count("\n")) == (2, 1)
