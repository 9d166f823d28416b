"""Archives: what is stored is read again or found damaged; large images are stored as they are worked on."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from parted import archives as archives_of

import d2np
from d2np.dataset import Entry, HlocOutput, NpzOutput, Settings, archives, extract, extraction, listing
from d2np.dataset.archives import Archive, Damaged, Group, write
from d2np.dataset.extraction import extracted
from d2np.errors import FormatError, ImageError
from d2np.formats import hloc, npz
from d2np.network import stages
from d2np.network.scan import join

TESTS = Path(__file__).parent
SIZE = (640, 48_000)
UNBOUNDED = Settings(max_edge=None, max_sum_edges=None)
SIZES = st.lists(st.integers(0, 9), min_size=1, max_size=6)
KINDS = hnp.boolean_dtypes() | hnp.integer_dtypes() | hnp.unsigned_integer_dtypes() | hnp.floating_dtypes()
ARRAYS = hnp.arrays(KINDS, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5))
BLOCKS = st.lists(st.dictionaries(st.sampled_from("abc"), ARRAYS, min_size=1), min_size=1, max_size=3)


def some_features(count, seed=0):
    rng = np.random.default_rng([seed, count])
    return d2np.Features(rng.random((count, 3)) * 900, rng.random(count), rng.random((count, 512)), SIZE)


def cut(features, sizes):
    ends = np.cumsum(sizes)
    return [features.select(np.arange(end - size, end)) for size, end in zip(sizes, ends, strict=True)]


def failing(blocks, error):
    yield from blocks
    raise error


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


# The files


def stored(groups):
    stream = io.BytesIO()
    write(stream, groups)
    return stream.getvalue()


def read(content):
    """All that an archive holds."""
    archive = Archive(io.BytesIO(content))
    return {name: (group, [*archive.blocks(name)]) for name, group in archive.groups.items()}


def some_groups():
    rng = np.random.default_rng(0)
    for k in range(3):
        arrays = {"keypoints": rng.random((5 + k, 2), np.float32), "none": np.zeros((0, 512), np.float16)}
        yield Group(f"sub/{k}\udcff.jpg", None if k else "{}", 7, 2), [(3, arrays), (4, arrays)]


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for key, array in expected.items():
        assert found[key].dtype == array.dtype
        np.testing.assert_array_equal(found[key], array)


@given(st.dictionaries(st.text(max_size=9), BLOCKS, max_size=3), st.booleans())
@settings(max_examples=60, deadline=None)
def test_what_is_written_is_read(named, turned):
    if turned:
        named = {
            name: [{key: array.T for key, array in block.items()} for block in blocks]
            for name, blocks in named.items()
        }
    content = stored((Group(name, name), ((2, block) for block in blocks)) for name, blocks in named.items())
    found = read(content)
    assert found.keys() == named.keys()
    for name, blocks in named.items():
        group, arrays = found[name]
        assert group == Group(name, name, 2 * len(blocks), len(blocks))
        for one, other in zip(arrays, blocks, strict=True):
            assert_same(one, other)
    # Anybody can read them.
    with np.load(io.BytesIO(content)) as archive:
        assert [group["name"] for group in json.loads(archive["about"].item())["groups"]] == list(named)
        for name in archive.files:
            archive[name]


def test_a_member_under_another_name_is_found():
    """In the table of contents, whose names have no checksum."""
    content = bytearray(stored(some_groups()))
    content[content.rindex(b"0/0/keypoints")] ^= 1
    with pytest.raises(Damaged):
        read(bytes(content))


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_damage_is_found(data):
    content = bytearray(stored(some_groups()))
    at = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        del content[at:]
        with pytest.raises(Damaged):
            read(bytes(content))
        return
    content[at] ^= data.draw(st.integers(1, 255))
    try:
        found = read(bytes(content))
    except Damaged:
        return
    # What nobody looks at, such as the date of a member.
    expected = read(stored(some_groups()))
    assert found.keys() == expected.keys()
    for name, (_, blocks) in expected.items():
        for one, other in zip(found[name][1], blocks, strict=True):
            assert_same(one, other)


def packed(members, method=zipfile.ZIP_STORED):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def npy(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


ABOUT = {"name": "a", "stamp": None, "count": 1, "blocks": 1, "attributes": {}}


@pytest.mark.parametrize(
    ("about", "array"),
    [
        ([ABOUT], npy(np.array([None, "a pickle"], object))),
        ([ABOUT], npy(np.array("text"))),
        ([ABOUT], npy(np.ones(3)) + b"more"),
        ([ABOUT], npy(np.ones(3))[:-1]),
        ([ABOUT], npy(np.ones(3)).replace(b"(3,)", b"(99999999999,)")),
        ([ABOUT], npy(np.ones(3)).replace(b"(3,)", b"(-3,)")),
        ([ABOUT], npy(np.ones((0, 3))).replace(b"(0, 3)", b"(0, 1" + b"0" * 30 + b")")),
        ([{**ABOUT, "blocks": 2}], npy(np.ones(3))),
        ([{**ABOUT, "blocks": 0}], npy(np.ones(3))),
        ([{**ABOUT, "count": -1}], npy(np.ones(3))),
        ([{**ABOUT, "attributes": 3}], npy(np.ones(3))),
        ([{**ABOUT, "more": 3}], npy(np.ones(3))),
        ([{"name": "a"}], npy(np.ones(3))),
        (3, npy(np.ones(3))),
    ],
)
def test_what_is_no_archive_of_ours(about, array):
    """Whatever it claims, nothing is run, and no more memory is asked for than the file has bytes."""
    told = json.dumps({"members": ["0/0/x.npy"], "groups": about}).encode()
    members = {"0/0/x.npy": array, "about.npy": npy(np.array(told))}
    with pytest.raises(Damaged):
        read(packed(members))
    with pytest.raises(Damaged):
        read(packed({**members, "0/0/x.npy": npy(np.ones(3))}, zipfile.ZIP_DEFLATED))
    with pytest.raises(Damaged):
        read(packed({"0/0/x.npy": array}))


def test_json_of_any_depth_is_no_archive():
    with pytest.raises(Damaged):
        read(packed({"about.npy": npy(np.array(b"[" * 100_000))}))


# Images in blocks


@settings(deadline=None, max_examples=25, derandomize=True)
@given(st.lists(SIZES, min_size=1, max_size=3), st.booleans(), st.booleans())
def test_blocks_become_what_the_whole_becomes(tmp_path_factory, images, half, resumed):
    folder = tmp_path_factory.mktemp("blocks")
    in_blocks = HlocOutput(folder / "blocks.h5", {}, half=half)
    as_wholes = HlocOutput(folder / "wholes.h5", {}, half=half)
    for number, sizes in enumerate(images):
        features = some_features(sum(sizes), number)
        blocks = cut(features, sizes)
        assert in_blocks.put_blocks(entry_of(f"{number}.jpg"), iter(blocks), 1.5) == len(features)
        as_wholes.put(entry_of(f"{number}.jpg"), features, 1.5)
    if resumed:
        in_blocks.close()
        in_blocks = HlocOutput(folder / "blocks.h5", {}, half=half)
    for output in (in_blocks, as_wholes):
        output.finish()
        output.close()
    assert content(folder / "blocks.h5") == content(folder / "wholes.h5")
    assert hloc.names(folder / "blocks.h5") == [f"{number}.jpg" for number in range(len(images))]


def test_blocks_that_end_with_an_error_leave_nothing(tmp_path):
    out = tmp_path / "f.h5"
    output = HlocOutput(out, {})
    output.put(entry_of("a.jpg"), some_features(3), 1.0)
    before = sorted(path.name for path in out.with_name("f.h5.parts").iterdir())
    for error in (ImageError("cut short"), MemoryError(), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            output.put_blocks(entry_of("b.jpg"), failing(cut(some_features(9), [4, 5]), error), 1.0)
        assert sorted(path.name for path in out.with_name("f.h5.parts").iterdir()) == before
    with pytest.raises(ImageError, match="not UTF-8"):
        output.put(Entry(Path("b\udcff"), "b\udcff"), some_features(2), 1.0)
    output.put(entry_of("c.jpg"), some_features(4), 1.0)
    assert list(output.parts.index) == ["a.jpg", "c.jpg"]
    output.finish()
    output.close()
    assert hloc.names(out) == ["a.jpg", "c.jpg"]


@pytest.mark.parametrize("room", [100, 5_000, 12_000, 20_000])
def test_a_full_disk_gets_back_the_room_of_what_is_unfinished(tmp_path, monkeypatch, room):
    out = tmp_path / "f.h5"
    output = HlocOutput(out, {})
    output.put(entry_of("a.jpg"), some_features(1), 1.0)
    before = sorted(path.name for path in out.with_name("f.h5.parts").iterdir())
    real = np.lib.format.write_array

    def full(stream, array, **options):
        if stream._zipfile.fp.tell() + array.nbytes > room:
            raise OSError(28, "No space left on device")
        real(stream, array, **options)

    monkeypatch.setattr(archives.np.lib.format, "write_array", full)
    features = some_features(12)
    with pytest.raises(FormatError, match="No space left on device: what is done is kept; make room"):
        output.put_blocks(entry_of("b.jpg"), cut(features, [4, 4, 4]), 1.0)
    assert sorted(path.name for path in out.with_name("f.h5.parts").iterdir()) == before
    monkeypatch.undo()
    output.put_blocks(entry_of("b.jpg"), cut(features, [4, 4, 4]), 1.0)
    output.finish()
    output.close()
    np.testing.assert_array_equal(hloc.read(out, "b.jpg").descriptors, features.descriptors)


@pytest.mark.parametrize("block", range(3))
def test_damage_in_a_block_is_found_in_the_end(tmp_path, block):
    out = tmp_path / "f.h5"
    output = HlocOutput(out, {})
    features = some_features(9)
    output.put_blocks(entry_of("a.jpg"), cut(features, [2, 3, 4]), 1.0)
    output.put(entry_of("b.jpg"), features, 1.0)
    path = archives_of(out)[0]
    with zipfile.ZipFile(path) as archive:
        at = archive.getinfo(f"0/{block}/descriptors.npy").header_offset + 2000
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    with pytest.raises(FormatError, match="damaged: start the same command again"):
        output.finish()
    assert list(output.parts.index) == ["b.jpg"]
    assert not out.exists()
    output.put_blocks(entry_of("a.jpg"), cut(features, [2, 3, 4]), 1.0)
    output.finish()
    output.close()
    np.testing.assert_array_equal(hloc.read(out, "a.jpg").keypoints, features.keypoints)


def test_blocks_that_are_not_as_many_as_told_are_no_image(tmp_path):
    output = HlocOutput(tmp_path / "f.h5", {})
    output.put(entry_of("b.jpg"), some_features(2), 1.0)
    arrays = hloc.arrays_of(some_features(2))
    store = output.store()
    store.write([(Group("a.jpg", None), [(2, arrays), (5, arrays)])], "a.jpg")
    output.parts.take("a.jpg", None, store.archive_of("a.jpg"), store)
    with pytest.raises(FormatError, match="damaged: start the same command again"):
        output.finish()
    assert list(output.parts.index) == ["b.jpg"]
    output.close()


# Large images


@pytest.fixture
def small(monkeypatch):
    """All images count as large ones, and their blocks are small."""
    monkeypatch.setattr(stages, "tiles_at_a_time", lambda *_: 60)
    monkeypatch.setattr(extraction, "_LARGE_PIXELS", 1)
    monkeypatch.setattr(extraction, "_KEYPOINTS_OF_A_BLOCK", 20)


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


def gathered(net, entries, settings, **options):
    """The names of images with their blocks, in the order in which they are done, and what became of all."""
    blocks = {}

    def put(entry, features, uncertainty):
        assert uncertainty == 1
        for block in features:
            blocks.setdefault(entry.name, []).append(block)
        return sum(map(len, blocks[entry.name]))

    return blocks, list(extracted(net, settings, put, options, entries, len(entries)))


@pytest.mark.parametrize("threads", [1, 2])
def test_features_of_large_images_come_in_blocks(net, small, photos, threads, assert_same_features):
    before = threading.active_count()
    blocks, outcomes = gathered(net, photos, UNBOUNDED, threads=threads)
    assert [entry for entry, _ in outcomes] == photos
    for (entry, outcome), told in zip(outcomes, ("", "is damaged", "is not an image", ""), strict=True):
        if told:
            assert told in outcome
            continue
        found = blocks[entry.name]
        assert all(len(one) >= 20 for one in found[:-1])
        assert len(found) > 2
        joined = join(list(found))
        assert_same_features(joined, net(entry.path, **UNBOUNDED.options()))
        assert outcome == len(joined)
    assert len(blocks["b.tif"]) > 1
    assert threading.active_count() == before


@pytest.mark.parametrize(
    "changed", [{"max_keypoints": 9}, {"scales": (0.5, 1.0)}, {"detector": "strength", "max_keypoints": 9}]
)
def test_features_that_come_in_another_order_come_as_a_whole(net, small, photos, changed):
    chosen = Settings(max_edge=None, max_sum_edges=None, **changed)
    blocks, _ = gathered(net, photos[:1], chosen)
    assert len(blocks["a.tif"]) == 1


def test_small_images_come_as_a_whole(net, photos):
    blocks, _ = gathered(net, photos[:1], UNBOUNDED)
    assert len(blocks["a.tif"]) == 1


@pytest.mark.parametrize("half", [False, True])
def test_extraction_in_blocks(net, small, photos, half, monkeypatch):
    recorded = UNBOUNDED.recorded(net)
    report = extract(net, photos, HlocOutput(Path("blocks.h5"), recorded, half=half), UNBOUNDED)
    assert report.done == 2
    assert sorted(entry.name for entry, _ in report.failed) == ["b.tif", "c.png"]
    assert "is damaged" in Path("blocks.h5.failed.txt").read_text()
    monkeypatch.setattr(extraction, "_LARGE_PIXELS", 1 << 40)
    whole = extract(net, photos, HlocOutput(Path("wholes.h5"), recorded, half=half), UNBOUNDED)
    assert whole.keypoints == report.keypoints > 100
    assert content("blocks.h5") == content("wholes.h5")
    assert not Path("blocks.h5.parts").exists()


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
from d2np.dataset import HlocOutput, Settings, extract, extraction, listing

stages.tiles_at_a_time = lambda *_: 60
extraction._LARGE_PIXELS, extraction._KEYPOINTS_OF_A_BLOCK = 1, 100
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
    script = CHILD + (
        "import os, signal\nfrom d2np.formats import hloc\narrays_of, blocks = hloc.arrays_of, []\n"
        "def die(*given, **named):\n"
        "    blocks.append(None)\n"
        "    return arrays_of(*given, **named) if len(blocks) < 4 else os.kill(os.getpid(), signal.SIGKILL)\n"
        "hloc.arrays_of = die\nrun('tall.tif', 'f.h5')"
    )
    process = subprocess.run([sys.executable, "-c", script], env=ENVIRONMENT, cwd=tmp_path)
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "f.h5").exists()
    assert any(path.name.startswith(".") for path in (tmp_path / "f.h5.parts").iterdir())
    net = d2np.Net.load("analytic")
    output = HlocOutput(tmp_path / "f.h5", UNBOUNDED.recorded(net))
    assert output.parts.index == {}
    # What is left of a large image takes no room.
    assert sorted(path.name for path in (tmp_path / "f.h5.parts").iterdir()) == ["job.json", "lock"]
    report = extract(net, listing([tmp_path / "tall.tif"]), output, UNBOUNDED)
    assert (report.done, report.skipped) == (1, 0)
    expected = net(tmp_path / "tall.tif", **UNBOUNDED.options())
    found = hloc.read(tmp_path / "f.h5", "tall.tif")
    np.testing.assert_array_equal(found.keypoints, expected.keypoints)
    np.testing.assert_array_equal(found.descriptors, expected.descriptors)
