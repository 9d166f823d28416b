"""Descriptors with fewer dimensions: the projection, its file, and jobs that learn and keep it."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from stubbed import StubNet

import d2np
from d2np.cli import main
from d2np.dataset import HlocOutput, MatchOutput, MatchSettings, Settings, extract, learning, listing
from d2np.dataset.archives import Store
from d2np.dataset.extraction import extracted
from d2np.dataset.outputs import FeatureArchives
from d2np.features import Features, Projection
from d2np.formats import hloc
from d2np.matching import project


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def features_of(count, seed=0):
    rng = np.random.default_rng(seed)
    rows = unit(rng.random((count, 512)))
    return Features(rng.random((count, 3)), rng.random(count), rows, (640, 480))


def some_projection(dimensions, seed=0):
    rows = np.random.default_rng(seed).standard_normal((512, dimensions))
    return Projection(np.linalg.qr(rows)[0].T)


@pytest.fixture(scope="module")
def projection():
    return some_projection(128)


# --- the projection ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dimensions", [128, 256])
def test_projected_descriptors_are_the_plain_formula(dimensions):
    features, projection = features_of(70), some_projection(dimensions)
    found = project(features, projection)
    expected = unit(features.descriptors.astype(np.float64) @ projection.components.T.astype(np.float64))
    np.testing.assert_allclose(found.descriptors, expected, atol=1e-6)
    assert found.projection is projection
    np.testing.assert_array_equal(found.keypoints, features.keypoints)
    assert found.select([3, 4]).descriptors.shape == (2, dimensions)
    with pytest.raises(d2np.FormatError, match="projected already"):
        project(found, projection)


@given(st.lists(st.integers(0, 59), max_size=60, unique=True), st.integers(1, 3))
def test_a_descriptor_does_not_depend_on_the_others(projection, chosen, threads):
    features = features_of(60)
    whole = project(features, projection, threads=2).descriptors[chosen]
    part = project(features.select(chosen), projection, threads=threads)
    np.testing.assert_array_equal(part.descriptors, whole)


def test_descriptors_of_a_subspace_keep_their_cosines(projection):
    rows = unit(np.random.default_rng(1).standard_normal((20, 128)) @ projection.components)
    features = replace(features_of(20), descriptors=rows)
    found = project(features, projection).descriptors
    np.testing.assert_allclose(found @ found.T, rows @ rows.T, atol=1e-5)


@pytest.mark.parametrize(
    ("components", "message"),
    [
        (np.zeros((128, 511)), r"components must have shape \(N, 512\)"),
        (np.full((128, 512), np.nan), "components must be finite"),
        (None, "components must be float32"),
    ],
)
def test_what_is_no_projection(components, message):
    with pytest.raises(d2np.FormatError, match=message):
        Projection(components)


def test_different_projections_are_not_matched(projection):
    a, b = project(features_of(5), projection), project(features_of(5), some_projection(128, seed=1))
    assert len(d2np.match(a, project(features_of(5), Projection(projection.components.copy())))) == 5
    for other in (b, features_of(5)):
        with pytest.raises(d2np.FormatError, match="different projections: extract both with one of them"):
            d2np.match(a, other)


# --- its file ---------------------------------------------------------------------------------------------


def make_file(path, projection):
    with h5py.File(path, "w", libver=("v108", "latest")) as file:
        hloc.write_projection(file, projection)
        hloc.write(file, "sub/a.jpg", project(features_of(9), projection))
    return path


def test_files_keep_their_projection(tmp_path, projection):
    path = make_file(tmp_path / "f.h5", projection)
    assert hloc.read_projection(path).id == projection.id
    assert hloc.names(path) == ["sub/a.jpg"]
    found = hloc.read(path, "sub/a.jpg")
    np.testing.assert_array_equal(found.descriptors, project(features_of(9), projection).descriptors)
    assert found.projection.id == projection.id
    with h5py.File(path, "a") as file:
        other = project(features_of(3), some_projection(128, seed=1))
        with pytest.raises(d2np.FormatError, match=r"b\.jpg cannot be written: the file has not the projec"):
            hloc.write(file, "b.jpg", other)
        # What hloc takes for images: whatever holds an array (list_h5_names in its utils/io.py).
        seen = set()
        file.visititems(
            lambda _, item: seen.add(item.parent.name.strip("/")) if isinstance(item, h5py.Dataset) else None
        )
    assert seen == {"sub/a.jpg"}


def test_files_without_one(tmp_path, projection):
    """Descriptors of another length are those of another method, such as SuperPoint with 256."""
    with h5py.File(tmp_path / "f.h5", "w") as file:
        assert hloc.read_projection(file) is None
        hloc.put(file, "a.jpg", hloc.arrays_of(project(features_of(9), projection)))
        with pytest.raises(d2np.FormatError, match="the projection cannot be written"):
            hloc.write_projection(file, projection)
    assert hloc.names(tmp_path / "f.h5") == []


@pytest.mark.parametrize(
    "value",
    [np.zeros((128, 511), "f4"), np.full((128, 512), np.inf, "f4"), np.zeros(128, "f4"), "text", np.nan],
    ids=["shape", "infinite", "vector", "text", "number"],
)
def test_damaged_projections(tmp_path, projection, value):
    path = make_file(tmp_path / "f.h5", projection)
    with h5py.File(path, "a") as file:
        file.attrs[hloc.PROJECTION] = value
    with pytest.raises(d2np.FormatError, match="d2np_projection is no projection of descriptors"):
        hloc.read_projection(path)
    with pytest.raises(d2np.FormatError):
        hloc.read(path, "sub/a.jpg")


# --- jobs -------------------------------------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Files whose length is the number of their keypoints, of which one is no image."""
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for k in range(6):
        Path("photos", f"{k}.png").write_bytes(bytes([k + 1]) * (40 + k))
    Path("photos", "6.png").write_bytes(b"bad")
    return Path("photos")


def job(out="f.h5", dimensions=128, calls="calls", folder="photos", stop=None, **options):
    settings, net = Settings(), StubNet(Path(calls))
    output = HlocOutput(Path(out), settings.recorded(net), dimensions=dimensions, **options)
    return extract(net, listing([folder]), output, settings, stop=stop)


def lines(path="calls"):
    return Path(path).read_text().split()


def content(path="f.h5"):
    return {name: hloc.read(path, name) for name in hloc.names(path)}


def test_a_job_learns_once(photos, assert_same_features):
    report = job()
    assert (report.done, len(report.failed)) == (6, 1)
    assert len(lines()) == 12
    found, projection = content(), hloc.read_projection("f.h5")
    assert projection.dimensions == 128
    np.testing.assert_allclose(projection.components @ projection.components.T, np.eye(128), atol=1e-5)
    for name, features in found.items():
        whole = StubNet(Path("other"))(photos / name)
        assert_same_features(features, project(whole, projection))
    # Images that come later have the same projection.
    (photos / "7.png").write_bytes(b"x" * 50)
    assert job().done == 1
    assert lines()[12:] == ["7.png"]
    assert hloc.read_projection("f.h5").id == projection.id
    assert set(content()) == {*found, "7.png"}
    # Begun anew, it is learnt anew, of seven images now.
    job(restart=True)
    assert hloc.read_projection("f.h5").id != projection.id


def test_a_job_that_is_ended_keeps_its_projection(photos, assert_same_features):
    job("whole.h5")
    images = 4
    before = len(lines())
    asked = iter(range(100))
    with pytest.raises(KeyboardInterrupt):
        # While it learns, it is asked after each of seven images.
        job(stop=lambda: next(asked) == 6 + images)
    told = json.loads(Path("f.h5.parts/job.json").read_text())
    # What is learnt now would be another one.
    (photos / "0.png").write_bytes(b"z" * 50)
    (photos / "8.png").write_bytes(b"y" * 50)
    assert job().done == 6 - images + 1 + 1
    assert len(lines()) == before + 6 + images + 6 - images + 1 + 1
    projection = hloc.read_projection("f.h5")
    assert projection.id == told["settings"]["projection"] == hloc.read_projection("whole.h5").id
    whole = content("whole.h5")
    for name, features in content().items():
        if name not in ("0.png", "8.png"):
            assert_same_features(features, whole[name])


def test_a_job_that_is_ended_while_it_learns(photos):
    asked = iter(range(100))
    with pytest.raises(KeyboardInterrupt):
        job(stop=lambda: next(asked) == 2)
    assert not Path("f.h5.parts").exists()
    job()
    job("whole.h5")
    assert hloc.read_projection("f.h5").id == hloc.read_projection("whole.h5").id


def test_other_dimensions_and_projections_are_refused(photos, projection):
    job(projection=projection)
    for options, message in (
        ({"dimensions": 256}, r"\(dimensions 128 there, 256 now\)"),
        ({"dimensions": None}, r"\(dimensions 128 there, None now\)"),
        ({"projection": some_projection(128, seed=1)}, r"\(projection '\w+' there, '\w+' now\)"),
    ):
        with pytest.raises(d2np.FormatError, match=message):
            job(**options)
    assert hloc.read_projection("f.h5").id == projection.id
    assert job().done == 0


def test_matches_belong_to_a_projection(photos, projection):
    job(projection=projection)
    output = MatchOutput(Path("m.h5"), MatchSettings().recorded("f.h5"))
    output.start()
    output.close()
    job(projection=some_projection(128, seed=1), restart=True)
    with pytest.raises(d2np.FormatError, match=r"features' projection '\w+' there, '\w+' now"):
        MatchOutput(Path("m.h5"), MatchSettings().recorded("f.h5"))


def test_a_damaged_job_lets_go_of_its_folder(photos, projection):
    asked = iter(range(100))
    with pytest.raises(KeyboardInterrupt):
        job(stop=lambda: next(asked) == 1, projection=projection)
    file = Path("f.h5.parts/job.json")
    told = json.loads(file.read_text())
    for damage, message in (("AAAA", "damaged"), ("no base64!", "damaged"), (None, "components must be")):
        file.write_text(json.dumps({**told, "projection": damage}))
        with pytest.raises(d2np.FormatError, match=message):
            job()
    file.write_text(json.dumps(told))
    assert job().done == 4


def test_workers_of_a_cluster_project_alike(photos, tmp_path, projection):
    archives = FeatureArchives(Store(str(tmp_path), "0" * 16), True, projection)
    entries = listing(["photos/1.png"])
    net, settings = StubNet(Path("calls")), Settings()
    contents = []
    for each in (archives, pickle.loads(pickle.dumps(archives))):
        put = each.put

        def stamped(entry, blocks, uncertainty, put=put):
            return put(HlocOutput(tmp_path / "f.h5", {}).task(entry), blocks, uncertainty)

        assert [outcome for _, outcome in extracted(net, settings, stamped, {}, entries, 1)] == [41]
        (path,) = tmp_path.glob("0*.npz")
        with np.load(path) as archive:
            contents.append(archive["0/0/descriptors"])
    assert contents[0].shape == (128, 41)
    assert contents[0].dtype == np.float16
    np.testing.assert_array_equal(*contents)


def test_too_little_to_learn_from(photos):
    for path in photos.iterdir():
        path.write_bytes(b"x" * 10)
    with pytest.raises(d2np.Error, match="7 images with 70 keypoints are too few to learn 128 dimensions"):
        job()
    assert not Path("f.h5.parts").exists()


def test_the_images_learnt_from_are_spread(photos, monkeypatch):
    monkeypatch.setattr(learning, "IMAGES", 3)
    monkeypatch.setattr(learning, "_OF_EACH", 43)
    settings = Settings()
    found = learning.learnt(StubNet(Path("calls")), listing(["photos"])[:6], settings, 100)
    assert found.dimensions == 100
    assert lines() == ["0.png", "2.png", "4.png"]
    with pytest.raises(d2np.Error, match="3 images with 104 keypoints"):  # 40, 42, and every second of 44
        learning.learnt(StubNet(Path("calls")), listing(["photos"])[:6], settings, 128)


def test_commands(tmp_path, monkeypatch, capsys, make_image):
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for seed in range(2):
        Image.fromarray(make_image(120, 160, seed)).save(f"photos/{seed}.png")

    def run(*arguments):
        code = main([*arguments])
        return code, *capsys.readouterr()

    weights = ("--weights", "analytic", "--rotations")
    small = ("--dimensions", "128", "--half", "--max-keypoints", "30", "--spread")
    assert run("extract", "photos", "-o", "f.h5", *small, *weights)[0] == 0
    assert run("pairs", "f.h5", "-o", "m.h5", "--retrieval", "1", "--verify", "homography")[0] == 0
    found = hloc.read("f.h5", "0.png")
    assert found.descriptors.shape == (len(found), 128)
    assert {*np.unique(found.rotations, return_counts=True)[1]} == {30}
    # Vectors of whole images are not projected.
    assert hloc.read_global_descriptors("f.h5", ["0.png"]).shape == (1, 512)
    np.testing.assert_allclose(np.linalg.norm(found.descriptors, axis=1), 1, atol=1e-6)
    assert run("extract", "photos/1.png", "-o", "query.h5", "--projection", "f.h5", *weights)[0] == 0
    assert len(d2np.match(found, hloc.read("query.h5", "1.png"))) > 3
    for arguments, code, message in (
        (("-o", "x.h5", "--dimensions", "100"), 2, "128 or 256 is expected, not '100'"),
        (("-o", "npz", "--format", "npz", "--dimensions", "128"), 2, "--dimensions is for --format h5 only"),
        (("-o", "x.h5", "--projection", "f.h5", "--dimensions", "256"), 2, "leave --dimensions 256 out"),
        (("-o", "x.h5", "--projection", "m.h5"), 1, "m.h5 has no projection: it was extracted without"),
        (("-o", "x.h5", "--projection", "none.h5"), 1, "no such file or folder: none.h5"),
    ):
        try:
            found, _, err = run("extract", "photos", *arguments, *weights)
        except SystemExit as exit:
            found, err = exit.code, capsys.readouterr().err
        assert (found, err.count("\n")) == (code, 1)
        assert message in err
