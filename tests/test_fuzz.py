"""Readers of files from strangers: a short run of each harness, and the limits."""

from __future__ import annotations

import io
import subprocess
import sys
import tracemalloc
import zipfile
from math import prod
from pathlib import Path

import h5py
import numpy as np
import pytest
from checkpoints import legacy_around

from d2np import weights
from d2np.errors import FormatError, WeightsError
from d2np.features import Features
from d2np.formats import hloc, hloc_matches, npz
from d2np.hdf5 import read_text, write_text

ROOT = Path(__file__).parents[1]
NAMES = (
    *("torch-legacy", "torch-zip", "weights-h5", "onnx", "features-h5", "features-npz"),
    *("attributes-h5", "lists", "names", "index-pages", "archives", "jobs", "keras", "safetensors", "tiff"),
)


def fuzz(*arguments):
    command = [sys.executable, "-m", "fuzz", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)


@pytest.mark.parametrize("name", NAMES)
def test_short_run(name):
    """The seeds, the corpus, and some hundred mutations of them."""
    done = fuzz(name, "--runs", 250)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "250 inputs" in done.stdout


def test_a_bug_is_found(tmp_path):
    """A reader without its checks: the harness must not be blind."""
    script = (
        "import sys; from fuzz import worker\n"
        "from fuzz.targets import TARGETS, Target\n"
        "seeds = TARGETS['archives'].make_seeds\n"
        "TARGETS['archives'] = Target('archives', lambda data: data.index(b'no such bytes'), seeds)\n"
        "worker.main('archives', '0', '0', '50', *sys.argv[1:])"
    )
    current, findings = tmp_path / "current", tmp_path / "findings"
    current.touch()
    command = [sys.executable, "-c", script, str(current), str(findings)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert "ValueError" in done.stdout, done.stderr
    assert list(findings.iterdir())


@pytest.fixture
def peak():
    """The most memory that a call takes, in bytes."""

    def measured(call):
        tracemalloc.start()
        try:
            call()
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    return measured


def archive(path, compression=zipfile.ZIP_STORED, **members):
    """A feature file of no keypoints, but for the members that are given."""
    none = {"keypoints": npy((0, 3)), "scores": npy((0,)), "descriptors": npy((0, 512))}
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, data in {**none, **members}.items():
            file.writestr(f"{name}.npy", data)
    return path


def npy(shape, kind="<f4", body=b""):
    stream = io.BytesIO()
    header = {"descr": kind, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)
    return stream.getvalue() + body


def test_npz_claims_a_terabyte(tmp_path, peak):
    path = archive(tmp_path / "a.d2-net", keypoints=npy((2**45, 3)))

    def read():
        with pytest.raises(FormatError, match="not a feature file"):
            npz.read(path, (1, 1))

    assert peak(read) < 2**20


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_npz_bombs(compression, tmp_path, peak):
    count = 20_000
    path = archive(
        tmp_path / "a.d2-net",
        compression,
        keypoints=npy((count, 3), body=bytes(12 * count)),
        scores=npy((count,), body=bytes(4 * count)),
        descriptors=npy((count, 512), body=bytes(2048 * count)),
    )

    def read():
        with pytest.raises(FormatError, match="compressed"):
            npz.read(path, (1, 1))
        assert not npz.is_complete(path)

    assert peak(read) < 2**20


def test_npz_with_a_header_of_gigabytes(tmp_path, peak):
    data = b"\x93NUMPY\x02\x00" + (2**30).to_bytes(4, "little") + b" " * 1_000_000
    path = archive(tmp_path / "a.d2-net", keypoints=data)

    def read():
        with pytest.raises(FormatError, match="not a feature file"):
            npz.read(path, (1, 1))

    assert peak(read) < 2**22


@pytest.mark.parametrize("name", ["keypoints", "scores", "descriptors"])
@pytest.mark.parametrize("shape", [(), (1,), (1, 2), (2**40, 512)])
def test_npz_of_other_shapes(name, shape, tmp_path):
    path = archive(tmp_path / "a.d2-net", **{name: npy(shape, body=bytes(4 * min(prod(shape), 2)))})
    with pytest.raises(FormatError, match="not a feature file"):
        npz.read(path, (1, 1))


@pytest.mark.parametrize("header", [b"(" * 9000, b"{'descr': '<f4', 'shape': (1", b"\xff"])
def test_npz_with_a_damaged_header(header, tmp_path):
    data = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    with pytest.raises(FormatError, match="not a feature file"):
        npz.read(archive(tmp_path / "a.d2-net", keypoints=data), (1, 1))


def claimed(path, **shapes):
    """A feature file whose arrays have no values, only sizes."""
    with h5py.File(path, "w") as file:
        for name, shape in shapes.items():
            file.create_dataset(f"a.jpg/{name}", shape, "f4", chunks=(1,) * len(shape))
    return path


def test_hdf5_claims_terabytes(tmp_path, peak):
    n = 2**40
    path = claimed(tmp_path / "f.h5", keypoints=(n, 2), scores=(n,), descriptors=(512, n), image_size=(2,))

    def read():
        with pytest.raises(FormatError, match="refused"):
            hloc.read(path, "a.jpg")

    assert peak(read) < 2**20


def test_hdf5_matches_claim_terabytes(tmp_path, peak):
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file.create_dataset("a/b/matches0", (2**40,), "i4", chunks=(1,))
        file.create_dataset("a/b/matching_scores0", (2**40,), "f4", chunks=(1,))

    def read():
        with pytest.raises(FormatError, match="refused"):
            hloc_matches.read(tmp_path / "m.h5", "a", "b")

    assert peak(read) < 2**20


@pytest.mark.parametrize("size", [(np.inf, 1), (np.nan, 1)])
def test_sizes_that_are_no_numbers(size, tmp_path):
    with h5py.File(tmp_path / "f.h5", "w") as file:
        hloc.write(file, "a.jpg", Features(np.ones((1, 3)), np.ones(1), np.ones((1, 512)), (1, 1)))
        del file["a.jpg/image_size"]
        file["a.jpg/image_size"] = np.array(size)
        for read in (hloc.read, hloc.read_keypoints):
            with pytest.raises(FormatError):
                read(file, "a.jpg")


def test_values_in_another_file_are_not_read(tmp_path):
    with h5py.File(tmp_path / "f.h5", "w") as file:
        group = file.create_group("a.jpg")
        for name, shape in {"scores": (1,), "descriptors": (512, 1), "image_size": (2,)}.items():
            group[name] = np.ones(shape, "f4")
        group.create_dataset("keypoints", (1, 2), "f4", external=[("/dev/zero", 0, 8)])
        with pytest.raises(FormatError, match="in another file"):
            hloc.read(file, "a.jpg")


def test_few_links_make_no_endless_list(tmp_path):
    """Each folder has the next one under two names: 2**60 ways, and back to the first."""
    with h5py.File(tmp_path / "f.h5", "w") as file:
        below = top = file.create_group("top")
        for _ in range(60):
            group = below.create_group("x")
            below["y"] = group
            below = group
        below["round"] = top
        hloc.write(file, "top/a.jpg", Features(np.ones((1, 3)), np.ones(1), np.ones((1, 512)), (1, 1)))
        assert hloc.names(file) == ["top/a.jpg"]


def test_texts_of_variable_length_are_not_read(tmp_path):
    """HDF5 may never return from them."""
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file.attrs["text"] = "of variable length"
        assert read_text(file, "text") is None
        for text in ("", "ü", "name \udcff", "x" * 50_000):
            write_text(file, "text", text)
            assert read_text(file, "text") == text


def test_weights_with_an_attribute_of_variable_length(tmp_path):
    path = tmp_path / "w.h5"
    with h5py.File(path, "w") as file:
        file.attrs["format_version"] = 1
        file.attrs["architecture"] = "D2-Net"
    with open(path, "rb") as stream, pytest.raises(WeightsError, match="of fixed length"):
        weights.read(stream, Path("w.h5"))


def test_zip_with_a_huge_table_of_contents(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.pth", "w") as file:
        for number in range(25_000):
            file.writestr(f"{number}", b"")
    with open(tmp_path / "w.pth", "rb") as stream, pytest.raises(WeightsError, match="too many at once"):
        weights.read(stream, Path("w.pth"))


def test_pickle_that_makes_a_dictionary_of_one_list_again_and_again():
    """Fifty thousand dictionaries of as many pairs would take an hour."""
    count = 50_000
    pairs = b"]q\0(" + b"X\1\0\0\0aK\1\x86" * count + b"e"
    calls = b"h\2h\0\x85R0" * count
    body = b"\x80\2ccollections\nOrderedDict\nq\2" + pairs + calls + b"."
    with pytest.raises(WeightsError, match="too many arguments"):
        weights.read(io.BytesIO(legacy_around(body)), Path("w.pth"))
