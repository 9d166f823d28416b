"""Matching many pairs: which ones, in which order, gone on with where it was stopped; and ``d2np pairs``."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections import Counter
from functools import lru_cache
from itertools import combinations
from pathlib import Path

import h5py
import numpy as np
import pytest
from parted import archives, kept, killed_after

import d2np
from d2np import dataset
from d2np.cli import main
from d2np.dataset import MatchOutput, MatchSettings, all_pairs, listed_pairs, match_pairs
from d2np.dataset import pair_matching as pairs_module
from d2np.errors import FormatError, OptionError
from d2np.features import Features
from d2np.formats import hloc, hloc_matches
from d2np.hdf5 import write_text

ROOT = Path(__file__).parents[1]
NAMES = ["a.jpg", "b/1.jpg", "b/2.jpg", "c.jpg", "d.jpg"]


def write_features(path, names=NAMES, count=30, half=False, settings=None):
    """Images that see the same points, the fourth of them nothing at all."""
    rng = np.random.default_rng(0)
    shared = rng.standard_normal((count, 512))
    with h5py.File(path, "w") as file:
        for k, name in enumerate(names):
            n = 0 if k == 3 else count - k % 7
            descriptors = shared[rng.permutation(count)[:n]] + 0.3 * rng.standard_normal((n, 512))
            descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
            features = Features(rng.uniform(0, 480, (n, 3)), rng.random(n), descriptors, (640, 480))
            hloc.write(file, name, features, half=half)
        if settings is not None:
            write_text(file, "d2np_settings", settings)
    return path


@pytest.fixture
def features(tmp_path):
    return write_features(tmp_path / "f.h5")


@pytest.fixture
def job(tmp_path, features):
    """Matches all pairs, or those given, as far as it gets."""

    def run(pairs=None, settings=MatchSettings(), restart=False, stop_after=None, **options):  # noqa: B008
        output = MatchOutput(tmp_path / "m.h5", settings.recorded(features), restart=restart)
        progress = None if stop_after is None else Stop(stop_after)
        pairs = all_pairs(features) if pairs is None else pairs
        return match_pairs(features, pairs, output, settings, progress=progress, **options)

    return run


class Stop:
    """A progress bar that interrupts the job."""

    def __init__(self, after):
        self.left = after

    def update(self, n=1):
        self.left -= n
        if not self.left:
            raise KeyboardInterrupt


def content(path):
    """All arrays of a file."""
    found = {}
    with h5py.File(path) as file:
        file.visititems(
            lambda name, item: (
                found.update({name: (item.dtype, item[()].tolist())})
                if isinstance(item, h5py.Dataset)
                else None
            )
        )
    return found


# --- which pairs ------------------------------------------------------------------------------------------


def test_all_pairs(features):
    pairs = all_pairs(features)
    assert sorted(pairs) == list(combinations(NAMES, 2))
    assert len(pairs) == 10


def test_nothing_to_match(tmp_path):
    with h5py.File(tmp_path / "empty.h5", "w"):
        pass
    with pytest.raises(FormatError, match=r"empty\.h5 holds no features"):
        all_pairs(tmp_path / "empty.h5")
    write_features(tmp_path / "one.h5", ["a.jpg"])
    with pytest.raises(FormatError, match=r"one\.h5 holds only those of a\.jpg: there is nothing to match"):
        all_pairs(tmp_path / "one.h5")


def test_each_listed_pair_counts_once(tmp_path, features):
    path = tmp_path / "pairs.txt"
    path.write_text("c.jpg a.jpg\n\na.jpg c.jpg\nb/1.jpg a.jpg\nc.jpg a.jpg\nd.jpg d.jpg\na.jpg b/2.jpg\n")
    assert listed_pairs(path, features) == [("c.jpg", "a.jpg"), ("b/1.jpg", "a.jpg"), ("a.jpg", "b/2.jpg")]


def test_listed_names_must_be_there(tmp_path, features):
    path = tmp_path / "pairs.txt"
    path.write_text("a.jpg z.jpg\nc.jpg a.jpg\ny.jpg z.jpg\n")
    with pytest.raises(FormatError, match=r"pairs\.txt names .+f\.h5 does not hold: y\.jpg, z\.jpg$"):
        listed_pairs(path, features)
    path.write_text("\n".join(f"a.jpg {k:02}.jpg" for k in range(25)))
    with pytest.raises(FormatError, match=r"hold: 00\.jpg, .+ 09\.jpg and 15 more$"):
        listed_pairs(path, features)
    path.write_text("\n\n")
    with pytest.raises(FormatError, match="names no pairs"):
        listed_pairs(path, features)


@pytest.mark.parametrize("cached", [3, 4, 6, 16, 100])
def test_features_are_read_once_for_a_run(cached, monkeypatch):
    monkeypatch.setattr(pairs_module, "_RUN", cached - 2)
    names = [f"{k:03}" for k in range(40)]
    pairs = list(combinations(names, 2))
    np.random.default_rng(0).shuffle(pairs)
    pairs = [tuple(pair) for pair in pairs]
    ordered = pairs_module.in_order_of_reuse(pairs)
    assert sorted(ordered) == sorted(pairs)
    assert list(pairs_module.AllPairs(names)) == ordered

    held = lru_cache(cached)(str)
    for pair in ordered:
        assert tuple(map(held, pair)) == pair
    # Each image comes once for each run up to its own.
    run = cached - 2
    assert held.cache_info().misses <= sum(k // run + 1 for k in range(40))


# --- the job ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        MatchSettings(),
        MatchSettings(mutual=False),
        MatchSettings(ratio=0.8),
        MatchSettings(min_similarity=0.9),
    ],
)
def test_each_pair_is_matched_as_match_does(tmp_path, features, job, settings):
    report = job(settings=settings)
    total = 0
    for a, b in combinations(NAMES, 2):
        truth = d2np.match(hloc.read(features, a), hloc.read(features, b), **settings.options())
        found = hloc_matches.read(tmp_path / "m.h5", a, b)
        np.testing.assert_array_equal(found.indices, truth.indices)
        np.testing.assert_allclose(found.similarities, truth.similarities, atol=1e-6)
        total += len(truth)
    assert report == dataset.MatchReport(done=10, skipped=0, matches=total, unmatched=report.unmatched)
    assert report.unmatched >= 4
    assert not (tmp_path / "m.h5.parts").exists()


def test_the_result_does_not_depend_on_threads(tmp_path, job):
    contents = []
    for threads in (1, 2, 5, 40):
        job(threads=threads, restart=True)
        contents.append(content(tmp_path / "m.h5"))
    assert contents[1:] == contents[:1] * 3
    with pytest.raises(OptionError, match="threads"):
        job(threads=0, restart=True)


def test_little_memory_means_fewer_side_by_side(tmp_path, job, monkeypatch, caplog):
    """And fewer features that are held; the matches are the same."""
    job(threads=3)
    expected = content(tmp_path / "m.h5")
    assert caplog.messages == []
    read, threads = Counter(), set()
    real_read, real_match = hloc.read, pairs_module.match

    def counted(file, name):
        read[name] += 1
        return real_read(file, name)

    def matched(a, b, **options):
        threads.add(options["threads"])
        return real_match(a, b, **options)

    monkeypatch.setattr(hloc, "read", counted)
    monkeypatch.setattr(pairs_module, "match", matched)
    monkeypatch.setattr(pairs_module, "free_memory", lambda: 300 << 20)
    job(threads=3, restart=True)
    assert caplog.messages == ["1 pair at a time instead of 3: little memory is free"]
    assert threads == {3}
    assert max(read.values()) > 1
    assert content(tmp_path / "m.h5") == expected


def test_listed_pairs_keep_their_order_of_names(tmp_path, job):
    job([("d.jpg", "a.jpg"), ("a.jpg", "b/1.jpg")])
    assert hloc_matches.pair_names(tmp_path / "m.h5") == ["a.jpg/b-1.jpg", "d.jpg/a.jpg"]


@pytest.fixture
def one_each(monkeypatch):
    """Each pair has an archive of its own, as if it took long."""
    monkeypatch.setattr(pairs_module, "_SECONDS", 0)


ONE_EACH = "from d2np.dataset import pair_matching; pair_matching._SECONDS = 0\n"


def test_pairs_share_archives(tmp_path, job, monkeypatch):
    """As many as were matched within a second, or as are allowed; those that are done are kept at the end."""
    monkeypatch.setattr(pairs_module, "PAIRS", 4)
    with pytest.raises(KeyboardInterrupt):
        job(stop_after=5)
    sizes = [len(np.load(path).files) for path in archives(tmp_path / "m.h5")]
    assert sizes == [1 + 4 * 2] * 2
    assert job().skipped == 8


def test_what_is_matched_is_kept_when_it_is_interrupted(tmp_path, job, monkeypatch):
    real, calls = pairs_module.match, []

    def interrupted(*given, **named):
        calls.append(None)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return real(*given, **named)

    monkeypatch.setattr(pairs_module, "match", interrupted)
    with pytest.raises(KeyboardInterrupt):
        job(threads=1)
    assert len(kept(tmp_path / "m.h5")) == 5


@pytest.mark.usefixtures("one_each")
def test_it_goes_on_where_it_was_stopped(tmp_path, job):
    job()
    whole = content(tmp_path / "m.h5")
    for stop in (1, 4, 9):
        (tmp_path / "m.h5").unlink()
        with pytest.raises(KeyboardInterrupt):
            job(stop_after=stop)
        assert not (tmp_path / "m.h5").exists()
        assert len(kept(tmp_path / "m.h5")) == stop
        report = job()
        assert (report.done, report.skipped) == (10 - stop, stop)
        assert content(tmp_path / "m.h5") == whole
        assert not (tmp_path / "m.h5.parts").exists()
    assert job().skipped == 10


@pytest.mark.usefixtures("one_each")
def test_it_stops_after_the_pair_under_way(tmp_path, job):
    calls = iter([False, False, True])
    with pytest.raises(KeyboardInterrupt):
        job(stop=lambda: next(calls))
    assert len(kept(tmp_path / "m.h5")) == 3
    # There is nothing left to stop.
    job(stop=lambda: len(kept(tmp_path / "m.h5")) == 10)
    assert len(hloc_matches.pair_names(tmp_path / "m.h5")) == 10


def test_pairs_are_added_to_a_whole_file(tmp_path, job):
    job([("b/1.jpg", "a.jpg"), ("a.jpg", "c.jpg")])
    # Matched already, though the other way round.
    assert job().skipped == 2
    assert len(hloc_matches.pair_names(tmp_path / "m.h5")) == 10


def test_pairs_whose_features_changed_are_matched_again(tmp_path, features):
    def run(expected):
        settings = MatchSettings()
        output = MatchOutput(tmp_path / "m.h5", settings.recorded(features), features=features)
        pairs = [("a.jpg", "b/1.jpg"), ("d.jpg", "a.jpg"), ("b/1.jpg", "d.jpg")]
        # The file has some of them the other way round.
        pairs = pairs if expected == 3 else [pair[::-1] for pair in pairs]
        assert match_pairs(features, pairs, output, settings).done == expected
        assert hloc_matches.pair_names(tmp_path / "m.h5") == ["a.jpg/b-1.jpg", "b-1.jpg/d.jpg", "d.jpg/a.jpg"]

    def replace(name, stamp):
        with h5py.File(features, "r+") as file:
            fewer = hloc.read(file, name).select([0, 1, 2])
            hloc.put(file, name, hloc.arrays_of(fewer), stamp=stamp)

    run(3)
    run(0)
    replace("d.jpg", '{"size": 1}')
    run(2)
    assert len(hloc_matches.read(tmp_path / "m.h5", "d.jpg", "a.jpg")) <= 3
    run(0)
    replace("a.jpg", '{"size": 2}')
    run(2)
    run(0)


@pytest.mark.usefixtures("one_each")
@pytest.mark.parametrize("cut", [0, 100, 1000, -600])
def test_damaged_parts_are_done_again(tmp_path, job, cut):
    with pytest.raises(KeyboardInterrupt):
        job(stop_after=6)
    archive = archives(tmp_path / "m.h5")[3]
    archive.write_bytes(archive.read_bytes()[:cut])
    left = len(kept(tmp_path / "m.h5"))
    assert left == 5
    assert job().done == 10 - left
    assert len(hloc_matches.pair_names(tmp_path / "m.h5")) == 10


def test_other_settings_or_features_are_refused(tmp_path):
    features = write_features(tmp_path / "f.h5", settings='{"detector": "d2", "half": false}')
    recorded = MatchSettings().recorded(features)
    match_pairs(features, all_pairs(features), MatchOutput(tmp_path / "m.h5", recorded), MatchSettings())
    with pytest.raises(
        FormatError, match=r"m\.h5 was made with other options \(ratio None there, 0\.9 now\)"
    ):
        MatchOutput(tmp_path / "m.h5", MatchSettings(ratio=0.9).recorded(features))
    write_features(features, settings='{"detector": "strength", "half": false}')
    with pytest.raises(FormatError, match=r"\(features' detector 'd2' there, 'strength' now\)"):
        MatchOutput(tmp_path / "m.h5", MatchSettings().recorded(features))
    write_features(tmp_path / "other.h5")
    with pytest.raises(FormatError, match="not written by d2np pairs"):
        MatchOutput(tmp_path / "other.h5", recorded)


def test_names_that_are_one_in_a_match_file(tmp_path):
    features = write_features(tmp_path / "f.h5", ["a/b.jpg", "a-b.jpg", "c.jpg"])
    output = MatchOutput(tmp_path / "m.h5", {})
    with pytest.raises(FormatError, match=r"a-b\.jpg and a/b\.jpg are both called a-b\.jpg"):
        match_pairs(features, all_pairs(features), output, MatchSettings())
    assert [path.name for path in tmp_path.iterdir()] == ["f.h5"]


def test_half_features_are_normalised_again(tmp_path):
    """Otherwise the rounding of float16 would pass for a difference in similarity."""
    write_features(tmp_path / "whole.h5", half=False)
    write_features(tmp_path / "half.h5", half=True)
    whole, half = (hloc.read(tmp_path / name, "a.jpg") for name in ("whole.h5", "half.h5"))
    np.testing.assert_allclose(np.linalg.norm(half.descriptors, axis=1), 1, atol=2e-7)
    np.testing.assert_allclose(half.descriptors, whole.descriptors, atol=1e-4)
    with h5py.File(tmp_path / "half.h5") as file:
        stored = file["a.jpg/descriptors"][()].astype(np.float32)
    assert abs(np.linalg.norm(stored, axis=0) - 1).max() > 2e-6


# --- the command ------------------------------------------------------------------------------------------


@pytest.fixture
def run(capsys, monkeypatch, features):
    """Runs ``d2np pairs`` in the folder of the features: exit code, standard output, standard error."""
    monkeypatch.chdir(features.parent)

    def call(*arguments):
        code = main(["pairs", *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_command(run):
    code, out, err = run("f.h5", "-o", "m.h5")
    assert code == 0
    assert re.match(
        r"10 pairs matched, \d+ matches in \d\.\d+ s, 4 pairs without any\nm\.h5: \d+\.\d kB\n", out
    )
    assert err == ""
    code, out, err = run("f.h5", "-o", "m.h5")
    assert (code, err) == (0, "")
    assert out.startswith("0 pairs matched, 10 there already\n")


def test_command_with_a_list_and_options(run):
    Path("pairs.txt").write_text("a.jpg b/1.jpg\nb/1.jpg a.jpg\nd.jpg a.jpg\n")
    code, out, _ = run("f.h5", "--pairs", "pairs.txt", "-o", "m.h5", "--no-mutual", "--threads", "1")
    assert (code, out.split(" in ")[0]) == (0, "2 pairs matched, 56 matches")
    code, _, err = run("f.h5", "--pairs", "pairs.txt", "-o", "m.h5", "--ratio", "0.9")
    assert code == 1
    assert "mutual False there, True now; ratio None there, 0.9 now" in err
    code, out, _ = run(
        "f.h5", "--pairs", "pairs.txt", "-o", "m.h5", "--overwrite", "--min-similarity", "0.9999"
    )
    assert (code, out.split(" in ")[0]) == (0, "2 pairs matched, 0 matches")


def test_command_with_a_window(run, tmp_path):
    """The pairs of another choice are added to those that are there."""
    assert run("f.h5", "-o", "m.h5", "--window", "1")[1].startswith("4 pairs matched, ")
    code, out, _ = run("f.h5", "-o", "m.h5", "--window", "1", "--loop")
    assert (code, out.startswith("1 pair matched, 4 there already, ")) == (0, True)
    assert "a.jpg/d.jpg" in hloc_matches.pair_names(tmp_path / "m.h5")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["none.h5", "-o", "m.h5"], 1, r"no such file or folder: none\.h5"),
        (["notes.txt", "-o", "m.h5"], 1, r"notes\.txt: not an HDF5 file"),
        (["f.h5", "-o", "m.txt"], 2, r"m\.txt: matches are written as HDF5"),
        (["f.h5", "-o", "f.h5", "--overwrite"], 2, r"f\.h5 would overwrite what it is made from"),
        (["f.h5", "-o", "none/m.h5"], 1, r"there is no folder none"),
        (["f.h5", "-o", "m.h5", "--pairs", "none.txt"], 1, r"no such file or folder: none\.txt"),
        (["f.h5", "-o", "m.h5", "--pairs", "notes.txt"], 1, r"notes\.txt, line 1: two names"),
        (["f.h5", "-o", "m.h5", "--pairs", "bad.txt"], 1, r"does not hold: z\.jpg"),
        (["f.h5", "-o", "m.h5", "--ratio", "2"], 2, r"--ratio"),
        (["f.h5", "-o", "m.h5", "--window", "0"], 2, r"--window: a whole number from 1 up"),
        (["f.h5", "-o", "m.h5", "--loop"], 2, r"--loop is for --window only"),
        (["f.h5", "-o", "m.h5", "--quadratic", "--pairs", "-"], 2, r"--quadratic is for --window only"),
        (["f.h5", "-o", "m.h5", "--window", "1", "--pairs", "-"], 2, r"--pairs and --window each say"),
        (["f.h5"], 2, r"-o"),
    ],
)
def test_command_refuses(run, arguments, code, message):
    Path("notes.txt").write_text("a word or two\n")
    Path("bad.txt").write_text("a.jpg z.jpg\n")
    found, out, err = run(*arguments)
    assert (found, out) == (code, "")
    assert re.fullmatch(rf"d2np: .*{message}.*\n", err)
    assert sorted(path.name for path in Path().iterdir()) == ["bad.txt", "f.h5", "notes.txt"]


def test_a_killed_command_goes_on(tmp_path, capsys):
    names = [f"{k:02}.jpg" for k in range(20)]
    write_features(tmp_path / "f.h5", names, count=50)
    command = ["pairs", str(tmp_path / "f.h5"), "-o", str(tmp_path / "m.h5"), "--threads", "1"]
    script = killed_after(100) + ONE_EACH + "import sys; from d2np.cli import main; main(sys.argv[1:])"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.run([sys.executable, "-c", script, *command], env=environment)
    assert process.returncode == -signal.SIGKILL
    before = len(kept(tmp_path / "m.h5"))
    assert before == 100
    assert not (tmp_path / "m.h5").exists()
    assert main(command) == 0
    assert capsys.readouterr().out.startswith(f"{190 - before} pairs matched, {before} there already")
    stopped = content(tmp_path / "m.h5")
    settings = MatchSettings()
    output = MatchOutput(tmp_path / "whole.h5", settings.recorded(tmp_path / "f.h5"))
    match_pairs(tmp_path / "f.h5", all_pairs(tmp_path / "f.h5"), output, settings)
    assert content(tmp_path / "whole.h5") == stopped


@pytest.mark.parametrize("kilobytes", [1, 20, 60])
def test_a_full_disk_loses_nothing(tmp_path, kilobytes):
    """HDF5 must not end the process, as it does where a small array cannot be written behind its back."""
    write_features(tmp_path / "f.h5", [f"{k:02}.jpg" for k in range(12)], count=100)
    script = (
        "import resource, signal, sys; from d2np.cli import main\n"
        f"signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n{ONE_EACH}"
        "limit = int(sys.argv[1]) * 1024\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (limit,) * 2)\n"
        "sys.exit(main(['pairs', 'f.h5', '-o', 'm.h5', '--threads', '1']))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def run(limit):
        command = [sys.executable, "-c", script, str(limit)]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    done = run(kilobytes)
    assert done.returncode == 1
    assert re.search(
        r"^d2np: m\.h5: cannot be written: File too large: .* goes on$", done.stderr, re.MULTILINE
    )
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "m.h5").exists()
    before = len(kept(tmp_path / "m.h5"))
    assert (before > 1) == (kilobytes > 1)
    done = run(10_000)
    assert done.returncode == 0
    assert done.stdout.startswith(f"{66 - before} pairs matched")
    assert len(hloc_matches.pair_names(tmp_path / "m.h5")) == 66
    assert not (tmp_path / "m.h5.parts").exists()
