"""Mean matching accuracy, on sets in HPatches' layout whose answer is known by construction."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import d2np
from d2np.verification import transformed

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import hpatches

# How far off the planted matches are, in pixels, and how many of each.
PLANTED = {0.2: 40, 1.5: 30, 4.2: 20, 9.7: 5, 80.0: 5}
LIGHT = np.eye(3)
VIEW = np.array([[1.05, 0.1, -8], [-0.04, 0.97, 5], [2e-4, -1e-4, 1]])


def sequence(folder, name, matrix, images=None):
    """Six images and the homographies between them: powers of ``matrix``."""
    path = folder / name
    path.mkdir(parents=True)
    for k in range(1, 7):
        image = np.full((8, 8 + k), 99, np.uint8) if images is None else images[k - 1]
        Image.fromarray(image).convert("RGB").save(path / f"{k}.ppm")
        if k > 1:
            np.savetxt(path / f"H_1_{k}", np.linalg.matrix_power(matrix, k - 1))
    return path


class Planted:
    """Finds in each image 100 keypoints that match those of image 1, as far off as planted."""

    def __init__(self, planted=PLANTED, matches=100):
        self.seen = []
        self._matches = matches
        rng = np.random.default_rng(5)
        self._first = rng.uniform(50, 400, (100, 2))
        angles = rng.uniform(0, 2 * np.pi, 100)
        distances = np.repeat(list(planted), list(planted.values()))
        self._shifts = distances[:, np.newaxis] * np.column_stack([np.cos(angles), np.sin(angles)])
        self._order = rng.permutation(100)

    def __call__(self, path):
        self.seen.append(f"{path.parent.name}/{path.name}")
        k = int(path.stem)
        xy = self._first
        if k > 1:
            matrix = VIEW if path.parent.name.startswith("v_") else LIGHT
            xy = transformed(np.linalg.matrix_power(matrix, k - 1), xy) + self._shifts
        vectors = np.eye(100, 512)
        if k > 1:
            xy, vectors = xy[self._order][: self._matches], vectors[self._order][: self._matches]
        count = len(xy)
        return d2np.Features(np.column_stack([xy, np.ones(count)]), np.ones(count), vectors, (500, 500))


def expected(planted=PLANTED):
    distances = np.repeat(list(planted), list(planted.values()))
    return [(distances <= limit).mean() for limit in hpatches.THRESHOLDS]


@pytest.mark.parametrize(("name", "matrix"), [("i_lamp", LIGHT), ("v_wall", VIEW)])
def test_a_sequence(tmp_path, name, matrix):
    result = hpatches.evaluate(sequence(tmp_path, name, matrix), Planted())
    assert result.name == name
    assert result.keypoints == [100] * 6
    assert result.matches == [100] * 5
    np.testing.assert_allclose(result.right, [expected()] * 5)
    np.testing.assert_allclose(result.right[0][:4], [0.4, 0.7, 0.7, 0.7])
    np.testing.assert_allclose(result.right[0][4:], [0.9, 0.9, 0.9, 0.9, 0.9, 0.95])


def test_without_matches_none_is_right(tmp_path):
    result = hpatches.evaluate(sequence(tmp_path, "i_lamp", LIGHT), Planted(matches=0))
    assert result.keypoints == [100, 0, 0, 0, 0, 0]
    assert result.matches == [0] * 5
    assert result.right == [[0.0] * 10] * 5


def test_means_are_over_pairs():
    def result(name, share):
        return hpatches.Result(name, [9] * 6, [4] * 5, [[share] * 10] * 5)

    means = hpatches.accuracy([result("i_a", 0.9), result("v_a", 0.6), result("v_b", 0.3)])
    np.testing.assert_allclose(means["overall"], 0.6)
    np.testing.assert_allclose(means["illumination"], 0.9)
    np.testing.assert_allclose(means["viewpoint"], 0.45)
    assert set(hpatches.accuracy([result("i_a", 0.9)])) == {"overall", "illumination"}


def test_the_published_choice_of_sequences(tmp_path):
    """52 with other light and 56 with another viewpoint remain of 57 and 59."""
    names = [f"i_{k}" for k in range(52)] + [f"v_{k}" for k in range(56)] + sorted(hpatches.HIGH_RESOLUTION)
    assert sum(name.startswith("i_") for name in hpatches.HIGH_RESOLUTION) == 5
    for name in names:
        (tmp_path / name).mkdir()
        for file in [*(f"{k}.ppm" for k in range(1, 7)), *(f"H_1_{k}" for k in range(2, 7))]:
            (tmp_path / name / file).touch()
    (tmp_path / "hpatches-cache").mkdir()
    (tmp_path / "README").touch()
    found, left_out = hpatches.sequences(tmp_path)
    kinds = [path.name[0] for path in found]
    assert (kinds.count("i"), kinds.count("v"), len(found)) == (52, 56, 108)
    assert set(left_out) == hpatches.HIGH_RESOLUTION


def test_a_run_goes_on_where_it_was(tmp_path):
    paths = [sequence(tmp_path, name, VIEW if name[0] == "v" else LIGHT) for name in ("i_a", "v_a", "v_b")]
    planted = Planted()

    def stopped(path):
        if path.parent.name == "v_b" and path.name == "4.ppm":
            raise KeyboardInterrupt
        return planted(path)

    cache = hpatches.Cache(tmp_path / "cache", "label", {"a": 1})
    with pytest.raises(KeyboardInterrupt):
        hpatches.run(paths, stopped, cache)
    again = Planted()
    results = hpatches.run(paths, again, hpatches.Cache(tmp_path / "cache", "label", {"a": 1}))
    assert again.seen == [f"v_b/{k}.ppm" for k in range(1, 7)]
    np.testing.assert_allclose(hpatches.accuracy(results)["overall"], expected())
    # Damaged results are found again; other settings have results of their own.
    (cache.folder / "i_a.json").write_text('{"name": "i_a"')
    (cache.folder / "v_a.json").write_text(
        json.dumps({"name": "v_a", "keypoints": [], "matches": [], "right": []})
    )
    third = Planted()
    assert hpatches.run(paths, third, cache) == results
    assert len(third.seen) == 12
    other = Planted()
    hpatches.run(paths, other, hpatches.Cache(tmp_path / "cache", "label", {"a": 2}))
    assert len(other.seen) == 18


def test_the_table():
    results = [
        hpatches.Result("i_a", [10, 20, 30, 40, 50, 60], [4, 5, 6, 7, 8], [[0.25] * 10] * 5),
        hpatches.Result("v_a", [10] * 6, [2] * 5, [[0.75] * 10] * 5),
    ]
    lines = hpatches.table(results).splitlines()
    assert lines[0].startswith("| accuracy within | 1 px | 2 px |")
    assert lines[2] == "| overall |" + " 50.0% |" * 10
    assert lines[3] == "| illumination |" + " 25.0% |" * 10
    assert lines[4] == "| viewpoint |" + " 75.0% |" * 10
    assert lines[7] == "illumination: 1 sequences, 35 keypoints an image (10 to 60), 6 matches a pair"


@pytest.fixture
def dataset(tmp_path, monkeypatch, make_image):
    """Images in other light, and moved by whole cells: what the network finds moves with them."""
    monkeypatch.chdir(tmp_path)
    wide = make_image(232, 272, 3)
    darker = [np.rint(wide[:192, :224] * (1 - 0.08 * k) + 5 * k).astype(np.uint8) for k in range(6)]
    sequence(tmp_path / "set", "i_dim", LIGHT, darker)
    moved = [wide[4 * k :, 4 * k :][:192, :224] for k in range(6)]
    sequence(tmp_path / "set", "v_moved", np.array([[1, 0, -4], [0, 1, -4], [0, 0, 1]]), moved)
    return tmp_path / "set"


def test_the_whole_of_it(dataset, tmp_path, capsys):
    (dataset / "i_dc").mkdir()
    assert hpatches.main(["set", "--weights", "analytic"]) == 0
    captured = capsys.readouterr()
    assert "left out, as published: i_dc\n" in captured.err
    rows = {line.split("|")[1].strip(): line for line in captured.out.splitlines() if line.startswith("| ")}
    shares = {
        name: [float(cell.strip(" %")) for cell in row.split("|")[2:-1]]
        for name, row in rows.items()
        if name in hpatches.GROUPS
    }
    # Only at the border does the network see something else.
    assert shares["viewpoint"][0] > 80
    assert shares["illumination"][0] > 80
    assert shares["overall"][9] == pytest.approx(
        (shares["viewpoint"][9] + shares["illumination"][9]) / 2, abs=0.1
    )
    assert "viewpoint: 1 sequences, " in captured.out
    with Image.open("hpatches.png") as image:
        colours = np.asarray(image.convert("RGB")).reshape(-1, 3).astype(int)
        assert image.width > 1000
    purple = (np.abs(colours - (148, 103, 189)).max(axis=1) < 20).sum()
    assert purple > 500, "the curves"


def test_a_truth_that_is_wrong_is_noticed(dataset, capsys):
    for k in range(2, 7):
        np.savetxt(dataset / "v_moved" / f"H_1_{k}", np.array([[1, 0, 6], [0, 1, 0], [0, 0, 1]]))
    assert hpatches.main(["set", "--weights", "analytic", "--max-keypoints", "40", "-o", "c.svg"]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("| viewpoint"))
    assert float(row.split("|")[2].strip(" %")) < 20
    assert "<svg" in Path("c.svg").read_text()


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda folder: (folder / "v_moved" / "4.ppm").unlink(), "v_moved is incomplete: 4.ppm missing"),
        (lambda folder: (folder / "i_dim" / "H_1_3").write_text("a b c"), "H_1_3: no homography"),
        (lambda folder: (folder / "i_dim" / "H_1_3").write_text("1 2\n3 4\n"), "3 x 3 numbers, not (2, 2)"),
        (lambda folder: (folder / "i_dim" / "2.ppm").write_text("no image"), "2.ppm is not an image"),
        (lambda folder: folder.rename(folder.parent / "elsewhere"), "there is no such folder"),
        (
            lambda folder: [(folder / name).rename(folder / name[2:]) for name in ("i_dim", "v_moved")],
            "no sequences",
        ),
    ],
)
def test_broken_datasets(dataset, capsys, break_it, message):
    break_it(dataset)
    assert hpatches.main(["set", "--weights", "analytic"]) == 1
    captured = capsys.readouterr()
    (line,) = [line for line in captured.err.splitlines() if line.startswith("hpatches: ")]
    assert message in line
    assert not Path("hpatches.png").exists()


def test_without_matplotlib_or_a_folder_for_the_plot(dataset, capsys, monkeypatch):
    assert hpatches.main(["set", "-o", "none/curves.png"]) == 1
    assert "there is no folder none" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert hpatches.main(["set"]) == 1
    expected = "hpatches: the curves need the package matplotlib: pip install 'd2np[benchmark]'\n"
    assert capsys.readouterr().err == expected


def test_no_plot_of_that_kind(dataset, capsys):
    with pytest.raises(SystemExit, match="2"):
        hpatches.main(["set", "-o", "curves.xyz"])
    assert "png, pdf or svg" in capsys.readouterr().err
