"""``d2np train`` on real photographs: the loss falls on others too."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data

import d2np
from d2np.cli import main


def test_it_lowers_the_loss_on_photographs_that_it_has_not_seen(tmp_path, monkeypatch, capsys):
    """Five photographs, 200 iterations at 96 px: a minute on two cores."""
    monkeypatch.chdir(tmp_path)
    left, _, _ = data.stereo_motorcycle()
    for folder, images in (
        ("photos", (data.astronaut(), data.coffee(), data.rocket(), data.camera(), data.coins())),
        ("others", (data.chelsea(), left)),
    ):
        Path(folder).mkdir()
        for number, image in enumerate(images):
            small = Image.fromarray(image)
            small.thumbnail((240, 240))
            small.save(f"{folder}/{number}.png")
    options = [
        "-o",
        "my.h5",
        "--validate",
        "others",
        "--iterations",
        "200",
        "--size",
        "96",
        "--rate",
        "0.001",
    ]
    assert main(["train", "photos", *options, "-q"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    before, after = map(float, re.search(r"held out: loss ([\d.]+) before, ([\d.]+) now", out).groups())
    assert after < 0.8 * before
    assert "trained on 5 photographs" in out
    assert sorted(path.name for path in Path().iterdir()) == ["my.h5", "my.png", "others", "photos"]
    with Image.open("my.png") as curve:
        assert curve.size == (960, 420)
    net, begun = d2np.Net.load("my.h5"), d2np.Net.load("vgg16")
    changed = [name for name, array in net.arrays.items() if not np.array_equal(array, begun.arrays[name])]
    assert changed == ["conv4_3/weight", "conv4_3/bias"]
    assert net.preprocessing == begun.preprocessing
    assert net.provenance.name.endswith("; conv4_3 trained by d2np for 200 iterations")
