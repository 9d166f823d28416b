"""Jobs that are ended at any moment, by anything, and go on."""

from __future__ import annotations

import errno
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from parted import archives as archives_of
from parted import kept, killed_after
from PIL import Image
from stubbed import run

import d2np
from d2np import streams
from d2np.atomic import Lock
from d2np.cli import main
from d2np.dataset import HlocOutput, NpzOutput, Settings, archives, assembly, extract, extraction, listing
from d2np.dataset.outputs import FeatureArchives
from d2np.errors import FormatError
from d2np.features import Features
from d2np.formats import hloc

TESTS = Path(__file__).parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])}


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Twelve files, one of them in a folder of its own, whose length is the number of their keypoints."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    for k in range(11):
        (folder / f"{k:02}.png").write_bytes(bytes([k]) * (10 + k))
    (folder / "sub" / "11.png").write_bytes(b"x" * 30)
    return folder


def content(path):
    """All arrays of a file with their types, and all attributes of groups and arrays."""
    found = {}

    def add(name, item):
        value = (item.dtype, item[()].tolist()) if isinstance(item, h5py.Dataset) else None
        found[name] = (value, dict(item.attrs))

    with h5py.File(path) as file:
        file.visititems(add)
    return found


def calls(path="calls"):
    return Counter(Path(path).read_text().split()) if Path(path).exists() else Counter()


def change(path, data):
    """Other content, at another time."""
    path.write_bytes(data)
    later = time.time_ns() + 10_000_000_000
    os.utime(path, ns=(later, later))


# --- kills ------------------------------------------------------------------------------------------------


def assert_readable(path):
    """Absent, or complete and readable."""
    if path.exists():
        assert len(hloc.names(path)) == 12
        for name in hloc.names(path):
            hloc.read(path, name)


def kill_again_and_again(photos, tmp_path, times):
    """Never unreadable, the same arrays in the end, and nothing twice that was finished."""
    run(photos, "whole.h5", "uninterrupted")
    whole = content("whole.h5")
    out = tmp_path / "f.h5"
    command = [sys.executable, str(TESTS / "stubbed.py"), "photos", "f.h5", "calls", "0.02"]
    chance = random.Random(0)
    starting = None
    kills = complete = 0
    while kills < times:
        before = time.monotonic()
        process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
        if starting is None:
            # How long it takes to come to the first image.
            while not kept(out) and process.poll() is None:
                time.sleep(0.002)
            starting = time.monotonic() - before
        else:
            # The first image may be a while off; and later ones until the end.
            time.sleep(chance.uniform(0.8, 1.3) * starting)
        process.send_signal(signal.SIGKILL)
        code = process.wait()
        assert_readable(out)
        if code == -signal.SIGKILL:
            kills += 1
        else:
            # The machine has become faster.
            starting *= 0.9
        if out.exists() and not Path("f.h5.parts").exists():
            # All is done: the next round begins with nothing.
            complete += 1
            assert content(out) == whole
            out.unlink()
            again = calls()
            assert again.total() <= 12 * complete + kills
    report = run(photos, "f.h5", "calls")
    assert report.done + report.skipped == 12
    assert content(out) == whole
    # At each kill at most the one under way was lost.
    assert calls().total() <= 12 * (complete + 1) + kills
    assert not Path("f.h5.parts").exists()


def test_kills(photos, tmp_path):
    kill_again_and_again(photos, tmp_path, 3)  # slow/test_kills.py has more


@pytest.mark.parametrize("step", ["start", "half", "written", "synced", "replaced", "job"])
def test_killed_during_assembly(photos, step):
    """Whichever of the steps is the last, the next start has nothing to compute."""
    run(photos / "s*", "f.h5", "calls")
    script = (
        "import os, signal, sys; from stubbed import run; from d2np import atomic\n"
        "from d2np.dataset import archives, assembly\n"
        "def die(*_, **__): os.kill(os.getpid(), signal.SIGKILL)\n"
        "def later(function, count):\n"
        "    def counted(*given, **named):\n"
        "        counted.left -= 1\n"
        "        return function(*given, **named) if counted.left else die()\n"
        "    counted.left = count\n"
        "    return counted\n"
        "step = sys.argv[1]\n"
        "if step == 'start': assembly.shutil.copyfile = die\n"
        "if step == 'half': assembly.hloc.put = later(assembly.hloc.put, 6)\n"
        "if step == 'written': assembly._sync = die\n"
        "if step == 'synced': os.replace = later(os.replace, 1 + 11 + 1)\n"
        "if step == 'replaced': assembly.sync_folder = die\n"
        "if step == 'job': atomic.Lock.release = die\n"
        "run('photos', 'f.h5', 'calls')\n"
    )
    process = subprocess.run([sys.executable, "-c", script, step], env=ENVIRONMENT)
    assert process.returncode == -signal.SIGKILL
    there = len(hloc.names("f.h5"))
    assert there == (12 if step in ("replaced", "job") else 1)
    assert calls().total() == 12
    report = run(photos, "f.h5", "calls")
    assert (report.done, report.skipped) == (0, 12)
    run(photos, "whole.h5", "others")
    assert content("f.h5") == content("whole.h5")
    assert sorted(path.name for path in Path().iterdir()) == ["calls", "f.h5", "others", "photos", "whole.h5"]


def test_a_killed_command_goes_on(tmp_path, monkeypatch, make_image, capsys):
    """With the real network: the arrays are those of an uninterrupted run, bit for bit."""
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for seed in range(12):
        Image.fromarray(make_image(48, 64, seed)).save(f"photos/{seed:02}.png")
    script = killed_after(3) + "import sys; from d2np.cli import main; main(sys.argv[1:])"
    command = ["extract", "photos", "--weights", "analytic", "-o"]
    process = subprocess.run([sys.executable, "-c", script, *command, "f.h5"], env=ENVIRONMENT)
    assert process.returncode == -signal.SIGKILL
    before = len(kept("f.h5"))
    assert before == 3
    assert not Path("f.h5").exists()
    assert main([*command, "f.h5"]) == 0
    assert capsys.readouterr().out.startswith(f"{12 - before} images extracted, {before} there already")
    assert main([*command, "whole.h5"]) == 0
    assert content("f.h5") == content("whole.h5")


# --- what has changed -------------------------------------------------------------------------------------


def test_changed_images_are_done_again(photos):
    run(photos, "f.h5", "calls")
    change(photos / "03.png", b"y" * 7)
    (photos / "20.png").write_bytes(b"z" * 5)
    report = run(photos, "f.h5", "later")
    assert (report.done, report.skipped) == (2, 11)
    assert calls("later") == Counter(["03.png", "20.png"])
    assert len(hloc.read("f.h5", "03.png")) == 7
    run(photos, "whole.h5", "calls")
    assert content("f.h5") == content("whole.h5")
    assert run(photos, "f.h5", "later").skipped == 13


def test_a_file_does_not_grow_by_what_it_replaces(photos):
    run(photos, "f.h5", "calls")
    size = Path("f.h5").stat().st_size
    for k in range(5):
        change(photos / "03.png", bytes([k]) * 13)
        assert run(photos, "f.h5", "calls").done == 1
    assert Path("f.h5").stat().st_size < size + 60_000


def test_images_that_change_while_the_job_is_stopped_are_done_again(photos):
    with pytest.raises(KeyboardInterrupt):
        run(photos, "f.h5", "calls", stop=lambda: len(calls()) == 6)
    change(photos / "03.png", b"y" * 7)
    assert run(photos, "f.h5", "later").done == 7
    assert calls("later")["03.png"] == 1
    assert len(hloc.read("f.h5", "03.png")) == 7


def test_an_image_that_changes_while_it_is_read_is_done_again(photos, monkeypatch):
    original = FeatureArchives.put

    def put(self, task, *rest):
        if task.name == "03.png":
            change(photos / "03.png", b"y" * 7)
        return original(self, task, *rest)

    monkeypatch.setattr(FeatureArchives, "put", put)
    run(photos, "f.h5", "calls")
    monkeypatch.undo()
    assert run(photos, photos.parent / "f.h5", photos.parent / "later").done == 1
    assert len(hloc.read(photos.parent / "f.h5", "03.png")) == 7


def test_checksums(photos):
    run(photos, "f.h5", "calls", checksum=True)
    # Copied, say: another time, the same content.
    change(photos / "01.png", (photos / "01.png").read_bytes())
    found = os.stat(photos / "02.png")
    (photos / "02.png").write_bytes(b"q" * found.st_size)
    os.utime(photos / "02.png", ns=(found.st_atime_ns, found.st_mtime_ns))
    assert run(photos, "f.h5", "later", checksum=True).done == 1
    assert calls("later") == Counter(["02.png"])
    # By size and time.
    assert run(photos, "f.h5", "later").done == 1
    assert calls("later")["01.png"] == 1
    # That one has no checksum any more, and is compared by size and time.
    assert run(photos, "f.h5", "later", checksum=True).skipped == 12


@pytest.fixture
def masks(photos, tmp_path):
    """A mask for each image, of which one has the other form of name."""
    for path in photos.rglob("*.png"):
        mask = tmp_path / "masks" / f"{path.relative_to(photos)}.png"
        mask.parent.mkdir(parents=True, exist_ok=True)
        mask.write_bytes(b"mask")
    (tmp_path / "masks" / "05.png.png").rename(tmp_path / "masks" / "05.png")
    return tmp_path / "masks"


def test_changed_masks_are_changed_images(photos, masks):
    run(photos, "f.h5", "calls")
    assert run(photos, "f.h5", "later", masks=masks).done == 12
    change(masks / "03.png.png", b"another")
    change(masks / "05.png", b"another")
    assert run(photos, "f.h5", "last", masks=masks).done == 2
    assert calls("last") == Counter(["03.png", "05.png"])
    assert len(hloc.read("f.h5", "03.png")) == 13 + len("another")
    run(photos, "whole.h5", "calls", masks=masks)
    assert content("f.h5") == content("whole.h5")
    assert run(photos, "f.h5", "last").done == 12


def test_checksums_of_masks(photos, masks):
    run(photos, "f.h5", "calls", masks=masks, checksum=True)
    change(masks / "01.png.png", b"mask")
    change(masks / "02.png.png", b"cask")
    assert run(photos, "f.h5", "later", masks=masks, checksum=True).done == 1
    assert calls("later") == Counter(["02.png"])


def test_images_without_a_mask_fail_until_they_have_one(photos, masks):
    run(photos, "f.h5", "calls", masks=masks)
    (masks / "03.png.png").unlink()
    for times in range(2):
        report = run(photos, "f.h5", "calls", masks=masks)
        assert (report.done, report.skipped, report.failed_before) == (0, 11, times)
        assert [reason for _, reason in report.failed] == [f"{photos}/03.png: {masks}/03.png.png: no mask"]
    change(masks / "03.png.png", b"now")
    assert run(photos, "f.h5", "calls", masks=masks).done == 1
    assert len(hloc.read("f.h5", "03.png")) == 13 + len("now")


def test_images_that_are_gone_keep_their_features(photos):
    run(photos, "f.h5", "calls")
    Path("list.txt").write_text("photos/00.png\nphotos/01.png\n")
    (photos / "00.png").unlink()
    assert run(photos, "f.h5", "calls").skipped == 11
    assert len(hloc.names("f.h5")) == 12


def test_begun_anew(photos):
    run(photos, "f.h5", "calls")
    old = Path("f.h5").read_bytes()
    (photos / "00.png").unlink()
    with pytest.raises(KeyboardInterrupt):
        run(photos, "f.h5", "later", restart=True, stop=lambda: len(calls("later")) == 4)
    assert Path("f.h5").read_bytes() == old
    # It goes on without beginning anew once more, and what was there before is gone in the end.
    assert run(photos, "f.h5", "later").done == 7
    assert len(hloc.names("f.h5")) == 11
    assert run(photos, "f.h5", "later", restart=True).done == 11


def test_a_file_without_stamps_is_as_it_is(photos):
    """Added by hloc, or by an earlier d2np."""
    run(photos, "f.h5", "calls")
    with h5py.File("f.h5", "r+") as file:
        for name in hloc.names(file):
            del file[name].attrs[hloc.STAMP]
    assert run(photos, "f.h5", "calls").skipped == 12


# --- one at a time ----------------------------------------------------------------------------------------


def test_two_jobs_on_one_output(photos):
    settings = Settings()
    first = HlocOutput(Path("f.h5"), {})
    idle = HlocOutput(Path("f.h5"), {})
    first.start()
    with pytest.raises(FormatError, match=r"f\.h5\.parts: another process is working on it"):
        HlocOutput(Path("f.h5"), {})
    with pytest.raises(FormatError, match="another process is working on it"):
        extract(None, listing([photos]), idle, settings)
    with pytest.raises(FormatError, match="another process is working on it"):
        HlocOutput(Path("f.h5"), {}, restart=True).start()
    first.close()
    HlocOutput(Path("f.h5"), {}).close()


def test_an_output_that_another_job_finished_meanwhile(photos):
    late = HlocOutput(
        Path("f.h5"), Settings().recorded(type("Net", (), {"provenance": None, "preprocessing": "caffe"}))
    )
    run(photos, "f.h5", "calls")
    with pytest.raises(FormatError, match=r"f\.h5 was changed by another process just now: start again"):
        extract(None, listing([photos]), late, Settings())
    assert sorted(path.name for path in Path().iterdir()) == ["calls", "f.h5", "photos"]


def test_a_lock_is_let_go_of_by_a_kill(tmp_path):
    script = (
        "import sys; from pathlib import Path; from d2np.atomic import Lock\n"
        "lock = Lock(Path(sys.argv[1])); assert lock.take(); print('held', flush=True); sys.stdin.read()"
    )
    path = tmp_path / "lock"
    with subprocess.Popen(
        [sys.executable, "-c", script, str(path)],
        env=ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        process.stdout.readline()
        assert not Lock(path).take()
        process.kill()
    lock, other = Lock(path), Lock(path)
    assert lock.take()
    assert not other.take()
    lock.release(remove=True)
    assert other.take()
    other.release()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_file_systems_without_locks(photos, monkeypatch, caplog, number):
    """NFS without lockd, Lustre and FUSE without flock: jobs do without, and say so once."""

    def flock(handle, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", flock)
    monkeypatch.delenv("HDF5_USE_FILE_LOCKING", raising=False)
    assert run(photos, "f.h5", "calls").done == 12
    assert [record.name for record in caplog.records] == ["d2np"]
    assert caplog.messages[0].endswith(
        "f.h5.parts: file locks do not work there: two jobs must not write to one output at a time"
    )
    assert not Path("f.h5.parts").exists()
    # What HDF5's variable says counts for all locks.
    monkeypatch.setenv("HDF5_USE_FILE_LOCKING", "TRUE")
    with pytest.raises(FormatError, match=r"g\.h5\.parts: file locks do not work there, and HDF5_USE_FILE"):
        run(photos, "g.h5", "calls")
    assert not Path("g.h5.parts").exists()
    monkeypatch.setenv("HDF5_USE_FILE_LOCKING", "FALSE")
    monkeypatch.setattr("fcntl.flock", lambda handle, operation: pytest.fail("no lock is asked for"))
    assert run(photos, "g.h5", "calls").done == 12
    assert len(caplog.records) == 1


def test_other_errors_of_locks_are_errors(tmp_path, monkeypatch):
    def flock(handle, operation):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        Lock(tmp_path / "lock").take()


def test_a_lock_goes_where_open_files_cannot_be_removed(tmp_path, monkeypatch):
    """As on Windows."""
    unlink = Path.unlink
    lock = Lock(tmp_path / "lock")
    assert lock.take()
    handle = lock._handle

    def refused(path, missing_ok=False):
        with suppress(OSError):  # it is closed
            os.fstat(handle)
            raise PermissionError(errno.EACCES, "used by another process")
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", refused)
    lock.release(remove=True)
    assert not lock.held
    assert list(tmp_path.iterdir()) == []


def test_what_a_folder_held_before_stays(photos):
    Path("f.h5.parts").mkdir()
    Path("f.h5.parts", "diary.txt").write_text("dear diary")
    run(photos, "f.h5", "calls")
    assert [path.name for path in Path("f.h5.parts").iterdir()] == ["diary.txt"]
    Path("g.h5.parts").write_text("no folder")
    with pytest.raises(FormatError, match=r"g\.h5\.parts: cannot be written: there is something"):
        run(photos, "g.h5", "calls")


def test_parts_of_another_version(photos):
    with pytest.raises(KeyboardInterrupt):
        run(photos, "f.h5", "calls", stop=lambda: True)
    job = Path("f.h5.parts", "job.json")
    for text, message in (
        (
            job.read_text().replace('"format": 2', '"format": 1'),
            r"f\.h5\.parts was begun by d2np 1\.0: finish it with that one, or begin anew with --overwrite$",
        ),
        (job.read_text().replace('"format": 2', '"format": 3'), "another version of d2np"),
        (job.read_text().replace('"token": "', '"token": "../'), "job.json is damaged"),
        ("{", "job.json is damaged: begin anew with --overwrite"),
        ("[]", "is damaged"),
        ('{"format": 2}', "is damaged"),
    ):
        job.write_text(text)
        with pytest.raises(FormatError, match=message):
            run(photos, "f.h5", "calls")
        assert len(kept("f.h5")) == 1
    assert run(photos, "f.h5", "calls", restart=True).done == 12


# --- damage -----------------------------------------------------------------------------------------------


def run_twice(photos):
    """The first time may find damage."""
    with suppress(FormatError):
        run(photos, "f.h5", "later")
    run(photos, "f.h5", "later")


@pytest.mark.parametrize("at", [0.02, 0.5, -10])
def test_damage_is_done_again(photos, at):
    """In a header, in the middle of an array, and in the table of contents: it costs one image."""
    with pytest.raises(KeyboardInterrupt):
        run(photos, "f.h5", "calls", stop=lambda: len(calls()) == 6)
    path = archives_of("f.h5")[2]
    data = bytearray(path.read_bytes())
    data[int(at * len(data)) if at > 0 else at] ^= 8
    path.write_bytes(bytes(data))
    run_twice(photos)
    assert calls("later").total() == 7
    assert len(hloc.names("f.h5")) == 12
    run(photos, "whole.h5", "others")
    assert content("f.h5") == content("whole.h5")


def test_archives_that_are_gone_or_cut_off_are_done_again(photos):
    with pytest.raises(KeyboardInterrupt):
        run(photos, "f.h5", "calls", stop=lambda: len(calls()) == 6)
    gone, cut, empty, pipe, *_ = archives_of("f.h5")
    gone.unlink()
    os.truncate(cut, 5000)
    os.truncate(empty, 0)
    pipe.unlink()
    os.mkfifo(pipe)
    with pytest.raises(FormatError, match=r"^f\.h5: cannot be written: there is something that is no file$"):
        run(photos, "f.h5", "later")
    pipe.unlink()
    assert run(photos, "f.h5", "later").done == 7
    assert len(hloc.names("f.h5")) == 12


@pytest.mark.parametrize(
    ("group", "arrays"),
    [
        ({}, None),
        ({}, {"scores": np.ones((3, 3))}),
        ({"attributes": {"none": {"uncertainty": 1.0}}}, {}),
        ({"attributes": {"keypoints": {"x" * 70_000: 1.0}}}, {}),
        ({"attributes": {"keypoints": 3}}, {}),
        ({"stamp": "another"}, {}),
    ],
)
def test_archives_that_make_no_group_are_done_again(photos, group, arrays):
    """Their sums are right: what wrote them was damaged, or is not d2np. All of them are found at once."""
    with pytest.raises(KeyboardInterrupt):
        run(photos, "f.h5", "calls", stop=lambda: len(calls()) == 6)
    whole = hloc.arrays_of(Features(np.ones((3, 3)), np.ones(3), np.ones((3, 512)), (640, 480)))
    for path in archives_of("f.h5")[:5]:
        with open(path, "rb") as stream:
            (found,) = archives.Archive(stream).groups.values()
        block = {} if arrays is None else {**whole, **arrays}
        with open(path, "wb") as stream:
            archives.write(stream, [(replace(found, **group), [(3, block)])])
    run_twice(photos)
    assert calls("later").total() == 11
    run(photos, "whole.h5", "others")
    assert content("f.h5").keys() == content("whole.h5").keys()


def test_a_file_that_cannot_be_written_loses_no_archive(photos, monkeypatch):
    """Where nothing can be put into the file, the archives are not at fault."""
    with pytest.raises(KeyboardInterrupt):
        run(photos, "f.h5", "calls", stop=lambda: len(calls()) == 6)

    def broken(*_, **__):
        raise RuntimeError("no room in the heap")

    monkeypatch.setattr(h5py.Group, "create_group", broken)
    with pytest.raises(FormatError, match="no room in the heap"):
        run(photos, "f.h5", "later")
    assert len(kept("f.h5")) == 12


def test_damage_again_and_again(photos, monkeypatch):
    monkeypatch.setattr(streams, "read_array", lambda *_: 1 / 0)
    with pytest.raises(FormatError, match="does again what was in 12 archives"):
        run(photos, "f.h5", "calls")


# --- a full disk, and none to write to --------------------------------------------------------------------


LIMITED = (
    "import resource, signal, sys; from stubbed import run; from d2np.errors import FormatError\n"
    "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)\n"
    "try: run('photos', 'f.h5', 'calls')\n"
    "except FormatError as error: sys.exit(str(error))\n"
)


@pytest.mark.parametrize("room", [10, 1_000, 30_000, 45_000, 250_000])
def test_a_full_disk_loses_nothing(photos, room):
    """No file may get larger than that; the last limit lets all archives pass, but not the file."""
    for existing in (False, True):
        if existing:
            # What is there already stays, and stays readable.
            Path("calls").unlink()
            Path("f.h5").unlink()
            run(photos / "s*", "f.h5", "nowhere")
            before = Path("f.h5").read_bytes()
        ended = subprocess.run(
            [sys.executable, "-c", LIMITED, str(room)],
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
        )
        assert ended.returncode == 1
        assert ended.stderr.startswith("f.h5: cannot be written: File too large")
        assert ended.stderr.count("\n") == 1
        assert not Path("f.h5.parts", "assembled.h5").exists()
        assert Path("f.h5").exists() == existing
        assert not existing or Path("f.h5").read_bytes() == before
        done = len(kept("f.h5"))
        assert calls().total() <= done + 1
        assert run(photos, "f.h5", "calls").done == 12 - done - existing
        assert len(hloc.names("f.h5")) == 12


SMALL_DISK = """
import os, resource, signal, subprocess, sys
from parted import kept
from stubbed import run
from d2np.dataset.outputs import FeatureArchives
from d2np.errors import FormatError

def small(size):
    if mounted:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", "disk"], check=True)
    else:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

def enlarge():
    if mounted:
        subprocess.run(["mount", "-o", "remount,size=50m", "disk"], check=True)
    else:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)

mounted = sys.argv[2] == "mounted"
small(int(sys.argv[1]))
for _ in range(2):
    try:
        run("photos", "disk/f.h5", "calls")
        sys.exit("there was room")
    except FormatError as error:
        print(error)
print(len(kept("disk/f.h5")))
enlarge()
report = run("photos", "disk/f.h5", "calls")
print(report.skipped, report.done + report.skipped, os.listdir("disk"))
"""


@pytest.mark.parametrize("room", [8_192, 150_000, 420_000])
def test_a_disk_that_is_full_until_there_is_room(photos, room):
    """A small tmpfs, where this user may mount one; else no file may be larger than the room there is."""
    Path("disk").mkdir()
    namespace = ["unshare", "--map-root-user", "--mount"]
    trial = [*namespace, "mount", "-t", "tmpfs", "none", "disk"]
    mounted = shutil.which("unshare") and not subprocess.run(trial, capture_output=True).returncode
    command = [sys.executable, "-c", SMALL_DISK, str(room), "mounted" if mounted else "limited"]
    ended = subprocess.run(
        [*namespace, *command] if mounted else command,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    first, second, before, after = ended.stdout.splitlines()
    message = (
        "disk/f.h5: cannot be written: (No space left on device|File too large): what is done is kept; .*"
    )
    assert re.fullmatch(message, first)
    assert first == second
    assert after == f"{before} 12 ['f.h5']"
    # Each time one may have been under way.
    assert calls().total() <= 12 + 2


def test_a_disk_that_is_full_when_the_file_is_assembled(photos, monkeypatch):
    original = assembly.shutil.copyfile

    def full(source, target):
        original(source, target)
        raise OSError(28, "No space left on device")

    run(photos / "s*", "f.h5", "calls")
    monkeypatch.setattr(assembly.shutil, "copyfile", full)
    for _ in range(2):
        with pytest.raises(
            FormatError,
            match=r"^f\.h5: cannot be written: No space left on device: what is done is kept; make room, ",
        ):
            run(photos, "f.h5", "calls")
    assert len(kept("f.h5")) == 11
    monkeypatch.setattr(assembly.shutil, "copyfile", original)
    run(photos, "f.h5", "calls")
    assert calls().total() == 12


@pytest.mark.parametrize(
    "error", [PermissionError(13, "Permission denied"), OSError(30, "Read-only file system")]
)
def test_a_target_that_cannot_be_written_is_refused_first(photos, monkeypatch, error):
    def refused(self, *_, **__):
        raise error

    monkeypatch.setattr(Path, "mkdir", refused)
    with pytest.raises(FormatError, match=rf"^f\.h5: cannot be written: {error.strerror}$"):
        run(photos, "f.h5", "calls")
    assert not Path("calls").exists()


def test_a_real_target_that_cannot_be_written(photos):
    with pytest.raises(FormatError, match=r"^/proc/f\.h5: cannot be written: "):
        run(photos, "/proc/f.h5", "calls")
    assert not Path("calls").exists()


# --- failures ---------------------------------------------------------------------------------------------


def told(listed):
    """Names and reasons; the third column is what each image was like."""
    rows = [line.rsplit("\t", 1) for line in Path(listed).read_text().splitlines()]
    assert all(json.loads(state) for _, state in rows)
    return [row for row, _ in rows]


def test_failures_are_listed_and_not_tried_again_as_they_are(photos):
    (photos / "bad.png").write_bytes(b"bad")
    (photos / "worse\\t.png").write_bytes(b"bad too")
    report = run(photos, "f.h5", "calls")
    assert (report.done, len(report.failed), report.failed_before) == (12, 2, 0)
    listed = Path("f.h5.failed.txt")
    assert told(listed) == ["bad.png\tnot an image", "worse\\\\t.png\tnot an image"]
    again = run(photos, "f.h5", "later")
    assert (again.done, again.skipped, again.failed_before) == (0, 12, 2)
    assert again.failed == report.failed
    # One of them has changed.
    change(photos / "bad.png", b"good now")
    again = run(photos, "f.h5", "later")
    assert (again.done, len(again.failed), again.failed_before) == (1, 1, 1)
    assert told(listed) == ["worse\\\\t.png\tnot an image"]
    again = run(photos, "f.h5", "later", retry_failed=True)
    assert (len(again.failed), again.failed_before) == (1, 0)
    (photos / "worse\\t.png").unlink()
    assert run(photos, "f.h5", "later").failed == []
    assert not listed.exists()


def test_failures_are_listed_at_once(photos):
    (photos / "00.png").write_bytes(b"bad")
    with pytest.raises(KeyboardInterrupt):
        run(photos, "f.h5", "calls", stop=lambda: len(calls()) == 2)
    assert told("f.h5.failed.txt") == ["00.png\tnot an image"]
    report = run(photos, "f.h5", "calls")
    assert (report.done, report.skipped, report.failed_before) == (9, 2, 1)


def test_permissions_that_are_given_later(photos):
    """The image's content is as it was, but it can be read now."""
    (photos / "bad.png").write_bytes(b"bad")
    run(photos, "f.h5", "calls")
    before = os.stat(photos / "bad.png").st_ctime_ns
    while os.stat(photos / "bad.png").st_ctime_ns == before:  # the clock of files has steps
        (photos / "bad.png").chmod(0o600)
    assert run(photos, "f.h5", "calls").failed_before == 0


def test_no_clock_decides_what_has_failed_before(photos):
    """Neither the time of the list, which copies of it do not keep, nor one that a camera has set wrong."""
    (photos / "bad.png").write_bytes(b"bad")
    os.utime(photos / "bad.png", (4e9, 4e9))
    run(photos, "f.h5", "calls")
    for seconds in (1e9, 5e9):
        os.utime("f.h5.failed.txt", (seconds, seconds))
        assert run(photos, "f.h5", "calls").failed_before == 1
    # Other content at the same time, and a list that is newer than both.
    (photos / "bad.png").write_bytes(b"good now")
    os.utime(photos / "bad.png", (4e9, 4e9))
    os.utime("f.h5.failed.txt", (5e9, 5e9))
    assert run(photos, "f.h5", "calls").done == 1


def test_an_image_that_is_completed_after_it_was_read_is_tried_again(photos, monkeypatch):
    """The list tells what an image was like when its turn came."""
    image = photos / "00.png"
    image.write_bytes(b"bad")

    def copied_meanwhile(entry, reason):
        image.write_bytes(b"good now")
        return f"{entry.path}: {reason}"

    monkeypatch.setattr(extraction, "_reason", copied_meanwhile)
    assert len(run(photos, "f.h5", "calls").failed) == 1
    assert run(photos, "f.h5", "calls").done == 1


def test_reasons_stay_as_they_are(photos):
    def failing(path, **_):
        raise d2np.ImageError(f"{path}: C:\\new\tline\nend")

    for before in (0, 12, 12):
        report = extract(failing, listing([photos]), NpzOutput(Path("out")), Settings())
        assert report.failed_before == before
        assert {reason.partition(": ")[2] for _, reason in report.failed} == {"C:\\new\tline\nend"}


def test_failures_of_lists_by_older_versions_are_tried_again(photos):
    (photos / "bad.png").write_bytes(b"bad")
    Path("f.h5.failed.txt").write_text("bad.png\tnot an image\n")
    report = run(photos, "f.h5", "calls")
    assert (len(report.failed), report.failed_before) == (1, 0)


def test_failures_of_other_formats(photos):
    (photos / "bad.png").write_bytes(b"bad")
    listings = listing([photos])

    def failing(path, **_):
        raise d2np.ImageError(f"{path}: not an image")

    for output, listed in ((NpzOutput(), None), (NpzOutput(Path("out")), Path("out.failed.txt"))):
        report = extract(failing, listings, output, Settings())
        assert len(report.failed) == 13
        again = extract(failing, listings, output, Settings())
        assert again.failed == report.failed
        assert again.failed_before == (13 if listed else 0)
        assert listed is None or told(listed)[0] == "00.png\tnot an image"


def test_nothing_is_held_in_memory_of_what_is_stored(photos):
    """The index knows where features are, and no more."""
    output = HlocOutput(Path("f.h5"), {})
    rng = np.random.default_rng(0)
    features = d2np.Features(rng.random((9, 3)), rng.random(9), rng.random((9, 512)), (5, 5))
    for entry in listing([photos]):
        output.put(entry, features, 1.0)
    assert len(output.parts.index) == 12
    assert all(len(str(where)) < 300 for where in output.parts.index.values())
    output.finish()
    output.close()
