"""Windows by stand-ins: its locks and names, and files that cannot be removed while they are open."""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path, PureWindowsPath
from types import SimpleNamespace

import pytest
from PIL import Image

from d2np.atomic import Lock
from d2np.cli import main
from d2np.errors import FormatError
from d2np.formats import hloc
from d2np.images import names

# Audit hooks cannot be taken away, only told to do nothing.
_watching: list[bool] = []


def _refuse(event, arguments):
    if not _watching or event not in ("os.remove", "os.rename"):
        return
    paths, folder = arguments[: 1 + (event == "os.rename")], arguments[-1]
    for path in paths:
        with suppress(FileNotFoundError):
            found = os.stat(path, dir_fd=None if folder == -1 else folder, follow_symlinks=False)
            if any(os.path.samestat(file, found) for file in _open_files()):
                raise PermissionError(errno.EACCES, "used by another process", path)


def _open_files():
    for handle in range(3, 256):
        with suppress(OSError):
            yield os.fstat(handle)


@pytest.fixture(scope="module")
def hook():
    sys.addaudithook(_refuse)


@pytest.fixture
def open_files_stay(hook):
    """Makes it an error to remove, rename or replace a file that this process has open."""
    _watching.append(True)
    yield
    _watching.clear()


def test_open_files_stay(open_files_stay, tmp_path):
    (tmp_path / "other").write_text("")
    with open(tmp_path / "file", "w"):
        for change in (os.remove, lambda path: os.replace(tmp_path / "other", path), Path.unlink):
            with pytest.raises(PermissionError):
                change(tmp_path / "file")
    (tmp_path / "file").unlink()


@pytest.fixture
def photos(tmp_path, monkeypatch, make_image):
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for number in range(3):
        Image.fromarray(make_image(96, 120, number)).save(f"photos/{number}.png")
    return tmp_path / "photos"


def test_no_command_removes_or_replaces_what_it_has_open(open_files_stay, photos):
    extract = ["extract", "photos", "--weights", "analytic", "-q"]
    commands = [
        [*extract, "-o", "f.h5"],
        [*extract, "-o", "f.h5", "--overwrite"],
        *([*extract, "--format", format, "-o", format] for format in ("npz", "mat", "kapture")),
        ["pairs", "f.h5", "-o", "m.h5", "-q"],
        ["pairs", "f.h5", "-o", "m.h5", "-q", "--overwrite"],
        ["colmap", "f.h5", "m.h5", "photos", "-o", "c.db"],
        ["colmap", "f.h5", "m.h5", "photos", "-o", "c.db", "--overwrite"],
        ["export", "f.h5", "m.h5", "photos", "--format", "openmvg", "-o", "mvg"],
        ["match", "photos/0.png", "photos/0.png", "--weights", "analytic", "-o", "m.png"],
        ["match", "photos/0.png", "photos/0.png", "--weights", "analytic", "-o", "m.html"],
        ["convert", "analytic", "a.h5"],
        ["convert", "a.h5", "a.onnx"],
        ["show", "photos/0.png", "--weights", "analytic", "-o", "s.png"],
    ]
    for command in commands:
        assert main(command) == 0, command
    Path("photos/1.png").write_bytes(Path("photos/0.png").read_bytes())
    assert main([*extract, "-o", "f.h5"]) == 0
    assert not list(Path().glob("*.parts"))


@pytest.fixture
def msvcrt(monkeypatch):
    """Windows' module for locks in place of POSIX's; returns what is locked."""
    locked = {}

    def locking(handle, mode, count):
        file = os.fstat(handle).st_ino
        assert count == 1
        if mode == "unlock":
            assert locked.pop(file) == handle
        elif locked.setdefault(file, handle) != handle:
            raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setitem(sys.modules, "fcntl", None)
    module = SimpleNamespace(locking=locking, LK_NBLCK="lock", LK_UNLCK="unlock")
    monkeypatch.setitem(sys.modules, "msvcrt", module)
    return locked


def test_locks_of_windows(msvcrt, tmp_path):
    first, second = Lock(tmp_path / "lock"), Lock(tmp_path / "lock")
    assert first.take()
    assert len(msvcrt) == 1
    assert not second.take()
    # The system may take its time to unlock what is only closed.
    first.release()
    assert not msvcrt
    assert second.take()
    second.release(remove=True)
    assert not msvcrt
    assert list(tmp_path.iterdir()) == []


def test_locks_of_hdf5_on_windows(monkeypatch, tmp_path):
    def refused(*_, **__):
        raise OSError(
            "[Errno 0] Unable to synchronously open file (unable to lock file, errno = 0, error message = "
            "'No error', Win32 GetLastError() = 33)"
        )

    (tmp_path / "f.h5").write_bytes(b"x")
    monkeypatch.setattr("h5py.File", refused)
    with pytest.raises(FormatError, match=r"f\.h5: another process is writing to it$"):
        hloc.opened(tmp_path / "f.h5")


@pytest.mark.parametrize(
    ("path", "name"),
    [("C:/photos/a.jpg", "C/photos/a.jpg"), ("//server/share/photos/a.jpg", "server/share/photos/a.jpg")],
)
def test_names_by_whole_paths_on_windows(path, name, monkeypatch):
    """A drive of a network, to which a letter may lead as well, is a part of the name."""
    listing = import_module("d2np.dataset.listing")
    monkeypatch.setattr(listing, "PurePath", PureWindowsPath)
    monkeypatch.setattr(os.path, "realpath", str)
    assert listing._whole_path(PureWindowsPath(path)) == name
    names.check(name, windows=True)


@pytest.mark.parametrize(
    "name", ["nul", "a/CON.jpg", "com1.png", "LPT\u00b2", "aux .png", "a./b.jpg", "a /b.jpg", "a.jpg "]
)
def test_names_that_windows_takes_for_something_else(name):
    assert names.is_valid(name, windows=False)
    assert not names.is_valid(name, windows=True)


@pytest.mark.parametrize(
    "name", ["null.jpg", "a/console.jpg", "com.png", "com10", "a.b/.c.jpg", "a b/c d.jpg"]
)
def test_names_that_windows_has(name):
    assert names.is_valid(name, windows=True)
