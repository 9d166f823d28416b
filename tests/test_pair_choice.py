"""Which pairs of many images are matched: the choices, and the options of ``d2np pairs`` for them."""

from __future__ import annotations

from itertools import combinations

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image

from d2np.cli import main
from d2np.dataset import pair_choice, poses
from d2np.dataset.pair_choice import in_window, most_similar, natural_order, nearest
from d2np.errors import FormatError, OptionError
from d2np.features import Features
from d2np.formats import hloc, hloc_matches

NAMES = [f"{k}.jpg" for k in range(12)]


def test_numbers_in_names_count_as_numbers():
    names = ["10.jpg", "2.jpg", "b/1.jpg", "a10b2", "a10b10", "a9", "02.jpg", "", "x²", "a/10/1", "a/9/2"]
    assert natural_order(names) == [
        *("", "02.jpg", "2.jpg", "10.jpg", "a9", "a10b2", "a10b10", "a/9/2", "a/10/1", "b/1.jpg", "x²")
    ]


@given(st.lists(st.text("019a/.-", max_size=6), unique=True))
def test_natural_order_has_each_name_once_wherever_it_was(names):
    assert natural_order(names) == natural_order(names[::-1])
    assert sorted(natural_order(names)) == sorted(names)


def steps(pairs):
    """How far apart the images of the pairs are."""
    return {NAMES.index(b) - NAMES.index(a) for a, b in pairs}


@pytest.mark.parametrize(
    ("window", "options", "expected"),
    [
        (1, {}, {1}),
        (3, {}, {1, 2, 3}),
        (100, {}, set(range(1, 12))),
        (1, {"quadratic": True}, {1}),
        (3, {"quadratic": True}, {1, 2, 3, 4}),
        (4, {"quadratic": True}, {1, 2, 3, 4, 8}),
        (1, {"loop": True}, {1, 11}),
        (2, {"loop": True}, {1, 2, 10, 11}),
    ],
)
def test_window(window, options, expected):
    pairs = in_window(NAMES, window, **options)
    assert steps(pairs) == expected
    assert pairs == sorted(set(pairs), key=lambda pair: [NAMES.index(name) for name in pair])
    if "loop" not in options:
        assert len(pairs) == sum(12 - step for step in expected)
    else:
        assert len(pairs) == 12 * window


@given(st.integers(0, 7), st.integers(1, 9), st.booleans())
def test_a_wide_window_makes_all_pairs(count, window, loop):
    names = NAMES[:count]
    pairs = in_window(names, window, quadratic=True, loop=loop)
    assert set(pairs) <= set(combinations(names, 2))
    if window >= count - 1:
        assert pairs == list(combinations(names, 2))


@pytest.mark.parametrize("window", [0, -1, 1.5, True])
def test_what_is_no_window(window):
    with pytest.raises(OptionError, match=r"^window must be a whole number from 1 up; got "):
        in_window(NAMES, window)


def test_nearest_places():
    """0 1 2   5 6, and one far away: each is paired with its two nearest, by whichever of both it is."""
    places = np.zeros((6, 3))
    places[:, 1] = [0, 1, 2, 5, 6, 99]
    a, b, c, d, e, f = NAMES[:6]
    expected = [(a, b), (a, c), (b, c), (c, d), (c, e), (d, e), (d, f), (e, f)]
    assert nearest(NAMES[:6], places, 2) == expected
    # In any place, and at any size.
    assert nearest(NAMES[:6], places[:, [1, 2, 0]] * 1e-3 + 7, 2) == expected
    assert nearest(NAMES[:6], places, 9) == list(combinations(NAMES[:6], 2))
    assert nearest(NAMES[:1], places[:1], 3) == []


def test_of_places_that_are_one_the_first_count():
    assert nearest(NAMES[:4], np.zeros((4, 3)), 1) == [(NAMES[0], other) for other in NAMES[1:4]]


def test_images_that_look_away_are_no_neighbours():
    views = np.array([[1, 0, 0], [-1, 0, 0], [0.6, 0.8, 0], [0, 1, 0]])
    places = np.arange(12.0).reshape(4, 3)
    a, b, c, d = NAMES[:4]
    assert nearest(NAMES[:4], places, 1, views) == [(a, c), (c, d)]
    assert nearest([a, b], places[:2], 1, views[:2]) == []


@given(st.integers(1, 5), st.integers(0, 99))
def test_each_image_has_its_nearest(count, seed):
    places = np.random.default_rng(seed).standard_normal((12, 3))
    distances = np.linalg.norm(places[:, np.newaxis] - places, axis=2)
    expected = {
        tuple(sorted((k, int(other))))
        for k in range(12)
        for other in np.argsort(distances[k], kind="stable")[1 : count + 1]
    }
    assert nearest(NAMES, places, count) == [(NAMES[a], NAMES[b]) for a, b in sorted(expected)]


@given(st.integers(1, 5), st.integers(0, 99))
def test_each_image_has_its_most_similar(count, seed):
    vectors = np.random.default_rng(seed).uniform(0, 1, (12, 512)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[5] = 0
    similar = vectors.astype(np.float64) @ vectors.T
    np.fill_diagonal(similar, -1)
    expected = {
        tuple(sorted((k, int(other))))
        for k in range(12)
        for other in np.argsort(-similar[k], kind="stable")[:count]
        if k != 5
    }
    expected |= {tuple(sorted((5, other))) for other in [*range(5), *range(6, 12)][:count]}
    assert most_similar(NAMES, vectors, count) == [(NAMES[a], NAMES[b]) for a, b in sorted(expected)]


def test_large_sets_are_compared_in_parts(monkeypatch):
    vectors = np.random.default_rng(0).uniform(0, 1, (12, 512)).astype(np.float32)
    whole = most_similar(NAMES, vectors, 3)
    monkeypatch.setattr(pair_choice, "_AT_ONCE", 30)
    assert most_similar(NAMES, vectors, 3) == whole


# --- where images were taken ------------------------------------------------------------------------------

CITIES = {
    "quito": ((0, 13, 12.5), "S", (78, 31, 29.0), "W"),
    "kampala": ((0, 18, 49.0), "N", (32, 34, 52.0), "E"),
    "fiji": ((18, 8, 0), "S", (178.44, 0, 0), "E"),
    "samoa": ((13, 50, 0), "S", (171.75, 0, 0), "W"),
}


def write_photo(path, position, altitude=0.0):
    """An image with a GPS position."""
    tags = Image.Exif()
    keys = (
        *(ExifTags.GPS.GPSLatitude, ExifTags.GPS.GPSLatitudeRef),
        *(ExifTags.GPS.GPSLongitude, ExifTags.GPS.GPSLongitudeRef),
    )
    tags.get_ifd(ExifTags.IFD.GPSInfo).update(zip(keys, position, strict=True))
    tags.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSAltitude] = altitude
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", (8, 8)).save(path, exif=tags)


@pytest.fixture
def photos(tmp_path):
    """Four photographs with GPS positions, of which one lies in a folder of its own, and others without."""
    for city, position in CITIES.items():
        write_photo(tmp_path / "photos" / f"{city}.jpg", position, altitude=2850)
    (tmp_path / "photos" / "sub").mkdir()
    (tmp_path / "photos" / "fiji.jpg").rename(tmp_path / "photos" / "sub" / "fiji.jpg")
    write_photo(tmp_path / "photos" / "no fix.jpg", ((0, 0), "N", (1, 0, 0), "E"))
    write_photo(tmp_path / "photos" / "beyond.jpg", ((100, 0, 0), "N", (1, 0, 0), "E"))
    Image.new("RGB", (8, 8)).save(tmp_path / "photos" / "plain.png")
    (tmp_path / "photos" / "damaged.jpg").write_bytes(b"\xff\xd8\xff\xe1\0\x20Exif\0\0II*\0" + b"\xff" * 40)
    return tmp_path / "photos"


NAMES_THERE = ["quito.jpg", "kampala.jpg", "sub/fiji.jpg", "samoa.jpg"]
NAMES_WITHOUT = ["no fix.jpg", "beyond.jpg", "plain.png", "damaged.jpg", "missing.jpg", "../outside.jpg"]


def test_gps_positions(photos):
    found = poses.read(photos, [*NAMES_THERE, *NAMES_WITHOUT])
    assert list(found) == NAMES_THERE
    places = {name: place for name, (place, view) in found.items() if view is None}
    # Along great circles, in kilometres; the last two are on either side of the date line.
    radius = np.linalg.norm(places["quito.jpg"]) / 1000
    assert radius == pytest.approx(6371)
    for a, b, distance in (("quito.jpg", "kampala.jpg", 12353), ("sub/fiji.jpg", "samoa.jpg", 1151)):
        angle = np.arccos(places[a] @ places[b] / (1000 * radius) ** 2)
        assert angle * radius == pytest.approx(distance, rel=0.005)
    pairs = nearest(NAMES_THERE, np.array([places[name] for name in NAMES_THERE]), 1)
    assert pairs[-1] == ("sub/fiji.jpg", "samoa.jpg")


def write_model(folder, images):
    """A model in COLMAP's text format: of each image its rotation as a quaternion, and its translation."""
    folder.mkdir()
    (folder / "cameras.txt").write_text("1 SIMPLE_PINHOLE 640 480 500 320 240\n")
    lines = [f"{k} {pose} 1 {name}\n\n" for k, (name, pose) in enumerate(images.items(), 1)]
    (folder / "images.txt").write_text("".join(lines))
    (folder / "points3D.txt").write_text("")


@pytest.fixture
def model(tmp_path):
    """Three cameras in a row that look along z, and one among them that looks back."""
    forwards = {f"{k}.jpg": f"1 0 0 0 {-k} 0 0" for k in (0, 1, 3)}
    write_model(tmp_path / "model", {**forwards, "back.jpg": "0 0 1 0 0.5 0 0"})
    return tmp_path / "model"


@pytest.mark.parametrize("kind", ["text", "binary", "a file of it"])
def test_a_colmap_model(model, tmp_path, kind):
    if kind == "binary":
        import pycolmap

        read, model = pycolmap.Reconstruction(model), tmp_path / "binary"
        model.mkdir()
        read.write_binary(model)
    found = poses.read(model / "images.txt" if kind == "a file of it" else model, ["3.jpg", "back.jpg", "x"])
    assert sorted(found) == ["3.jpg", "back.jpg"]
    np.testing.assert_allclose(found["3.jpg"], [[3, 0, 0], [0, 0, 1]], atol=1e-12)
    np.testing.assert_allclose(found["back.jpg"], [[0.5, 0, 0], [0, 0, -1]], atol=1e-12)


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("none", r"none: the folder of a COLMAP model or of images is expected, and this is none$"),
        ("file", r"file: the folder of a COLMAP model or of images is expected, and this is none$"),
        ("damaged", r"damaged is not a COLMAP model: "),
    ],
)
def test_no_places(tmp_path, folder, message):
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "images.bin").write_bytes(b"\xff" * 30)
    (tmp_path / "file").touch()
    with pytest.raises(FormatError, match=message):
        poses.read(tmp_path / folder, [])


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """Runs ``d2np pairs`` on images of these names: exit code, pairs of the match file, standard error."""
    monkeypatch.chdir(tmp_path)

    def call(names, *arguments, vectors=None):
        rng = np.random.default_rng(0)
        with h5py.File("f.h5", "w") as file:
            for k, name in enumerate(names):
                found = rng.standard_normal((5, 512))
                found /= np.linalg.norm(found, axis=1, keepdims=True)
                arrays = rng.uniform(0, 9, (5, 3)), rng.random(5), found
                vector = None if vectors is None else vectors[k]
                hloc.write(file, name, Features(*arrays, (9, 9), global_descriptor=vector))
        code = main(["pairs", "f.h5", "-o", "m.h5", "--overwrite", *arguments])
        found = hloc_matches.pair_names("m.h5") if code == 0 else []
        return code, found, capsys.readouterr().err

    return call


def test_command_with_retrieval(run, tmp_path):
    vectors = np.eye(512, dtype=np.float32)[:4]
    vectors[3] = np.sqrt([0.5, 0.5] + [0] * 510)
    code, pairs, _ = run(["a", "b", "c", "d"], "--retrieval", "1", vectors=vectors)
    assert (code, pairs) == (0, ["a/c", "a/d", "b/d"])
    code, _, error = run(["a", "b"], "--retrieval", "1")
    assert (code, "no global descriptor of a, b: " in error) == (1, True)
    code, _, error = run(["a", "b"], "--retrieval", "1", "--window", "1")
    assert (code, "--window and --retrieval each say which pairs" in error) == (2, True)


def test_command_with_poses(run, model, photos):
    code, pairs, error = run(["0.jpg", "1.jpg", "3.jpg", "back.jpg", "x.jpg"], "--from-poses", "model")
    assert (code, pairs) == (0, ["0.jpg/1.jpg", "0.jpg/3.jpg", "1.jpg/3.jpg"])
    assert error == "model does not tell where 1 of 5 images were taken: these are in no pair\n"
    code, pairs, _ = run(["0.jpg", "1.jpg", "3.jpg"], "--from-poses", "model", "--nearest", "1")
    assert (code, pairs) == (0, ["0.jpg/1.jpg", "1.jpg/3.jpg"])
    code, pairs, error = run(NAMES_THERE, "--from-poses", "photos", "--nearest", "1")
    assert (code, error) == (0, "")
    assert "samoa.jpg/sub-fiji.jpg" in pairs
    code, _, error = run(["0.jpg", "back.jpg"], "--from-poses", "model")
    assert (code, "look away from each other" in error) == (1, True)
    code, _, error = run(["plain.png", "samoa.jpg"], "--from-poses", "photos")
    assert (code, error.partition(":")[2][:50]) == (1, " photos tells of 1 of 2 images where they were tak")
    for wrong, message in (
        (["--nearest", "3"], "--nearest is for --from-poses only"),
        (["--from-poses", "model", "--window", "1"], "--window and --from-poses each say"),
    ):
        code, _, error = run(["0.jpg", "1.jpg"], *wrong)
        assert (code, message in error) == (2, True)
    assert "no such file or folder: modle" in run(["0.jpg", "1.jpg"], "--from-poses", "modle")[2]
