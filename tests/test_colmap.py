"""COLMAP databases: what is in them, and that COLMAP reconstructs a scene from them that is known exactly."""

from __future__ import annotations

import re
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pycolmap
import pytest
import scene
from PIL import ExifTags, Image

import d2np
from d2np import dataset
from d2np.cli import main
from d2np.errors import FormatError, ImageError
from d2np.features import Features, Matches
from d2np.formats import colmap, hloc, hloc_matches
from d2np.hdf5 import write_text

NAMES = ["1.jpg", "2.jpg", "3.jpg", "far side/4.jpg", "far side/5.jpg", "far side/6.jpg"]


# --- a scene that is known exactly ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """Six views of a room, their features and matches: made once, since all this takes seconds."""
    folder = tmp_path_factory.mktemp("room")
    views = dict(zip(NAMES, scene.views(seed=1), strict=True))
    for name, view in views.items():
        for photos, exif in (("photos", scene.exif()), ("plain", None)):
            path = folder / photos / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(view.image).save(path, quality=95, **({"exif": exif} if exif else {}))
    settings = dataset.Settings()
    net = d2np.Net.load("analytic")
    output = dataset.HlocOutput(folder / "features.h5", settings.recorded(net))
    dataset.extract(net, dataset.listing([folder / "photos"]), output, settings)
    match_all(folder / "features.h5", folder / "matches.h5")
    return SimpleNamespace(
        folder=folder,
        features=folder / "features.h5",
        matches=folder / "matches.h5",
        photos=folder / "photos",
        plain=folder / "plain",
        views=views,
    )


def match_all(features, path):
    settings = dataset.MatchSettings()
    output = dataset.MatchOutput(path, settings.recorded(features))
    dataset.match_pairs(features, dataset.all_pairs(features), output, settings)


def assert_reconstructed(database, room, tmp_path):
    """COLMAP places all six cameras where they were."""
    options = pycolmap.IncrementalPipelineOptions(random_seed=0, num_threads=2)
    models = pycolmap.incremental_mapping(database, room.photos, tmp_path, options)
    assert len(models) == 1
    model = models[0]
    assert model.num_reg_images() == 6
    centres = {image.name: image.projection_center() for image in model.images.values()}
    found = np.array([centres[name] for name in NAMES])
    truth = np.array([room.views[name].centre for name in NAMES])
    distances = np.linalg.norm(scene.aligned(found, truth) - truth, axis=1)
    assert distances.max() < 0.03 * scene.SIZE
    assert model.compute_mean_reprojection_error() < 2
    assert model.num_points3D() > 200


def test_colmap_reconstructs_the_scene(room, tmp_path):
    summary = colmap.write(tmp_path / "d.db", room.features, room.matches, room.photos)
    assert (summary.images, summary.cameras, summary.pairs, summary.verified) == (6, 1, 15, 15)
    assert summary.weak == 0
    assert summary.inliers > 0.7 * summary.matches
    assert_reconstructed(tmp_path / "d.db", room, tmp_path)


def test_colmap_reconstructs_from_files_of_hloc(room, tmp_path):
    """Half the digits, no scales, int16, the old kind of HDF5; and a focal length that is only guessed."""
    with h5py.File(room.features) as ours, h5py.File(tmp_path / "f.h5", "w", libver="latest") as file:
        for name in NAMES:
            group = file.create_group(name)
            for key in ("keypoints", "scores", "descriptors"):
                group.create_dataset(key, data=ours[name][key][()].astype(np.float16))
            group.create_dataset("image_size", data=ours[name]["image_size"][()])
    with h5py.File(tmp_path / "m.h5", "w", libver="latest") as file:
        for a, b in combinations(NAMES, 2):
            truth = d2np.match(hloc.read(tmp_path / "f.h5", a), hloc.read(tmp_path / "f.h5", b))
            partner = np.full(len(hloc.read(tmp_path / "f.h5", a)), -1)
            partner[truth.indices[:, 0]] = truth.indices[:, 1]
            group = file.create_group("/".join((a.replace("/", "-"), b.replace("/", "-"))))
            group.create_dataset("matches0", data=partner.astype(np.int16))
            group.create_dataset("matching_scores0", data=np.full(len(partner), 0.9, np.float16))
    summary = colmap.write(
        tmp_path / "d.db", tmp_path / "f.h5", tmp_path / "m.h5", room.plain, single_camera=True
    )
    assert (summary.images, summary.cameras, summary.verified) == (6, 1, 15)
    assert_reconstructed(tmp_path / "d.db", room, tmp_path)


def test_colmap_reconstructs_without_verification(room, tmp_path):
    summary = colmap.write(tmp_path / "d.db", room.features, room.matches, room.photos, verify=False)
    assert summary.verified == summary.pairs == 15
    assert summary.inliers == summary.matches
    assert_reconstructed(tmp_path / "d.db", room, tmp_path)


@pytest.mark.parametrize("model", ["fundamental", "homography"])
def test_colmap_takes_verified_matches_as_they_are(room, tmp_path, model, monkeypatch):
    """With their model, in its pixels; and reconstructs from them where they are of a rigid scene."""
    monkeypatch.setattr(pycolmap, "geometric_verification", None)
    settings = dataset.MatchSettings(verify=model)
    output = dataset.MatchOutput(tmp_path / "m.h5", settings.recorded(room.features))
    pairs = list(combinations(NAMES, 2))[:: 1 if model == "fundamental" else 5]
    report = dataset.match_pairs(room.features, pairs, output, settings)
    summary = colmap.write(tmp_path / "d.db", room.features, tmp_path / "m.h5", room.photos)
    assert summary.inliers == summary.matches == report.matches > 100
    assert summary.verified == summary.pairs == len(pairs) - report.unmatched
    with pycolmap.Database.open(tmp_path / "d.db") as database:
        numbers = {image.name: image.image_id for image in database.read_all_images()}
        a, b = (numbers[name] for name in pairs[0])
        geometry = database.read_two_view_geometry(a, b)
        given = hloc_matches.read(tmp_path / "m.h5", *pairs[0]).indices
        np.testing.assert_array_equal(geometry.inlier_matches, given)
        points = (
            database.read_keypoints(image)[column] for image, column in ((a, given[:, 0]), (b, given[:, 1]))
        )
        first, second = (np.column_stack([xy[:, :2], np.ones(len(xy))]) for xy in points)
    kinds = pycolmap.TwoViewGeometryConfiguration
    if model == "fundamental":
        assert geometry.config == kinds.UNCALIBRATED
        lines = first @ geometry.F.T
        distances = (second * lines).sum(axis=1) / np.linalg.norm(lines[:, :2], axis=1)
        assert_reconstructed(tmp_path / "d.db", room, tmp_path)
    else:
        assert geometry.config == kinds.PLANAR_OR_PANORAMIC
        mapped = first @ geometry.H.T
        distances = np.linalg.norm(mapped[:, :2] / mapped[:, 2:] - second[:, :2], axis=1)
    assert abs(distances).max() <= 3.001


def test_verified_matches_are_verified_again_where_that_is_asked_for(room, tmp_path):
    settings = dataset.MatchSettings(verify="fundamental", threshold=30.0)
    output = dataset.MatchOutput(tmp_path / "m.h5", settings.recorded(room.features))
    dataset.match_pairs(room.features, list(combinations(NAMES, 2))[:3], output, settings)
    files = [str(path) for path in (room.features, tmp_path / "m.h5", room.photos)]
    assert main(["colmap", *files, "-o", str(tmp_path / "d.db"), "--verify", "two-view"]) == 0
    summary = colmap.write(tmp_path / "e.db", *files)
    with pycolmap.Database.open(tmp_path / "d.db") as database:
        assert 0 < sum(database.read_two_view_geometry_num_inliers()[1]) < summary.inliers


def test_database(room, tmp_path):
    colmap.write(tmp_path / "d.db", room.features, room.matches, room.photos, camera_model="OPENCV")
    with pycolmap.Database.open(tmp_path / "d.db") as database:
        (camera,) = database.read_all_cameras()
        assert (camera.model.name, camera.width, camera.height) == ("OPENCV", scene.WIDTH, scene.HEIGHT)
        assert camera.has_prior_focal_length
        assert camera.params[0] == pytest.approx(scene.FOCAL, rel=0.02)
        numbers = {image.name: image.image_id for image in database.read_all_images()}
        assert sorted(numbers) == NAMES
        for name in NAMES:
            np.testing.assert_allclose(
                database.read_keypoints(numbers[name]),
                hloc.read(room.features, name).keypoints[:, :2] + 0.5,
                rtol=1e-6,
            )
        for a, b in combinations(NAMES, 2):
            given = hloc_matches.read(room.matches, a, b).indices
            np.testing.assert_array_equal(database.read_matches(numbers[a], numbers[b]), given)
            geometry = database.read_two_view_geometry(numbers[a], numbers[b])
            assert set(map(tuple, geometry.inlier_matches)) < set(map(tuple, given))
            assert len(geometry.inlier_matches) > 50


def test_cameras_without_exif(room, tmp_path):
    colmap.write(tmp_path / "d.db", room.features, room.matches, room.plain)
    with pycolmap.Database.open(tmp_path / "d.db") as database:
        cameras = database.read_all_cameras()
    assert [camera.params[0] for camera in cameras] == [1.2 * scene.WIDTH] * 6
    assert {camera.model.name for camera in cameras} == {"SIMPLE_RADIAL"}
    assert not any(camera.has_prior_focal_length for camera in cameras)


def test_cameras_are_shared_as_exif_says(small):
    """By size, maker, model and focal length in terms of 35 mm film; millimetres alone are not enough."""

    def save(name, model, size=(64, 48), **lengths):
        tags = Image.Exif()
        tags[ExifTags.Base.Make], tags[ExifTags.Base.Model] = "maker", model
        tags[ExifTags.IFD.Exif] = {ExifTags.Base[tag]: length for tag, length in lengths.items()}
        Image.new("RGB", size).save(f"photos/{name}", exif=tags)
        with h5py.File("f.h5", "a") as file:
            hloc.write(file, name, Features(np.ones((1, 3)), np.ones(1), np.ones((1, 512)), size))

    save("b/one.jpg", "x", FocalLengthIn35mmFilm=30)
    save("same.jpg", "x", FocalLengthIn35mmFilm=30)
    save("zoomed.jpg", "x", FocalLengthIn35mmFilm=60)
    save("model.jpg", "y", FocalLengthIn35mmFilm=30)
    save("upright.jpg", "x", size=(48, 64), FocalLengthIn35mmFilm=30)
    save("millimetres.jpg", "x", FocalLength=4.2)
    save("millimetres too.jpg", "x", FocalLength=4.2)
    colmap.write("d.db", "f.h5", "m.h5", "photos", verify=False)
    with pycolmap.Database.open("d.db") as database:
        images = {image.name: image.camera_id for image in database.read_all_images()}
        cameras = {name: database.read_camera(number) for name, number in images.items()}
    assert images["b/one.jpg"] == images["same.jpg"]
    assert len(set(images.values())) == len(images) - 1
    assert cameras["zoomed.jpg"].params[0] == pytest.approx(2 * cameras["same.jpg"].params[0])
    assert {name for name, camera in cameras.items() if camera.has_prior_focal_length} == {
        "b/one.jpg", "same.jpg", "zoomed.jpg", "model.jpg", "upright.jpg"
    }  # fmt: skip
    assert cameras["millimetres.jpg"].params[0] == 1.2 * 64


def test_verification_does_not_depend_on_threads(room, tmp_path):
    summaries = [
        colmap.write(tmp_path / "d.db", room.features, room.matches, room.photos, threads=n, overwrite=True)
        for n in (1, 2, 2)
    ]
    assert summaries[0] == summaries[1] == summaries[2]


def test_alignment_undoes_any_motion():
    rng = np.random.default_rng(0)
    truth = rng.standard_normal((6, 3))
    turn, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    turn *= np.linalg.det(turn)
    np.testing.assert_allclose(scene.aligned(0.3 * truth @ turn.T + 5, truth), truth, atol=1e-12)
    assert abs(scene.aligned(truth * (1, 1, -1), truth) - truth).max() > 0.1


# --- small files that fit each other, or do not -----------------------------------------------------------


@pytest.fixture
def small(tmp_path, monkeypatch):
    """The working folder, with two small images, their features and their matches."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    Path("photos/b").mkdir(parents=True)
    with h5py.File("f.h5", "w") as file:
        for name, count in (("a.jpg", 5), ("b/c.jpg", 4), ("b/d.jpg", 0)):
            Image.fromarray(rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)).save(f"photos/{name}")
            keypoints = rng.uniform(0, 48, (count, 3))
            features = Features(keypoints, np.ones(count), rng.random((count, 512)), (64, 48))
            hloc.write(file, name, features)
    with h5py.File("m.h5", "w") as file:
        matches = Matches([[0, 1], [4, 3]], [1.0, 0.9])
        hloc_matches.write(file, "a.jpg", "b/c.jpg", matches, (5, 4))
        nothing = Matches(np.empty((0, 2), np.int64), np.empty(0))
        hloc_matches.write(file, "b/d.jpg", "a.jpg", nothing, (0, 5))
    return tmp_path


@pytest.fixture
def run(capsys, small):
    """Runs ``d2np colmap``: exit code, standard output, standard error."""

    def call(*arguments):
        code = main(["colmap", *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def fails(run, small):
    """Runs a command that must end with one line on standard error and leave nothing behind."""

    def call(*arguments):
        before = sorted(small.iterdir())
        code, out, err = run(*arguments)
        assert out == ""
        assert re.fullmatch(r"d2np: .+\n", err)
        assert sorted(small.iterdir()) == before
        return code, err

    return call


def test_command(run):
    code, out, err = run("f.h5", "m.h5", "photos", "-o", "d.db")
    assert (code, err) == (0, "")
    assert re.fullmatch(
        r"3 images of 3 cameras, 9 keypoints\n1 pair matched, 2 matches\n0 pairs verified, 0 inliers\n"
        r"wrote d\.db in \d\.\d+ s\n",
        out,
    )
    code, out, _ = run("f.h5", "m.h5", "photos/", "-o", "e.db", "--verify", "none", "--single-camera")
    assert code == 0
    assert "3 images of 1 camera," in out
    assert "not verified: every match counts as an inlier" in out
    assert sorted(path.name for path in Path().iterdir()) == ["d.db", "e.db", "f.h5", "m.h5", "photos"]


@pytest.mark.parametrize(
    ("settings", "advised"),
    [
        ('{"scales": [1.0]}', True),
        ('{"scales": [0.5, 1.0, 2.0]}', False),
        ('{"scales": 1}', False),
        ("no", False),
    ],
)
def test_three_scales_are_advised_where_few_matches_are_found(run, settings, advised):
    with h5py.File("f.h5", "r+") as file:
        write_text(file, "d2np_settings", settings)
    out = run("f.h5", "m.h5", "photos", "-o", "d.db")[1]
    advice = [line for line in out.splitlines() if "--multiscale" in line]
    assert len(advice) == advised
    if advised:
        assert advice[0].startswith("3 of 3 images have fewer than 30 inliers with any other")


def test_three_scales_are_not_advised_where_matches_are_many(room, tmp_path, capsys):
    files = [str(path) for path in (room.features, room.matches, room.photos)]
    assert main(["colmap", *files, "-o", str(tmp_path / "d.db")]) == 0
    out, err = capsys.readouterr()
    assert ("15 pairs verified" in out, "--multiscale" in out, err) == (True, False, "")


def test_a_database_is_replaced_only_when_asked(run, fails):
    Path("d.db").write_text("precious")
    code, err = fails("f.h5", "m.h5", "photos", "-o", "d.db")
    assert code == 1
    assert "d.db is there already" in err
    assert Path("d.db").read_text() == "precious"
    assert run("f.h5", "m.h5", "photos", "-o", "d.db", "--overwrite")[0] == 0
    with pycolmap.Database.open("d.db") as database:
        assert database.num_images() == 3


def test_the_old_database_stays_when_a_new_one_fails(fails):
    Path("d.db").write_text("precious")
    Path("photos/a.jpg").write_text("no image")
    assert fails("f.h5", "m.h5", "photos", "-o", "d.db", "--overwrite")[0] == 1
    assert Path("d.db").read_text() == "precious"


def test_a_database_that_cannot_be_written(fails, monkeypatch):
    """Such as where there are no file locks."""

    def write(*arguments):
        raise RuntimeError("SQLite error")

    monkeypatch.setattr(pycolmap, "import_images", write)
    code, message = fails("f.h5", "m.h5", "photos", "-o", "d.db")
    assert code == 1
    assert "d.db: COLMAP cannot write it, which needs room and file locks there: SQLite error" in message


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["none.h5", "m.h5", "photos", "-o", "d.db"], 1, r"no such file or folder: none\.h5"),
        (["f.h5", "none.h5", "photos", "-o", "d.db"], 1, r"no such file or folder: none\.h5"),
        (["m.h5", "m.h5", "photos", "-o", "d.db"], 1, r"m\.h5 holds no features"),
        (["f.h5", "f.h5", "photos", "-o", "d.db"], 1, r"f\.h5 holds no matches"),
        (["f.h5", "m.h5", "none", "-o", "d.db"], 1, r"no such file or folder: none"),
        (["f.h5", "m.h5", "photos/b", "-o", "d.db"], 1, r"photos/b lacks .+: a\.jpg, b/c\.jpg, b/d\.jpg"),
        (["f.h5", "m.h5", "photos", "-o", "m.h5", "--overwrite"], 2, r"would overwrite what it is made from"),
        (["f.h5", "m.h5", "photos", "-o", "none/d.db"], 1, r"there is no folder none"),
        (["f.h5", "m.h5", "photos", "-o", "photos"], 1, r"it is a folder"),
        (["f.h5", "m.h5", "photos", "-o", "d.db", "--camera-model", "BOX"], 2, r"no camera model 'BOX': use"),
        (["f.h5", "m.h5", "photos", "-o", "d.db", "--threads", "0"], 2, r"--threads"),
        (["f.h5", "m.h5", "photos"], 2, r"-o"),
    ],
)
def test_command_refuses(fails, arguments, code, message):
    found, err = fails(*arguments)
    assert found == code
    assert re.search(message, err)


def test_unreadable_images_are_named(fails):
    Path("photos/a.jpg").write_text("no image")
    code, err = fails("f.h5", "m.h5", "photos", "-o", "d.db")
    assert (code, err) == (
        1,
        "d2np: COLMAP cannot read a.jpg: damaged, of a kind it does not take, or of another size than the "
        "others of a single camera\n",
    )


def test_features_must_be_of_these_images(small):
    Image.new("RGB", (48, 64)).save("photos/a.jpg")
    with pytest.raises(FormatError, match=r"a\.jpg has 48 x 64 px, but .+ of 64 x 48 px: .+ --orient"):
        colmap.write("d.db", "f.h5", "m.h5", "photos")


def test_a_single_camera_takes_images_of_one_size(small):
    Image.new("RGB", (48, 64)).save("photos/b/c.jpg")
    with pytest.raises(
        ImageError, match=r"cannot read b/c\.jpg: .+ another size than the others of a single"
    ):
        colmap.write("d.db", "f.h5", "m.h5", "photos", single_camera=True)


def test_matches_must_be_of_these_features(small):
    with h5py.File("m.h5", "a") as file:
        file["a.jpg/b-c.jpg/matches0"][4] = 4
    with pytest.raises(
        FormatError,
        match=r"other features than f\.h5: of a\.jpg and b/c\.jpg, a match names",
    ):
        colmap.write("d.db", "f.h5", "m.h5", "photos")
    with h5py.File("m.h5", "a") as file:
        file.move("a.jpg", "z.jpg")
    with pytest.raises(FormatError, match=r"matches of images that f\.h5 does not hold: z\.jpg"):
        colmap.write("d.db", "f.h5", "m.h5", "photos")
    assert not list(small.glob("d.db*"))


def test_names_that_are_one_in_the_match_file(small):
    with h5py.File("f.h5", "a") as file:
        file.copy("b/c.jpg", "b-c.jpg")
    Path("photos/b-c.jpg").write_bytes(Path("photos/b/c.jpg").read_bytes())
    with pytest.raises(FormatError, match=r"b-c\.jpg and b/c\.jpg are both called b-c\.jpg"):
        colmap.write("d.db", "f.h5", "m.h5", "photos")


def test_names_that_lead_out_of_the_folder(small):
    Path("c.jpg").write_bytes(Path("photos/b/c.jpg").read_bytes())
    with h5py.File("f.h5", "a") as file:
        file.copy("b/c.jpg", "../c.jpg")
    with pytest.raises(ImageError, match=r"'\.\./c\.jpg' cannot be the name of an image"):
        colmap.write("d.db", "f.h5", "m.h5", "photos")


def test_a_pair_in_both_orders_counts_once(small):
    with h5py.File("m.h5", "a") as file:
        back = Matches([[1, 0]], [1.0])
        hloc_matches.write(file, "b/c.jpg", "a.jpg", back, (4, 5))
        hloc_matches.write(file, "a.jpg", "a.jpg", Matches([[1, 1]], [1.0]), (5, 5))
    assert colmap.write("d.db", "f.h5", "m.h5", "photos").pairs == 1


def test_it_can_be_interrupted(small):
    def interrupt(what):
        if "matches" in what:
            raise KeyboardInterrupt

    level = pycolmap.logging.minloglevel
    with pytest.raises(KeyboardInterrupt):
        colmap.write("d.db", "f.h5", "m.h5", "photos", tell=interrupt)
    assert not list(small.glob("d.db*"))
    assert pycolmap.logging.minloglevel == level


def test_a_message_tells_how_to_get_pycolmap(fails, monkeypatch):
    monkeypatch.setitem(sys.modules, "pycolmap", None)
    code, err = fails("f.h5", "m.h5", "photos", "-o", "d.db")
    assert (code, err) == (
        1,
        "d2np: COLMAP databases need the package pycolmap: pip install 'd2np[colmap]'\n",
    )


def test_pycolmap_is_imported_only_when_it_is_needed():
    script = (
        "import sys, d2np, d2np.cli, d2np.formats.colmap; d2np.cli.main(['colmap', '--help']); "
        "sys.exit('pycolmap' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.DEVNULL)


def test_missing_images_are_an_image_error(small):
    Path("photos/b/c.jpg").unlink()
    with pytest.raises(ImageError, match=r"photos lacks images that f\.h5 holds: b/c\.jpg$"):
        colmap.write("d.db", "f.h5", "m.h5", "photos")
