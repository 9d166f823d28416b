"""The command line, as a user meets it: what is written, what is said, and how it ends."""

from __future__ import annotations

import functools
import hashlib
import io
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from checkpoints import legacy, repeated, state_dict
from parted import kept, killed_after
from PIL import Image

import d2np
from d2np import demo, draw
from d2np.cli import _parser, main
from d2np.cli.console import finishing
from d2np.cli.looking import TARGETS
from d2np.draw.canvas import BACKGROUND
from d2np.errors import count
from d2np.formats import hloc, npz
from d2np.kernels import processor
from d2np.layers import PARAMETER_COUNT, PARAMETER_SHAPES
from d2np.verification import transformed
from d2np.weights import catalogue

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def weights_file(tmp_path_factory):
    """The analytic weights in a file of their own: small, quick to load, and they find what they should."""
    path = tmp_path_factory.mktemp("weights") / "analytic.h5"
    d2np.weights.save(path, d2np.weights.load("analytic")[0])
    return str(path)


@pytest.fixture(scope="session")
def load_once():
    return functools.cache(d2np.Net.load)


@pytest.fixture(autouse=True)
def _quick(monkeypatch, load_once):
    """Weights are read once for all commands."""
    monkeypatch.setattr(d2np.Net, "load", staticmethod(load_once))


@pytest.fixture
def photos(tmp_path, make_image, monkeypatch):
    """The working folder, with three images in it and below it."""
    for seed, name in enumerate(["a.png", "b.jpg", "sub/c.png"]):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(make_image(64, 96, seed)).save(path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(capsys, weights_file):
    """Runs a command: exit code, standard output, standard error."""

    def call(*arguments, weights=True):
        chosen = ["--weights", weights_file] if weights else []
        code = main([*(str(argument) for argument in arguments), *chosen])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def fails(run):
    """Runs a command that must fail with one line on standard error; returns the code and the line."""

    def call(*arguments, weights=False):
        code, out, err = run(*arguments, weights=weights)
        assert out == ""
        assert re.fullmatch(r"d2np: .+\n", err)
        return code, err

    return call


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


# --- match ------------------------------------------------------------------------------------------------


def test_match(run, photos):
    code, out, err = run("match", "photos/a.png", "photos/a.png", "-o", "m.png")
    assert (code, err) == (0, "")
    count = int(re.search(r"photos/a\.png: (\d+) keypoints in 96 x 64 px", out).group(1))
    assert count > 3
    assert re.search(rf"^{count} matches$", out, re.M)
    assert re.search(r"^\d+\.\d+ s for extraction, \d+\.\d+ s for matching$", out, re.M)
    assert out.endswith("wrote m.png\n")
    with Image.open("m.png") as image:
        assert image.format == "PNG"
        assert image.width > 2 * 96


def test_match_writes_matches_png_by_default_and_replaces_it(run, photos):
    Path("matches.png").write_text("old")
    assert run("match", "photos/a.png", "photos/b.jpg")[0] == 0
    with Image.open("matches.png") as image:
        assert image.format == "PNG"


@pytest.mark.parametrize(
    ("name", "format"), [("m.JPG", "JPEG"), ("m.webp", "WEBP"), ("m.tif", "TIFF"), ("m.bmp", "BMP")]
)
def test_the_extension_decides_the_format(run, photos, name, format):
    assert run("show", "photos/a.png", "-o", name)[0] == 0
    with Image.open(name) as image:
        assert image.format == format


def test_match_options_reach_the_matcher(run, photos):
    def matches(*options):
        code, out, _ = run("match", "photos/a.png", "photos/b.jpg", *options)
        assert code == 0
        return int(re.search(r"^(\d+) match", out, re.M).group(1))

    every = matches("--no-mutual")
    assert every > matches() >= matches("--ratio", "0.9")
    assert matches("--min-similarity", "0.999") == 0
    assert matches("--no-mutual", "--max-keypoints", "2") == 2


def test_no_keypoints_at_all(run, photos):
    # A map of one cell, where a keypoint would need four around it.
    Image.new("RGB", (8, 8), (90, 90, 90)).save("grey.png")
    code, out, _ = run("match", "grey.png", "grey.png")
    assert code == 0
    assert "\n0 matches\n" in out
    assert run("show", "grey.png", "-o", "k.png")[0] == 0
    assert run("extract", "grey.png", "-o", "f.h5")[0] == 0
    assert len(hloc.read("f.h5", "grey.png")) == 0


def test_a_drawing_has_a_caption(run, photos):
    """Below the image, higher by a strip than what is drawn from Python without one."""
    for how in ([], ["--heatmap", "-k", "5"]):
        assert run("show", "photos/a.png", "-o", "k.png", *how)[0] == 0
        with Image.open("k.png") as image:
            pixels = np.asarray(image)
        background = (pixels == BACKGROUND).all(axis=2)
        assert background[-1].all()
        assert not background[-20:].all(), "there is text"


def test_show_only_the_best_scores(run, photos):
    every = int(re.match(r"(\d+) keypoints", run("show", "photos/a.png", "-o", "k.png")[1]).group(1))
    out = run("show", "photos/a.png", "-o", "k.png", "--min-score", "20")[1]
    few, least = re.match(r"(\d+) keypoints? in .*, scores ([\d.]+) to", out).groups()
    assert 0 < int(few) < every
    assert float(least) >= 20


def test_match_page(run, photos):
    code, out, _ = run("match", "photos/a.png", "photos/b.jpg", "-o", "view.html")
    assert code == 0
    assert re.search(r"^wrote view\.html$", out, re.M)
    page = Path("view.html").read_text(encoding="utf-8")
    assert "<title>a.png and b.jpg: matches</title>" in page
    assert files(photos) == ["photos/a.png", "photos/b.jpg", "photos/sub/c.png", "view.html"]


# --- show -------------------------------------------------------------------------------------------------


def test_show_keypoints(run, photos, weights_file):
    code, out, _ = run("show", "photos/a.png", "-o", "k.png", "-k", "3")
    assert code == 0
    assert out.startswith("3 keypoints in 96 x 64 px, scores ")
    net = d2np.Net.load(weights_file)
    features = net("photos/a.png", max_keypoints=3)
    expected = draw.keypoints("photos/a.png", features, caption=f"weights {Path(weights_file).name}")
    with Image.open("k.png") as image:
        np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize("heat", [[], ["--heatmap"]])
def test_show_page(run, photos, heat):
    # A page has keypoints and strength: what keypoints are found how is a question with --heatmap too.
    code, out, _ = run("show", "photos/a.png", "-o", "VIEW.HTM", "-k", "3", "--multiscale", *heat)
    assert code == 0
    assert out.startswith("3 keypoints in 96 x 64 px")
    page = Path("VIEW.HTM").read_text(encoding="utf-8")
    assert '"heat":"data:image/png' in page
    assert ('id="heat" checked' in page) == bool(heat)


def test_show_heatmap(run, photos, weights_file):
    code, out, _ = run("show", "photos/a.png", "--heatmap", "-k", "5", "-o", "h.png", "--max-edge", "61")
    assert code == 0
    assert out.startswith("14 x 9 cells for 96 x 64 px")
    strength = d2np.Net.load(weights_file).strength("photos/a.png", max_edge=61)
    caption = f"weights {Path(weights_file).name}"
    expected = draw.heatmap("photos/a.png", strength, strongest=5, network_size=(61, 40), caption=caption)
    with Image.open("h.png") as image:
        np.testing.assert_array_equal(image, expected)


def test_more_marks_than_cells(run, photos):
    assert run("show", "photos/a.png", "--heatmap", "-k", "100000", "-o", "h.png")[0] == 0


# --- extract ----------------------------------------------------------------------------------------------


@pytest.fixture
def computed(monkeypatch):
    """The names of the images that the network is called for."""
    seen = []
    original = d2np.Net.__call__

    def counted(self, image, **options):
        seen.append(Path(getattr(image, "_name", image)).name)
        return original(self, image, **options)

    monkeypatch.setattr(d2np.Net, "__call__", counted)
    return seen


def test_extract_h5(run, photos, computed, weights_file, assert_same_features):
    code, out, err = run("extract", "photos", "-o", "f.h5")
    assert code == 0
    assert re.match(r"3 images extracted, [\d,]+ keypoints in ", out)
    assert err == ""
    assert hloc.names("f.h5") == ["a.png", "b.jpg", "sub/c.png"]
    expected = d2np.Net.load(weights_file)("photos/sub/c.png")
    assert_same_features(hloc.read("f.h5", "sub/c.png"), expected)
    assert files(photos) == ["f.h5", "photos/a.png", "photos/b.jpg", "photos/sub/c.png"]

    computed.clear()
    code, out, err = run("extract", "photos", "-o", "f.h5")
    assert (code, err, computed) == (0, "", [])
    assert out.startswith("0 images extracted, 3 there already\n")


def test_extract_options_reach_the_network(run, photos, weights_file, assert_same_features):
    options = (
        *("--detector", "strength", "--max-keypoints", "7", "--multiscale", "--max-edge", "80"),
        *("--max-sum-edges", "none", "--preprocessing", "torch", "--orient", "--no-relu"),
        *("--spread", "--threads", "2"),
    )
    assert run("extract", "photos/a.png", "-o", "f.h5", *options)[0] == 0
    expected = d2np.Net.load(weights_file)(
        "photos/a.png",
        detector="strength",
        max_keypoints=7,
        spread=True,
        scales=(0.5, 1.0, 2.0),
        max_edge=80,
        max_sum_edges=None,
        preprocessing="torch",
        orient=True,
        relu=False,
    )
    assert_same_features(hloc.read("f.h5", "a.png"), expected)


def test_masks(run, photos, weights_file, assert_same_features):
    mask = np.zeros((64, 96), np.uint8)
    mask[:, 50:] = 255
    for name in ("a.png", "b.jpg.png", "sub/c.png"):
        (photos / "masks" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(photos / "masks" / name)
    assert run("extract", "photos", "-o", "f.h5", "--masks", "masks")[0] == 0
    net = d2np.Net.load(weights_file)
    for name in hloc.names("f.h5"):
        assert_same_features(hloc.read("f.h5", name), net(f"photos/{name}", mask=mask))
    number = len(hloc.read("f.h5", "a.png"))
    masked = ["--masks", "masks"]
    assert (
        f"\n{number} keypoints in 96 x 64 px" in "\n" + run("show", "photos/a.png", "-o", "k.png", *masked)[1]
    )
    out = run("match", "photos/a.png", "photos/b.jpg", "-o", "m.csv", *masked)[1]
    assert out.startswith(f"photos/a.png: {number} keypoints in 96 x 64 px")
    table = np.genfromtxt("m.csv", delimiter=",", names=True)
    assert min(table["x_a"].min(), table["x_b"].min()) >= 49.5
    # One mask for all.
    assert run("extract", "photos/a.png", "-o", "g.h5", "--masks", "masks/sub/c.png")[0] == 0
    assert len(hloc.read("g.h5", "a.png")) == number
    (photos / "masks" / "b.jpg.png").unlink()
    code, _, err = run("extract", "photos", "-o", "f.h5", *masked)
    assert code == 1
    assert err.startswith("d2np: photos/b.jpg: masks/b.jpg.png cannot be read: No such file or directory")


def test_extract_half(run, photos):
    assert run("extract", "photos/a.png", "-o", "f.h5", "--half")[0] == 0
    with h5py.File("f.h5") as file:
        group = file["a.png"]
        assert {key: group[key].dtype.str for key in group} == {
            "keypoints": "<f2",
            "scores": "<f2",
            "descriptors": "<f2",
            "global_descriptor": "<f2",
            "image_size": "<i8",
            "scales": "<f2",
        }


def test_extract_npz(run, photos, computed, assert_same_features, weights_file):
    code, out, _ = run("extract", "photos", "--format", "npz")
    assert code == 0
    assert "beside the images" in out
    assert "photos/sub/c.png.d2-net" in files(photos)
    expected = d2np.Net.load(weights_file)("photos/a.png")
    assert_same_features(npz.read("photos/a.png.d2-net", (96, 64)), expected)
    assert run("extract", "photos", "--format", "npz", "-o", "out")[0] == 0
    assert files(photos / "out") == ["a.png.d2-net", "b.jpg.d2-net", "sub/c.png.d2-net"]
    computed.clear()
    assert run("extract", "photos", "--format", "npz", "-o", "out")[0] == 0
    assert computed == []


def test_extract_reports_what_it_cannot_read(run, photos):
    Path("photos/bad.png").write_text("no image")
    whole = Path("photos/b.jpg").read_bytes()
    Path("photos/cut.jpg").write_bytes(whole[: len(whole) // 2])
    Image.new("RGB", (5, 5)).save("photos/tiny.png")
    code, out, err = run("extract", "photos", "photos/none.jpg", "-o", "f.h5")
    assert code == 1
    assert out.startswith("3 images extracted, 4 failed")
    lines = [line for line in err.splitlines() if line.startswith("d2np: ")]
    for name in ("bad.png", "cut.jpg", "tiny.png", "none.jpg"):
        assert sum(f"photos/{name}" in line for line in lines) == 1
    assert len(lines) == 4
    assert err.endswith("f.h5.failed.txt\n")
    assert len(hloc.names("f.h5")) == 3
    listed = Path("f.h5.failed.txt").read_text()
    assert listed.startswith("bad.png\t")
    assert [line.split("\t")[0] for line in listed.splitlines()] == [
        "bad.png",
        "cut.jpg",
        "tiny.png",
        "none.jpg",
    ]

    code, out, err = run("extract", "photos", "photos/none.jpg", "-o", "f.h5")
    assert code == 1
    assert out.startswith("0 images extracted, 3 there already, 4 failed")
    assert [line for line in err.splitlines() if line.startswith("d2np: ")] == lines
    assert "not tried again, as unchanged: 3 images that failed before; --retry-failed tries them" in err
    assert Path("f.h5.failed.txt").read_text() == listed


def test_extract_tells_once_what_libraries_say_and_stretches(run, photos):
    narrow = np.linspace(7000, 7900, 60 * 80).reshape(60, 80).astype(np.uint16)
    for name in ("a.png", "b.png"):
        Image.fromarray(narrow).save(name)
    code, _, err = run("extract", "a.png", "b.png", "-o", "f.h5")
    assert code == 0
    lines = err.splitlines()
    assert sum("--stretch" in line for line in lines) == 1
    # Images are opened side by side: the remark names the one that is opened first.
    assert re.match(r"d2np: [ab]\.png: its 16-bit values go from 70", lines[-1])
    _, _, err = run("extract", "a.png", "b.png", "-o", "g.h5", "--stretch")
    assert "--stretch" not in err


def test_control_characters_never_reach_a_terminal_raw(run, photos):
    evil = "\x1b]0;x\x07\x9b2J\u202e\r\x7f"
    Path(f"photos/{evil}.jpg").write_text("no image")
    Path("list.txt").write_text(f"photos/a\x1b.png\n{evil}\n")
    Path(f"{evil}.txt").write_bytes(b"\0")
    for arguments in (
        ("extract", "photos", "@list.txt", "-o", "f.h5"),
        ("extract", f"@{evil}.txt", "-o", f"{evil}.h5"),
        ("extract", "photos/a.png", "-o", f"{evil}.h5"),
        ("show", f"photos/{evil}.jpg", "-o", f"{evil}.png"),
        ("show", "a.png", "-o", "x.png", f"--{evil}"),
        (evil,),
        ("info", evil),
        ("pairs", "f.h5", "--pairs", evil, "-o", "m.h5"),
    ):
        _, out, err = run(*arguments, weights=arguments[0] in ("extract", "show"))
        said = [line for line in (out + err).split("\n") if "extracting: " not in line]
        assert all(line.isprintable() for line in said), said
        assert "\\x1b" in out + err
    assert all(
        line.isprintable() for line in Path("f.h5.failed.txt").read_text().replace("\t", " ").splitlines()
    )


def test_extract_interrupted_and_started_again(run, photos, computed, monkeypatch):
    original = hloc.arrays_of
    stored = []

    def interrupted(features, **options):
        stored.append(features)
        if len(stored) == 2:
            raise KeyboardInterrupt
        return original(features, **options)

    monkeypatch.setattr(hloc, "arrays_of", interrupted)
    code, out, err = run("extract", "photos", "-o", "f.h5")
    assert (code, out) == (130, "")
    assert err.splitlines()[-1] == (
        "d2np: interrupted: what is done is kept, and the same command goes on from there"
    )
    before = set(kept("f.h5"))
    assert len(before) in (1, 2)
    assert not Path("f.h5").exists()

    monkeypatch.setattr(hloc, "arrays_of", original)
    computed.clear()
    code, out, _ = run("extract", "photos", "-o", "f.h5")
    assert code == 0
    assert {Path(name).name for name in before}.isdisjoint(computed)
    assert out.startswith(f"{count(3 - len(before), 'image')} extracted, {len(before)} there already")
    assert files(photos) == ["f.h5", "photos/a.png", "photos/b.jpg", "photos/sub/c.png"]


# --- demo -------------------------------------------------------------------------------------------------


def test_demo(run, photos):
    code, out, err = run("demo", "-o", "d.png", weights=False)
    assert code == 0
    assert "Traceback" not in err
    assert re.search(r"weights +d2np\n", out)
    right, matches, share = (
        int(value) for value in re.search(r"correct +(\d+) of (\d+), (\d+)%, within 3 px", out).groups()
    )
    assert matches > 100
    assert share == round(100 * right / matches)
    assert share >= 65
    assert out.rstrip().endswith("d.png")
    with Image.open("d.png") as image:
        assert image.width > 900


def test_the_demo_measures_and_does_not_assume(net):
    """Random weights find much less, and the numbers say so."""
    given = demo.views()
    result = demo.run(net, given)
    assert len(result.distances) == len(result.matches)
    assert result.right.mean() < 0.6


def test_the_demo_knows_its_own_view():
    """The second view looked at through the truth is the first one, darker."""
    given = demo.views()
    first, second = (np.asarray(view, np.float64).mean(axis=2) for view in (given.first, given.second))
    rng = np.random.default_rng(0)
    there = rng.uniform(20, 430, (4000, 2))
    here = transformed(np.linalg.inv(given.truth), there)

    def at(image, xy):
        x, y = np.floor(xy).astype(int).T
        u, v = (xy - np.floor(xy)).T
        top = image[y, x] * (1 - u) + image[y, x + 1] * u
        return top * (1 - v) + (image[y + 1, x] * (1 - u) + image[y + 1, x + 1] * u) * v

    right = np.abs(at(second, there) - (at(first, here) * 0.8 + 15)).mean()
    assert right < 2
    for shift in ([0.5, 0], [-0.5, 0], [0, 0.5], [0, -0.5]):
        assert np.abs(at(second, there) - (at(first, here + shift) * 0.8 + 15)).mean() > right


# --- info and convert -------------------------------------------------------------------------------------


def test_info(capsys, weights_file):
    assert main(["info", weights_file]) == 0
    out = capsys.readouterr().out
    assert "22: 10 convolution, 9 ReLU, 2 max pooling, 1 average pooling" in out
    assert len(re.findall(r"^ *\d+  (conv|relu|pool)", out, re.M)) == 22
    for name, shape in PARAMETER_SHAPES.items():
        assert re.search(rf"^{name} +{' x '.join(map(str, shape))} +{np.prod(shape):,}$", out, re.M)
    assert re.search(rf"^total +{PARAMETER_COUNT:,}$", out, re.M)
    assert "119 x 159 x 512" in out
    assert f"{os.path.getsize(weights_file):,} bytes" in out


def test_info_tells_the_licence(capsys, tmp_path):
    def licence(of):
        assert main(["info", str(of)]) == 0
        return re.search(r"^licence +(.+)$", capsys.readouterr().out, re.M)[1]

    told = licence("vgg16")
    assert told.startswith("CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/): VGG16")
    given = (Path(__file__).parents[1] / "weights" / "LICENSE-vgg16.txt").read_text()
    for part in (
        "https://creativecommons.org/licenses/by/4.0/",
        "Karen Simonyan and Andrew Zisserman",
        "float16",
    ):
        assert part in told
        assert part in given
    # A copy keeps it, and the analytic weights have their own.
    assert main(["convert", "vgg16", str(tmp_path / "copy.h5")]) == 0
    capsys.readouterr()
    assert licence(tmp_path / "copy.h5") == told
    assert licence("analytic") == "BSD-3-Clause: part of d2np"
    assert licence("d2np") == licence("vgg16").replace(" here", ", and conv4_3 trained by d2np")
    tensors = {name: repeated(0.5, shape) for name, shape in PARAMETER_SHAPES.items()}
    for name, expected in (
        ("d2_tf.pth", "its authors' terms (https://github.com/mihaidusmanu/d2-net)"),
        ("mine.pth", "not known to d2np: ask where the file comes from"),
    ):
        (tmp_path / name).write_bytes(legacy({"model": state_dict(tensors)}))
        assert licence(tmp_path / name) == expected


def test_convert(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = {name: k + 0.5 for k, name in enumerate(PARAMETER_SHAPES)}
    tensors = {name: repeated(value, PARAMETER_SHAPES[name]) for name, value in values.items()}
    checkpoint = legacy({"model": state_dict(tensors)})
    Path("d2.pth").write_bytes(checkpoint)
    assert main(["convert", "d2.pth", "d2.h5"]) == 0
    out = capsys.readouterr().out
    assert hashlib.sha256(checkpoint).hexdigest() in out
    content = Path("d2.h5").read_bytes()
    assert f"{len(content):,} bytes" in out
    loaded, provenance = d2np.weights.load(Path("d2.h5"))
    assert provenance.name == "d2.pth"
    assert all((loaded[name] == value).all() for name, value in values.items())

    assert main(["convert", "d2.h5", "d2.h5"]) == 1
    assert main(["convert", "d2.h5", "d2.h5", "--overwrite"]) == 0
    assert Path("d2.h5").read_bytes() == content
    Path("other.h5").write_text("mine")
    assert main(["convert", "d2.pth", "other.h5"]) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert Path("other.h5").read_text() == "mine"
    assert main(["convert", "d2.h5", "other.h5", "--overwrite"]) == 0
    assert Path("other.h5").read_bytes() == content
    assert files(tmp_path) == ["d2.h5", "d2.pth", "other.h5"]


# --- default weights --------------------------------------------------------------------------------------


def test_default_weights_are_named(run, photos, tmp_path, monkeypatch, weights_file):
    cache = tmp_path / "cache"
    cache.mkdir()
    monkeypatch.setenv("D2NP_CACHE", str(cache))
    monkeypatch.setattr(catalogue, "_packaged", lambda name: Path(weights_file))
    code, _, err = run("show", "photos/a.png", "-o", "k.png", weights=False)
    assert code == 0
    assert err.splitlines()[0].startswith("weights: d2np (")
    (cache / "tf.h5").write_bytes(Path(weights_file).read_bytes())
    code, _, err = run("info", weights=False)
    assert code == 0
    assert err == "weights: tf (published, from the cache)\n"


# --- what goes wrong --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["bogus"],
        ["match"],
        ["match", "photos/a.png"],
        ["match", "photos/a.png", "photos/b.jpg", "-o", "m.xyz"],
        ["match", "photos/a.png", "photos/b.jpg", "-o", "m"],
        ["match", "photos/a.png", "photos/b.jpg", "-o", "photos/b.jpg"],
        ["match", "photos/a.png", "photos/b.jpg", "--ratio", "1.5"],
        ["match", "photos/a.png", "photos/b.jpg", "--min-score", "nan"],
        ["match", "photos/a.png", "photos/b.jpg", "--ratio", "0"],
        ["match", "photos/a.png", "photos/b.jpg", "--min-similarity", "nan"],
        ["match", "photos/a.png", "photos/b.jpg", "--detector", "sift"],
        ["match", "photos/a.png", "photos/b.jpg", "--max-keypoints", "-3"],
        ["match", "photos/a.png", "photos/b.jpg", "--threads", "0"],
        ["match", "photos/a.png", "photos/b.jpg", "--max-edge", "large"],
        ["match", "photos/a.png", "photos/b.jpg", "--max", "5"],
        ["show", "photos/a.png"],
        ["show", "photos/a.png", "-o", "photos/../photos/a.png"],
        ["demo", "-o", "view.html"],
        ["info", "--size", "640"],
        ["convert", "w.pth", "w.bin"],
        ["extract", "-o", "f.h5"],
        ["extract", "photos"],
        ["extract", "photos", "-o", "f.npz"],
        ["extract", "photos", "-o", "f.h5", "--format", "txt"],
        ["extract", "photos", "--format", "npz", "--half"],
        ["extract", "photos", "--format", "npz", "--checksum"],
        ["extract", "photos/a.png", "other/a.png", "-o", "f.h5"],
        ["extract", "photos", "-o", "f.h5", "--masks", "photos"],
        ["extract", "photos", "-o", "f.h5", "--spread"],
        ["match", "photos/a.png", "photos/b.jpg", "--spread"],
    ],
)
def test_bad_usage(fails, photos, arguments):
    code, line = fails(*arguments)
    assert code == 2
    assert len(line) > 20
    assert files(photos) == ["photos/a.png", "photos/b.jpg", "photos/sub/c.png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["match", "photos/a.png", "none.png"], "no such file or folder: none.png"),
        (["match", "photos", "photos/a.png"], "photos cannot be read: Is a directory"),
        (["match", "text.png", "photos/a.png"], "is not an image"),
        (["match", "photos/a.png", "photos/b.jpg", "-o", "none/m.png"], "there is no folder none"),
        (["match", "photos/a.png", "photos/b.jpg", "-o", "none/m.html"], "there is no folder none"),
        (["show", "photos/a.png", "-o", "folder.png"], "it is a folder"),
        (["show", "photos/a.png", "-o", "k.png", "--weights", "none.h5"], "none.h5: no such file"),
        (["show", "photos/a.png", "-o", "k.png", "--weights", "text.png"], "and starts with b'hello'"),
        (["show", "photos/a.png", "-o", "k.png", "--weights", "ots"], "download https://"),
        (["info", "photos/a.png"], "unknown kind, and starts with b'\\x89PNG"),
        (["convert", "none.pth", "w.h5"], "none.pth: no such file"),
        (["convert", "text.png", "w.h5"], "and starts with b'hello'"),
        (["extract", "@none.txt", "-o", "f.h5"], "no such list: none.txt"),
        (["extract", "*.tif", "-o", "f.h5"], "fits no image"),
        (
            ["extract", "photos", "-o", "f.h5", "--masks", "photo"],
            "no such file or folder: photo; did you mean",
        ),
        (["match", "photos/a.png", "photos/b.jpg", "--masks", "photos/sub"], "folder: photos/sub/a.png.png"),
        (["show", "photos/b.jpg", "-o", "k.png", "--masks", "photos/sub"], "folder: photos/sub/b.jpg.png"),
        (["extract", "folder.png", "-o", "f.h5"], "holds no images"),
    ],
)
def test_failed_jobs(fails, photos, monkeypatch, arguments, message):
    monkeypatch.setenv("D2NP_CACHE", str(photos / "no cache"))
    Path("text.png").write_text("hello")
    Path("folder.png").mkdir()
    before = files(photos)
    code, line = fails(*arguments)
    assert code == 1
    assert message in line
    assert files(photos) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "photos/a.png", "-o", "k.png", "--max-edge", "9"], "photos/a.png: the network would see"),
        (["show", "huge.png", "-o", "k.png"], "too large to open unasked"),
        (["extract", "photos", "-o", "none/f.h5"], "there is no folder none"),
        (["extract", "photos", "-o", "diary.h5"], "not an HDF5 file"),
        (["extract", "photos", "--format", "npz", "-o", "diary.h5"], "no folder"),
    ],
)
def test_failed_jobs_with_a_network(fails, photos, monkeypatch, arguments, message):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20_000)
    Image.new("L", (300, 300)).save("huge.png")
    Path("diary.h5").write_text("dear diary")
    before = files(photos)
    code, line = fails(*arguments, weights=True)
    assert code == 1
    assert message in line
    assert files(photos) == before
    assert Path("diary.h5").read_text() == "dear diary"


@pytest.mark.parametrize(
    "command", [["show", "photos/a.png", "-o", "k.png"], ["extract", "photos", "-o", "f.h5"]]
)
def test_a_file_that_cannot_get_its_name(run, photos, monkeypatch, command):
    original = os.replace

    def full(source, target):
        if Path(target).name in ("f.h5", "k.png"):
            raise OSError(28, "No space left on device")
        original(source, target)

    monkeypatch.setattr(os, "replace", full)
    before = files(photos)
    code, out, err = run(*command)
    assert (code, out) == (1, "")
    assert "No space left on device" in err.splitlines()[-1]
    # What was extracted is kept for the next run.
    assert [name for name in files(photos) if not name.startswith("f.h5.parts/")] == before
    assert len(kept("f.h5")) == (3 if command[0] == "extract" else 0)


# --- as a program of its own ------------------------------------------------------------------------------


def program(*arguments, start=("-m", "d2np"), **options):
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.run(
        [sys.executable, *start, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        text=True,
        timeout=600,
        **streams,
    )


def test_program(photos, weights_file):
    ended = program("match", "photos/a.png", "photos/a.png", "--weights", weights_file)
    assert (ended.returncode, "Traceback" in ended.stderr) == (0, False)
    assert ended.stdout.endswith("wrote matches.png\n")
    ended = program("match", "photos/a.png", "none.png")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == "d2np: no such file or folder: none.png\n"


def test_help_does_not_wait_for_the_compiler():
    code = (
        "import sys; from d2np.cli import main; assert main(['info', '--help']) == 0; "
        "assert not {'numba', 'numpy', 'h5py', 'PIL'} & set(sys.modules)"
    )
    ended = program(start=("-c", code))
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_reader_that_stops_reading(weights_file):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as closed:
        ended = program("info", weights_file, stdout=closed)
    assert (ended.returncode, ended.stderr) == (141, "")


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)], ids=str)
def test_closed_standard_streams(closed, photos, weights_file):
    """As where a service starts d2np. What is written must not be mixed with what goes to their numbers."""
    command = ["extract", "photos", "-o", "f.h5", "--weights", weights_file]
    starter = (
        "import os, sys\n"
        "for number in map(int, sys.argv[1].split(',')): os.close(number)\n"
        "os.execv(sys.executable, [sys.executable, '-m', 'd2np', *sys.argv[2:]])"
    )
    numbers = ",".join(map(str, closed))
    ended = program(*command, start=("-c", starter, numbers), stdin=subprocess.DEVNULL)
    assert ended.returncode == 0, ended.stderr
    assert ("image" in ended.stdout) == (1 not in closed)
    assert "Traceback" not in ended.stderr
    with h5py.File("f.h5") as file:
        assert len(file) > 0


@pytest.mark.parametrize(
    "command", [["extract", "photos", "-o", "f.h5"], ["info", "nosuch.h5"]], ids=" ".join
)
def test_nobody_can_take_remarks(command, photos, weights_file):
    """The disk of a log may be full, or its file not open for writing: the work goes on."""
    if command[0] == "extract":
        command = [*command, "--weights", weights_file]
    codes = []
    for path, mode in (("/dev/full", "w"), ("/dev/null", "r")):
        with open(path, mode) as useless:
            ended = program(*command, stderr=useless)
        codes.append(ended.returncode)
        assert ("image" in ended.stdout) == (command[0] == "extract")
    assert codes == [int(command[0] == "info")] * 2


def test_interrupt(photos, weights_file, make_image, capsys):
    for seed in range(30):
        Image.fromarray(make_image(48, 64, seed)).save(f"photos/{seed}.png")
    command = ["extract", "photos", "-o", "f.h5", "--weights", weights_file, "--threads", "2"]
    script = killed_after(1, "SIGINT") + "import sys; from d2np.cli import main; sys.exit(main(sys.argv[1:]))"
    process = program(*command, start=("-c", script))
    err = process.stderr
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "\nfinishing the current image; Ctrl-C again stops at once\n" in err
    assert err.splitlines()[-1].startswith("d2np: interrupted: what is done is kept")
    before = len(kept("f.h5"))
    assert main(command) == 0
    assert capsys.readouterr().out.startswith(f"{33 - before} images extracted, {before} there already")
    assert len(hloc.names("f.h5")) == 33
    assert not Path("f.h5.parts").exists()


def test_the_second_interrupt_stops_at_once(capsys):
    before = signal.getsignal(signal.SIGINT)
    with finishing("the current image") as stop:
        assert not stop()
        signal.raise_signal(signal.SIGINT)
        assert stop()
        assert capsys.readouterr().err == "\nfinishing the current image; Ctrl-C again stops at once\n"
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_an_interrupt_that_is_ignored_stays_so(capsys):
    """As of a job that was started with ``nohup`` or in the background of a script."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with finishing("the current image") as stop:
            for _ in range(2):
                signal.raise_signal(signal.SIGINT)
            assert not stop()
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        assert capsys.readouterr().err == ""
    finally:
        signal.signal(signal.SIGINT, before)


# --- profile, warmup --------------------------------------------------------------------------------------


def test_profile(run, photos):
    code, out, err = run("profile", "photos/a.png", "--threads", "1")
    assert (code, err) == (0, "")
    assert re.search(r"^conv4_3 +block multiplication +\d", out, re.M)
    assert re.search(r"^\d+ ms on 1 thread,", out, re.M)


def test_profile_of_no_image(fails, photos):
    code, line = fails("profile", "photos/none.png", weights=True)
    assert code == 1
    assert "no such file or folder: photos/none.png" in line


def test_warmup(run):
    code, out, err = run("warmup", weights=False)
    assert (code, err) == (0, "")
    assert re.fullmatch(r"every kernel is ready after \d+\.\d+ s\n", out)


def test_targets_of_warmup():
    assert sorted(TARGETS) == sorted(processor.INSTRUCTIONS)


def test_warmup_for_instructions_that_this_processor_lacks(fails, monkeypatch):
    monkeypatch.setenv("D2NP_SIMD", "")
    monkeypatch.setattr(processor, "host_has", lambda name: False)
    code, line = fails("warmup", "--target", "avx512")
    assert code == 2
    assert "lacks instructions of avx512" in line


@pytest.mark.parametrize("output", ["drawing.png", "page.html"])
@pytest.mark.parametrize("command", ["match", "show"])
def test_the_limit_on_pixels_is_raised_by_name(tmp_path, monkeypatch, capsys, command, output):
    path = tmp_path / "image.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (210, 210, 3)).astype(np.uint8)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20_000)
    arguments = [command, *[str(path)] * (2 if command == "match" else 1), "-o", str(tmp_path / output)]
    assert main(arguments) == 1
    assert "--max-pixels" in capsys.readouterr().err
    assert main([*arguments, "--max-pixels", "44100"]) == 0
    assert (tmp_path / output).stat().st_size > 0


# --- one language -----------------------------------------------------------------------------------------

COMMANDS = [
    "demo",
    "match",
    "extract",
    "pairs",
    "colmap",
    "export",
    "show",
    "info",
    "convert",
    "fetch",
    "train",
    "profile",
    "warmup",
]


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help_fits_80_columns_and_uses_the_terms(capsys, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["--help"] if command is None else [command, "--help"]) == 0
    out = capsys.readouterr().out
    assert "\nexample" in out
    assert [line for line in out.splitlines() if len(line) > 80] == []
    assert not re.search(r"[Pp]icture|begin anew instead|--(restart|force|no-verify)\b", out)


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"d2np {d2np.__version__}\n"


def test_a_flag_is_the_same_in_every_command():
    """Short and long names belong together, and its value is called the same."""
    seen = {}
    for command in _parser()._subparsers._group_actions[0].choices.values():
        for action in command._actions:
            for name in action.option_strings:
                metavar = None if "--output" in action.option_strings else action.metavar
                seen.setdefault(name, set()).add((*action.option_strings, metavar, action.dest))
    assert {name: forms for name, forms in seen.items() if len(forms) > 1} == {}
    assert {"-k", "-o", "-q"} <= seen.keys()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["match", "a", "b", "--max-keypoint", "5"],
            "there is no option --max-keypoint; did you mean --max-keypoints? (see d2np match --help)",
        ),
        (
            ["colmap", "f", "m", "i", "--outptu=d.db"],
            "there is no option --outptu; did you mean --output? (see d2np colmap --help)",
        ),
        (
            ["extract", "-max-edge", "5", "photos"],
            "there is no option -max-edge; did you mean --max-edge? (see d2np extract --help)",
        ),
        (["match", "a", "b", "--xyz"], "there is no option --xyz (see d2np match --help)"),
        (["--versoin"], "there is no option --versoin; did you mean --version? (see d2np --help)"),
        (["show", "a", "b", "-o", "c.png"], "too many arguments: b (see d2np show --help)"),
        (
            ["extrct", "--help"],
            f"argument COMMAND: 'extrct' is none of {', '.join(COMMANDS)}; did you mean "
            "extract? (see d2np --help)",
        ),
        (
            ["match", "a", "b", "--detector", "Strenght"],
            "argument --detector: 'Strenght' is none of d2, strength; did you mean strength? "
            "(see d2np match --help)",
        ),
        (
            ["extract", "a", "--format", "kaptur"],
            "argument --format: 'kaptur' is none of h5, npz, mat, kapture; did you mean "
            "kapture? (see d2np extract --help)",
        ),
        (
            ["extract", "a", "--format", "txt"],
            "argument --format: 'txt' is none of h5, npz, mat, kapture (see d2np extract --help)",
        ),
    ],
)
def test_did_you_mean(fails, arguments, message):
    assert fails(*arguments) == (2, f"d2np: {message}\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["match", "--min-similarity", "-0.5", "a.png", "b.png"],
        ["match", "--", "--a.png", "b.png"],
        ["show", "-k5", "a.png", "-oa.jpg"],
    ],
)
def test_what_looks_like_an_option_and_is_none(fails, photos, arguments):
    assert "no such file or folder: " in fails(*arguments)[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["extract", "photoz", "-o", "f.h5"], "no such file or folder: photoz; did you mean photos?"),
        (
            ["extract", "photoz/sub", "-o", "f.h5"],
            "no such file or folder: photoz/sub; did you mean photos/sub?",
        ),
        (
            ["extract", "photos/sup/", "-o", "f.h5"],
            "no such file or folder: photos/sup/; did you mean photos/sub?",
        ),
        (["extract", "photos", "x.jpg/", "-o", "f.h5"], "no such file or folder: x.jpg/"),
        (["extract", "photoz/*.jpg", "-o", "f.h5"], "no such folder: photoz; did you mean photos?"),
        (["extract", "@lists.txt", "-o", "f.h5"], "no such list: lists.txt; did you mean list.txt?"),
        (
            ["match", "photos/a.pgn", "photos/b.jpg"],
            "no such file or folder: photos/a.pgn; did you mean photos/a.png?",
        ),
        (
            ["show", "Photos/a.png", "-o", "k.png"],
            "no such file or folder: Photos/a.png; did you mean photos/a.png?",
        ),
        (
            ["show", "photos/a.png", "-o", "photo/k.png"],
            "photo/k.png cannot be written: there is no folder photo; did you mean photos?",
        ),
        (
            ["pairs", "feature.h5", "-o", "m.h5"],
            "no such file or folder: feature.h5; did you mean features.h5?",
        ),
        (
            ["pairs", "features.h5", "--pairs", "lst.txt", "-o", "m.h5"],
            "no such file or folder: lst.txt; did you mean list.txt?",
        ),
        (
            ["colmap", "features.h5", "features.h5", "photo", "-o", "d.db"],
            "no such file or folder: photo; did you mean photos?",
        ),
        (
            ["info", "vgg61"],
            "vgg61: no such file; the names that d2np knows are d2np, vgg16, analytic, tf, ots, "
            "tf_no_phototourism; did you mean vgg16?",
        ),
    ],
)
def test_what_is_missing_is_told_before_any_work(fails, photos, arguments, message):
    for name in ("list.txt", "features.h5"):
        Path(name).touch()
    before = files(photos)
    assert fails(*arguments) == (1, f"d2np: {message}\n")
    assert files(photos) == before


def test_the_former_names_of_overwrite_still_work(run, photos, weights_file):
    Path("d2.h5").write_text("mine")
    assert run("convert", weights_file, "d2.h5", "--force", weights=False)[0] == 0
    for _ in range(2):
        assert run("extract", "photos", "-o", "f.h5", "--restart")[1].startswith("3 images extracted")


def test_quiet_shows_no_progress(run, photos, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    _, _, err = run("extract", "photos", "-o", "f.h5")
    assert "extracting: 100%" in err
    code, out, err = run("extract", "photos", "-o", "g.h5", "-q")
    assert (code, err) == (0, "")
    assert out.startswith("3 images extracted")


def test_lists_from_standard_input(run, fails, photos, monkeypatch):
    def given(text):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))

    given("photos/a.png\n# no\n\nphotos/sub/c.png\n")
    assert run("extract", "@-", "-o", "f.h5")[1].startswith("2 images extracted")
    assert hloc.names("f.h5") == ["photos/a.png", "photos/sub/c.png"]
    given("photos/a.png photos/sub/c.png\n")
    code, out, _ = run("pairs", "f.h5", "--pairs", "-", "-o", "m.h5", weights=False)
    assert (code, out.startswith("1 pair matched")) == (0, True)
    given("")
    assert fails("extract", "@-", "-o", "g.h5") == (1, "d2np: @- names no images\n")
