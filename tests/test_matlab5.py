"""The reader of MATLAB 5 files: reads the same as scipy's, or raises its own error."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib
from contextlib import suppress

import numpy as np
import pytest
import scipy.io
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from d2np.errors import FormatError
from d2np.formats import mat, matlab5
from d2np.streams import Capped

NUMBERS = st.sampled_from([*"bBhHiIlL", "<f4", "<f8", ">f4", ">i8"]).map(np.dtype)
ARRAYS = NUMBERS.flatmap(
    lambda kind: hnp.arrays(kind, hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=7))
)
NAMES = st.text("abcdefXYZ_019", min_size=1, max_size=31).filter(lambda name: name[0].isalpha())
OTHERS = (
    "a text",
    {"field": np.ones(3)},
    np.array([[1, "two"]], dtype=object),
    scipy.sparse.eye(3).tocsc(),
    np.array([1 + 2j]),
    np.array([True]),
)


def saved(arrays, packed=False):
    stream = io.BytesIO()
    scipy.io.savemat(stream, arrays, do_compression=packed)
    return stream.getvalue()


def read(data, *names):
    return matlab5.arrays(Capped(io.BytesIO(data)), names)


def shapes(data, *names):
    return matlab5.shapes(Capped(io.BytesIO(data)), names)


@given(st.dictionaries(NAMES, ARRAYS, max_size=4), st.booleans())
def test_the_same_as_scipy(arrays, packed):
    data = saved(arrays, packed)
    expected = scipy.io.loadmat(io.BytesIO(data))
    found = read(data, *arrays)
    assert found.keys() == arrays.keys()
    assert shapes(data, *arrays) == {name: array.shape for name, array in found.items()}
    for name, array in found.items():
        assert array.dtype == expected[name].dtype
        np.testing.assert_array_equal(array, expected[name], strict=True)
        assert array.flags.writeable


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("other", OTHERS, ids=str)
def test_variables_of_other_kinds(other, packed):
    """They are passed over, and refused where they are asked for."""
    data = saved({"before": other, "x": np.arange(6.0), "after": other}, packed)
    np.testing.assert_array_equal(read(data, "x", "y")["x"], [np.arange(6.0)])
    for call in (read, shapes):
        with pytest.raises(FormatError, match="after must be an array of real numbers"):
            call(data, "x", "after")


def test_a_variable_twice():
    data = saved({"x": np.ones(2)})
    with pytest.raises(FormatError, match="x twice"):
        read(data + data[128:], "x")


@pytest.mark.parametrize("packed", [False, True])
def test_every_file_that_is_cut_short(packed):
    """Before the end of a variable; between two of them nobody can tell."""
    whole = saved({"x": np.arange(5.0), "y": np.ones((2, 3), "u1")}, packed)
    size = struct.unpack("<I", whole[132:136])[0]
    for length in set(range(len(whole))) - {128, 136 + size}:
        for call in (read, shapes):
            with pytest.raises(FormatError):
                call(whole[:length], "x", "y")


@given(st.data(), st.booleans())
def test_damage_is_its_own_error(data, packed):
    whole = bytearray(saved({"x": np.arange(5.0), "y": np.ones((2, 3), "u1")}, packed))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(whole) - 4))
        whole[place : place + 4] = data.draw(st.binary(min_size=4, max_size=4))
    with suppress(FormatError):
        read(bytes(whole), "x", "y")


def test_other_formats():
    old = io.BytesIO()
    scipy.io.savemat(old, {"x": np.ones(2)}, format="4")
    new = b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\0\2IM" + bytes(384) + b"\x89HDF\r\n\x1a\n"
    for data in (b"", b"MATLAB 5.0 MAT-file", old.getvalue(), new):
        with pytest.raises(FormatError, match=r"does not begin as MATLAB 5 files do.* -v6 or -v7"):
            read(data, "x")
    with pytest.raises(FormatError, match="little-endian"):
        read(b"MATLAB 5.0 MAT-file".ljust(124) + b"\1\0MI", "x")


def variable(shape, body=b"", size=None, kind=9, name=b"x"):
    """A variable of doubles, as an element."""
    parts = struct.pack("<IIII", 6, 8, 6, 0)
    axes = np.array(shape, "<i4").tobytes()
    parts += struct.pack("<II", 5, len(axes)) + axes + bytes(-len(axes) % 8)
    parts += struct.pack("<II", 1, len(name)) + name + bytes(-len(name) % 8)
    parts += struct.pack("<II", kind, len(body) if size is None else size) + body
    return struct.pack("<II", 14, len(parts)) + parts


def in_file(*elements):
    return saved({})[:128] + b"".join(elements)


def packed(content):
    content = zlib.compress(content)
    return struct.pack("<II", 15, len(content)) + content


def test_numbers_that_matlab_keeps_in_fewer_bytes():
    data = in_file(variable((1, 8), bytes(range(8)), kind=2))
    np.testing.assert_array_equal(read(data, "x")["x"], scipy.io.loadmat(io.BytesIO(data))["x"], strict=True)


@pytest.mark.parametrize(
    ("shape", "size", "told"),
    [
        ((2**20, 2**15), 2**32 - 8, "do not fit its shape"),
        ((3, 1), 16, "do not fit its shape"),
        ((2**29 - 1, 1), 2**32 - 8, "another size"),
        ((0, *[2**31 - 1] * 3), 0, "impossible shape"),
        ((-1, 0), 0, "impossible shape"),
        ((1,) * 33, 8, "does not begin as it should"),
        ((), 8, "does not begin as it should"),
    ],
)
@pytest.mark.parametrize("pack", [False, True])
def test_claims(shape, size, told, pack):
    element = variable(shape, bytes(16 if size == 16 else 0), size)
    data = in_file(packed(element) if pack else element)
    for call in (read, shapes):
        with pytest.raises(FormatError, match=told):
            call(data, "x")


@pytest.mark.parametrize("name", [b"x", b"other"])
def test_a_bomb(name):
    count = 4_000_000
    data = in_file(packed(variable((count, 1), bytes(8 * count), name=name)))
    tracemalloc.start()
    try:
        if name == b"x":
            with pytest.raises(FormatError, match="far more than the file"):
                read(data, "x")
        else:
            assert read(data, "x") == {}
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "content",
    [
        zlib.compress(variable((2, 1), bytes(16)))[:-1] + b"\0",
        zlib.compress(variable((2, 1), bytes(16)) + b"more"),
        zlib.compress(variable((2, 1), bytes(16)))[:-4],
        zlib.compress(packed(variable((2, 1), bytes(16)))),
        b"not zlib",
        b"",
    ],
)
def test_damaged_compression(content):
    with pytest.raises(FormatError):
        read(in_file(struct.pack("<II", 15, len(content)) + content), "x")


@pytest.mark.parametrize("packed", [False, True])
def test_features_are_read_without_scipy(packed, tmp_path, monkeypatch):
    arrays = {"keypoints": np.ones((2, 3)), "scores": np.ones(2), "descriptors": np.ones((2, 512))}
    path = tmp_path / "a.jpg.d2-net"
    path.write_bytes(saved(arrays, packed))
    monkeypatch.setattr(mat, "library", lambda: pytest.fail("scipy"))
    assert mat.is_complete(path)
    assert len(mat.read(path, (1, 1))) == 2
