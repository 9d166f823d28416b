"""Jobs on a Dask cluster end with what they would have made alone, whoever is killed meanwhile."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import signal
import stat
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import distributed
import fsspec
import h5py
import numpy as np
import pytest
from cluster_stub import StubNet, go_on, hold
from conftest import random_image
from parted import archives as archives_of
from parted import contents, kept
from PIL import Image

import d2np
from d2np import cli
from d2np.dataset import (
    HlocOutput,
    MatchOutput,
    MatchSettings,
    NpzOutput,
    Settings,
    all_pairs,
    archives,
    cluster,
    extract,
    extraction,
    listing,
    match_pairs,
)
from d2np.errors import Error, FormatError, OptionError
from d2np.formats import hloc, hloc_matches

JOB = Path(__file__).with_name("cluster_stub.py")


@pytest.fixture
def folder(tmp_path):
    for k in range(60):
        path = tmp_path / "photos" / f"{k // 10}" / f"{k:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (10 + k, 8)).save(path)
    return tmp_path / "photos"


def output_of(path, net=None):
    return HlocOutput(path, Settings().recorded(net or StubNet("")))


@pytest.fixture
def alone(folder, tmp_path):
    """Return the features that one process finds in the folder."""
    path = tmp_path / "alone.h5"
    extract(StubNet(tmp_path / "alone.log"), listing([folder]), output_of(path), Settings())
    return contents(path)


def seen(log):
    """The process and the name of each image that was worked on."""
    if not log.exists():
        return []
    return [tuple(line.split()) for line in log.read_text().splitlines() if line.count(" ") == 1]


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_extraction(client, folder, tmp_path, alone):
    net = StubNet(tmp_path / "log")
    report = extract(net, listing([folder]), output_of(tmp_path / "f.h5"), Settings(), client=client)
    assert (report.done, report.skipped, report.failed) == (60, 0, [])
    assert report.keypoints == sum(range(10, 70))
    assert contents(tmp_path / "f.h5") == alone
    assert len(seen(tmp_path / "log")) == 60
    assert not (tmp_path / "f.h5.parts").exists()
    report = extract(net, listing([folder]), output_of(tmp_path / "f.h5"), Settings(), client=client)
    assert (report.done, report.skipped) == (0, 60)
    assert len(seen(tmp_path / "log")) == 60


def test_new_and_changed_images_only(client, folder, tmp_path):
    net = StubNet(tmp_path / "log")
    extract(net, listing([folder / "0"]), output_of(tmp_path / "f.h5"), Settings(), client=client)
    Image.new("RGB", (99, 8)).save(folder / "0" / "03.png")
    Image.new("RGB", (98, 8)).save(folder / "0" / "new.png")
    report = extract(net, listing([folder / "0"]), output_of(tmp_path / "f.h5"), Settings(), client=client)
    assert (report.done, report.skipped) == (2, 9)
    assert len(hloc.read(tmp_path / "f.h5", "03.png")) == 99


def test_failures_are_those_of_one_process(client, folder, tmp_path, monkeypatch):
    (folder / "bad.png").write_text("no image")
    (folder / "0" / "bad.png").write_text("no image")
    reports = []
    monkeypatch.chdir(tmp_path)
    for name, on in (("a", None), ("b", client)):
        net = StubNet(tmp_path / "log")
        reports.append(extract(net, listing(["photos"]), output_of(tmp_path / name), Settings(), client=on))
    one, other = ({(entry.name, reason) for entry, reason in report.failed} for report in reports)
    assert one == other
    assert ("bad.png", "photos/bad.png is no image") in one
    lists = [sorted((tmp_path / f"{name}.failed.txt").read_text().splitlines()) for name in "ab"]
    assert lists[0] == lists[1]
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_real_network_and_images_by_url(client, net, make_image, tmp_path):
    system = fsspec.filesystem("memory")
    (tmp_path / "photos").mkdir()
    for k in range(3):
        path = tmp_path / "photos" / f"{k}.png"
        Image.fromarray(make_image(40, 50, k)).save(path)
        system.pipe(f"/net/{k}.png", path.read_bytes())
    settings = Settings(max_keypoints=20)
    recorded = settings.recorded(net)
    extract(net, listing([tmp_path / "photos"]), HlocOutput(tmp_path / "a.h5", recorded), settings)
    for name, on in (("b.h5", None), ("c.h5", client)):
        output = HlocOutput(tmp_path / name, recorded, half=False)
        extract(net, listing(["memory://net"]), output, settings, client=on)
    with (
        h5py.File(tmp_path / "a.h5") as a,
        h5py.File(tmp_path / "b.h5") as b,
        h5py.File(tmp_path / "c.h5") as c,
    ):
        assert hloc.names(a) == hloc.names(b) == hloc.names(c) == ["0.png", "1.png", "2.png"]
        for name in hloc.names(a):
            for key in a[name]:
                np.testing.assert_array_equal(a[name][key][()], b[name][key][()])
                np.testing.assert_array_equal(a[name][key][()], c[name][key][()])
    # What has not changed is known again.
    again = extract(net, listing(["memory://net"]), HlocOutput(tmp_path / "c.h5", recorded), settings)
    assert (again.done, again.skipped) == (0, 3)
    system.pipe("/net/1.png", (tmp_path / "photos" / "2.png").read_bytes())
    again = extract(net, listing(["memory://net"]), HlocOutput(tmp_path / "c.h5", recorded), settings)
    assert (again.done, again.skipped) == (1, 2)
    system.rm("/net", recursive=True)


def test_masks(client, net, make_image, tmp_path, monkeypatch):
    """Of relative paths, as the client sees them; and one that is missing, and one of another size."""
    monkeypatch.chdir(tmp_path)
    for k in range(4):
        for folder in ("photos", "masks"):
            Path(folder).mkdir(exist_ok=True)
            mask = np.uint8([0, 255]).repeat(25 + (k == 2)).repeat(40).reshape(-1, 40)
            Image.fromarray(make_image(50, 40, k) if folder == "photos" else mask).save(f"{folder}/{k}.png")
    Path("masks/3.png").unlink()
    settings = Settings()
    reports = []
    for name, on in (("a.h5", None), ("b.h5", client)):
        output = HlocOutput(tmp_path / name, settings.recorded(net))
        entries = listing(["photos"], masks="masks")
        reports.append(extract(net, entries, output, settings, client=on))
        assert [reason for _, reason in sorted(reports[-1].failed, key=str)] == [
            "photos/2.png: masks/2.png: a mask must have its image's size 40 x 50 px; it has 40 x 52 px",
            "photos/3.png: masks/3.png.png cannot be read: No such file or directory",
        ]
    assert reports[0].keypoints == reports[1].keypoints > 0
    assert contents(tmp_path / "a.h5") == contents(tmp_path / "b.h5")
    lists = [sorted((tmp_path / f"{name}.h5.failed.txt").read_text().splitlines()) for name in "ab"]
    assert lists[0] == lists[1]
    expected = net("photos/0.png", mask="masks/0.png")
    np.testing.assert_array_equal(hloc.read("b.h5", "0.png").keypoints, expected.keypoints)


@pytest.mark.parametrize("where", ["memory://store/here", "local://{}/url", "{}/folder", "{}/link"])
def test_archives_elsewhere(client, folder, tmp_path, alone, where):
    (tmp_path / "link").symlink_to("f.h5.parts")
    place = where.format(tmp_path)
    net = StubNet(tmp_path / "log")
    output = output_of(tmp_path / "f.h5")
    output.start()
    extract(net, listing([folder]), output, Settings(), client=client, shards=place)
    assert contents(tmp_path / "f.h5") == alone
    assert fsspec.core.url_to_fs(place)[0].find(place) == []


def test_a_place_that_cannot_be_used_leaves_the_output_free(client, folder, tmp_path):
    """Also where a job was begun before, whose parts are held from the start."""
    (tmp_path / "taken").write_text("no folder")
    for place, told in (
        (str(tmp_path / "taken"), "taken: File exists"),
        (str(tmp_path / "a\0b"), "null"),
        ("nonsense://x", "Protocol not known"),
    ):
        output = output_of(tmp_path / "f.h5")
        output.start()
        with pytest.raises(FormatError, match=told):
            extract(StubNet(""), listing([folder]), output, Settings(), client=client, shards=place)
        output_of(tmp_path / "f.h5").close()
    matches = MatchOutput(tmp_path / "m.h5", {})
    matches.start()
    with pytest.raises(FormatError, match="taken: File exists"):
        match_pairs("none.h5", [], matches, MatchSettings(), client=client, shards=tmp_path / "taken")
    MatchOutput(tmp_path / "m.h5", {}).close()


def never_starts(*_, **__):
    raise RuntimeError("Nanny failed\nto start.")


@pytest.mark.parametrize(
    ("where", "told"),
    [
        ("tcp://127.0.0.1:9", "no Dask scheduler can be reached"),
        ("local:1", "the workers of local:1 did not start (Nanny failed to start.): start the same"),
    ],
)
def test_a_cluster_that_is_not_there_leaves_the_output_free(
    folder, tmp_path, monkeypatch, capsys, where, told
):
    out = str(tmp_path / "f.h5")
    settings = Settings().recorded(d2np.Net.load("analytic"))
    begun = HlocOutput(tmp_path / "f.h5", settings)
    begun.start()
    begun.close()
    monkeypatch.setattr(cluster, "_TIMEOUT", "1s")
    monkeypatch.setattr(distributed, "LocalCluster", never_starts)
    command = ["extract", str(folder), "-o", out, "--weights", "analytic", "--dask", where]
    assert cli.main(command) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("d2np:")]
    assert told in line
    HlocOutput(tmp_path / "f.h5", settings).close()


@pytest.mark.parametrize("where", ["{}/store", "memory://taken"])
@pytest.mark.parametrize("fails", [False, True])
def test_taking_an_archive_loses_nothing(tmp_path, monkeypatch, where, fails):
    """Where only what is open for writing can be flushed, as on Windows."""
    import fcntl  # here, since Windows has none

    folder = archives.JobFolder(tmp_path / "f.h5.parts")
    folder.begin({}, anew=False)
    store = archives.Store(where.format(tmp_path), "")
    assert store.names() == []
    with store.writing("1.npz") as stream:
        stream.write(b"work of an hour")
    flush = os.fsync

    def flush_what_is_written(handle):
        written = fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
        if not written and not stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        if fails:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        flush(handle)

    monkeypatch.setattr(os, "fsync", flush_what_is_written)
    if fails:
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            folder.take("a", None, "1.npz", store)
        assert store.names() == ["1.npz"]
        assert folder.index == {}
        assert names_in(folder.folder) == ["job.json", "lock"]
        store.remove("1.npz")
    else:
        folder.take("a", None, "1.npz", store)
        assert (folder.folder / "1.npz").read_bytes() == b"work of an hour"
    assert store.names() == []
    with pytest.raises(FormatError, match=r"(?i)no such file"):
        folder.take("b", None, "none.npz", store)
    folder.remove()


@pytest.mark.parametrize("where", [None, "memory://left", "{}/left"])
def test_what_was_left_is_used(client, folder, tmp_path, alone, where):
    """The client ends after a few receipts, and others were under way: whole archives count without them."""
    place = where and where.format(tmp_path)
    net = StubNet(tmp_path / "log")

    def stop():
        return len(seen(tmp_path / "log")) > 20

    with pytest.raises(KeyboardInterrupt):
        extract(
            *(net, listing([folder]), output_of(tmp_path / "f.h5"), Settings()),
            client=client,
            shards=place,
            stop=stop,
        )
    # Each has one thread, which comes to this after what it was busy with.
    client.gather([client.submit(int, workers=[one], pure=False) for one in client.nthreads()])
    assert not (tmp_path / "f.h5").exists()
    parts = tmp_path / "f.h5.parts"
    if where is not None:
        # As if the client had not come to take it.
        store = archives.Store(archives.place_of(place))
        path = archives_of(tmp_path / "f.h5")[-1]
        with store.writing(path.name) as stream:
            stream.write(path.read_bytes())
        path.unlink()
        with store.writing(f"{path.name}.0000.unfinished") as stream:
            stream.write(b"half")
    else:
        (parts / f".{archives_of(tmp_path / 'f.h5')[0].name}.0000").write_bytes(b"half")
    done = len(seen(tmp_path / "log"))
    report = extract(
        net, listing([folder]), output_of(tmp_path / "f.h5"), Settings(), client=client, shards=place
    )
    assert report.done < 60
    assert contents(tmp_path / "f.h5") == alone
    again = [name for _, name in seen(tmp_path / "log")[done:]]
    assert len(again) == len(set(again)) <= 60 - 8
    assert not parts.exists()
    if where is not None:
        assert store.names() == []


def test_pipes_between_the_archives_are_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "1.npz")
    with pytest.raises(FormatError, match="a pipe or a device"):
        archives.Store(str(tmp_path)).opened("1.npz")
    with pytest.raises(FormatError, match="a pipe or a device"):
        cluster.Delivered(archives.Store(str(tmp_path)), "1.npz", "0" * 64).load()


def test_a_network_that_somebody_has_exchanged_is_not_loaded(tmp_path):
    (tmp_path / "network").write_bytes(b"a pickle")
    with pytest.raises(FormatError, match="network was changed by somebody else"):
        cluster.Delivered(archives.Store(str(tmp_path)), "network", "0" * 64).load()


@pytest.mark.parametrize("where", [None, "memory://done"])
def test_what_is_stored_without_a_receipt_is_not_done_again(folder, tmp_path, where):
    """A worker that died just before it could send its receipt."""
    output = output_of(tmp_path / "f.h5")
    batch = [output.task(entry) for entry in listing([folder])[:3]]
    writer = output.archives(where)

    def done(tasks):
        with cluster.delivered(StubNet(tmp_path / "log"), writer.store) as network:
            options = network, Settings(), writer, 1, tmp_path
            return [outcome for _, outcome in extraction._extracted_by_worker(*options, tasks, len(tasks))]

    assert done(batch[:2]) == [10, 11]
    assert done(batch) == [10, 11, 12]
    assert len(seen(tmp_path / "log")) == 3
    assert done([replace(task, stamp='{"size": 1}') for task in batch]) == [10, 11, 12]
    assert len(seen(tmp_path / "log")) == 6
    output.close()


def test_a_worker_that_cannot_write_ends_the_job_with_a_sentence(client, folder, tmp_path, monkeypatch):
    def full(stream, groups):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(archives, "write", full)
    output = output_of(tmp_path / "f.h5")
    with pytest.raises(FormatError, match=r"f\.h5: cannot be written: No space left on device: what is done"):
        extract(StubNet(tmp_path / "log"), listing([folder]), output, Settings(), client=client)
    assert kept(tmp_path / "f.h5") == []
    # The other worker may still be at it.
    wait_for(lambda: not any(name.startswith(".") for name in names_in(tmp_path / "f.h5.parts")))
    monkeypatch.undo()
    extract(
        StubNet(tmp_path / "log"), listing([folder]), output_of(tmp_path / "f.h5"), Settings(), client=client
    )
    assert len(hloc.names(tmp_path / "f.h5")) == 60


def test_what_workers_raise_is_told(client, folder, tmp_path):
    class Broken(StubNet):
        def __call__(self, path, **options):
            raise ZeroDivisionError("by zero")

    globals()["Broken"] = Broken
    Broken.__qualname__ = "Broken"
    with pytest.raises(Error, match="a worker of the cluster could not go on: ZeroDivisionError: by zero"):
        extract(Broken(""), listing([folder]), output_of(tmp_path / "f.h5"), Settings(), client=client)


def test_only_hdf5(client, folder, tmp_path):
    with pytest.raises(OptionError, match="one HDF5 file only"):
        extract(StubNet(""), listing([folder]), NpzOutput(tmp_path / "out"), Settings(), client=client)


@pytest.mark.parametrize(
    "how", [{"ratio": 0.99}, {"verify": "homography", "threshold": 90.0, "min_inliers": 1}]
)
def test_pairs(client, folder, tmp_path, how):
    extract(StubNet(tmp_path / "log"), listing([folder / "0"]), output_of(tmp_path / "f.h5"), Settings())
    features, settings = tmp_path / "f.h5", MatchSettings(**how)
    recorded = settings.recorded(features)
    reports = []
    for name, on in (("a.h5", None), ("b.h5", client)):
        output = MatchOutput(tmp_path / name, recorded, features=features)
        reports.append(match_pairs(features, all_pairs(features), output, settings, client=on))
    assert reports[0] == reports[1]
    assert reports[0].done == 45
    assert contents(tmp_path / "a.h5") == contents(tmp_path / "b.h5")
    assert len(hloc_matches.pair_names(tmp_path / "b.h5")) == 45


@pytest.mark.parametrize(
    ("where", "found"),
    [("local:3", 3), ("tcp://host:8786", None), ("host:8786", None), ("localhost:1", None)],
)
def test_places_of_clusters(where, found):
    assert cluster.local_processes(where) == found


@pytest.mark.parametrize(
    "where",
    [
        *(
            "local",
            "local:",
            "local:0",
            "local:x",
            "local:-1",
            "local:²",
            "local:1\0",
            "local:10000",
            "local:" + "9" * 5000,
            "host",
        ),
        *("tcp://ho\0st:1", "\0:1", "tcp://127.0.0.1:9\0", "tcp://ho\nst:1", "tcp://\ud800:1"),
    ],
)
def test_places_that_are_none(where):
    with pytest.raises(OptionError):
        cluster.local_processes(where)


@pytest.mark.parametrize(
    "where",
    [
        *("tcp://127.0.0.1:9", "nonsense://127.0.0.1:9", "127.0.0.1:port", "tls://127.0.0.1:9", "tcp://"),
        *("http://127.0.0.1:9", "inproc://x", "tcp://.:1", "a:b:c", ":"),
    ],
)
def test_no_scheduler(monkeypatch, where):
    monkeypatch.setattr(cluster, "_TIMEOUT", "0.2s")
    before = list(distributed.Client._instances)
    with pytest.raises(Error, match="no Dask scheduler can be reached at") as caught:  # noqa: SIM117
        with cluster.connected(where):
            pass
    assert "\n" not in str(caught.value)
    # One that is left prints a traceback when the process ends.
    assert list(distributed.Client._instances) == before


def test_no_other_user_can_use_a_cluster_on_this_machine():
    """Neither the scheduler nor a worker answers those who are not of this cluster."""

    async def connect(address):
        comm = await distributed.connect(address.replace("tls:", "tcp:"), timeout="2s")
        await comm.close()

    with cluster.connected("local:1") as client:
        addresses = [client.scheduler.address, *client.nthreads()]
        assert len(addresses) == 2
        for address in addresses:
            assert address.startswith("tls://127.0.0.1:")
            with pytest.raises(OSError, match=r"(?i)closed|reset|timed out"):
                asyncio.run(connect(address))
        assert client.submit(sum, [1, 2]).result() == 3


def test_a_cluster_on_this_machine_needs_tls(monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography", None)
    monkeypatch.setattr(distributed, "LocalCluster", never_starts)
    sentence = r"^a cluster on this machine needs the package cryptography: pip install 'd2np\[dask\]'$"
    with pytest.raises(Error, match=sentence), cluster.connected("local:1"):
        pass


def start_job(folder, out, log, where, **options):
    environment = {**os.environ, "PYTHONPATH": str(Path(d2np.__file__).parents[1])}
    # On a busy machine workers are not given up that take long to start.
    environment |= {f"DASK_DISTRIBUTED__COMM__TIMEOUTS__{name}": "600s" for name in ("CONNECT", "TCP")}
    return subprocess.Popen(
        [sys.executable, str(JOB), str(folder), str(out), str(log), where],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        **options,
    )


def wait_for(condition):
    """Return its result once it holds; ten minutes are for a machine that is busy."""
    until = time.monotonic() + 600
    while not (found := condition()):
        assert time.monotonic() < until
        time.sleep(0.005)
    return found


def test_workers_are_killed(folder, tmp_path, alone):
    log, chance = tmp_path / "log", random.Random(1)
    killed = 0
    hold(log, 45)
    job = start_job(folder, tmp_path / "f.h5", log, "local:3")

    def victims():
        """All but the first: on a busy machine others may take long to come in place of the dead."""
        _, *others = dict.fromkeys(int(process) for process, _ in seen(log))
        return [one for one in others if is_running(one)]

    for count in (2, 7, 15, 24, 40):
        wait_for(lambda count=count: len(seen(log)) >= count)
        time.sleep(chance.uniform(0, 0.1))  # at any moment
        alive = wait_for(victims) if killed < 2 else victims()
        if alive:
            os.kill(chance.choice(alive), signal.SIGKILL)
            killed += 1
    go_on(log)
    out, error = job.communicate()
    assert (out, error) == ("60 0 0\n", "")
    assert contents(tmp_path / "f.h5") == alone
    # Nothing but what a worker was at was done again: a batch has five images here.
    assert 60 <= len(seen(log)) <= 60 + 5 * killed
    assert not (tmp_path / "f.h5.parts").exists()


def test_the_client_is_killed(folder, tmp_path, alone):
    log, out, chance = tmp_path / "log", tmp_path / "f.h5", random.Random(2)
    for _ in range(2):
        before = len(seen(log))
        hold(log, before + 20)
        job = start_job(folder, out, log, "local:2")
        wait_for(lambda before=before: len(seen(log)) >= before + 14 and kept(out))
        time.sleep(chance.uniform(0, 0.3))  # at any moment
        job.kill()
        go_on(log)
        job.communicate()
        assert not out.exists()
    wait_for(lambda: not any(is_running(int(process)) for process, _ in seen(log)))
    safe = set(kept(out))
    assert safe
    before = len(seen(log))
    done, error = start_job(folder, out, log, "local:2").communicate()
    assert (done, error) == (f"{60 - len(safe)} {len(safe)} 0\n", "")
    assert contents(out) == alone
    again = [name for _, name in seen(log)[before:]]
    assert sorted(again) == sorted(
        {path.name for path in folder.glob("*/*.png")} - {Path(n).name for n in safe}
    )


def is_running(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_deadly_image_fails_alone(folder, tmp_path):
    net = StubNet(tmp_path / "log", deadly="03.png")
    entries = listing([folder / "0"])
    with cluster.connected("local:2") as client:
        report = extract(net, entries, output_of(tmp_path / "f.h5"), Settings(), client=client)
    assert report.done == 9
    assert [entry.name for entry, _ in report.failed] == ["03.png"]
    assert "workers of the cluster died" in report.failed[0][1]
    assert len(hloc.names(tmp_path / "f.h5")) == 9


def test_an_interrupt_reaches_the_workers_too(folder, tmp_path):
    """Ctrl-C goes to every process of a terminal: the job ends at once, and can be gone on with."""
    log = tmp_path / "log"
    hold(log, 30)
    job = start_job(folder, tmp_path / "f.h5", log, "local:2", start_new_session=True)
    wait_for(lambda: len(seen(log)) >= 20 and kept(tmp_path / "f.h5"))
    os.killpg(job.pid, signal.SIGINT)
    go_on(log)
    _, error = job.communicate()
    assert job.returncode != 0
    assert error.strip().endswith("KeyboardInterrupt")
    assert kept(tmp_path / "f.h5")
    assert not (tmp_path / "f.h5").exists()


def test_command_line(tmp_path, capsys):
    """Options that are refused, and a small job with the real network."""
    Image.fromarray(random_image(48, 64)).save(tmp_path / "a.png")
    Image.fromarray(random_image(48, 64, 1)).save(tmp_path / "b.png")
    out = str(tmp_path / "f.h5")
    for arguments, told in (
        (["--dask", "local:none", "-o", out], "local:N with N from 1 to 9999, not 'local:none'"),
        (["--dask", "local:2", "--format", "npz"], "--dask is for --format h5 only"),
        (["--shards", "s3://x", "-o", out], "--shards is for --dask only"),
    ):
        assert cli.main(["extract", str(tmp_path), *arguments]) == 2
        assert told in capsys.readouterr().err
    weights = ["--weights", "analytic"]
    shards = ["--shards", str(tmp_path / "shards")]
    assert cli.main(["extract", str(tmp_path), "-o", out, "--dask", "local:1", *weights, *shards]) == 0
    assert "Dask's dashboard: http://127.0.0.1:" in capsys.readouterr().err
    assert hloc.names(out) == ["a.png", "b.png"]
    assert cli.main(["pairs", out, "-o", str(tmp_path / "m.h5"), "--dask", "local:1"]) == 0
    assert "1 pair matched" in capsys.readouterr().out


def test_without_the_package(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "distributed", None)
    Image.fromarray(random_image(48, 64)).save(tmp_path / "a.png")
    code = cli.main(["extract", str(tmp_path), "-o", str(tmp_path / "f.h5"), "--dask", "local:2"])
    assert code == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert told == "d2np: a Dask cluster needs the package distributed: pip install 'd2np[dask]'"
    assert not (tmp_path / "f.h5").exists()
