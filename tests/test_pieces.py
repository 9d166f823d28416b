"""Features of large images that are stored as they come: the same in the end, and never half an image."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from parted import killed_after

import d2np
from d2np.dataset import (
    Entry,
    HlocOutput,
    NpzOutput,
    Settings,
    extract,
    features_of,
    listing,
    parts,
    pipeline,
)
from d2np.dataset import shards as shard_files
from d2np.dataset.pieces import Pieces
from d2np.dataset.pipeline import features_or_pieces_of
from d2np.dataset.shards import Record, scan, wholes, write
from d2np.errors import FormatError, ImageError
from d2np.formats import hloc, npz
from d2np.network import stages

TESTS = Path(__file__).parent
SIZE = (640, 48_000)
UNBOUNDED = Settings(max_edge=None, max_sum_edges=None)
SIZES = st.lists(st.integers(0, 9), max_size=6)


def some_features(count, seed=0):
    rng = np.random.default_rng([seed, count])
    return d2np.Features(rng.random((count, 3)) * 900, rng.random(count), rng.random((count, 512)), SIZE)


def cut(features, sizes):
    ends = np.cumsum(sizes)
    return [features.select(np.arange(end - size, end)) for size, end in zip(sizes, ends, strict=True)]


def filled(given, error=None):
    """Pieces that are all there, and the error at their end."""

    def made():
        yield from given
        if error is not None:
            raise error

    pieces = Pieces(SIZE)
    pieces.fill(made())
    return pieces


def entry_of(name):
    return Entry(Path("nowhere", name), name)


def content(path):
    """All arrays of a file with their types, and all attributes."""
    found = {}

    def add(name, item):
        value = (item.dtype, item.shape, item[()].tolist()) if isinstance(item, h5py.Dataset) else None
        found[name] = (value, {key: value for key, value in item.attrs.items() if key != hloc.STAMP})

    with h5py.File(path) as file:
        file.visititems(add)
    return found


def shards_of(out):
    return sorted(Path(f"{out}.parts").glob("*.shard"))


# Pieces on the disk


@settings(deadline=None, max_examples=25, derandomize=True)
@given(st.lists(SIZES, min_size=1, max_size=3), st.booleans(), st.booleans())
def test_pieces_become_what_the_whole_becomes(tmp_path_factory, images, half, resumed):
    folder = tmp_path_factory.mktemp("pieces")
    in_pieces = HlocOutput(folder / "pieces.h5", {}, half=half)
    as_wholes = HlocOutput(folder / "wholes.h5", {}, half=half)
    for number, sizes in enumerate(images):
        features = some_features(sum(sizes), number)
        pieces = filled(cut(features, sizes))
        in_pieces.put_pieces(entry_of(f"{number}.jpg"), pieces, 1.5)
        assert pieces.count == len(features)
        as_wholes.put(entry_of(f"{number}.jpg"), features, 1.5)
    if resumed:
        in_pieces.close()
        in_pieces = HlocOutput(folder / "pieces.h5", {}, half=half)
    for output in (in_pieces, as_wholes):
        assert output.finish()
        output.close()
    assert content(folder / "pieces.h5") == content(folder / "wholes.h5")
    assert hloc.names(folder / "pieces.h5") == [f"{number}.jpg" for number in range(len(images))]


NAMES = st.sampled_from(["a", "b"])
VALUES = st.sampled_from(
    [{}, {"pieces": 0}, {"pieces": 2}, {"pieces": 1}, {"pieces": "two"}, {"piece": None}]
)
NUMBERED = st.integers(1, 3).map(lambda number: {"piece": number})


@settings(deadline=None, max_examples=300, derandomize=True)
@given(st.lists(st.tuples(NAMES, VALUES | NUMBERED), max_size=9))
def test_pieces_count_with_their_end_only(told):
    stream = io.BytesIO()
    for name, values in told:
        write(stream, Record(name, values))
    places = list(scan(stream))
    expected = []
    for last, (name, values) in enumerate(told):
        if values.get("piece") is not None:
            continue
        count = values.get("pieces", 0)
        if count == "two" or count > last:
            continue
        if told[last - count : last] == [(name, {"piece": number + 1}) for number in range(count)]:
            expected.append((places[last - count].offset, places[last]))
    assert list(wholes(places)) == expected
    assert all(whole.end == whole.place.offset + whole.place.length for whole in wholes(places))


@settings(deadline=None, max_examples=25, derandomize=True)
@given(st.data())
def test_an_image_that_was_torn_off_is_done_again(tmp_path_factory, data):
    """Whatever byte the last one to be written was."""
    folder = tmp_path_factory.mktemp("torn")
    out = folder / "f.h5"
    images = {"a.jpg": [3, 4], "b.jpg": [5, 2, 6], "c.jpg": [1]}
    output = HlocOutput(out, {})
    ends = []
    for seed, (name, sizes) in enumerate(images.items()):
        output.put_pieces(entry_of(name), filled(cut(some_features(sum(sizes), seed), sizes)), 1.0)
        ends.append(os.path.getsize(*shards_of(out)))
    output.close()
    size = data.draw(st.integers(0, ends[-1] - 1))
    os.truncate(*shards_of(out), size)
    output = HlocOutput(out, {})
    whole = sum(end <= size for end in ends)
    assert list(output.parts) == list(images)[:whole]
    if whole < 2:
        # What is left of a large image takes no room, but for a record that was cut in the middle.
        first = [0, *ends][whole]
        records = len(list(scan(io.BytesIO(shards_of(out)[0].read_bytes()))))
        assert os.path.getsize(shards_of(out)[0]) in (first, size)
        assert records == [0, 3][whole]
    for seed, (name, sizes) in enumerate(images.items()):
        if not output.has(name):
            output.put_pieces(entry_of(name), filled(cut(some_features(sum(sizes), seed), sizes)), 1.0)
    assert output.finish()
    output.close()
    for seed, (name, sizes) in enumerate(images.items()):
        np.testing.assert_array_equal(
            hloc.read(out, name).descriptors, some_features(sum(sizes), seed).descriptors
        )


def test_pieces_that_end_with_an_error_leave_nothing(tmp_path):
    out = tmp_path / "f.h5"
    output = HlocOutput(out, {})
    output.put(entry_of("a.jpg"), some_features(3), 1.0)
    size = os.path.getsize(*shards_of(out))
    for error in (ImageError("cut short"), MemoryError(), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            output.put_pieces(entry_of("b.jpg"), filled(cut(some_features(9), [4, 5]), error), 1.0)
        assert os.path.getsize(*shards_of(out)) == size
    with pytest.raises(ImageError, match="not UTF-8"):
        output.put_pieces(Entry(Path("b\udcff"), "b\udcff"), filled([some_features(2)]), 1.0)
    output.put(entry_of("c.jpg"), some_features(4), 1.0)
    assert list(output.parts) == ["a.jpg", "c.jpg"]
    assert output.finish()
    output.close()
    assert hloc.names(out) == ["a.jpg", "c.jpg"]


def test_an_error_of_the_system_on_the_way_is_no_error_of_the_disk(tmp_path):
    output = HlocOutput(tmp_path / "f.h5", {})
    with pytest.raises(OSError, match="the camera"):
        output.put_pieces(entry_of("a.jpg"), filled([some_features(2)], OSError("the camera")), 1.0)
    output.close()


@pytest.mark.parametrize("room", [5_000, 12_000, 20_000])
def test_a_full_disk_gets_back_the_room_of_what_is_unfinished(tmp_path, monkeypatch, room):
    out = tmp_path / "f.h5"
    output = HlocOutput(out, {})
    output.put(entry_of("a.jpg"), some_features(1), 1.0)
    size = os.path.getsize(*shards_of(out))
    real = shard_files._write_all

    def full(stream, part):
        if stream.tell() + len(part) > size + room:
            real(stream, part[: max(0, size + room - stream.tell())])
            raise OSError(28, "No space left on device")
        real(stream, part)

    monkeypatch.setattr(shard_files, "_write_all", full)
    features = some_features(12)
    with pytest.raises(FormatError, match="No space left on device: what is done is kept; make room"):
        output.put_pieces(entry_of("b.jpg"), filled(cut(features, [4, 4, 4])), 1.0)
    assert os.path.getsize(*shards_of(out)) == size
    monkeypatch.undo()
    output.put_pieces(entry_of("b.jpg"), filled(cut(features, [4, 4, 4])), 1.0)
    assert output.finish()
    output.close()
    np.testing.assert_array_equal(hloc.read(out, "b.jpg").descriptors, features.descriptors)


@pytest.mark.parametrize("record", range(4))
def test_damage_in_a_piece_is_found_in_the_end(tmp_path, record):
    out = tmp_path / "f.h5"
    output = HlocOutput(out, {})
    features = some_features(9)
    output.put_pieces(entry_of("a.jpg"), filled(cut(features, [2, 3, 4])), 1.0)
    output.put(entry_of("b.jpg"), features, 1.0)
    (shard,) = shards_of(out)
    data = bytearray(shard.read_bytes())
    place = list(scan(io.BytesIO(data)))[record]
    data[place.offset + place.length - 6] ^= 1
    shard.write_bytes(data)
    assert not output.finish()
    assert list(output.parts) == ["b.jpg"]
    assert not out.exists()
    output.put_pieces(entry_of("a.jpg"), filled(cut(features, [2, 3, 4])), 1.0)
    assert output.finish()
    output.close()
    np.testing.assert_array_equal(hloc.read(out, "a.jpg").keypoints, features.keypoints)


def test_pieces_that_are_not_as_many_as_told_are_no_image(tmp_path):
    output = HlocOutput(tmp_path / "f.h5", {})
    output.start()
    arrays = hloc.arrays_of(some_features(2))
    with output.parts.pieces() as append:
        append(Record("a.jpg", {"piece": 1}, {key: arrays[key] for key in hloc.KEYPOINT_AXES}))
        append(Record("a.jpg", {"pieces": 1, "keypoints": 3}, hloc.arrays_of(some_features(0))))
    output.put(entry_of("b.jpg"), some_features(2), 1.0)
    assert not output.finish()
    assert list(output.parts) == ["b.jpg"]
    output.close()


def test_all_pieces_of_an_image_are_in_one_shard(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "LARGEST", 10_000)
    out = tmp_path / "f.h5"
    output = HlocOutput(out, {})
    for number in range(3):
        output.put_pieces(entry_of(f"{number}.jpg"), filled(cut(some_features(12), [4, 4, 4])), 1.0)
    for number, path in enumerate(shards_of(out)):
        with open(path, "rb") as stream:
            assert [place.name for place in scan(stream)] == 4 * [f"{number}.jpg"]
    output.close()


# From thread to thread


@settings(deadline=None, max_examples=60, derandomize=True)
@given(SIZES, st.booleans(), st.booleans())
def test_pieces_come_out_as_they_went_in(sizes, fails, at_once):
    given_ = cut(some_features(sum(sizes)), sizes)
    pieces = Pieces(SIZE)

    def made():
        yield from given_
        if fails:
            raise LookupError

    maker = threading.Thread(target=pieces.fill, args=[made()])
    maker.start()
    if not at_once:
        maker.join()  # nobody wants them yet: they pile up
    found = []
    try:
        for piece in pieces:
            found.append(piece)
    except LookupError:
        assert fails
    else:
        assert not fails
    maker.join()
    assert found == given_


def test_the_maker_waits_until_it_is_rid_of_its_pieces():
    made = []

    def making():
        for _ in range(50):
            made.append(None)
            yield some_features(1)

    pieces = Pieces(SIZE)
    maker = threading.Thread(target=pieces.fill, args=[making()])
    taken = iter(pieces)
    # Somebody wants them from the first one on.
    pieces._wanted = True
    maker.start()
    for number in range(1, 20):
        next(taken)
        time.sleep(0.002)
        # One that waits, and one in the maker's hands.
        assert number <= len(made) <= number + 2
    pieces.close()
    maker.join()
    assert len(made) < 25
    assert list(pieces) == []


# In the pipeline


@pytest.fixture
def small(monkeypatch):
    """All images count as large ones, and their pieces are small."""
    monkeypatch.setattr(stages, "tiles_at_a_time", lambda width: 60)
    monkeypatch.setattr(pipeline, "_LARGE_PIXELS", 1)
    monkeypatch.setattr(pipeline, "_KEYPOINTS_OF_A_PIECE", 20)


def write_tall(path, height, seed=0, width=160):
    """An image that is read by rows, since Pillow does not know how."""
    noise = np.random.RandomState(seed).randint(0, 256, (height, width, 3)).astype(np.float32)
    tifffile.imwrite(path, noise, photometric="rgb", rowsperstrip=16, compression="zlib")


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Three high images, the second of which is damaged half-way, and one that is none."""
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for seed, name in enumerate(["a.tif", "b.tif", "d.tif"]):
        write_tall(f"photos/{name}", 500, seed)
    with tifffile.TiffFile("photos/b.tif") as file:
        offset = file.pages[0].dataoffsets[30]
    data = bytearray(Path("photos/b.tif").read_bytes())
    data[offset : offset + 200] = bytes(200)
    Path("photos/b.tif").write_bytes(data)
    Path("photos/c.png").write_text("no image")
    return listing(["photos"])


@pytest.mark.parametrize("workers", [1, 2])
def test_features_of_large_images_come_in_pieces(net, small, photos, workers, assert_same_features):
    before = threading.active_count()
    found = []
    with closing(features_or_pieces_of(net, photos * 2, UNBOUNDED, workers=workers, threads=2)) as results:
        for entry, pieces in results:
            if entry.name == "c.png":
                assert isinstance(pieces, ImageError)
                continue
            got = []
            assert pieces.image_size == (160, 500)
            try:
                for piece in pieces:
                    got.append(piece)
            except ImageError as error:
                assert "is damaged" in str(error)  # noqa: PT017
                assert entry.name == "b.tif"
                assert got
            else:
                joined = d2np.Features(
                    *(
                        np.concatenate([getattr(one, name) for one in got])
                        for name in ("keypoints", "scores", "descriptors")
                    ),
                    pieces.image_size,
                )
                assert_same_features(joined, net(entry.path, **UNBOUNDED.options()))
                assert all(len(one) >= 20 for one in got[:-1])
                assert len(got) > 2
            found.append(entry.name)
    assert found == ["a.tif", "b.tif", "d.tif"] * 2
    assert threading.active_count() == before


def test_pieces_that_nobody_takes_hold_nobody_up(net, small, photos):
    names = [
        entry.name for entry, _ in features_or_pieces_of(net, photos * 2, UNBOUNDED, workers=2, threads=2)
    ]
    assert names == [entry.name for entry in photos * 2]
    results = features_or_pieces_of(net, photos, UNBOUNDED, threads=2)
    _, pieces = next(results)
    next(iter(pieces))
    results.close()


@pytest.mark.parametrize(
    "changed", [{"max_keypoints": 9}, {"scales": (0.5, 1.0)}, {"detector": "strength", "max_keypoints": 9}]
)
def test_features_that_come_in_another_order_come_as_a_whole(net, small, photos, changed):
    chosen = Settings(max_edge=None, max_sum_edges=None, **changed)
    for _, features in features_or_pieces_of(net, photos[:1], chosen):
        assert isinstance(features, d2np.Features)


def test_small_images_come_as_a_whole(net, photos):
    for results in (
        features_or_pieces_of(net, photos[:1], UNBOUNDED),
        features_of(net, photos[:1], UNBOUNDED),
    ):
        assert [type(features) for _, features in results] == [d2np.Features]


@pytest.mark.parametrize("half", [False, True])
def test_extraction_in_pieces(net, small, photos, half, monkeypatch):
    recorded = UNBOUNDED.recorded(net)
    report = extract(net, photos, HlocOutput(Path("pieces.h5"), recorded, half=half), UNBOUNDED)
    assert report.done == 2
    assert sorted(entry.name for entry, _ in report.failed) == ["b.tif", "c.png"]
    assert "is damaged" in Path("pieces.h5.failed.txt").read_text()
    monkeypatch.setattr(pipeline, "_LARGE_PIXELS", 1 << 40)
    whole = extract(net, photos, HlocOutput(Path("wholes.h5"), recorded, half=half), UNBOUNDED)
    assert whole.keypoints == report.keypoints > 100
    assert content("pieces.h5") == content("wholes.h5")
    assert not Path("pieces.h5.parts").exists()


def test_other_formats_get_wholes(net, small, photos, assert_same_features):
    assert extract(net, photos[:1], NpzOutput(Path("out")), UNBOUNDED).done == 1
    assert_same_features(
        npz.read("out/a.tif.d2-net", image_size=(160, 500)), net("photos/a.tif", **UNBOUNDED.options())
    )


# In processes of their own

CHILD = """
import json, sys
from pathlib import Path
import d2np
from d2np.network import stages
from d2np.dataset import HlocOutput, Settings, extract, listing, pipeline

stages.tiles_at_a_time = lambda width: 60
pipeline._LARGE_PIXELS, pipeline._KEYPOINTS_OF_A_PIECE = 1, 100
net = d2np.Net.load("analytic")
settings = Settings(max_edge=None, max_sum_edges=None)

def run(image, out):
    output = HlocOutput(Path(out), settings.recorded(net))
    return extract(net, listing([image]), output, settings, threads=1).keypoints
"""

MEASURED = """
def peak():
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) / 1000 for line in lines if line.startswith("VmHWM"))

def measured(height):
    Path("/proc/self/clear_refs").write_text("5")
    return run(f"{height}.tif", f"{height}.h5"), peak()

measured(64)
print(json.dumps([measured(1000), measured(1000), measured(6000)]))
"""

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])}


def test_memory_does_not_grow_with_the_height(tmp_path):
    for height in (64, 1000, 6000):
        write_tall(tmp_path / f"{height}.tif", height)
    done = subprocess.run(
        [sys.executable, "-c", CHILD + MEASURED],
        env=ENVIRONMENT,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        check=True,
    )
    _, (fewer, low), (more, high) = json.loads(done.stdout)
    held = (more - fewer) * 2048 / 1e6
    assert held > 15
    assert high < low + held / 3


def test_killed_in_the_middle_of_an_image(tmp_path):
    write_tall(tmp_path / "tall.tif", 1000)
    shard = tmp_path / "f.h5.parts" / "000001.shard"
    script = killed_after(1) + CHILD + "run('tall.tif', 'f.h5')"
    process = subprocess.run([sys.executable, "-c", script], env=ENVIRONMENT, cwd=tmp_path)
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "f.h5").exists()
    net = d2np.Net.load("analytic")
    output = HlocOutput(tmp_path / "f.h5", UNBOUNDED.recorded(net))
    assert len(output.parts) == 0
    assert shard.stat().st_size == 0
    report = extract(net, listing([tmp_path / "tall.tif"]), output, UNBOUNDED)
    assert (report.done, report.skipped) == (1, 0)
    expected = net(tmp_path / "tall.tif", **UNBOUNDED.options())
    found = hloc.read(tmp_path / "f.h5", "tall.tif")
    np.testing.assert_array_equal(found.keypoints, expected.keypoints)
    np.testing.assert_array_equal(found.descriptors, expected.descriptors)
