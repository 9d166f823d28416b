"""Feature files: what is written is what hloc and the published script write, and comes back as it was."""

from __future__ import annotations

import errno
import os
import stat

import h5py
import numpy as np
import pytest

from d2np.atomic import replacing
from d2np.errors import FormatError
from d2np.features import Features
from d2np.formats import hloc, npz


def features(count, size=(640, 480), seed=0):
    rng = np.random.default_rng(seed)
    keypoints = np.column_stack([rng.uniform(0, 480, (count, 2)), rng.choice([0.5, 1, 2], count)])
    return Features(keypoints, rng.uniform(0, 90, count), rng.standard_normal((count, 512)), size)


@pytest.mark.parametrize("count", [0, 1, 57])
def test_hloc_round_trip(tmp_path, count, assert_same_features):
    given = features(count)
    with h5py.File(tmp_path / "f.h5", "w") as file:
        hloc.write(file, "db/day/1.jpg", given)
    assert_same_features(hloc.read(tmp_path / "f.h5", "db/day/1.jpg"), given)
    assert hloc.names(tmp_path / "f.h5") == ["db/day/1.jpg"]


@pytest.mark.parametrize("half", [False, True])
def test_hloc_layout(tmp_path, half):
    given = features(9, (1000, 700))
    with h5py.File(tmp_path / "f.h5", "w") as file:
        hloc.write(file, "a/b.jpg", given, half=half, uncertainty=1.25)
        group = file["a"]["b.jpg"]
        kind = np.float16 if half else np.float32
        assert set(group) == {"keypoints", "scores", "descriptors", "image_size", "scales"}
        assert {key: group[key].shape for key in group} == {
            "keypoints": (9, 2),
            "scores": (9,),
            "descriptors": (512, 9),
            "image_size": (2,),
            "scales": (9,),
        }
        assert all(group[key].dtype == kind for key in group if key != "image_size")
        np.testing.assert_array_equal(group["keypoints"], given.keypoints[:, :2].astype(kind))
        np.testing.assert_array_equal(group["descriptors"], given.descriptors.T.astype(kind))
        np.testing.assert_array_equal(group["image_size"], [1000, 700])
        assert group["image_size"].dtype == np.int64
        assert group["keypoints"].attrs["uncertainty"] == 1.25


def test_hloc_finds_the_names_as_hloc_does(tmp_path):
    """``list_h5_names`` of hloc: the parents of all datasets."""
    with h5py.File(tmp_path / "f.h5", "w") as file:
        for name in ("1.jpg", "db/1.jpg", "db/ü 2.png"):
            hloc.write(file, name, features(3))
        found = set()
        file.visititems(
            lambda _, item: found.add(item.parent.name.strip("/")) if isinstance(item, h5py.Dataset) else None
        )
        assert sorted(found) == hloc.names(file) == ["1.jpg", "db/1.jpg", "db/ü 2.png"]


def test_hloc_replaces_an_image_and_leaves_the_others(tmp_path, assert_same_features):
    with h5py.File(tmp_path / "f.h5", "w") as file:
        for seed, name in enumerate(["a.jpg", "b.jpg", "a.jpg"]):
            hloc.write(file, name, features(4 + seed, seed=seed))
        assert_same_features(hloc.read(file, "a.jpg"), features(6, seed=2))
        assert_same_features(hloc.read(file, "b.jpg"), features(5, seed=1))
        assert set(file) == {"a.jpg", "b.jpg"}


def test_hloc_reads_files_without_scales(tmp_path):
    with h5py.File(tmp_path / "f.h5", "w") as file:
        hloc.write(file, "a.jpg", features(4))
        del file["a.jpg/scales"]
        np.testing.assert_array_equal(hloc.read(file, "a.jpg").keypoints[:, 2], 1)


def test_hloc_half_keeps_large_scores_finite(tmp_path):
    given = features(2)
    large = Features(given.keypoints, [1e9, 5.0], given.descriptors, (640, 480))
    with h5py.File(tmp_path / "f.h5", "w") as file:
        hloc.write(file, "a.jpg", large, half=True)
        assert np.isfinite(file["a.jpg/scores"]).all()


def test_hloc_leaves_out_what_is_no_image(tmp_path):
    with h5py.File(tmp_path / "f.h5", "w") as file:
        hloc.write(file, "whole.jpg", features(4))
        hloc.write(file, "cut.jpg", features(4))
        del file["cut.jpg/descriptors"]
        hloc.write(file, "uneven.jpg", features(4))
        del file["uneven.jpg/scores"]
        file["uneven.jpg/scores"] = np.zeros(3)
        file["loose"] = np.zeros(3)
        assert hloc.names(file) == ["whole.jpg"]
        with pytest.raises(FormatError, match="no features of an image"):
            hloc.read(file, "cut.jpg")


def test_hloc_refuses(tmp_path):
    with pytest.raises(FormatError, match="No such file"):
        hloc.read(tmp_path / "none.h5", "a")
    (tmp_path / "text.h5").write_text("hello")
    with pytest.raises(FormatError, match="not an HDF5 file"):
        hloc.names(tmp_path / "text.h5")
    with h5py.File(tmp_path / "f.h5", "w") as file:
        hloc.write(file, "a.jpg", features(1))
        with pytest.raises(FormatError, match=r"b\.jpg"):
            hloc.read(file, "b.jpg")
        with pytest.raises(FormatError, match="cannot be written"):
            hloc.write(file, "a.jpg/scores/1.jpg", features(1))
    with h5py.File(tmp_path / "f.h5", "r") as file, pytest.raises(FormatError, match="cannot be written"):
        hloc.write(file, "b.jpg", features(1))


@pytest.mark.parametrize("count", [0, 33])
def test_npz_round_trip(tmp_path, count, assert_same_features):
    given = features(count)
    path = tmp_path / "a.jpg.d2-net"
    npz.write(path, given)
    assert_same_features(npz.read(path, (640, 480)), given)
    with np.load(path) as archive:
        assert {key: archive[key].shape for key in archive} == {
            "keypoints": (count, 3),
            "scores": (count,),
            "descriptors": (count, 512),
        }
    assert npz.is_complete(path)
    assert os.listdir(tmp_path) == ["a.jpg.d2-net"]


def test_npz_refuses_and_knows_whole_files(tmp_path):
    path = tmp_path / "a.d2-net"
    npz.write(path, features(5))
    whole = path.read_bytes()
    for damaged in (b"", b"hello", whole[: len(whole) // 2], whole[:-10]):
        path.write_bytes(damaged)
        assert not npz.is_complete(path)
        with pytest.raises(FormatError, match=r"a\.d2-net"):
            npz.read(path, (1, 1))
    np.savez(tmp_path / "other.npz", keypoints=np.zeros((1, 3)))
    assert not npz.is_complete(tmp_path / "other.npz")
    with pytest.raises(FormatError, match="scores"):
        npz.read(tmp_path / "other.npz", (1, 1))
    with pytest.raises(FormatError, match="No such file"):
        npz.read(tmp_path / "none", (1, 1))
    with pytest.raises(FormatError, match="cannot be written"):
        npz.write(tmp_path / "no folder" / "a.d2-net", features(1))


def test_replacing_leaves_the_old_file_when_it_fails(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail():
        with replacing(path) as stream:
            stream.write(b"new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]
    with replacing(path) as stream:
        stream.write(b"new")
    assert path.read_bytes() == b"new"


def test_replacing_flushes_the_file_and_then_its_name(tmp_path, monkeypatch):
    """After a power cut either the old or the new file is there, and with it its name."""
    flushed, flush = [], os.fsync

    def recorded(handle):
        where = os.readlink(f"/proc/self/fd/{handle}") if os.path.isdir("/proc/self/fd") else ""
        flushed.append((stat.S_ISDIR(os.fstat(handle).st_mode), (tmp_path / "file").exists(), where))
        flush(handle)

    monkeypatch.setattr(os, "fsync", recorded)
    with replacing(tmp_path / "file") as stream:
        stream.write(b"new")
    assert [kinds[:2] for kinds in flushed] == [(False, False), (True, True)]
    assert flushed[1][2] in ("", str(tmp_path))


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_hdf5_files_where_there_are_no_locks(tmp_path, monkeypatch, number):
    """HDF5 itself passes over one of these only, and leaves the file empty that it has begun."""
    real = hloc._opened

    def refused(path, mode, roomy, locking=None):
        if locking is None:
            if mode == "a":
                path.touch()
            raise OSError(number, f"unable to lock file, errno = {number}")
        return real(path, mode, roomy, locking)

    monkeypatch.setattr(hloc, "_opened", refused)
    path = tmp_path / "f.h5"
    with hloc.opened(path, "a") as file:
        hloc.write(file, "a.jpg", features(3))
    with hloc.opened(path, "a") as file:
        hloc.write(file, "b.jpg", features(4))
    assert hloc.names(path) == ["a.jpg", "b.jpg"]
    # Where HDF5's own variable asks for locks, it does not do without.
    monkeypatch.setenv("HDF5_USE_FILE_LOCKING", "TRUE")
    monkeypatch.setattr(hloc, "_opened", lambda path, mode, roomy, locking=None: refused(path, mode, roomy))
    with pytest.raises(FormatError, match=os.strerror(number)):
        hloc.names(path)


def test_replacing_keeps_links_and_refuses_folders(tmp_path):
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with replacing(tmp_path / "link") as stream:
        stream.write(b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"
    with pytest.raises(OSError, match="no file"), replacing(tmp_path):
        pass


def endless(group, name, pipe):
    """An array of which HDF5 opens another file to tell the shape."""
    layout = h5py.VirtualLayout((1,), "f4", maxshape=(None,))
    everything = slice(0, h5py.h5s.UNLIMITED)
    layout[everything] = h5py.VirtualSource(str(pipe), "x", (1,), "f4", (None,))[everything]
    del group[name]
    group.create_virtual_dataset(name, layout)


def replaced(group, name, link):
    del group[name]
    group[name] = link


AWAY = {
    "an array": lambda file, pipe: replaced(file, "a/b.jpg/scores", h5py.ExternalLink(str(pipe), "x")),
    "an array by two links": lambda file, pipe: replaced(file, "a/b.jpg/scores", h5py.SoftLink("/out/x")),
    "an image": lambda file, pipe: replaced(file, "a/b.jpg", h5py.ExternalLink(str(pipe), "x")),
    "a folder": lambda file, pipe: replaced(file, "a", h5py.ExternalLink(str(pipe), "x")),
    "values": lambda file, pipe: endless(file["a/b.jpg"], "scores", pipe),
}


@pytest.mark.parametrize("edit", AWAY.values(), ids=AWAY)
def test_hloc_never_leaves_the_file(edit, tmp_path):
    """A pipe that nobody writes into would be waited for."""
    os.mkfifo(tmp_path / "pipe")
    with h5py.File(tmp_path / "f.h5", "w") as file:
        hloc.write(file, "a/b.jpg", features(1))
        file["out"] = h5py.ExternalLink(str(tmp_path / "pipe"), "x")
        edit(file, tmp_path / "pipe")
        for read in (
            lambda: hloc.names(file),
            lambda: hloc.read(file, "a/b.jpg"),
            lambda: hloc.read(file, "out/b.jpg"),
            lambda: hloc.write(file, "out/b.jpg", features(1)),
        ):
            with pytest.raises(FormatError, match=r"is a link to somewhere else|in another file"):
                read()
        assert hloc.stamp_of(file, "out/b.jpg") is None
