"""hloc's match file and its lists of pairs."""

from __future__ import annotations

import os

import h5py
import numpy as np
import pytest

from d2np.errors import FormatError
from d2np.features import Matches
from d2np.formats import hloc_matches
from d2np.formats.hloc import UNFINISHED


def some_matches(count_a=9, count_b=7, seed=0):
    rng = np.random.default_rng(seed)
    n = min(count_a, count_b) - 2
    here, there = np.sort(rng.permutation(count_a)[:n]), rng.permutation(count_b)[:n]
    return Matches(np.stack([here, there], axis=1), rng.uniform(-1, 1, n))


def test_layout(tmp_path):
    matches = Matches([[0, 3], [2, 1]], [1.0, 0.5])
    with h5py.File(tmp_path / "m.h5", "w") as file:
        hloc_matches.write(file, "db/day/1.jpg", "q/2.jpg", matches, (4, 5))
        assert list(file) == ["db-day-1.jpg"]
        assert list(file["db-day-1.jpg"]) == ["q-2.jpg"]
        group = file["db-day-1.jpg/q-2.jpg"]
        assert set(group) == {"matches0", "matching_scores0"}
        assert (group["matches0"].dtype, group["matching_scores0"].dtype) == (np.int16, np.float32)
        np.testing.assert_array_equal(group["matches0"], [3, -1, 1, -1])
        np.testing.assert_array_equal(group["matching_scores0"], [1, 0, 0.75, 0])


@pytest.mark.parametrize(("count", "kind"), [(32_768, np.int16), (32_769, np.int32)])
def test_indices_beyond_int16_are_int32(tmp_path, count, kind):
    matches = Matches([[1, count - 1]], [0.5])
    with h5py.File(tmp_path / "m.h5", "w") as file:
        hloc_matches.write(file, "a", "b", matches, (2, count))
        assert file["a/b/matches0"].dtype == kind
        assert file["a/b/matches0"][1] == count - 1
        np.testing.assert_array_equal(hloc_matches.read(file, "a", "b").indices, matches.indices)


def test_round_trip_in_both_orders(tmp_path):
    path, given = tmp_path / "m.h5", some_matches()
    with h5py.File(path, "w") as file:
        hloc_matches.write(file, "x/a", "b", given, (9, 7))
    read = hloc_matches.read(path, "x/a", "b")
    np.testing.assert_array_equal(read.indices, given.indices)
    np.testing.assert_allclose(read.similarities, given.similarities, atol=1e-6)
    np.testing.assert_array_equal(hloc_matches.read(path, "b", "x/a").indices, given.indices[:, ::-1])
    assert hloc_matches.pair_names(path) == ["x-a/b"]


@pytest.mark.parametrize("counts", [(0, 0), (0, 3), (3, 0), (3, 3)])
def test_no_matches(tmp_path, counts):
    nothing = Matches(np.empty((0, 2), np.int64), np.empty(0))
    with h5py.File(tmp_path / "m.h5", "w") as file:
        hloc_matches.write(file, "a", "b", nothing, counts)
        np.testing.assert_array_equal(file["a/b/matches0"], np.full(counts[0], -1))
        assert len(hloc_matches.read(file, "a", "b")) == 0
        assert hloc_matches.pair_names(file) == ["a/b"]


def test_a_pair_is_replaced_and_the_others_stay(tmp_path):
    with h5py.File(tmp_path / "m.h5", "w") as file:
        for seed, (a, b) in enumerate([("a", "b"), ("a", "c"), ("a", "b")]):
            hloc_matches.write(file, a, b, some_matches(seed=seed), (9, 7))
        for seed, b in ((2, "b"), (1, "c")):
            read = hloc_matches.read(file, "a", b)
            np.testing.assert_array_equal(read.indices, some_matches(seed=seed).indices)
        assert hloc_matches.pair_names(file) == ["a/b", "a/c"]


def test_files_of_hloc_are_read(tmp_path):
    """Which has int16 and float16, and fills scores of keypoints that are not matched too."""
    with h5py.File(tmp_path / "m.h5", "w", libver="latest") as file:
        group = file.create_group("a/b")
        group.create_dataset("matches0", data=np.array([-1, 4, 0], np.int16))
        group.create_dataset("matching_scores0", data=np.array([0.9, 0.75, 1], np.float16))
    read = hloc_matches.read(tmp_path / "m.h5", "a", "b")
    np.testing.assert_array_equal(read.indices, [[1, 4], [2, 0]])
    np.testing.assert_array_equal(read.similarities, [0.5, 1])


def test_what_is_no_pair_is_left_out(tmp_path):
    with h5py.File(tmp_path / "m.h5", "w") as file:
        hloc_matches.write(file, "a", "b", some_matches(), (9, 7))
        file[f"{UNFINISHED}/matches0"] = np.zeros(3)
        file["loose"] = np.zeros(3)
        file["a/loose"] = np.zeros(3)
        file["a/cut/matches0"] = np.zeros(3)
        file["a/uneven/matches0"] = np.zeros(3)
        file["a/uneven/matching_scores0"] = np.zeros(4)
        assert hloc_matches.pair_names(file) == ["a/b"]
        for b in ("cut", "uneven", "loose"):
            with pytest.raises(FormatError, match=f"no matches in a/{b}"):
                hloc_matches.read(file, "a", b)


def test_what_cannot_be_written(tmp_path):
    with h5py.File(tmp_path / "m.h5", "w") as file:
        for indices in ([[0, 0], [0, 1]], [[0, 7]], [[9, 0]], [[-1, 0]]):
            with pytest.raises(FormatError, match=r"one at most for each|a match names keypoint"):
                hloc_matches.write(file, "a", "b", Matches(indices, np.zeros(len(indices))), (9, 7))
        assert list(file) == []
    with h5py.File(tmp_path / "m.h5") as file, pytest.raises(FormatError, match="cannot be written"):
        hloc_matches.write(file, "a", "b", some_matches(), (9, 7))


def test_what_cannot_be_read(tmp_path):
    with pytest.raises(FormatError, match="No such file"):
        hloc_matches.read(tmp_path / "none.h5", "a", "b")
    (tmp_path / "text.h5").write_text("hello")
    with pytest.raises(FormatError, match="not an HDF5 file"):
        hloc_matches.pair_names(tmp_path / "text.h5")
    with h5py.File(tmp_path / "m.h5", "w") as file, pytest.raises(FormatError, match="no matches of a and b"):
        hloc_matches.read(file, "a", "b")


def test_names_that_are_one_in_a_match_file():
    assert hloc_matches.by_flat_name(["a/b", "c"]) == {"a-b": "a/b", "c": "c"}
    with pytest.raises(FormatError, match=r"a/b and a-b are both called a-b"):
        hloc_matches.by_flat_name(["a/b", "c", "a-b"])


def test_pair_lists(tmp_path):
    path = tmp_path / "pairs.txt"
    path.write_bytes("\ufeffa.jpg b.jpg\r\n\n  \ndb/ü.png\tc.jpg \nb.jpg a.jpg".encode())
    assert hloc_matches.read_pair_list(path) == [
        ("a.jpg", "b.jpg"),
        ("db/ü.png", "c.jpg"),
        ("b.jpg", "a.jpg"),
    ]
    path.write_text("")
    assert hloc_matches.read_pair_list(path) == []


@pytest.mark.parametrize(
    "line",
    ["a b.png c.png", "a b.png   c.png", "a b.png\tc.png", '"a b.png" c.png', ' "a b.png"\t "c.png" \r'],
)
def test_pair_lists_with_spaces_in_names(tmp_path, line):
    path = tmp_path / "pairs.txt"
    path.write_text(f"c.png d.png\n{line}\n")
    # Without the names, only what is separated for certain is a pair.
    for names in [["a b.png", "c.png"]] + [[]] * (not line.startswith("a b.png ")):
        assert hloc_matches.read_pair_list(path, names) == [("c.png", "d.png"), ("a b.png", "c.png")]


def test_pair_lists_with_several_readings(tmp_path):
    path = tmp_path / "pairs.txt"
    names = ["a", "a b", "b c", "c", 'say "x y"', "it's"]
    path.write_text("a b c\n")
    with pytest.raises(FormatError, match=r"line 1: .+ a tab .+: 'a b c' can be read as several pairs"):
        hloc_matches.read_pair_list(path, names)
    path.write_text('a b\tc\n"a" "b c"\nsay "x y" it\'s\n')
    assert hloc_matches.read_pair_list(path, names) == [("a b", "c"), ("a", "b c"), ('say "x y"', "it's")]


def test_a_pipe_is_no_pair_list(tmp_path):
    os.mkfifo(tmp_path / "pairs")
    with pytest.raises(FormatError, match="pairs: the list of pairs cannot be read: a pipe or a device"):
        hloc_matches.read_pair_list(tmp_path / "pairs")
    with pytest.raises(FormatError, match="pairs: a pipe or a device, not a file"):
        hloc_matches.pair_names(tmp_path / "pairs")


@pytest.mark.parametrize("line", ["a.jpg", "a.jpg b.jpg c.jpg", "a.jpg \0"])
def test_what_is_no_pair_list(tmp_path, line):
    path = tmp_path / "pairs.txt"
    path.write_text(f"a.jpg b.jpg\n\n{line}\n")
    with pytest.raises(FormatError, match=r"pairs\.txt, line 3: two names .+ 'a\.jpg.* is no pair"):
        hloc_matches.read_pair_list(path)
    with pytest.raises(FormatError, match=r"none\.txt: the list of pairs cannot be read: No such file"):
        hloc_matches.read_pair_list(tmp_path / "none.txt")
    path.write_bytes(b"\x89HDF\r\n\x1a\n\0\0\0 \0")
    with pytest.raises(FormatError, match="line 1: two names"):
        hloc_matches.read_pair_list(path)


@pytest.mark.parametrize("name", ["a", "a/b", "a/b/matches0"])
def test_matches_never_leave_the_file(name, tmp_path):
    """A pipe that nobody writes into would be waited for."""
    os.mkfifo(tmp_path / "pipe")
    with h5py.File(tmp_path / "m.h5", "w") as file:
        hloc_matches.write(file, "a", "b", some_matches(), (9, 7))
        del file[name]
        file[name] = h5py.ExternalLink(str(tmp_path / "pipe"), "x")
        for read in (
            lambda: hloc_matches.pair_names(file),
            lambda: hloc_matches.read(file, "a", "b"),
            lambda: hloc_matches.read_pair(file, "a/b"),
        ):
            with pytest.raises(FormatError, match="is a link to somewhere else"):
                read()
