"""Verified matches: the planted model is found among wrong ones, the same each time, and nothing crashes."""

from __future__ import annotations

import csv
import functools
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from evaluation import MEDIUM, images, warp
from loopback import File, serving
from PIL import Image
from skimage import data

import d2np
from d2np import verification
from d2np.cli import main
from d2np.formats import tables
from d2np.verification import transformed

MATRIX = np.array([[1.1, 0.08, -20], [-0.05, 0.95, 12], [1e-4, -5e-5, 1]])


def features(points):
    points = np.asarray(points, np.float32).reshape(-1, 2)
    count = len(points)
    descriptors = np.zeros((count, 512))
    descriptors[np.arange(count), np.arange(count) % 512] = 1
    return d2np.Features(np.column_stack([points, np.ones(count)]), np.ones(count), descriptors, (640, 640))


def paired(count):
    return d2np.Matches(np.column_stack([np.arange(count)] * 2), np.ones(count))


def planar(count, right, seed=0):
    """Keypoints of which the first ``right`` obey ``MATRIX`` within about a pixel, the others nothing."""
    rng = np.random.default_rng(seed)
    a = rng.uniform(0, 600, (count, 2))
    b = transformed(MATRIX, a) + rng.normal(0, 0.4, (count, 2))
    b[right:] = rng.uniform(0, 600, (count - right, 2))
    return features(a), features(b)


def scene(count, right, seed=0):
    """Two views of points in space and their true matrix; matches behind the first ``right`` are wrong."""
    rng = np.random.default_rng(seed)
    points = np.column_stack([rng.uniform(-2, 2, (count, 2)), rng.uniform(4, 8, count)])
    camera = np.array([[500, 0, 320], [0, 500, 240], [0, 0, 1.0]])
    turn, shift = cv2.Rodrigues(np.array([0.02, 0.2, 0.05]))[0], np.array([1, 0.1, 0.2])
    a, b = (view @ camera.T for view in (points, points @ turn.T + shift))
    a, b = (view[:, :2] / view[:, 2:] + rng.normal(0, 0.3, (count, 2)) for view in (a, b))
    b[right:] = rng.uniform(0, 600, (count - right, 2))
    x, y, z = shift
    back = np.linalg.inv(camera)
    return features(a), features(b), back.T @ np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]) @ turn @ back


def from_lines(matrix, a, b):
    """The larger distance of each match from its two epipolar lines."""
    one, other = (np.column_stack([each.keypoints[:, :2], np.ones(len(each))]) for each in (a, b))
    lines, back = one @ matrix.T, other @ matrix
    product = abs((other * lines).sum(axis=1))
    return np.maximum(product / np.hypot(*lines[:, :2].T), product / np.hypot(*back[:, :2].T))


@functools.cache
def net_of_analytic():
    return d2np.Net.load("analytic")


@pytest.mark.parametrize(("count", "right", "threshold"), [(200, 80, 3.0), (2000, 400, 1.5), (16, 12, 3)])
def test_a_homography_among_wrong_matches(count, right, threshold):
    a, b = planar(count, right)
    found = verification.verify(a, b, paired(count), "homography", threshold=threshold)
    distances = np.linalg.norm(transformed(found.model, a.keypoints[:, :2]) - b.keypoints[:, :2], axis=1)
    # What the docstring promises, and the planted ones.
    np.testing.assert_array_equal(found.inliers, distances <= threshold)
    assert found.inliers[:right].mean() > 0.95
    assert found.inliers[right:].mean() < 0.05
    corners = np.array([[0, 0], [600, 0], [600, 600], [0, 600]])
    assert np.abs(transformed(found.model, corners) - transformed(MATRIX, corners)).max() < 4


def test_a_fundamental_matrix_among_wrong_matches():
    a, b, truth = scene(500, 250)
    found = verification.verify(a, b, paired(500), "fundamental", threshold=1.5)
    np.testing.assert_array_equal(found.inliers, from_lines(found.model, a, b) <= 1.5)
    assert found.inliers[:250].mean() > 0.97
    assert found.inliers[250:].mean() < 0.1
    assert np.median(from_lines(truth, a, b)[found.inliers]) < 0.5
    # A plane cannot explain points in space.
    assert verification.verify(a, b, paired(500), "homography").inliers.mean() < 0.3


@pytest.mark.parametrize("model", ["homography", "fundamental"])
def test_always_the_same(model):
    a, b, _ = scene(300, 200)
    first = verification.verify(a, b, paired(300), model)
    threads = cv2.getNumThreads()
    try:
        for seed in (1, 2):
            cv2.setRNGSeed(seed)
            cv2.setNumThreads(seed)
            again = verification.verify(a, b, paired(300), model)
            np.testing.assert_array_equal(again.model, first.model)
            np.testing.assert_array_equal(again.inliers, first.inliers)
    finally:
        cv2.setNumThreads(threads)


@pytest.mark.parametrize(("model", "most"), [("homography", 4), ("fundamental", 7)])
def test_too_few_matches_are_outliers(model, most):
    for count in range(most + 1):
        a, b = planar(count, count)
        found = verification.verify(a, b, paired(count), model)
        assert found.model is None
        assert found.inliers.shape == (count,)
        assert not found.inliers.any()


@pytest.mark.parametrize("model", ["homography", "fundamental"])
def test_degenerate_matches(model):
    rng = np.random.default_rng(0)
    spread = rng.uniform(0, 500, (40, 2))
    line = np.column_stack([np.arange(40.0)] * 2)
    for a, b in ((np.ones((40, 2)),) * 2, (line, line), (spread, np.full((40, 2), 7)), (spread, line)):
        found = verification.verify(features(a), features(b), paired(40), model)
        assert (found.model is None) == (not found.inliers.any())
    # Many keypoints of a, all matched to a single one of b, agree on nothing.
    many = d2np.Matches(np.column_stack([np.arange(40), np.zeros(40, int)]), np.ones(40))
    found = verification.verify(features(spread), features(spread), many, model)
    assert found.model is None
    assert not found.inliers.any()


# --- evidence -----------------------------------------------------------------------------------------------


def test_the_evidence_is_the_number_of_false_alarms():
    """As the docstring has it, of matches that are far from each other and from the sides."""
    rng = np.random.default_rng(3)
    grid = np.stack(np.meshgrid(np.arange(100, 541, 40), np.arange(100, 381, 40)), -1).reshape(-1, 2)
    a = features(grid)
    moved = grid + np.array([9, -7]) + rng.normal(0, 0.3, grid.shape)
    moved[40:] = rng.permutation(grid)[40:]
    found = verification.verify(a, features(moved), paired(len(grid)), "homography", threshold=2.0)
    n, k = len(grid), found.evidence.fitting
    assert 40 <= k < 44
    share = np.pi * 2.0**2 / (640 * 640)
    chances = []
    # Either as for points that lie anywhere, or as for these, exchanged.
    for p in (share, 0.02):
        combinations = math.comb(n, k) * math.comb(k, 4)
        chances.append(math.log10((n - 4) * combinations) + (k - 4) * math.log10(p))
    assert chances[0] <= found.evidence.log10_chance < chances[1] < -6
    assert found.evidence.sufficient
    assert found.select([0]).evidence is found.evidence


@pytest.mark.parametrize("model", ["homography", "fundamental"])
@pytest.mark.parametrize("count", [5, 9, 30, 300])
def test_matches_at_random_are_no_evidence(model, count):
    for seed in range(5):
        a, b = (features(np.random.default_rng([seed, k]).uniform(0, 480, (count, 2))) for k in (0, 1))
        found = verification.verify(a, b, paired(count), model)
        assert found.model is None
        assert not found.inliers.any()
        assert not found.evidence.sufficient


def test_one_match_many_times_is_no_evidence():
    points = np.repeat(planar(6, 0)[0].keypoints[:, :2], 50, axis=0)
    one, other = features(points), features(transformed(MATRIX, points))
    assert not verification.verify(one, other, paired(300), "homography").evidence.sufficient


def test_keypoints_that_lie_in_one_row_are_no_evidence():
    """Such as those of a line of text: whatever is matched to what, one fundamental matrix fits all."""
    rng = np.random.default_rng(0)
    a, b = (
        features(np.column_stack([rng.uniform(60, 580, 60), y + rng.uniform(-2, 2, 60)])) for y in (200, 400)
    )
    found = verification.verify(a, b, paired(60), "fundamental")
    assert found.evidence.fitting > 40
    assert not found.evidence.sufficient


@pytest.mark.parametrize("model", ["homography", "fundamental"])
def test_what_is_alike_at_the_sides_of_all_images_is_no_evidence(model):
    rng = np.random.default_rng(0)
    along = np.linspace(4, 475, 24)
    sides = [np.column_stack([along, np.full(24, 5)]), np.column_stack([np.full(24, 5), along])]
    a, b = (features(np.vstack([*sides, rng.uniform(60, 420, (40, 2))])) for _ in range(2))
    found = verification.verify(a, b, paired(88), model)
    assert not found.evidence.sufficient
    # The same twice, on the other hand, are inliers up to the sides.
    assert verification.verify(a, a, paired(88), model).inliers.all()


@pytest.mark.parametrize("pair", [("astronaut", "coffee"), ("chelsea", "rocket"), ("brick", "page")])
def test_different_scenes_do_not_agree(pair):
    a, b = (net_of_analytic()(getattr(data, name)(), max_edge=320) for name in pair)
    for model in verification.SAMPLE:
        found = d2np.match(a, b, verify=model)
        assert len(found) > 7
        assert not found.evidence.sufficient
        assert not found.inliers.any()


def test_plain_backgrounds_do_not_agree(trained):
    """The trained network answers to the zeros beyond the sides of an image."""
    views = []
    for name, place in (("astronaut", (60, 50)), ("coffee", (80, 60))):
        image = Image.new("RGB", (260, 220), (120, 140, 90))
        image.paste(Image.fromarray(getattr(data, name)()).resize((120, 100)), place)
        views.append(trained(image))
    for model in verification.SAMPLE:
        assert not d2np.match(*views, verify=model).evidence.sufficient


def test_match_verifies_and_leaves_none_out():
    a, b = planar(300, 200)
    plain = d2np.match(a, b, threads=1)
    found = d2np.match(a, b, verify="homography", threshold=2, threads=1)
    np.testing.assert_array_equal(found.indices, plain.indices)
    np.testing.assert_array_equal(found.similarities, plain.similarities)
    assert plain.inliers is None
    expected = verification.verify(a, b, plain, "homography", threshold=2)
    np.testing.assert_array_equal(found.inliers, expected.inliers)
    assert 0 < found.inliers.sum() < len(found)


def test_a_real_pair():
    """The bricks repeat themselves: most matches are wrong, and those that agree are right."""
    brick = images()["brick"]
    view, truth = warp(brick, MEDIUM, 1003)
    net = net_of_analytic()
    a, b = net(brick), net(view)
    found = d2np.match(a, b, verify="homography")

    def right(matches):
        there, here = (each.keypoints[matches.indices[:, k], :2] for k, each in enumerate((a, b)))
        return (np.linalg.norm(transformed(truth, there) - here, axis=1) <= 3).mean()

    assert right(found) < 0.6
    assert right(found.select(found.inliers)) > 0.9


def test_bare_arrays_have_no_keypoints():
    vectors = np.eye(9, dtype=np.float32)
    a, _ = planar(9, 9)
    for one, other in ((vectors, vectors), (a, vectors)):
        with pytest.raises(d2np.FormatError, match="needs keypoints"):
            d2np.match(one, other, verify="homography")
    with pytest.raises(d2np.FormatError, match="needs keypoints"):
        verification.verify(a, vectors, paired(9), "homography")


def test_keypoints_that_are_not_there_or_not_finite():
    a, b = planar(9, 9)
    with pytest.raises(d2np.FormatError, match="keypoint 9 of a, which has 9"):
        verification.verify(a, b, paired(10), "homography")
    broken = features(np.full((9, 2), np.nan))
    with pytest.raises(d2np.FormatError, match="finite"):
        verification.verify(a, broken, paired(9), "homography")


@pytest.mark.parametrize("options", [{"verify": "affine"}, {"verify": True}, {"verify": ["homography"]}])
def test_senseless_models(options):
    a, b = planar(9, 9)
    with pytest.raises(d2np.OptionError, match="verify must be one of homography, fundamental"):
        d2np.match(a, b, **options)


@pytest.mark.parametrize("threshold", [0, -1, np.nan, np.inf, "3", None, True])
def test_senseless_thresholds(threshold):
    a, b = planar(9, 9)
    with pytest.raises(d2np.OptionError, match="threshold"):
        d2np.match(a, b, verify="homography", threshold=threshold)


def test_without_opencv(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    a, b = planar(9, 9)
    with pytest.raises(d2np.Error, match=r"^verifying matches needs .*: pip install 'd2np\[verify\]'$"):
        d2np.match(a, b, verify="homography")
    assert len(d2np.match(a, b)) > 0


def test_opencv_is_not_imported_before_it_is_needed():
    script = "import sys, numpy, d2np; d2np.match(*[numpy.eye(3)] * 2); assert 'cv2' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)


# --- the command --------------------------------------------------------------------------------------------


@pytest.fixture
def two(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    net = net_of_analytic()
    monkeypatch.setattr(d2np.Net, "load", staticmethod(lambda _: net))
    brick = images()["brick"][:300, :300]
    for name, image in (("a.png", brick), ("b.png", warp(brick, 0.05, 1003)[0])):
        Image.fromarray(image).save(name)
    Image.fromarray(data.page()[:180, :180]).save("page.png")


@pytest.fixture
def told(two, capsys):
    """Runs the command on two images; returns what it prints."""

    def call(*arguments, code=0):
        assert main(["match", *arguments, "--weights", "analytic"]) == code
        captured = capsys.readouterr()
        assert captured.err == "" or code
        return captured.out or captured.err

    return call


AGREEMENT = (
    r"geometric agreement: (\d+) of (\d+) matches fit one {} within (\S+) px; "
    r"by chance: 1 in 10\^\d+"
)


@pytest.mark.parametrize(
    ("arguments", "model", "threshold"),
    [
        ([], "fundamental matrix", "3"),
        (["--verify", "homography", "--threshold", "2"], "homography", "2"),
        # What is shrunk to half its size is half as exact.
        (["--max-edge", "150"], "fundamental matrix", "6"),
    ],
)
def test_the_command_verifies_unless_told_otherwise(told, arguments, model, threshold):
    image = "a.png" if "--max-edge" in arguments else "b.png"
    out = told("a.png", image, *arguments)
    fitting, matches, used = re.search(f"^{AGREEMENT.format(model)}$", out, re.M).groups()[:3]
    assert 10 < int(fitting) <= int(matches)
    assert f"\n{matches} matches\n" in out
    assert used == threshold


def test_the_command_says_where_scenes_are_different(told):
    out = told("a.png", "page.png")
    assert re.search(
        r"^no geometric agreement: \d+ of \d+ matches fit one fundamental matrix within 3 px, "
        r"as many as chance gives$",
        out,
        re.M,
    )


def test_too_few_matches_to_tell(told):
    out = told("a.png", "b.png", "--max-keypoints", "3", "-q")
    assert re.fullmatch(r"no geometric agreement: 0 of [0-3] match(es)? fit one .+ chance gives\n", out)


def test_quiet_prints_one_line(told):
    assert re.fullmatch(AGREEMENT.format("fundamental matrix") + "\n", told("a.png", "b.png", "-q"))
    assert re.fullmatch(r"\d+ matches, not verified\n", told("a.png", "b.png", "--quiet", "--verify", "none"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--threshold", "2", "--verify", "none"], "--threshold is for verified matches"),
        (["--verify", "affine"], "'affine' is none of none, homography, fundamental"),
        (["--verify", "homography", "--threshold", "0"], "a number above 0 is expected"),
        (["-o", "x.csv", "-o", "a.png"], "would overwrite"),
        (["-o", "x.csv", "-o", "x.txt"], ".pdf, .html, .htm, .csv, .json, .npz"),
    ],
)
def test_bad_usage_of_the_command(told, tmp_path, arguments, message):
    error = told("a.png", "b.png", *arguments, code=2)
    assert message in error
    assert error.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png", "page.png"]


def test_the_command_without_opencv(told, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    assert re.fullmatch(
        r"\d+ matches, unverified mutual nearest neighbours, of which any may be wrong: verifying matches "
        r"needs the package opencv-python-headless: pip install 'd2np\[verify\]'\n",
        told("a.png", "b.png", "-q"),
    )
    error = told("a.png", "b.png", "--verify", "homography", code=1)
    assert error.startswith("d2np: verifying matches needs the package opencv-python-headless")


# --- matches as numbers -------------------------------------------------------------------------------------

COLUMNS = [f"{name}_{which}" for which in "ab" for name in ("x", "y", "scale", "score")] + ["similarity"]


def test_the_command_writes_several_files(told):
    out = told("a.png", "b.png", "-o", "m.csv", "-o", "m.json", "-o", "m.npz", "-o", "m.jpg", "-o", "m.html")
    assert re.findall(r"^wrote (\S+)", out, re.M) == ["m.csv", "m.json", "m.npz", "m.jpg", "m.html"]
    a, b = (net_of_analytic()(name) for name in ("a.png", "b.png"))
    expected = d2np.match(a, b, verify="fundamental")
    with open("m.csv", newline="") as stream:
        header, *rows = csv.reader(stream)
    assert header == [*COLUMNS, "inlier"]
    np.testing.assert_array_equal(
        np.float32([row[:2] for row in rows]), a.keypoints[expected.indices[:, 0], :2]
    )
    assert [row[-1] for row in rows] == [str(int(inlier)) for inlier in expected.inliers]
    with open("m.json") as stream:
        document = json.load(stream)
    assert document["images"] == ["a.png", "b.png"]
    assert document["weights"] == "analytic"
    assert document["settings"]["verify"] == "fundamental"
    assert len(expected) == len(document["matches"])
    assert expected.inliers.sum() == document["evidence"]["fitting"]
    assert list(document["matches"][0]) == header
    with np.load("m.npz", allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["similarity"], expected.similarities)
        np.testing.assert_array_equal(arrays["inlier"], expected.inliers)
        np.testing.assert_array_equal(arrays["model"], expected.model)
        for k, column in enumerate(COLUMNS):
            np.testing.assert_array_equal(np.float32([row[k] for row in rows]), arrays[column])
            np.testing.assert_array_equal(
                np.float32([m[column] for m in document["matches"]]), arrays[column]
            )


@pytest.mark.parametrize("count", [0, 2])
def test_tables_of_unverified_matches(tmp_path, count):
    a, b = planar(2, 2)
    for extension in tables.EXTENSIONS:
        tables.write(tmp_path / f"m{extension}", a, b, paired(count))
    lines = (tmp_path / "m.csv").read_text().splitlines()
    assert len(lines) == 1 + count
    assert all(line.endswith(",1.0,") for line in lines[1:])
    document = json.loads((tmp_path / "m.json").read_text())
    assert [each["inlier"] for each in document["matches"]] == [None] * count
    assert document["evidence"] is None
    with np.load(tmp_path / "m.npz") as arrays:
        assert "inlier" not in arrays
        assert len(arrays["x_a"]) == count


def test_tables_that_cannot_be_written(tmp_path):
    a, b = planar(9, 9)
    with pytest.raises(d2np.OptionError, match=r"one of \.csv, \.json, \.npz"):
        tables.write(tmp_path / "m.xml", a, b, paired(9))
    with pytest.raises(d2np.FormatError, match="keypoint 9 of a, which has 9"):
        tables.write(tmp_path / "m.csv", a, b, paired(10))
    with pytest.raises(d2np.Error, match="cannot be written"):
        tables.write(tmp_path / "none" / "m.csv", a, b, paired(9))
    assert list(tmp_path.iterdir()) == []


def test_images_at_urls(told, capsys):
    plain = told("a.png", "b.png", "-q", "-o", "m.csv")
    content = Path("m.csv").read_bytes()
    with serving() as server:
        server.answers["/a.png"] = File(Path("a.png").read_bytes())
        url = f"{server.address}/a.png"
        assert told(url, Path("b.png").absolute().as_uri(), "-q", "-o", "m.csv", "-o", "m.html") == plain
        assert Path("m.csv").read_bytes() == content
        assert "<title>a.png and b.png: matches</title>" in Path("m.html").read_text()
        assert len(server.requests) == 1
        assert f"{server.address}/none.png: there is no such file" in told(
            f"{server.address}/none.png", "b.png", "-o", "n.csv", code=1
        )
        # And of one image as well.
        assert main(["show", url, "-o", "k.png", "--weights", "analytic"]) == 0
        assert "keypoints in 300 x 300 px" in capsys.readouterr().out
    assert "would overwrite" in told("a.png", Path("b.png").absolute().as_uri(), "-o", "b.png", code=2)
    assert not Path("n.csv").exists()


def test_the_least_score(told):
    scores = np.sort(net_of_analytic()("a.png").scores)
    out = told("a.png", "b.png", "--min-score", str(scores[-20]))
    assert "a.png: 20 keypoints in" in out
