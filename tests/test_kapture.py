"""Kapture folders: read back by kapture's own package, checked byte for byte, gone on with when stopped."""

from __future__ import annotations

import os

import kapture
import kapture.io.csv
import kapture.io.features
import kapture.io.records
import numpy as np
import pytest
from PIL import Image

import d2np
from d2np.cli import main
from d2np.dataset import Entry, KaptureOutput, Settings, extract, listing
from d2np.errors import FormatError, ImageError
from d2np.formats import kapture as ours


class FakeNet:
    """Gives every image as many keypoints as it is wide, and remembers what it was asked for."""

    def __init__(self, stop_at=None):
        self.seen = []
        self.stop_at = stop_at

    def __call__(self, path, *, threads=None, **options):
        if len(self.seen) == self.stop_at:
            raise KeyboardInterrupt
        with Image.open(path) as image:
            width, height = image.size
        self.seen.append(path.name)
        rng = np.random.default_rng(width)
        return d2np.Features(
            rng.random((width, 3)), rng.random(width), rng.random((width, 512)), (width, height)
        )


@pytest.fixture
def photos(tmp_path):
    for width, name in enumerate(["a.png", "b c.png", "yard/gate.png"], 10):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (width, 8)).save(path)
    return tmp_path / "photos"


@pytest.fixture
def root(tmp_path):
    return tmp_path / "kapture"


def run(photos, root, net=None, weights="d2_tf.pth", **options):
    net = net or FakeNet()
    report = extract(net, listing([photos]), KaptureOutput(root, weights, **options), Settings())
    return net, report


def loaded(root, name, kind="d2_tf"):
    """Keypoints and descriptors as kapture's own package reads them."""
    data = kapture.io.csv.kapture_from_dir(str(root))
    arrays = []
    for features, path, read in (
        (
            data.keypoints[kind],
            kapture.io.features.get_keypoints_fullpath(kind, str(root), name),
            kapture.io.features.image_keypoints_from_file,
        ),
        (
            data.descriptors[kind],
            kapture.io.features.get_descriptors_fullpath(kind, str(root), name),
            kapture.io.features.image_descriptors_from_file,
        ),
    ):
        assert name in features
        arrays.append(read(path, features.dtype, features.dsize))
    return arrays


def test_kapture_reads_it(photos, root):
    _, report = run(photos, root)
    assert (report.done, report.failed) == (3, [])
    names = {"a.png", "b c.png", "yard/gate.png"}
    data = kapture.io.csv.kapture_from_dir(str(root))
    assert {name for _, _, name in kapture.flatten(data.records_camera)} == names
    assert data.keypoints["d2_tf"] == data.descriptors["d2_tf"] == names
    assert data.keypoints["d2_tf"].type_name == data.descriptors["d2_tf"].type_name == "d2net"
    assert data.descriptors["d2_tf"].keypoints_type == "d2_tf"
    assert data.descriptors["d2_tf"].metric_type == "L2"
    assert kapture.io.features.keypoints_check_dir(data.keypoints["d2_tf"], "d2_tf", str(root))
    assert kapture.io.features.descriptors_check_dir(data.descriptors["d2_tf"], "d2_tf", str(root))
    for name in names:
        expected = FakeNet()(photos / name)
        keypoints, descriptors = loaded(root, name)
        np.testing.assert_array_equal(keypoints, expected.keypoints)
        np.testing.assert_array_equal(descriptors, expected.descriptors)
        assert keypoints.dtype == descriptors.dtype == np.float32
    for timestamp, camera, name in kapture.flatten(data.records_camera):
        sensor = data.sensors[camera]
        assert sensor.camera_type == kapture.CameraType.UNKNOWN_CAMERA
        with Image.open(kapture.io.records.get_image_fullpath(str(root), name)) as image:
            assert tuple(sensor.camera_params) == image.size
        assert list(data.records_camera[timestamp]) == [camera], "each image has a camera of its own"


@pytest.mark.parametrize("link", ["sensors", "sensors/records_camera.txt", "reconstruction/keypoints/d2_tf"])
def test_tables_outside_of_the_folder_are_not_written(photos, root, tmp_path, link):
    run(photos, root)
    (root / link).rename(tmp_path / "outside")
    (root / link).symlink_to(tmp_path / "outside")
    path = tmp_path / "outside"
    before = {file: file.read_bytes() for file in [path, *path.rglob("*")] if file.is_file()}
    Image.new("RGB", (9, 8)).save(photos / "d.png")
    with pytest.raises(FormatError, match=r"\.txt: cannot be written: a link leads out of"):
        run(photos, root)
    assert before == {file: file.read_bytes() for file in [path, *path.rglob("*")] if file.is_file()}


def test_the_folder_of_images_may_be_a_link(photos, root):
    (root / "sensors").mkdir(parents=True)
    (root / "sensors" / "records_data").symlink_to(photos)
    assert run(photos, root)[1].done == 3
    Image.new("RGB", (9, 8)).save(root / "d.png")
    _, report = run(root / "d.png", root)
    assert "a link leads out of" in report.failed[0][1]
    assert not (photos / "d.png").is_symlink()


def test_every_byte(photos, root):
    """The files of kapture's format 1.1; the published script writes the same through kapture's package."""
    run(photos / "a.png", root)
    texts = {
        "sensors/sensors.txt": "# kapture format: 1.1\n# sensor_id, name, sensor_type, [sensor_params]+\n"
        "camera_00000, , camera, UNKNOWN_CAMERA, 10, 8\n",
        "sensors/records_camera.txt": "# kapture format: 1.1\n# timestamp, device_id, image_path\n"
        "0, camera_00000, a.png\n",
        "reconstruction/keypoints/d2_tf/keypoints.txt": "# kapture format: 1.1\n# name, dtype, dsize\n"
        "d2net, float32, 3\n",
        "reconstruction/descriptors/d2_tf/descriptors.txt": "# kapture format: 1.1\n"
        "# name, dtype, dsize, keypoints_type, metric_type\nd2net, float32, 512, d2_tf, L2\n",
    }
    for name, text in texts.items():
        assert (root / name).read_bytes() == text.encode()
    expected = FakeNet()(photos / "a.png")
    binary = {
        "reconstruction/keypoints/d2_tf/a.png.kpt": expected.keypoints.astype("<f4").tobytes(),
        "reconstruction/descriptors/d2_tf/a.png.desc": expected.descriptors.astype("<f4").tobytes(),
    }
    for name, values in binary.items():
        assert (root / name).read_bytes() == values
    found = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    assert found == {*texts, *binary, "sensors/records_data/a.png"}
    # Kapture's own writers give the same texts.
    data = kapture.io.csv.kapture_from_dir(str(root))
    kapture.io.csv.kapture_to_dir(str(root.parent / "again"), data)
    for name, text in texts.items():
        assert (root.parent / "again" / name).read_text() == text


def test_started_again_it_goes_on(photos, root):
    with pytest.raises(KeyboardInterrupt):
        run(photos, root, FakeNet(stop_at=2))
    data = kapture.io.csv.kapture_from_dir(str(root))
    assert data.keypoints["d2_tf"] == {"a.png", "b c.png"}
    net, report = run(photos, root)
    assert (net.seen, report.skipped) == (["gate.png"], 2)
    net, report = run(photos, root)
    assert (net.seen, report.skipped) == ([], 3)
    assert len(kapture.io.csv.kapture_from_dir(str(root)).sensors) == 3
    net, _ = run(photos, root, restart=True)
    assert len(net.seen) == 3
    assert len(kapture.io.csv.kapture_from_dir(str(root)).sensors) == 3


@pytest.mark.parametrize("lost", ["keypoints/d2_tf/a.png.kpt", "descriptors/d2_tf/a.png.desc"])
def test_unfinished_images_are_done_again(photos, root, lost):
    run(photos, root)
    path = root / "reconstruction" / lost
    whole = path.read_bytes()
    for rest in (None, b"", whole[:-1], whole[: len(whole) // 2]):
        path.unlink() if rest is None else path.write_bytes(rest)
        net, _ = run(photos, root)
        assert net.seen == ["a.png"]
        assert path.read_bytes() == whole


def test_killed_between_camera_and_record(photos, root):
    run(photos / "a.png", root)
    with open(root / "sensors" / "sensors.txt", "a") as stream:
        stream.write("camera_00001, , camera, UNKNOWN_CAMERA, 11, 8")
    run(photos, root)
    data = kapture.io.csv.kapture_from_dir(str(root))
    assert len(data.sensors) == 4
    records = {name: camera for _, camera, name in kapture.flatten(data.records_camera)}
    assert records == {"a.png": "camera_00000", "b c.png": "camera_00002", "yard/gate.png": "camera_00003"}


def test_features_join_a_folder_that_kapture_wrote(photos, root):
    """As with the published script, cameras and records stay as they are."""
    data = kapture.Kapture(sensors=kapture.Sensors(), records_camera=kapture.RecordsCamera())
    data.sensors["phone"] = kapture.Camera(kapture.CameraType.SIMPLE_PINHOLE, [10, 8, 9, 5, 4])
    data.records_camera[7, "phone"] = "a.png"
    kapture.io.csv.kapture_to_dir(str(root), data)
    before = {path: path.read_text() for path in (root / "sensors").glob("*.txt")}
    place = root / "sensors" / "records_data"
    place.mkdir()
    (photos / "a.png").rename(place / "a.png")
    extract(FakeNet(), listing([place]), KaptureOutput(root, "d2_ots.pth"), Settings())
    assert {path: path.read_text() for path in (root / "sensors").glob("*.txt")} == before
    assert not (place / "a.png").is_symlink()
    assert len(loaded(root, "a.png", "d2_ots")[0]) == 10
    # Another image, and other weights.
    run(photos, root)
    data = kapture.io.csv.kapture_from_dir(str(root))
    assert set(data.keypoints) == {"d2_ots", "d2_tf"}
    assert data.records_camera[8, "camera_00008"] == "b c.png"
    assert len(data.sensors) == 3


def test_no_keypoints(tmp_path, root):
    nothing = d2np.Features(np.empty((0, 3)), np.empty(0), np.empty((0, 512)), (8, 8))
    Image.new("RGB", (8, 8)).save(tmp_path / "grey.png")
    extract(lambda *_, **__: nothing, listing([tmp_path / "grey.png"]), KaptureOutput(root), Settings())
    keypoints, descriptors = loaded(root, "grey.png", "d2_net")
    assert keypoints.shape == (0, 3)
    assert descriptors.shape == (0, 512)
    net, _ = run(tmp_path / "grey.png", root, weights=None)
    assert net.seen == []


def test_images_are_copied_where_links_cannot_be_made(photos, root, monkeypatch):
    def refused(*_):
        raise OSError("no links here")

    monkeypatch.setattr("os.symlink", refused)
    run(photos, root)
    copy = root / "sensors" / "records_data" / "yard" / "gate.png"
    assert not copy.is_symlink()
    assert copy.read_bytes() == (photos / "yard" / "gate.png").read_bytes()


@pytest.mark.parametrize("name", ["a,b.png", " a.png", "a\nb.png", "a\udcff.png", "a\u2028b.png"])
def test_names_that_tables_cannot_hold(tmp_path, root, name):
    path = tmp_path / "x.png"
    Image.new("RGB", (9, 8)).save(path)
    entry = Entry(path, name)
    report = extract(FakeNet(), [entry, Entry(path, "x.png")], KaptureOutput(root), Settings())
    assert report.done == 1
    assert ": rename the " in report.failed[0][1]
    assert {
        each for _, _, each in kapture.flatten(kapture.io.csv.kapture_from_dir(str(root)).records_camera)
    } == {"x.png"}
    with pytest.raises(ImageError, match="rename the image"):
        ours.check_name(name)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("sensors/sensors.txt", "# kapture format: 1.0\n", r"1\.1' is expected .* '# kapture format: 1\.0'"),
        ("sensors/sensors.txt", "", "is expected"),
        ("sensors/sensors.txt", b"\xff\xfe", "cannot be read"),
        ("sensors/records_camera.txt", "a diary\n", "is expected"),
        ("sensors/records_camera.txt", "# kapture format: 1.1\n1, a\n", "not kapture's records: 1, a"),
        ("sensors/records_camera.txt", "# kapture format: 1.1\nx, a, b\n", "not kapture's records"),
        (
            "reconstruction/keypoints/d2_tf/keypoints.txt",
            "# kapture format: 1.1\nd2net, float32, 4\n",
            "about other features: d2net",
        ),
        ("reconstruction/descriptors/d2_tf/descriptors.txt", "# kapture format: 1.1\n", "about other"),
    ],
)
def test_folders_that_are_something_else(photos, root, file, text, message):
    path = root / file
    path.parent.mkdir(parents=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(FormatError, match=message):
        run(photos, root)
    assert path.read_bytes() == (text if isinstance(text, bytes) else text.encode())


@pytest.mark.parametrize(
    ("weights", "kind"),
    [
        ("d2_tf.pth", "d2_tf"),
        ("d2np/weights/analytic.py", "analytic"),
        ("my.own.pth", "my.own"),
        (None, "d2_net"),
        ("", "d2_net"),
        ("..", "d2_net"),
        ("a,b.pth", "d2_net"),
        ("a\nb.pth", "d2_net"),
    ],
)
def test_names_of_types(weights, kind):
    assert ours.type_of(weights) == kind


# --- the command --------------------------------------------------------------------------------------------


def test_the_command(tmp_path, monkeypatch, capsys, make_image):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    Image.fromarray(make_image(64, 96)).save("photos/a.png")
    command = ["extract", "photos", "-o", "out", "--format", "kapture", "--weights", "analytic"]
    assert main(command) == 0
    assert "feature files are in out\n" in capsys.readouterr().out
    expected = d2np.Net.load("analytic")("photos/a.png")
    keypoints, descriptors = loaded(tmp_path / "out", "a.png", "analytic")
    np.testing.assert_array_equal(keypoints, expected.keypoints)
    np.testing.assert_array_equal(descriptors, expected.descriptors)
    assert main(command) == 0
    assert "0 images extracted, 1 there already" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "say where to write with -o OUT, such as -o kapture"),
        (["-o", "out", "--half"], 2, "--half is for --format h5 only"),
        (["-o", "out", "--orient"], 2, "--orient is not for --format kapture"),
        (["-o", "a.png"], 1, "is no folder"),
    ],
)
def test_bad_usage_of_the_command(tmp_path, monkeypatch, capsys, arguments, code, message):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (20, 20)).save("a.png")
    Image.new("RGB", (20, 20)).save("b.png")
    assert main(["extract", "b.png", "--format", "kapture", "--weights", "analytic", *arguments]) == code
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert message in told[0]


# --- one at a time ----------------------------------------------------------------------------------------


def test_two_jobs_in_one_folder(photos, root):
    """Both would give the same timestamps and cameras to different images."""
    first, idle = KaptureOutput(root), KaptureOutput(root)
    first.start()
    for second in (idle, KaptureOutput(root, restart=True), KaptureOutput(root, "other.pth")):
        net = FakeNet()
        with pytest.raises(FormatError, match=r"kapture: another process is working on it"):
            extract(net, listing([photos]), second, Settings())
        assert not net.seen
    first.put(Entry(photos / "a.png", "a.png"), FakeNet()(photos / "a.png"), 1.0)
    first.close()
    # What the first job has recorded meanwhile is not given out again.
    extract(FakeNet(), listing([photos]), idle, Settings())
    rows = (root / "sensors" / "records_camera.txt").read_text().splitlines()[2:]
    assert [row.split(", ") for row in rows] == [
        [str(number), f"camera_{number:05d}", name]
        for number, name in enumerate(["a.png", "b c.png", "yard/gate.png"])
    ]
    assert {path.name for path in root.iterdir()} == {"reconstruction", "sensors"}


@pytest.mark.parametrize("make", [lambda path: os.mkfifo(path), lambda path: path.symlink_to("../elsewhere")])
def test_a_lock_that_is_no_file(make, root):
    root.mkdir()
    make(root / ".d2np.lock")
    with pytest.raises(FormatError, match=r"\.d2np\.lock: cannot be written"):
        KaptureOutput(root).start()
    assert not (root.parent / "elsewhere").exists()


def test_with_features_of_several_weights_the_flags_of_kaptures_tools_are_told(photos, tmp_path, capsys):
    root = tmp_path / "kapture"
    command = ["extract", str(photos / "a.png"), "-o", str(root), "--format", "kapture", "--weights"]
    Image.new("RGB", (64, 48)).save(photos / "a.png")
    assert main([*command, "analytic"]) == 0
    assert "--keypoints-type" not in capsys.readouterr().err
    own = tmp_path / "my own.h5"
    d2np.Net.load("analytic").save(own)
    assert main([*command, str(own)]) == 0
    assert main([*command, "vgg16"]) == 0
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == (
        f"{root} holds features of several weights (analytic, vgg16): kapture's tools need to be told which, "
        "for these: --keypoints-type vgg16 --descriptors-type vgg16"
    )
