"""Pieces of arrays in HDF5 files: those that HDF5 wrote pass, those that are too short or too long do not."""

from __future__ import annotations

import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from d2np import weights
from d2np.errors import FormatError, WeightsError
from d2np.features import Features
from d2np.formats import hloc
from d2np.hdf5 import read_array

KINDS = st.sampled_from(["u1", "<i2", ">i4", "<f2", "<f4", "<f8"])
ARRAYS = KINDS.flatmap(
    lambda kind: hnp.arrays(kind, hnp.array_shapes(min_dims=1, max_dims=3, max_side=40), fill=st.just(1))
)
SIZE = 64 * 4


@pytest.fixture
def dataset(tmp_path):
    """Makes an array of two chunks of 64 floats, the second of which is this."""

    def made(packed, skipped=0, **options):
        file = opened.append(h5py.File(tmp_path / f"{len(opened)}.h5", "w")) or opened[-1]
        array = file.create_dataset("x", data=np.arange(128, dtype="<f4"), chunks=(64,), **options)
        array.id.write_direct_chunk((64,), packed, skipped)
        return array

    opened = []
    yield made
    for file in opened:
        file.close()


@given(
    ARRAYS, st.data(), st.sampled_from([None, "gzip"]), st.booleans(), st.sampled_from(["earliest", "latest"])
)
@settings(deadline=None)
def test_what_hdf5_writes_passes(array, data, compression, shuffle, version):
    steps = data.draw(st.none() | st.tuples(*(st.integers(1, edge) for edge in array.shape)))
    options = {"chunks": steps, "compression": compression, "shuffle": shuffle}
    with in_memory(version) as file:
        file.create_dataset("x", data=array, **(options if steps or compression else {}))
        np.testing.assert_array_equal(read(file["x"]), array)


def read(array):
    return read_array(array.parent, array.name.lstrip("/"))


def in_memory(version):
    return h5py.File("x.h5", "w", driver="core", backing_store=False, libver=version)


def test_arrays_without_values_pass():
    with in_memory("earliest") as file:
        for options in ({}, {"chunks": (5,)}, {"chunks": (5,), "compression": "gzip"}):
            array = file.create_dataset(f"x{len(file)}", (100,), "f4", **options)
            read(array)
        read(file.create_dataset("none", (0, 3), "f4"))


@pytest.mark.parametrize("length", [0, 14, SIZE - 1, SIZE + 1, 100 * SIZE])
def test_gzip_of_another_length(dataset, length):
    array = dataset(zlib.compress(bytes(length)), compression="gzip")
    with pytest.raises(ValueError, match=r"chunk at \(64,\) unpacks to .* bytes, expected 256"):
        read(array)


def test_filters_left_out_of_few_bytes(dataset):
    read(dataset(bytes(SIZE), 1, compression="gzip"))
    with pytest.raises(ValueError, match="unpacks to 14 bytes"):
        read(dataset(bytes(14), 1, compression="gzip"))


@pytest.mark.parametrize("packed", [b"no zlib", zlib.compress(bytes(SIZE))[:-5]])
def test_damaged_gzip(dataset, packed):
    with pytest.raises(ValueError, match=r"chunk is cut short|while decompressing"):
        read(dataset(packed, compression="gzip"))


@pytest.mark.parametrize("options", [{"compression": "lzf"}, {"fletcher32": True}, {"scaleoffset": 3}])
def test_other_filters_are_refused(options):
    with in_memory("earliest") as file, pytest.raises(FormatError, match="h5repack -f NONE"):
        read(file.create_dataset("x", data=np.ones(100), **options))


def test_very_many_chunks():
    with in_memory("earliest") as file, pytest.raises(ValueError, match="in 100,000 chunks: refused"):
        read(file.create_dataset("x", (100_000,), "u1", chunks=(1,)))


def test_features_and_weights(tmp_path, net):
    """Nothing is read from memory beyond a chunk."""
    given = Features(np.ones((3, 3)), np.ones(3), np.ones((3, 512)), (8, 8))
    with h5py.File(tmp_path / "f.h5", "w") as file:
        hloc.write(file, "a.jpg", given)
        del file["a.jpg/descriptors"]
        array = file.create_dataset("a.jpg/descriptors", (512, 3), "f4", chunks=(512, 3), compression="gzip")
        array.id.write_direct_chunk((0, 0), zlib.compress(bytes(10)))
        with pytest.raises(FormatError, match=r"a.jpg/descriptors: the chunk at .* unpacks to 10 bytes"):
            hloc.read(file, "a.jpg")
    net.save(tmp_path / "w.h5")
    with h5py.File(tmp_path / "w.h5", "r+") as file:
        file["conv1_1/bias"].id.write_direct_chunk((16,), zlib.compress(bytes(10)))
    with (
        open(tmp_path / "w.h5", "rb") as stream,
        pytest.raises(WeightsError, match="conv1_1/bias: the chunk"),
    ):
        weights.read(stream, Path("w.h5"))


def test_values_that_are_not_finite_are_read_without_a_warning(tmp_path):
    with h5py.File(tmp_path / "f.h5", "w") as file:
        given = Features(np.ones((3, 3)), np.ones(3), np.ones((3, 512)), (8, 8))
        hloc.write(file, "a.jpg", given, half=True)
        file["a.jpg/descriptors"][:2, 0] = np.inf, np.nan
        file["a.jpg/descriptors"][:, 1] = np.inf
        found = hloc.read(file, "a.jpg").descriptors
    assert np.isnan(found[0]).any()
    np.testing.assert_allclose(found[2], 512**-0.5, rtol=1e-3)
