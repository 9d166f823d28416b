"""Which images are meant, and an extraction that goes on where it was."""

from __future__ import annotations

import glob
import os
import sys
from contextlib import closing
from pathlib import Path

import h5py
import numpy as np
import pytest
from parted import archives, kept
from PIL import Image

from d2np.dataset import Entry, HlocOutput, KaptureOutput, NpzOutput, Settings, extract, listed_pairs, listing
from d2np.dataset.archives import Group, write
from d2np.errors import FormatError, ImageError, OptionError
from d2np.features import Features
from d2np.formats import hloc
from d2np.images import names as names_module
from d2np.images.open import open_image

listing_module = sys.modules[listing.__module__]


class FakeNet:
    """Gives every image as many keypoints as it is wide, and remembers what it was asked for."""

    provenance = None
    preprocessing = "caffe"

    def __init__(self, stop_at=None):
        self.seen = []
        self.stop_at = stop_at

    def __call__(self, path, *, threads=None, **options):
        if self.stop_at is not None and len(self.seen) == self.stop_at:
            raise KeyboardInterrupt
        try:
            with Image.open(path) as image:
                width, height = image.size
        except OSError:
            raise ImageError(f"{path} is no image") from None
        self.seen.append(path.name)
        rng = np.random.default_rng(width)
        return Features(rng.random((width, 3)), rng.random(width), rng.random((width, 512)), (width, height))


@pytest.fixture
def folder(tmp_path):
    for width, name in enumerate(["b.png", "a.JPG", "sub/a.jpg", "sub/deep/c.png", ".hidden/d.png"], 10):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (width, 8)).save(path)
    (tmp_path / "photos" / "notes.txt").write_text("no image")
    return tmp_path / "photos"


def names(sources):
    return [entry.name for entry in listing(sources)]


def test_folders_files_and_patterns(folder, monkeypatch):
    everything = ["a.JPG", "b.png", "sub/a.jpg", "sub/deep/c.png"]
    assert names([folder]) == everything
    assert names([f"{folder}/"]) == everything
    assert names([folder / "sub" / "a.jpg", folder / "b.png"]) == ["a.jpg", "b.png"]
    assert names([f"{folder}/*.png"]) == ["b.png"]
    assert names([f"{folder}/**/*.png"]) == ["b.png", "sub/deep/c.png"]
    assert names([f"{folder}/s*"]) == ["sub/a.jpg", "sub/deep/c.png"]
    assert names([f"{folder}/[ab].*"]) == ["a.JPG", "b.png"]
    monkeypatch.chdir(folder)
    assert names(["."]) == everything
    assert names(["*/*.jpg"]) == ["sub/a.jpg"]
    assert [entry.path.exists() for entry in listing(["sub"])] == [True, True]


def test_files_with_the_letters_of_patterns(folder):
    (folder / "b.png").rename(folder / "b[1].png")
    assert names([folder / "b[1].png"]) == ["b[1].png"]


def test_lists(folder, monkeypatch):
    path = folder / "list.txt"
    absolute = folder / "sub" / "deep" / "c.png"
    path.write_text(f"\ufeffb.png\n\n# a remark\n  ./sub/a.jpg  \n{absolute}\nnone.png\n", "utf-8")
    entries = listing([f"@{path}"])
    assert [entry.name for entry in entries] == ["b.png", "sub/a.jpg", "c.png", "none.png"]
    assert [entry.path.exists() for entry in entries] == [True, True, True, False]
    # Relative to the working folder where the list's own has no such file.
    monkeypatch.chdir(folder.parent)
    path.write_text("photos/b.png\n../photos/sub/a.jpg\n")
    entries = listing(["@photos/list.txt"])
    assert [entry.name for entry in entries] == ["photos/b.png", "a.jpg"]
    assert all(entry.path.exists() for entry in entries)


def test_the_same_image_twice_counts_once(folder):
    assert names([folder, folder]) == names([folder])
    assert names([folder / "b.png", f"{folder}/*.png"]) == ["b.png"]


def test_different_images_of_one_name(folder):
    with pytest.raises(OptionError, match=r"both be filed under a\.jpg"):
        listing([folder / "sub", f"{folder}/sub/../sub/a.jpg", folder / "deep" / "a.jpg"])


def test_absolute_paths_of_one_file_name_beside_the_images(folder, tmp_path):
    """As the published script takes them: files of different folders never collide, and each counts once."""
    (folder / "link").symlink_to("sub")
    path = tmp_path / "list.txt"
    Image.new("RGB", (9, 8)).save(folder / "sub" / "deep" / "a.jpg")
    lines = [folder / "sub" / "a.jpg", folder / "sub" / "deep" / "a.jpg", folder / "link" / "a.jpg", "/"]
    path.write_text("".join(f"{line}\n" for line in lines))
    with pytest.raises(OptionError, match=r"both be filed under a\.jpg"):
        listing([f"@{path}"])
    entries = listing([f"@{path}", folder / "sub"], beside=True)
    assert [entry.path for entry in entries[:2]] == lines[:2]
    assert len({entry.name for entry in entries}) == len(entries) == 4
    report = extract(FakeNet(), entries, NpzOutput(), Settings())
    assert (report.done, [str(entry.path) for entry, _ in report.failed]) == (3, ["/"])
    for img in (folder / "sub" / "a.jpg", folder / "sub" / "deep" / "a.jpg"):
        assert img.with_name("a.jpg.d2-net").is_file()


def test_masks(folder):
    for name in ("a.JPG.png", "a.png", "b.png", "sub/a.png", "sub/deep/c.tif.png"):
        path = folder / "masks" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (9, 8)).save(path)
    masks = folder / "masks"
    entries = listing([folder, f"{folder}/sub/*.jpg"], masks=masks)
    assert {entry.name: entry.mask.relative_to(masks).as_posix() for entry in entries} == {
        "a.JPG": "a.JPG.png",
        "b.png": "b.png",
        "sub/a.jpg": "sub/a.png",
        "sub/deep/c.png": "sub/deep/c.png.png",  # there is none
        "a.jpg": "a.png",
    }
    # Names of features beside the images are whole paths, those of masks are not.
    assert [entry.mask for entry in listing([folder / "b.png"], beside=True, masks=masks)] == [
        masks / "b.png"
    ]
    # One for all, which is no image.
    entries = listing([folder], masks=folder / "b.png")
    assert "b.png" not in [entry.name for entry in entries]
    assert {entry.mask for entry in entries} == {folder / "b.png"}


def test_masks_that_cannot_be_meant(folder):
    (folder / "masks").mkdir()
    with pytest.raises(OptionError, match=r"masks: none of the images has a mask there"):
        listing([folder], masks=folder / "masks")
    with pytest.raises(OptionError, match=r"photos: none of the images has a mask there"):
        listing([folder], masks=folder)
    with pytest.raises(ImageError, match=r"no such file or folder: .*mask; did you mean .*masks\?"):
        listing([folder], masks=folder / "mask")
    with pytest.raises(OptionError, match=r"s3://b/masks: masks are files of this machine"):
        listing([folder], masks="s3://b/masks")


def test_images_that_an_extra_reads_are_taken_where_it_is(folder, monkeypatch):
    for name in ("1.heic", "2.HIF", "3.dng", "4.exr"):
        (folder / name).touch()
    monkeypatch.setattr(listing_module, "find_spec", lambda name: name == "pillow_heif")
    told = []
    found = [entry.name for entry in listing([folder], tell=told.append)]
    assert found == ["1.heic", "2.HIF", "a.JPG", "b.png", "sub/a.jpg", "sub/deep/c.png"]
    left_out = "files left out, which d2np does not read:"
    assert told == [f"{left_out} 1 .dng, 1 .exr: convert them to JPEG or TIFF, or pip install 'd2np[raw]'"]
    monkeypatch.setattr(listing_module, "find_spec", lambda name: name)
    assert "3.dng" in [entry.name for entry in listing([folder], tell=told.append)]
    assert told[1:] == [f"{left_out} 1 .exr: convert them to JPEG or TIFF"]


def test_links_in_a_circle(folder):
    (folder / "sub" / "up").symlink_to(folder)
    assert names([folder]) == ["a.JPG", "b.png", "sub/a.jpg", "sub/deep/c.png"]


def test_images_that_are_not_read_are_counted_and_told_once(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(listing_module, "find_spec", lambda name: None)
    for name in ("1.heic", "sub/2.HEIC", "sub/3.dng", ".4.heic", "sub/a.jpg.xmp"):
        (folder / name).touch()
    told = []
    listing([folder, f"{folder}/s*", folder / "sub" / "2.HEIC"], tell=told.append)
    assert told == [
        "files left out, which d2np does not read: 2 .heic, 1 .dng: convert them to JPEG or TIFF, or pip "
        "install 'd2np[heif,raw]'"
    ]
    listing([folder / "b.png"], tell=told.append)
    assert len(told) == 1
    (tmp_path / "phone").mkdir()
    (tmp_path / "phone" / "1.heif").touch()
    with pytest.raises(
        ImageError, match=r"holds no images .+: files left out, which d2np does not read: 1 \.heif"
    ):
        listing([tmp_path / "phone"], tell=told.append)


def test_folders_that_links_lead_to_count_once(tmp_path):
    """Thirty folders with two links each to the next one: a billion ways. Each is where it is."""
    for k in range(30):
        (tmp_path / f"{k}").mkdir()
        for name in "ab":
            (tmp_path / f"{k}" / name).symlink_to(f"../{k + 1}" if k < 29 else "..")
    (tmp_path / "29" / "x.png").touch()
    way = "/".join("a" * 29)
    assert names([tmp_path / "0"]) == [f"{way}/x.png"]
    for pattern in ("0/**", "0/**/*.png", "0/**/**/a/x.*"):
        assert names([f"{tmp_path}/{pattern}"]) == [f"{way}/x.png"]
    assert names([tmp_path]) == names([f"{tmp_path}/*"]) == names([f"{tmp_path}/**/*.png"]) == ["29/x.png"]
    assert names([f"{tmp_path}/**/a/x.png"]) == ["28/a/x.png"]
    assert names([f"{tmp_path}/2?/b/*.png"]) == ["28/b/x.png"]
    (tmp_path / "0" / "0").symlink_to("0")
    assert names([tmp_path]) == ["29/x.png"]


def test_patterns_of_any_depth_fit_as_those_of_glob(folder):
    for name in ("sub/.e.png", "sub/deep/.f/g.png", ".hidden/h/i.png", "sub/x[1].png"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    for pattern in (
        *("**", "**/*", "**/*.png", "*/**", "s*/**/*.png", "**/deep/*", "**/.*/*.png", "**/.e*", ".*/**"),
        *("**/[ac].*", "sub/**/c.png", "**/**/a.*", "sub/**/**", "**/x[[]1].png", ".hidden/**/i.png"),
    ):
        expected = [path for path in glob.glob(f"{folder}/{pattern}", recursive=True) if Path(path).is_file()]
        found = [str(entry.path) for entry in listing([f"{folder}/{pattern}"])]
        assert sorted(found) == sorted(set(expected)), pattern


@pytest.mark.parametrize("kind", ["h5", "npz", "kapture"])
def test_pipes_are_never_waited_for(folder, tmp_path, kind):
    """In a folder, as an image, as a list, and in the place of an output's files."""
    os.mkfifo(folder / "c.png")
    entries = [*listing([folder / "c.png"]), Entry(folder / "b.png", "b.png")]
    output = ALL[kind](tmp_path) if kind != "h5" else output_of(tmp_path, checksum=True)
    (tmp_path / "out").mkdir()
    os.mkfifo(tmp_path / "out" / "b.png.d2-net")
    report = extract(Widths(), entries, output, Settings())
    assert "c.png cannot be read: a pipe or a device, not a file" in report.failed[0][1]
    assert [entry.name for entry, _ in report.failed] == ["c.png"] + ["b.png"] * (kind == "npz")
    (failed,) = tmp_path.glob("*.failed.txt")
    failed.unlink()
    os.mkfifo(failed)
    calls = (
        lambda: listing([f"@{folder}/c.png"]),
        lambda: listed_pairs(folder / "c.png", folder / "c.png"),
        lambda: extract(FakeNet(), entries, output, Settings()),
    )
    for call in calls:
        with pytest.raises((ImageError, FormatError), match="a pipe or a device, not a file"):
            call()


class Widths(FakeNet):
    """As it is, but opens images as the network does."""

    def __call__(self, path, *, threads=None, **options):
        open_image(path)
        return super().__call__(path)


def test_nothing_there(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "list.txt").write_text("# nothing\n")
    (tmp_path / "binary.txt").write_bytes(b"\x89PNG\0\0")
    for source, message in (
        (f"{tmp_path}/empty", "holds no images"),
        (f"{folder}/*.tif", "fits no image"),
        (f"@{tmp_path}/list.txt", "names no images"),
        (f"@{tmp_path}/none.txt", "no such list: .*none.txt"),
        (f"@{tmp_path}/a\0b.txt", "no such list: .*b.txt"),
        (f"@{tmp_path}/binary.txt", "not a list of images"),
    ):
        with pytest.raises(ImageError, match=message):
            listing([source])
    assert listing([tmp_path / "none.png"]) == [Entry(tmp_path / "none.png", "none.png")]


def output_of(tmp_path, settings=Settings(), **options):  # noqa: B008
    return HlocOutput(tmp_path / "f.h5", settings.recorded(FakeNet()), **options)


def test_extraction_goes_on_where_it_was(folder, tmp_path, assert_same_features):
    entries = listing([folder])
    stopped = FakeNet(stop_at=2)
    with pytest.raises(KeyboardInterrupt):
        extract(stopped, entries, output_of(tmp_path), Settings())
    assert not (tmp_path / "f.h5").exists()
    assert kept(tmp_path / "f.h5") == ["a.JPG", "b.png"]
    net = FakeNet()
    report = extract(net, entries, output_of(tmp_path), Settings())
    assert (report.done, report.skipped, net.seen) == (2, 2, ["a.jpg", "c.png"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f.h5", "photos"]
    for entry in entries:
        assert_same_features(hloc.read(tmp_path / "f.h5", entry.name), FakeNet()(entry.path))
    again = FakeNet()
    report = extract(again, entries, output_of(tmp_path), Settings())
    assert (report.done, report.skipped, again.seen) == (0, 4, [])


def test_more_images_are_added(folder, tmp_path):
    extract(FakeNet(), listing([folder / "b.png"]), output_of(tmp_path), Settings())
    net = FakeNet(stop_at=1)
    with pytest.raises(KeyboardInterrupt):
        extract(net, listing([folder]), output_of(tmp_path), Settings())
    assert hloc.names(tmp_path / "f.h5") == ["b.png"]
    net = FakeNet()
    extract(net, listing([folder]), output_of(tmp_path), Settings())
    assert net.seen == ["a.jpg", "c.png"]
    assert len(hloc.names(tmp_path / "f.h5")) == 4


@pytest.mark.parametrize("cut", [0, 100, 5000, -1000])
def test_damaged_parts_are_done_again(folder, tmp_path, cut):
    with pytest.raises(KeyboardInterrupt):
        extract(FakeNet(stop_at=3), listing([folder]), output_of(tmp_path), Settings())
    archive = archives(tmp_path / "f.h5")[1]
    archive.write_bytes(archive.read_bytes()[:cut])
    left = len(kept(tmp_path / "f.h5"))
    assert left == 2
    net = FakeNet()
    extract(net, listing([folder]), output_of(tmp_path), Settings())
    assert len(net.seen) == 4 - left
    assert len(hloc.names(tmp_path / "f.h5")) == 4


def test_other_settings_are_refused(folder, tmp_path):
    other = Settings(detector="strength", max_keypoints=5)
    for whole in (False, True):
        if whole:
            extract(FakeNet(), listing([folder]), output_of(tmp_path), Settings())
        else:
            with pytest.raises(KeyboardInterrupt):
                extract(FakeNet(stop_at=1), listing([folder]), output_of(tmp_path), Settings())
        with pytest.raises(FormatError, match=r"options \(detector 'd2' there, 'strength' now; max_key"):
            output_of(tmp_path, other)
        with pytest.raises(FormatError, match="half"):
            output_of(tmp_path, half=True)
    net = FakeNet()
    extract(net, listing([folder]), output_of(tmp_path, other, restart=True), other)
    assert len(net.seen) == 4


def test_files_of_others_are_refused(tmp_path):
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file["a"] = 1
    with pytest.raises(FormatError, match="not written by d2np extract"):
        output_of(tmp_path)
    (tmp_path / "f.h5").write_text("a diary")
    with pytest.raises(FormatError, match="not an HDF5 file"):
        output_of(tmp_path)
    assert (tmp_path / "f.h5").read_text() == "a diary"


def test_unreadable_images_are_reported_and_the_others_done(folder, tmp_path):
    (folder / "bad.png").write_text("no image")
    report = extract(FakeNet(), listing([folder]), output_of(tmp_path), Settings())
    assert report.done == 4
    assert [(entry.name, reason.endswith("is no image")) for entry, reason in report.failed] == [
        ("bad.png", True)
    ]
    report = extract(FakeNet(), listing([folder / "bad.png"]), output_of(tmp_path), Settings())
    assert (report.done, len(report.failed)) == (0, 1)
    assert len(hloc.names(tmp_path / "f.h5")) == 4


def test_nothing_is_left_when_nothing_could_be_read(folder, tmp_path):
    (folder / "bad.png").write_text("no image")
    extract(FakeNet(), listing([folder / "bad.png"]), output_of(tmp_path), Settings())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f.h5.failed.txt", "photos"]


def test_uncertainty_is_the_factor_of_shrinking(tmp_path):
    Image.new("RGB", (200, 100)).save(tmp_path / "a.png")
    settings = Settings(max_edge=50)
    extract(FakeNet(), listing([tmp_path / "a.png"]), output_of(tmp_path, settings), settings)
    with h5py.File(tmp_path / "f.h5") as file:
        assert file["a.png/keypoints"].attrs["uncertainty"] == 4


def test_npz_beside_and_under_a_folder(folder, tmp_path):
    net = FakeNet()
    extract(net, listing([folder]), NpzOutput(), Settings())
    assert (folder / "sub" / "deep" / "c.png.d2-net").is_file()
    extract(net, listing([folder]), NpzOutput(tmp_path / "out" / "here"), Settings())
    assert (tmp_path / "out" / "here" / "sub" / "deep" / "c.png.d2-net").is_file()
    assert len(net.seen) == 8
    damaged = folder / "b.png.d2-net"
    damaged.write_bytes(damaged.read_bytes()[:-5])
    extract(net, listing([folder]), NpzOutput(), Settings())
    assert net.seen[8:] == ["b.png"]
    extract(net, listing([folder]), NpzOutput(restart=True), Settings())
    assert len(net.seen) == 13


def test_names_that_are_no_text(folder, tmp_path):
    """HDF5 has no place for them; the other images are done."""
    path = folder / "n\udcff.png"
    Image.new("RGB", (9, 9)).save(path)
    report = extract(FakeNet(), listing([folder]), output_of(tmp_path), Settings())
    assert report.done == 4
    assert "not UTF-8" in report.failed[0][1]
    assert extract(FakeNet(), listing([folder]), NpzOutput(), Settings()).done == 5


ALL = {
    "h5": output_of,
    "npz": lambda tmp_path: NpzOutput(tmp_path / "out"),
    "kapture": lambda tmp_path: KaptureOutput(tmp_path / "out"),
}
outputs = pytest.mark.parametrize("output", ALL.values(), ids=ALL)


def extracted(tmp_path, names, output=output_of):
    """How many of the images of these names are done, how many were, and which ones are refused."""
    entries = [Entry(tmp_path / "photos" / "b.png", name) for name in names]
    report = extract(FakeNet(), entries, output(tmp_path), Settings())
    for entry, reason in report.failed:
        assert repr(entry.name[:200])[1:-1] in reason
    return report.done, report.skipped, [entry.name for entry, _ in report.failed]


@outputs
def test_names_that_lead_elsewhere_are_refused(folder, tmp_path, output):
    """By name; the others are done, and nothing is written outside."""
    bad = [
        "",
        ".",
        "..",
        "/x.jpg",
        f"{tmp_path}/x.jpg",
        "a//b.jpg",
        "a/",
        "a/.",
        "../x.jpg",
        "a/../b.jpg",
        "./a",
    ]
    bad += [
        "a\0.jpg",
        "a\n.jpg",
        "\x1b[2J.jpg",
        "a\x7f",
        "a\x9b.jpg",
        "b/" * 2000 + "c.jpg",
        "d" * 70_000,
    ] + [".unfinished"] * (output is output_of)
    before = {path for path in tmp_path.rglob("*") if path.name != "out"}
    assert extracted(tmp_path, [*bad, "a.jpg", "b c/…\u202e.jpg"], output) == (2, 0, bad)
    assert extracted(tmp_path, [*bad, "a.jpg"], output) == (0, 1, bad)
    after = {path for path in tmp_path.rglob("*") if tmp_path / "out" not in (path, *path.parents)}
    assert {path.name for path in after - before} <= {"f.h5", "f.h5.failed.txt", "out.failed.txt"}
    (failed,) = tmp_path.glob("*.failed.txt")
    assert all(line.isprintable() for line in failed.read_text().replace("\t", " ").splitlines())
    for name in bad:
        with closing(output(tmp_path)) as there, pytest.raises(ImageError):
            there.put(Entry(folder / "b.png", name), FakeNet()(folder / "b.png"), 1.0)


@pytest.mark.parametrize("name", ["a\\b.jpg", "C:a.jpg", "C:/a.jpg", "a.jpg:stream", "/a.jpg"])
def test_names_on_windows(name):
    with pytest.raises(ImageError, match=r"cannot be the name of an image, .+ drives, backslashes"):
        names_module.check(name, windows=True)
    if not name.startswith("/"):
        names_module.check(name, windows=False)


def test_lists_of_names_that_lead_elsewhere(folder, tmp_path):
    path = tmp_path / "list.txt"
    path.write_text(
        "./\n/\nphotos/..\nphotos//b.png\n../..\nphotos/sub/a.jpg\r\n.\r..\na\u2028b.png", "utf-8"
    )
    entries = listing([f"@{path}"])
    assert [entry.name for entry in entries] == [
        ".",
        "",
        ".",
        "photos/b.png",
        "..",
        "photos/sub/a.jpg",
        "..",
        "a\u2028b.png",
    ]
    report = extract(FakeNet(), entries, output_of(tmp_path), Settings())
    assert (report.done, len(report.failed)) == (2, 6)
    assert extract(FakeNet(), entries, NpzOutput(tmp_path / "out"), Settings()).done == 2


@pytest.mark.parametrize("output", [ALL["npz"], ALL["kapture"]], ids=["npz", "kapture"])
def test_names_that_the_output_has_no_room_for(folder, tmp_path, output):
    """One that is too long for a file, and such as are folders there or lie in files: the others are done."""
    names = [
        "x" * 250 + ".jpg",
        "a.jpg",
        "a.jpg.d2-net/x.jpg",
        "a.jpg.kpt/x.jpg",
        "a.jpg.desc/x.jpg",
        "b.jpg",
    ]
    done, held, refused = extracted(tmp_path, names, output)
    assert {"a.jpg", "b.jpg"}.isdisjoint(refused)
    assert refused[0] == names[0]
    assert len(refused) > 1
    assert (done, held) == (len(names) - len(refused), 0)
    assert extracted(tmp_path, names, output) == (0, done, refused)


@pytest.mark.parametrize("output", [ALL["npz"], ALL["kapture"]], ids=["npz", "kapture"])
def test_links_inside_an_output_are_not_followed(folder, tmp_path, output):
    """Where they lead, nothing is written; a link in the place of a file is replaced by the file."""
    extracted(tmp_path, ["a.jpg", "sub/b.jpg"], output)
    outside = tmp_path / "outside"
    outside.mkdir()
    written = [path for path in (tmp_path / "out").rglob("*.jpg.*")]
    for path in written:
        (outside / path.name).write_text("precious")
        path.unlink()
        path.symlink_to(outside / path.name)
    assert extracted(tmp_path, ["a.jpg", "sub/b.jpg"], output) == (2, 0, [])
    assert not any(path.is_symlink() for path in written)
    for path in written:
        if path.parent.name == "sub":
            path.unlink()
            path.parent.rmdir()
            path.parent.symlink_to(outside)
    (outside / "sub").mkdir()
    report = extract(FakeNet(), [Entry(folder / "b.png", "sub/c.jpg")], output(tmp_path), Settings())
    assert [reason for _, reason in report.failed if "a link leads out of" in reason]
    assert {path.read_text() for path in outside.iterdir() if path.is_file()} == {"precious"}
    assert sorted(path.name for path in outside.iterdir()) == sorted(
        {"sub", *(path.name for path in written)}
    )


def test_features_beside_images_replace_links(folder, tmp_path):
    (tmp_path / "precious").write_text("precious")
    (folder / "b.png.d2-net").symlink_to(tmp_path / "precious")
    assert extract(FakeNet(), listing([folder / "b.png"]), NpzOutput(), Settings()).done == 1
    assert not (folder / "b.png.d2-net").is_symlink()
    assert (tmp_path / "precious").read_text() == "precious"


@outputs
def test_an_image_of_the_name_of_a_folder(folder, tmp_path, output):
    names = ["a.jpg/x.jpg", "a.jpg", "b/c/d.jpg", "b/c", "b.jpg"]
    refused = ["a.jpg/x.jpg", "b/c/d.jpg"]
    assert extracted(tmp_path, names, output) == (3, 0, refused)
    assert extracted(tmp_path, names, output) == (0, 3, refused)


def test_an_image_of_the_name_of_a_folder_that_is_there(folder, tmp_path):
    assert extracted(tmp_path, ["a/x.jpg", "b"]) == (2, 0, [])
    names = ["a", "a/x.jpg", "b", "b/y.jpg", "c"]
    assert extracted(tmp_path, names) == (1, 2, ["a", "b/y.jpg"])
    assert hloc.names(tmp_path / "f.h5") == ["a/x.jpg", "b", "c"]
    with h5py.File(tmp_path / "f.h5", "r+") as file:
        with pytest.raises(FormatError, match="a cannot be written: it is a folder of others"):
            hloc.write(file, "a", FakeNet()(tmp_path / "photos" / "b.png"))
        assert hloc.names(file) == ["a/x.jpg", "b", "c"]


@outputs
def test_images_called_as_arrays_and_tables_are(folder, tmp_path, output):
    names = ["keypoints", "a/scores", "a/keypoints", "a/descriptors", "a/image_size", "matches0", "scales/x"]
    names += ["keypoints.txt", "sensors/sensors.txt", "a/b.kpt", "f.h5", "job.json"]
    assert extracted(tmp_path, names, output) == (len(names), 0, [])
    assert extracted(tmp_path, names, output) == (0, len(names), [])
    if output is output_of:
        assert hloc.names(tmp_path / "f.h5") == sorted(names)


def test_names_that_have_no_place_in_the_archives_of_others(folder, tmp_path):
    """Such a file could never be assembled."""
    path = folder / "b.png"
    features = FakeNet()(path)
    with closing(output_of(tmp_path)) as output:
        for name in ("a", "a/x.jpg", "b"):
            output.put(Entry(path, name), features, 1.0)
        with open(tmp_path / "f.h5.parts" / output.store().archive_of("."), "wb") as stream:
            write(stream, [(Group(".", None), [(0, {"scores": features.scores})])])
    assert extracted(tmp_path, ["a", "a/x.jpg", ".", "b"]) == (0, 2, ["a/x.jpg", "."])
    assert hloc.names(tmp_path / "f.h5") == ["a", "b"]
