"""Shards: what is appended is read again, and damage anywhere costs the record that it is in."""

from __future__ import annotations

import errno
import io
import json
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from d2np.dataset import shards
from d2np.dataset.shards import Record, ShardWriter, read, scan, write
from d2np.errors import FormatError

KINDS = hnp.boolean_dtypes() | hnp.integer_dtypes() | hnp.unsigned_integer_dtypes() | hnp.floating_dtypes()
ARRAYS = hnp.arrays(KINDS, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5))
VALUES = st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5) | st.none(), max_size=3)
RECORDS = st.lists(
    st.builds(Record, st.text(max_size=9), VALUES, st.dictionaries(st.text(max_size=5), ARRAYS, max_size=3)),
    max_size=4,
)


def content(records):
    stream = io.BytesIO()
    lengths = [write(stream, record) for record in records]
    return stream.getvalue(), lengths


def whole(data):
    """All that can be read, checked."""
    stream = io.BytesIO(data)
    return [read(stream, place.offset) for place in scan(stream, verify=True)]


def assert_same(found, expected):
    assert (found.name, found.values) == (expected.name, expected.values)
    assert found.arrays.keys() == expected.arrays.keys()
    for key, array in expected.arrays.items():
        assert found.arrays[key].dtype == array.dtype.newbyteorder("<")
        np.testing.assert_array_equal(found.arrays[key], array)


def some_records():
    rng = np.random.default_rng(0)
    return [
        Record(
            f"sub/{k}.jpg",
            {"size": k, "reason": None},
            {"keypoints": rng.random((5 + k, 2), np.float32), "none": np.zeros((0, 512), np.float16)},
        )
        for k in range(4)
    ]


@given(RECORDS)
@settings(max_examples=60, deadline=None)
def test_what_is_written_is_read(records):
    data, lengths = content(records)
    assert sum(lengths) == len(data)
    found = whole(data)
    assert len(found) == len(records)
    for one, other in zip(found, records, strict=True):
        assert_same(one, other)
    places = list(scan(io.BytesIO(data)))
    assert [(place.name, place.values, place.length) for place in places] == [
        (record.name, record.values, length) for record, length in zip(records, lengths, strict=True)
    ]


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_damage_costs_one_record(data):
    records = some_records()
    bytes_, lengths = content(records)
    ends = np.cumsum(lengths)
    at = data.draw(st.integers(0, len(bytes_) - 1))
    hit = int((ends <= at).sum())
    how = data.draw(st.sampled_from(["torn", "torn, others behind", "changed", "put in"]))
    if how == "torn":
        damaged, expected = bytes_[:at] + data.draw(st.binary(max_size=40)), records[:hit]
        # What was put in place of the rest may be what was there.
        expected = records if damaged[: len(bytes_)] == bytes_ else expected
    elif how == "torn, others behind":
        # As where a disk was full, and what was written of a record could not be cut off.
        damaged, expected = bytes_[:at] + bytes_[ends[hit] - lengths[hit] :], records
    elif how == "changed":
        damaged = bytearray(bytes_)
        damaged[at] ^= data.draw(st.integers(1, 255))
        expected = [*records[:hit], *records[hit + 1 :]]
    else:
        at = int(ends[hit])
        damaged, expected = bytes_[:at] + data.draw(st.binary(max_size=40)) + bytes_[at:], records
    found = whole(bytes(damaged))
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert_same(one, other)
    # A reader that goes by the headers alone takes no wrong arrays either.
    stream = io.BytesIO(bytes(damaged))
    for place in scan(stream):
        expected = next(record for record in records if record.name == place.name)
        try:
            assert_same(read(stream, place.offset), expected)
        except FormatError as error:
            assert "damaged" in str(error)  # noqa: PT017


def test_a_torn_last_record_is_seen_without_reading_the_others():
    data, lengths = content(some_records())
    torn = bytearray(data)
    torn[-10] ^= 1
    assert len(list(scan(io.BytesIO(bytes(torn))))) == 3
    torn = bytearray(data) + b"half a record that came after it, and more of it than its beginning needs"
    assert len(list(scan(io.BytesIO(bytes(torn))))) == 4
    # So is one that another torn one follows, as after a power cut.
    torn[sum(lengths) - 10] ^= 1
    assert len(list(scan(io.BytesIO(bytes(torn))))) == 3


def test_the_next_record_is_found_wherever_its_magic_lies(monkeypatch):
    monkeypatch.setattr(shards, "_BLOCK", 64)
    data, _ = content(some_records()[:1])
    for size in range(1, 140):
        assert [record.name for record in whole(b"x" * size + data)] == ["sub/0.jpg"]


def test_not_every_damaged_record_is_passed_over(monkeypatch):
    """A file of nothing but beginnings of records would take hours."""
    monkeypatch.setattr(shards, "_MOST_DAMAGED", 10)
    data, _ = content(some_records()[:1])
    assert len(whole(b"d2npREC\x01" * 9 + data)) == 1
    assert whole(b"d2npREC\x01" * 10 + data) == []


class Counting(io.BytesIO):
    """Counts the bytes that are read."""

    taken = 0

    def read(self, size=-1):
        found = super().read(size)
        self.taken += len(found)
        return found


def test_records_that_hold_each_other_are_read_in_bounded_time():
    """Each claims all that comes after it; the checksum of its header is right, that of the arrays wrong."""
    data = b""
    for _ in range(500):
        header = json.dumps({"name": "a", "values": {}, "arrays": [["x", "|u1", [len(data) + 400]]]}).encode()
        head = struct.pack("<8sIQ", b"d2npREC\x01", len(header), len(data) + 400) + header
        data = head + struct.pack("<I", zlib.crc32(head)) + data
    # Room for the claims of all of them.
    data += bytes(500 * 200)
    for verify in (False, True):
        stream = Counting(data)
        assert not list(scan(stream, verify=verify))
        assert stream.taken < 20 * len(data)


def test_absurd_sizes_are_refused_before_anything_is_allocated():
    for header_size, size in ((2**32 - 1, 0), (2**26, 2**63), (10, 2**64 - 1)):
        head = struct.pack("<8sIQ", b"d2npREC\x01", header_size, size)
        assert list(scan(io.BytesIO(head + b"x" * 100))) == []
        with pytest.raises(FormatError, match="no whole record at byte 0"):
            read(io.BytesIO(head), 0)
    # A header that is right by its sum, but claims arrays of another size, or of no size at all.
    for listed in (
        '[["a", "<f4", [1000000000000]]]',
        '[["a", "<f4", [-1]]]',
        '[["a", "|O", []]]',
        "[[]]",
        "7",
    ):
        header = f'{{"name": "a", "values": {{}}, "arrays": {listed}}}'.encode()
        head = struct.pack("<8sIQ", b"d2npREC\x01", len(header), 4) + header
        data = head + struct.pack("<I", zlib.crc32(head)) + b"1234" + struct.pack("<I", zlib.crc32(b"1234"))
        assert list(scan(io.BytesIO(data))) == []


def test_the_writer_adds_to_a_new_file_only(tmp_path):
    records = some_records()
    with ShardWriter(tmp_path / "a.shard") as writer:
        places = [writer.append(record) for record in records]
        # Safe already, with the file still open.
        assert len(whole((tmp_path / "a.shard").read_bytes())) == 4
    with open(tmp_path / "a.shard", "rb") as stream:
        assert list(scan(stream)) == places
        assert_same(read(stream, places[2].offset), records[2])
    with pytest.raises(FileExistsError):
        ShardWriter(tmp_path / "a.shard")
    ShardWriter(tmp_path / "empty.shard").close()
    assert not (tmp_path / "empty.shard").exists()


def test_other_kinds_of_arrays_are_refused(tmp_path):
    with ShardWriter(tmp_path / "a.shard") as writer:
        with pytest.raises(TypeError, match="'words' of 'a'"):
            writer.append(Record("a", {}, {"words": np.array(["x"])}))
        writer.append(Record("b"))
    assert [record.name for record in whole((tmp_path / "a.shard").read_bytes())] == ["b"]


class Disk(io.BytesIO):
    """Takes so many bytes; at the end only a part of what it is given."""

    def __init__(self, room):
        super().__init__()
        self.room = room

    def write(self, data):
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = bytes(data)[: self.room]
        self.room -= len(taken)
        return super().write(taken)

    def fileno(self):
        return -1


@pytest.mark.parametrize("room", [0, 1, 100, 300, 900])
def test_a_full_disk_leaves_whole_records_and_goes_on(tmp_path, monkeypatch, room):
    first, second = some_records()[:2]
    with ShardWriter(tmp_path / "a.shard") as writer:
        disk = Disk(room)
        real, writer._stream = writer._stream, disk
        monkeypatch.setattr(shards.os, "fsync", lambda _: None)
        fitting = room // content([first])[1][0]
        for _ in range(fitting):
            writer.append(first)
        with pytest.raises(OSError, match="No space"):
            writer.append(first)
        assert len(disk.getvalue()) == writer.size
        assert len(whole(disk.getvalue())) == fitting
        disk.room = 10_000
        writer.append(second)
        assert_same(whole(disk.getvalue())[-1], second)
        writer._stream = real
