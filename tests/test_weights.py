"""Weights: names, HDF5 files, PyTorch checkpoints, and everything that is refused."""

from __future__ import annotations

import argparse
import hashlib
import os
import pickle
import stat
import struct
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from checkpoints import (
    INDICES,
    PUBLISHED,
    Call,
    Global,
    Storage,
    legacy,
    legacy_around,
    parameter,
    pickled,
    repeated,
    state_dict,
    tensor,
    zipped,
    zipped_around,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scripts import run

from d2np import errors, weights
from d2np.errors import WeightsError
from d2np.layers import PARAMETER_SHAPES
from d2np.weights import Provenance, catalogue, h5
from d2np.weights.state_dict import PUBLISHED_NAMES

FORMATS = pytest.mark.parametrize("write", [legacy, zipped], ids=["legacy", "zip"])
AROUND = pytest.mark.parametrize("around", [legacy_around, zipped_around], ids=["legacy", "zip"])

Arrays = dict[str, np.ndarray]
SOURCE = Provenance("d2_tf.pth", "ab" * 32, "PyTorch checkpoint (legacy)")


@pytest.fixture(scope="module")
def arrays() -> Arrays:
    generator = np.random.RandomState(0)
    return {name: generator.standard_normal(shape).astype("f4") for name, shape in PARAMETER_SHAPES.items()}


def small(prefix: str = PUBLISHED, dtype: str = "<f4", **replaced: Any) -> OrderedDict[str, Any]:
    """A state dict of few bytes: each array repeats one number, its place in the network."""
    tensors = {
        name: repeated(place, shape, dtype) for place, (name, shape) in enumerate(PARAMETER_SHAPES.items())
    }
    tensors |= {name.replace("__", "/"): value for name, value in replaced.items()}
    return state_dict(tensors, prefix)


def loaded(data: bytes, folder: Path, name: str = "d2.pth") -> Arrays:
    path = folder / name
    path.write_bytes(data)
    return weights.load(path)[0]


def refused(data: bytes, folder: Path, name: str = "d2.pth") -> str:
    """The message with which a file is refused."""
    with pytest.raises(WeightsError) as caught:
        loaded(data, folder, name)
    message = str(caught.value)
    assert name in message
    assert "\n" not in message
    assert len(message.replace(str(folder), "")) < 600
    return message


def is_small(arrays: Arrays) -> bool:
    return list(arrays) == list(PARAMETER_SHAPES) and all(
        array.shape == PARAMETER_SHAPES[name] and array.dtype == np.float32 and (array == place).all()
        for place, (name, array) in enumerate(arrays.items())
    )


# --- PyTorch checkpoints ---------------------------------------------------------------------------------


def test_published_names() -> None:
    assert list(PUBLISHED_NAMES.values()) == list(PARAMETER_SHAPES)
    assert list(PUBLISHED_NAMES) == [f"{index}.{part}" for index in INDICES for part in ("weight", "bias")]


@FORMATS
def test_checkpoint_round_trip(write: Callable[..., bytes], arrays: Arrays, tmp_path: Path) -> None:
    data = write({"model": state_dict({name: tensor(array) for name, array in arrays.items()})})
    (tmp_path / "d2_tf.pth").write_bytes(data)
    found, provenance = weights.load(str(tmp_path / "d2_tf.pth"))
    assert list(found) == list(PARAMETER_SHAPES)
    for name, array in found.items():
        assert array.dtype == np.float32
        assert array.flags.c_contiguous
        np.testing.assert_array_equal(array, arrays[name])
    kind = "zip" if write is zipped else "legacy"
    sha256 = hashlib.sha256(data).hexdigest()
    assert provenance == Provenance("d2_tf.pth", sha256, f"PyTorch checkpoint ({kind})")

    weights.save(tmp_path / "tf.h5", found, provenance)
    again, recorded = weights.load(tmp_path / "tf.h5")
    assert recorded == Provenance("d2_tf.pth", sha256, "HDF5")
    for name, array in again.items():
        np.testing.assert_array_equal(array, arrays[name])


@FORMATS
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickle_protocols(write: Callable[..., bytes], protocol: int, tmp_path: Path) -> None:
    assert is_small(loaded(write({"model": small()}, protocol=protocol), tmp_path))


@FORMATS
@pytest.mark.parametrize("outer", ["", "module."])
@pytest.mark.parametrize("inner", [PUBLISHED, "model.", ""])
@pytest.mark.parametrize("key", ["", "model", "state_dict"])
def test_prefixes(write: Callable[..., bytes], outer: str, inner: str, key: str, tmp_path: Path) -> None:
    state = small(outer + inner)
    assert is_small(loaded(write({key: state} if key else state), tmp_path))


@FORMATS
@pytest.mark.parametrize("module", ["torch", "torch.cuda"])
def test_cuda_tags(write: Callable[..., bytes], module: str, tmp_path: Path) -> None:
    storage = Storage(np.full(1, 0, "f4"), location="cuda:0", module=module)
    tagged = tensor(storage, shape=(64, 3, 3, 3), strides=(0, 0, 0, 0))
    assert is_small(loaded(write({"model": small(conv1_1__weight=tagged)}), tmp_path))


@FORMATS
def test_training_checkpoint(write: Callable[..., bytes], tmp_path: Path) -> None:
    moments = {
        index: {"step": 7, "exp_avg": tensor(np.zeros((64, 3), "f4")), "at": tensor(np.arange(3))}
        for index in range(3)
    }
    groups = [{"lr": 1e-3, "betas": (0.9, 0.999), "amsgrad": False, "params": [0, 1, 2]}]
    model = small()
    model._metadata = OrderedDict({"": {"version": 1}})  # type: ignore[attr-defined]
    checkpoint = {
        "args": argparse.Namespace(num_epochs=10, plot=True, log_file="log.txt"),
        "epoch_idx": 4,
        "model": model,
        "optimizer": {"state": moments, "param_groups": groups},
        "train_loss_history": [np.float64(0.5), np.float32(0.25)],
        "validation_loss_history": np.arange(5.0),
        "device": Call(Global("torch", "device"), ("cuda:0",)),
        "type": Global("torch", "float32"),
        "shape": Call(Global("torch", "Size"), ((3, 4),)),
        "others": [{1, 2}, frozenset([3]), b"bytes", bytearray(b"more"), 1 + 2j, None, -(2**40), {(1, 2): 3}],
    }
    for protocol in (2, 4):
        assert is_small(loaded(write(checkpoint, protocol=protocol), tmp_path))


@FORMATS
def test_parameters(write: Callable[..., bytes], tmp_path: Path) -> None:
    bias = parameter(np.full(64, 1, "f4"))
    assert is_small(loaded(write(small(conv1_1__bias=bias)), tmp_path))


@FORMATS
@pytest.mark.parametrize("dtype", ["<f2", "<f8"])
def test_other_precisions(write: Callable[..., bytes], dtype: str, tmp_path: Path) -> None:
    assert is_small(loaded(write(small(dtype=dtype)), tmp_path))


@FORMATS
def test_bfloat16(write: Callable[..., bytes], tmp_path: Path) -> None:
    values = np.linspace(-3, 3, 64).astype("f4")
    bias = tensor((values.view("u4") >> 16).astype("u2"))
    found = loaded(write(small(conv1_1__bias=bias)), tmp_path)["conv1_1/bias"]
    np.testing.assert_array_equal(found, (values.view("u4") & 0xFFFF0000).view("f4"))


@pytest.mark.parametrize("order", ["little", None])
@pytest.mark.parametrize("prefix", ["archive/", "d2_tf/", "a/b/", ""])
def test_zip_layouts(order: str | None, prefix: str, tmp_path: Path) -> None:
    assert is_small(loaded(zipped(small(), byte_order=order, prefix=prefix), tmp_path))


@FORMATS
def test_views_of_one_storage(write: Callable[..., bytes], tmp_path: Path) -> None:
    numbers = np.arange(64 * 64 * 9 + 100, dtype="f4")
    storage = Storage(numbers)
    transposed = tensor(storage, shape=(64, 64, 3, 3), strides=(9, 576, 1, 3), offset=100)
    bias = tensor(storage, shape=(64,), strides=(2,), offset=5)
    found = loaded(write(small(conv1_2__weight=transposed, conv1_2__bias=bias)), tmp_path)
    expected = numbers[100:].reshape(64, 64, 3, 3).transpose(1, 0, 3, 2)
    np.testing.assert_array_equal(found["conv1_2/weight"], expected)
    np.testing.assert_array_equal(found["conv1_2/bias"], numbers[5:133:2])


def test_legacy_storage_views(tmp_path: Path) -> None:
    """PyTorch before 0.4 made a storage of a part of another one."""
    bias = tensor(Storage(np.zeros(100, "f4"), view=("key", 30, 70)), shape=(64,), offset=6)
    assert "malformed" in refused(legacy(small(conv1_1__bias=bias)), tmp_path)


@FORMATS
def test_other_networks(write: Callable[..., bytes], tmp_path: Path) -> None:
    vgg = OrderedDict({f"features.{index}.weight": repeated(0, (2,)) for index in range(20)})
    message = refused(write(vgg), tmp_path)
    assert "missing features.0.bias, features.2.bias" in message
    assert "unexpected features.1.weight" in message
    assert PUBLISHED in refused(write(OrderedDict(a=repeated(0, (2,)))), tmp_path)

    state = small()
    del state[PUBLISHED + "2.bias"], state[PUBLISHED + "21.weight"]
    message = refused(write({"model": state}), tmp_path)
    assert f"missing {PUBLISHED}2.bias, {PUBLISHED}21.weight" in message

    state = small()
    state[PUBLISHED + "24.weight"] = repeated(0, (512, 512, 3, 3))
    assert f"unexpected {PUBLISHED}24.weight" in refused(write(state), tmp_path)

    message = refused(write(small(conv2_1__weight=repeated(0, (128, 64, 5, 5)))), tmp_path)
    assert f"conv2_1/weight ({PUBLISHED}5.weight): expected shape (128, 64, 3, 3), found (128, 64, 5, 5)" in (
        message
    )
    assert "int64" in refused(write(small(conv1_1__bias=repeated(1, (64,), "<i8"))), tmp_path)
    assert "found the tensors none" in refused(write({}), tmp_path)
    assert "found the tensors none" in refused(write({"epoch": 1}), tmp_path)
    assert "single object" in refused(write([1, 2]), tmp_path)
    assert "single object" in refused(write(repeated(1, (3,))), tmp_path)


@FORMATS
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_values_that_are_not_finite(write: Callable[..., bytes], value: float, tmp_path: Path) -> None:
    values = np.zeros(128)
    values[17] = value
    message = refused(write(small(conv2_2__bias=tensor(values))), tmp_path)
    assert "conv2_2/bias" in message
    assert "1 of 128" in message


@FORMATS
def test_huge_claims(write: Callable[..., bytes], tmp_path: Path) -> None:
    one = np.zeros(1, "f4")
    huge = 2**40
    for claim, word in (
        (tensor(Storage(one), shape=(huge,)), "expected shape"),
        (tensor(Storage(one), shape=(64,), strides=(huge,)), "reaches"),
        (tensor(Storage(one), shape=(64,), strides=(0,), offset=huge), "reaches"),
        (tensor(Storage(one), shape=(64,)), "reaches"),
        (tensor(Storage(one, count=huge), shape=(64,)), "truncated"),
        (tensor(Storage(one, count=10**600), shape=(64,)), ""),
        (tensor(Storage(one), shape=(64,), strides=(0,), offset=10**600), "reaches"),
        (tensor(Storage(one), shape=(10**600,)), "expected shape"),
        (tensor(Storage(one), shape=(1,) * 100000, strides=(0,)), "malformed"),
        (tensor(Storage(one), shape=(64,), strides=(0, 0)), "malformed"),
    ):
        assert word in refused(write(small(conv1_1__bias=claim)), tmp_path)


@FORMATS
def test_malformed_tensors(write: Callable[..., bytes], tmp_path: Path) -> None:
    one = Storage(np.zeros(1, "f4"))
    for options in (
        {"shape": (64,), "strides": (-1,), "offset": 63},
        {"shape": (64,), "strides": (0,), "offset": -1},
        {"shape": (64,), "strides": (0,), "offset": True},
        {"shape": (64.0,), "strides": (0,)},
        {"shape": "6", "strides": (0,)},
        {"shape": (64,), "strides": (0,), "offset": {}},
    ):
        assert "malformed" in refused(write(small(conv1_1__bias=tensor(one, **options))), tmp_path)
    for arguments in ((), (1, 2, 3, 4), (one,), (Global("torch", "Size"), 0, (64,), (0,))):
        call = Call(Global("torch._utils", "_rebuild_tensor_v2"), arguments)
        assert "malformed" in refused(write(small(conv1_1__bias=call)), tmp_path)
    for storage in (Storage(np.zeros(1, "f4"), count=-1), Storage(np.zeros(1, "f4"), module="collections")):
        refused(write(small(conv1_1__bias=tensor(storage, shape=(64,), strides=(0,)))), tmp_path)


@FORMATS
def test_truncated_anywhere(write: Callable[..., bytes], tmp_path: Path) -> None:
    data = write({"model": small()})
    for size in {*range(0, len(data), 23), *range(len(data) - 40, len(data))}:
        refused(data[:size], tmp_path)


def test_truncated_legacy(arrays: Arrays, tmp_path: Path) -> None:
    data = legacy(state_dict({name: tensor(array) for name, array in arrays.items()}))
    message = refused(data[:15_000_000], tmp_path)
    assert "truncated: the file ends at byte 15,000,000" in message
    assert "truncated: the file ends at byte" in refused(data[:-1], tmp_path)


def test_truncated_storage_in_zip_names_the_array(tmp_path: Path) -> None:
    body, storages = pickled(small(), False)
    storages["5"].values = storages["5"].values.view("u1")[:3]
    message = refused(zipped_around(body, storages), tmp_path)
    assert f"conv2_1/bias ({PUBLISHED}5.bias): truncated, expected 4 bytes, found 3" in message
    message = refused(zipped(small(), without="data/5"), tmp_path)
    assert f"({PUBLISHED}5.bias): truncated or incomplete: it lacks the part archive/data/5" in message


@FORMATS
@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    database=None,
)
@given(data=st.data())
def test_damaged_anywhere(write: Callable[..., bytes], tmp_path: Path, data: st.DataObject) -> None:
    damaged = bytearray(write({"model": small(), "history": [1.5, "text", np.float64(2)]}))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = loaded(bytes(damaged), tmp_path)
    except WeightsError:
        return
    assert list(found) == list(PARAMETER_SHAPES)


@AROUND
@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    database=None,
)
@given(
    body=st.binary(max_size=60)
    | st.lists(st.sampled_from(b"()]}NKaesutqhRbQ0.\x85\x86\x94\x81\x00"), max_size=40)
)
def test_random_pickles(around: Callable[..., bytes], tmp_path: Path, body: Any) -> None:
    refused(around(b"\x80\x02" + bytes(body) + b"."), tmp_path)


@FORMATS
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("module", ["os", "posix", "nt", "subprocess", "builtins", "numpy", "torch", "d2np"])
def test_unknown_names_are_refused(
    write: Callable[..., bytes], protocol: int, module: str, tmp_path: Path
) -> None:
    message = refused(write({"model": Global(module, "system")}, protocol=protocol), tmp_path)
    assert message.endswith(
        f"d2.pth: wants to run `{module}.system`; d2np loads tensors only, so it is refused"
    )


@FORMATS
def test_code_never_runs(write: Callable[..., bytes], tmp_path: Path) -> None:
    proof = tmp_path / "ran"
    touch = Call(Global("os", "mkdir"), (str(proof),))
    evaluate = Call(Global("builtins", "eval"), (f"__import__('os').mkdir({str(proof)!r})",))
    inside = OrderedDict(small())
    inside.__dict__["hidden"] = touch
    hiding = (
        {"model": small(), "bad": touch},
        {"model": small(), "bad": evaluate},
        {"bad": [[({"x": [touch]},)]], "model": small()},
        {"model": inside},
        {"model": small(), "args": argparse.Namespace(x=touch)},
        {"model": small(), "state": Call(Global("collections", "OrderedDict"), (), {"items": evaluate})},
        {"model": small(conv1_1__bias=Call(Global("torch._utils", "_rebuild_tensor_v2"), (touch,)))},
        {"model": small(), "scalar": Call(Global("numpy.core.multiarray", "scalar"), (touch,))},
        {"model": small(), "bad": (1, touch)},
    )
    for checkpoint in hiding:
        for protocol in (2, 4):
            message = refused(write(checkpoint, protocol=protocol), tmp_path)
            assert "wants to run `" in message
    assert not proof.exists()


@AROUND
def test_code_in_raw_pickles_never_runs(around: Callable[..., bytes], tmp_path: Path) -> None:
    proof = tmp_path / "ran"
    path = str(proof).encode()
    argument = b"X" + struct.pack("<I", len(path)) + path
    for body in (
        b"cos\nmkdir\n(" + argument + b"tR.",  # protocol 0: GLOBAL, REDUCE
        b"(" + argument + b"ios\nmkdir\n.",  # INST
        b"(cos\nmkdir\n" + argument + b"o.",  # OBJ
        b"\x80\x02cos\nmkdir\n" + argument + b"\x85\x81.",  # NEWOBJ
        b"\x80\x04\x8c\x02os\x8c\x05mkdir\x93" + argument + b"\x85R.",  # STACK_GLOBAL
        b"\x80\x02cos\nmkdir\n" + argument + b"\x85}\x92.",  # NEWOBJ_EX
        b"\x80\x02}ccollections\nOrderedDict\n)R(X\x01\0\0\0xcos\nmkdir\n" + argument + b"\x85Rub.",  # BUILD
    ):
        assert "wants to run `os.mkdir`" in refused(around(body), tmp_path)
    for body in (
        b"\x80\x02cargparse\nNamespace\n}b" + argument + b"\x85R.",  # state set on a class
        b"\x80\x02\x82\x01.",  # extension registry
        b"\x80\x02Pos.mkdir\n.",  # protocol 0's persistent identifier
        b"\x80\x02" + argument + b"Q.",
        b"\x80\x05\x97.",  # out-of-band buffer
        b"\x80\x02" + argument + argument + b"\x85R.",  # a call of a string
    ):
        refused(around(body), tmp_path)
    assert not proof.exists()


@AROUND
def test_hostile_sizes_in_pickles(around: Callable[..., bytes], tmp_path: Path) -> None:
    """Each would take hours if it were followed."""
    nested = b"\x80\x02K\x00" + b"\x85" * 200_000 + b"N" + b"."
    doubled = b"\x80\x02K\x00" + b"2\x86" * 5000 + b"}2"
    for body in (
        b"\x80\x02Nr\xff\xff\xff\x7f.",  # the memo's last place
        b"\x80\x02X\xff\xff\xff\x7fx.",  # a long text
        b"\x80\x05\x96\xff\xff\xff\xff\xff\x00\x00\x00.",  # a long bytearray
        b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f.",  # a long frame
        b"\x80\x02\x8b\xff\xff\xff\x7f1.",  # a long number
        nested,
        b"\x80\x02}K\x00" + b"\x85" * 200_000 + b"Ns.",  # a nested tuple as key
        b"\x80\x02}K\x00" + b"2\x86" * 5000 + b"Ns.",  # an exponentially large tuple as key
        b"\x80\x02}X\x05\0\0\0modelK\x00" + b"2\x86" * 5000 + b"s.",
        doubled + b".",
        b"\x80\x02K\x00" + b"2\x86" * 5000 + b".",
        b"",
    ):
        refused(around(body), tmp_path)


def test_legacy_header(tmp_path: Path) -> None:
    data = legacy(small())
    proof = tmp_path / "ran"
    evil = pickled(Call(Global("os", "mkdir"), (str(proof),)), True)[0]
    magic = pickle.dumps(0x1950A86A20F9469CFC6C, 2)
    assert "os.mkdir" in refused(magic + evil, tmp_path)
    assert "expected the number 1001" in refused(magic + pickle.dumps(7, 2), tmp_path)
    assert "unknown kind" in refused(pickle.dumps([1, 2]) + data, tmp_path)
    assert "unknown kind" in refused(pickle.dumps(dict.fromkeys("ab"), 2), tmp_path)
    body, storages = pickled(small(), True)
    assert "its storages are not those" in refused(
        legacy_around(body, {"x": Storage(np.zeros(1, "f4"))}), tmp_path
    )
    assert "its storages are not those" in refused(
        legacy_around(body, dict(list(storages.items())[:5])), tmp_path
    )


def test_other_zip_archives(tmp_path: Path) -> None:
    body, storages = pickled(small(), False)
    message = refused(zipped_around(body, storages, compression=zipfile.ZIP_DEFLATED), tmp_path)
    assert "compressed" in message
    assert "expected one data.pkl" in refused(zipped(small(), without="data.pkl"), tmp_path)
    assert "expected one data.pkl" in refused(zipped(small(), extra={"b/data.pkl": b""}), tmp_path)
    assert "more than the 2,097,152 bytes" in refused(zipped_around(bytes(2**24 + 1)), tmp_path)
    assert "little-endian byte order" in refused(zipped(small(), byte_order="big"), tmp_path)
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    assert "found a.npy" in refused((tmp_path / "other.npz").read_bytes(), tmp_path)

    data = bytearray(zipped(small()))
    data[data.index(b"data/7", data.index(b"data/6")) + len("data/7")] ^= 1
    assert f"{PUBLISHED}7.bias" in refused(bytes(data), tmp_path)


# --- files that are no weights ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (b"\n<!DOCTYPE html><html>404</html>", "is a web page (HTML), not weights"),
        (b"<?xml version='1.0'?><html xmlns=''>", "is a web page"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n",
            "b'version https://git-lfs.",
        ),
        (b"\x89PNG\r\n\x1a\n\0\0", r"is of an unknown kind, and starts with b'\x89PNG"),
        (b"\x80\x02}q\x00.", r"unknown kind, and starts with b'\x80\x02}q"),
        (b"\x93NUMPY\x01\0v\0", "NUMPY"),
        (b"Not found\n", r"unknown kind, and starts with b'Not found\n'"),
        (b"\x08\x07\x02\x07pytorch\x00\xff\xfe", r"starts with b'\x08\x07\x02\x07pytorch"),
    ],
)
def test_foreign_files(data: bytes, words: str, tmp_path: Path) -> None:
    message = refused(data, tmp_path, "x.onnx")
    assert words in message
    expected = "HDF5 written by d2np or Keras, as a PyTorch checkpoint, as safetensors or as ONNX"
    assert message.endswith(expected)


def test_extension_does_not_matter(tmp_path: Path) -> None:
    assert is_small(loaded(zipped(small()), tmp_path, "weights.h5"))


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such file; the names that d2np knows are d2np, vgg16, "):
        weights.load(tmp_path / "none.h5")
    with pytest.raises(WeightsError, match="is a folder or a device"):
        weights.load(tmp_path)
    for source in (3, None, "a\0b", "x" * 5000):
        with pytest.raises(WeightsError):
            weights.load(source)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "error", [PermissionError(13, "Permission denied"), OSError(5, "Input/output error")]
)
def test_unreadable_file(error: OSError, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    (tmp_path / "d2.pth").write_bytes(b"PK")
    monkeypatch.setattr("builtins.open", fail)
    with pytest.raises(WeightsError, match=rf"d2\.pth: cannot be read: {error.strerror}"):
        weights.load(tmp_path / "d2.pth")


# --- HDF5 ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain() -> Arrays:
    """Arrays that compress well, for quick files."""
    return {name: np.full(shape, place, "f4") for place, (name, shape) in enumerate(PARAMETER_SHAPES.items())}


@pytest.fixture(scope="module")
def plain_file(plain: Arrays, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("hdf5") / "plain.h5"
    weights.save(path, plain, SOURCE)
    return path.read_bytes()


@pytest.fixture
def plain_path(plain_file: bytes, tmp_path: Path) -> Path:
    path = tmp_path / "d2.h5"
    path.write_bytes(plain_file)
    return path


def test_hdf5_layout(plain_path: Path) -> None:
    with h5py.File(plain_path) as file:
        assert file.attrs["format_version"] == 2
        for name, text in (
            ("architecture", "D2-Net"),
            ("preprocessing", "caffe"),
            ("source_name", SOURCE.name),
            ("source_sha256", SOURCE.sha256),
        ):
            value = file.attrs[name]
            assert (value.decode() if isinstance(value, bytes) else value) == text
        names: list[str] = []
        file.visititems(
            lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None  # type: ignore
        )
        assert sorted(names) == sorted(PARAMETER_SHAPES)
        for name, shape in PARAMETER_SHAPES.items():
            assert file[name].shape == shape
            assert file[name].dtype == np.dtype("<f4")
            assert file[name].compression == "gzip"
    found, provenance = weights.load(plain_path)
    assert is_small(found)
    assert provenance == Provenance(SOURCE.name, SOURCE.sha256, "HDF5")


def test_same_content_same_bytes(plain: Arrays, plain_file: bytes, tmp_path: Path) -> None:
    shuffled = {name: plain[name].astype("f8") for name in reversed(plain)}
    weights.save(tmp_path / "other name.h5", shuffled, SOURCE)
    assert (tmp_path / "other name.h5").read_bytes() == plain_file
    # Nor at another time.
    with h5py.File(tmp_path / "other name.h5") as file:
        for name in PARAMETER_SHAPES:
            assert h5py.h5g.get_objinfo(file.id, name.encode()).mtime == 0


@pytest.mark.parametrize("name", ["größe ü.pth", "a\udcff.pth", "", "x" * 255])
def test_source_names(name: str, plain: Arrays, tmp_path: Path) -> None:
    weights.save(tmp_path / "d2.h5", plain, Provenance(name, "", "PyTorch checkpoint (zip)"))
    assert weights.load(tmp_path / "d2.h5")[1].name == name


def edited(path: Path, edit: Callable[[h5py.File], None]) -> str:
    """The message with which an edited file is refused."""
    with h5py.File(path, "r+") as file:
        edit(file)
    with pytest.raises(WeightsError) as caught:
        weights.load(path)
    return str(caught.value)


def replaced(name: str, **options: Any) -> Callable[[h5py.File], None]:
    def edit(file: h5py.File) -> None:
        del file[name]
        file.create_dataset(name, **options)

    return edit


def test_hdf5_versions(plain_path: Path) -> None:
    message = edited(plain_path, lambda file: file.attrs.modify("format_version", 3))
    assert "expected format version 1 to 2, found 3; newer ones need a newer d2np" in message
    assert "format version 1 to 2, found 0" in edited(
        plain_path, lambda file: file.attrs.modify("format_version", 0)
    )
    assert "format version 1 to 2, found <NoneType>" in edited(
        plain_path, lambda file: file.attrs.create("format_version", np.ones(3, "i8"))
    )
    compound = np.dtype([("text", h5py.string_dtype()), ("number", "i4")])
    for value, dtype in (("one", None), (1.5, None), (np.zeros((), "i4,i4"), None), (None, compound)):

        def edit(file: h5py.File, value: Any = value, dtype: Any = dtype) -> None:
            if value is not None:
                file.attrs.create("format_version", value, dtype=dtype)
                return
            # h5py does not write text of variable length in a compound type; HDF5 reads it.
            del file.attrs["format_version"]
            scalar = h5py.h5s.create(h5py.h5s.SCALAR)
            h5py.h5a.create(file.id, b"format_version", h5py.h5t.py_create(dtype, logical=True), scalar)

        assert "expected format version 1 to 2, found" in edited(plain_path, edit)


def test_hdf5_preprocessing(plain: Arrays, plain_path: Path, tmp_path: Path) -> None:
    torch = replace(SOURCE, preprocessing="torch")
    weights.save(tmp_path / "torch.h5", plain, torch)
    assert weights.load(tmp_path / "torch.h5")[1].preprocessing == "torch"
    message = edited(plain_path, lambda file: file.attrs.create("preprocessing", b"tf", dtype="S2"))
    assert "expected weights trained with caffe or torch preprocessing, found tf" in message
    assert "expected the attribute preprocessing, a text" in edited(
        plain_path, lambda file: file.attrs.__delitem__("preprocessing")
    )


def test_hdf5_of_version_1(plain_path: Path) -> None:
    with h5py.File(plain_path, "r+") as file:
        file.attrs.modify("format_version", 1)
        del file.attrs["preprocessing"]
    found, provenance = weights.load(plain_path)
    assert is_small(found)
    assert provenance == Provenance(SOURCE.name, SOURCE.sha256, "HDF5")


def test_hdf5_of_halves(plain: Arrays, tmp_path: Path) -> None:
    h5.write(tmp_path / "half.h5", plain, SOURCE, half=True)
    found, _ = weights.load(tmp_path / "half.h5")
    for name, array in found.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, plain[name].astype("f2"))


def test_hdf5_with_a_base(tmp_path: Path) -> None:
    """Arrays that packaged weights have are left out, and found again."""
    arrays, _ = weights.load("vgg16")
    changed = {**arrays, "conv4_3/bias": arrays["conv4_3/bias"] + 1}
    path = tmp_path / "own.h5"
    h5.write(path, changed, SOURCE, base="vgg16")
    assert path.stat().st_size < 20_000
    with h5py.File(path) as file:
        assert [name for layer in file for name in file[layer]] == ["bias"]
    found, provenance = weights.load(path)
    assert provenance == replace(SOURCE, format="HDF5")
    for name, array in changed.items():
        np.testing.assert_array_equal(found[name], array)

    def base(value: bytes) -> Callable[[Any], None]:
        return lambda file: file.attrs.create("base", np.bytes_(value))

    for value in (b"tf", b"../../vgg16", b"\n" * 500):
        assert "expected packaged weights as its base, found" in edited(path, base(value))
    with h5py.File(path, "r+") as file:
        file.attrs["base"] = np.bytes_(b"vgg16")
        file["conv1_1/bias"] = np.zeros(7)
    with pytest.raises(WeightsError, match=r"conv1_1/bias: expected shape \(64,\), found \(7,\)"):
        weights.load(path)


def test_hdf5_attributes(plain_path: Path) -> None:
    message = edited(plain_path, lambda file: file.attrs.create("architecture", b"SuperPoint", dtype="S10"))
    assert "expected the architecture D2-Net, found SuperPoint" in message
    message = edited(plain_path, lambda file: file.attrs.__delitem__("architecture"))
    assert "is an HDF5 file but not weights written by d2np" in message
    assert "conv1_1" in message


@pytest.mark.parametrize("name", ["source_name", "source_sha256"])
def test_hdf5_source_attributes(name: str, plain_path: Path) -> None:
    assert f"expected the attribute {name}, a text" in edited(
        plain_path, lambda file: file.attrs.create(name, 3.0)
    )
    assert f"expected the attribute {name}, a text" in edited(
        plain_path, lambda file: file.attrs.__delitem__(name)
    )


def test_hdf5_arrays(plain_path: Path, plain_file: bytes) -> None:
    name = "conv2_1/bias"
    for edit, words in (
        (replaced(name, shape=(2**40,), dtype="f4"), "expected shape (128,), found (1099511627776,)"),
        (replaced(name, shape=(128,), dtype="i4"), "expected real floating-point values, found int32"),
        (replaced(name, shape=(128,), dtype="c8"), "expected an array of numbers, found complex64"),
        (replaced(name, data="text"), "expected shape"),
        (replaced(name, data=np.full(128, np.nan, "f4")), "128 of 128 infinite or not a number"),
        (replaced(name, data=np.zeros(128, "f4"), scaleoffset=3), "expected gzip compression"),
        (lambda file: file.__delitem__(name), f"missing {name}"),
        (lambda file: file.__delitem__("conv2_1"), f"missing conv2_1/weight, {name}"),
        (lambda file: file.create_dataset("conv5_1/bias", data=0.0), "unexpected conv5_1/bias"),
        (lambda file: file.create_dataset("extra", data=0.0), "unexpected extra"),
        (lambda file: (file.__delitem__(name), file.create_group(name)), f"missing {name}"),
        (replaced(name, dtype=h5py.Empty("f4").dtype, data=h5py.Empty("f4")), "found None"),
    ):
        plain_path.write_bytes(plain_file)
        assert words in edited(plain_path, edit)


def test_hdf5_other_precisions(plain_path: Path) -> None:
    with h5py.File(plain_path, "r+") as file:
        replaced("conv1_1/bias", data=np.full(64, 1, "f2"))(file)
        replaced("conv1_2/bias", data=np.full(64, 3, ">f8"))(file)
    assert is_small(weights.load(plain_path)[0])


def test_hdf5_never_leaves_the_file(plain_path: Path, plain_file: bytes) -> None:
    name = "conv2_1/bias"
    other = plain_path.with_name("other.h5")
    other.write_bytes(plain_file)
    raw = plain_path.with_name("raw")
    raw.write_bytes(bytes(512))
    pipe = plain_path.with_name("pipe")
    os.mkfifo(pipe)

    def link(target: Any, at: str = name) -> Callable[[h5py.File], None]:
        def edit(file: h5py.File) -> None:
            del file[at]
            file[at] = target

        return edit

    def virtual(file: h5py.File) -> None:
        layout = h5py.VirtualLayout((128,), "f4")
        layout[:] = h5py.VirtualSource(str(other), name, (128,))
        del file[name]
        file.create_virtual_dataset(name, layout)

    def endless(file: h5py.File) -> None:
        """HDF5 opens the other file, here a pipe, to tell the shape."""
        layout = h5py.VirtualLayout((128,), "f4", maxshape=(None,))
        everything = slice(0, h5py.h5s.UNLIMITED)
        layout[everything] = h5py.VirtualSource(str(pipe), name, (128,), "f4", (None,))[everything]
        del file[name]
        file.create_virtual_dataset(name, layout)

    for edit, words in (
        (link(h5py.ExternalLink(str(other), name)), "is a link"),
        (link(h5py.ExternalLink(str(other), "conv2_1"), "conv2_1"), "is a link"),
        (link(h5py.SoftLink("/conv2_2/bias")), "is a link"),
        (virtual, "in another file"),
        (endless, "in another file"),
        (replaced(name, shape=(128,), dtype="f4", external=[(str(raw), 0, 512)]), "in another file"),
    ):
        plain_path.write_bytes(plain_file)
        message = edited(plain_path, edit)
        assert words in message
        assert "conv2_1" in message


def test_other_hdf5_files(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "features.h5", "w") as file:
        file.create_dataset("image.jpg/keypoints", data=np.zeros((3, 2)))
    with pytest.raises(WeightsError, match=r"not weights written by d2np.*holds image\.jpg"):
        weights.load(tmp_path / "features.h5")


def test_truncated_hdf5(plain_file: bytes, tmp_path: Path) -> None:
    for size in {*range(1, len(plain_file), 2500), *range(0, 128, 16), len(plain_file) - 1}:
        refused(plain_file[:size], tmp_path, "d2.h5")


def test_damaged_hdf5_data(arrays: Arrays, tmp_path: Path) -> None:
    weights.save(tmp_path / "d2.h5", arrays, SOURCE)
    data = bytearray((tmp_path / "d2.h5").read_bytes())
    data[len(data) // 2] ^= 0x55  # inside conv4's compressed numbers
    assert "damaged" in refused(bytes(data), tmp_path, "d2.h5")


# --- saving ----------------------------------------------------------------------------------------------


def test_save_replaces_a_file_only_when_complete(
    plain: Arrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "d2.h5"
    path.write_bytes(b"old")

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    for function in ("fsync", "replace"):
        with monkeypatch.context() as patched:
            patched.setattr(os, function, fail)
            with pytest.raises(WeightsError, match=r"d2\.h5: cannot be written: No space left on device$"):
                weights.save(path, plain, SOURCE)
        assert path.read_bytes() == b"old"
        assert os.listdir(tmp_path) == ["d2.h5"]

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            weights.save(path, plain, SOURCE)
    assert os.listdir(tmp_path) == ["d2.h5"]

    weights.save(path, plain, SOURCE)
    assert os.listdir(tmp_path) == ["d2.h5"]
    assert is_small(weights.load(path)[0])


def test_save_somewhere_impossible(plain: Arrays, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for target in (tmp_path, tmp_path / "none" / "d2.h5", tmp_path / "file" / "d2.h5", "x" * 5000, 3):
        with pytest.raises(WeightsError) as caught:
            weights.save(target, plain, SOURCE)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == ["file"]
    with pytest.raises(WeightsError, match="missing conv1_1/weight"):
        weights.save(tmp_path / "d2.h5", {}, SOURCE)
    assert os.listdir(tmp_path) == ["file"]


def test_save_under_a_name_that_no_file_can_have(plain: Arrays, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="cannot be written: no file can have a NUL in its name"):
        weights.save(tmp_path / "a\0b.h5", plain, SOURCE)


def test_save_never_replaces_a_device(plain: Arrays) -> None:
    before = os.stat(os.devnull).st_mode if os.path.exists(os.devnull) else None
    with pytest.raises(WeightsError):
        weights.save(os.devnull, plain, SOURCE)
    if before is not None:
        assert stat.S_IFMT(os.stat(os.devnull).st_mode) == stat.S_IFMT(before)


def test_save_without_provenance(plain: Arrays, tmp_path: Path) -> None:
    weights.save(tmp_path / "d2.h5", plain)
    recorded = weights.load(tmp_path / "d2.h5")[1]
    assert (recorded.name, recorded.sha256) == ("arrays", Provenance.of_arrays(plain).sha256)


def test_address_is_recorded_if_there_is_one(plain: Arrays, tmp_path: Path) -> None:
    for url in ("", "https://example.org/d2_tf.pth"):
        weights.save(tmp_path / "d2.h5", plain, replace(SOURCE, url=url))
        assert weights.load(tmp_path / "d2.h5")[1].url == url
        with h5py.File(tmp_path / "d2.h5") as file:
            assert ("source_url" in file.attrs) == bool(url)
    with h5py.File(tmp_path / "d2.h5", "r+") as file:
        file.attrs["source_url"] = 3
    with pytest.raises(WeightsError, match="expected the attribute source_url, a text"):
        weights.load(tmp_path / "d2.h5")


def test_save_makes_the_cache_folder(plain: Arrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("D2NP_CACHE", str(tmp_path / "deep" / "cache"))
    assert catalogue.default() == "d2np"
    weights.save(catalogue.cached_file("tf"), plain, SOURCE)
    assert catalogue.default() == "tf"
    assert is_small(weights.load("tf")[0])


# --- arrays ----------------------------------------------------------------------------------------------


def test_check_returns_network_order(plain: Arrays) -> None:
    given_ = {name: np.asfortranarray(plain[name], dtype="f8") for name in reversed(plain)}
    checked = weights.check(given_)
    assert is_small(checked)
    assert all(array.flags.c_contiguous for array in checked.values())
    assert is_small(weights.check(plain | {"conv1_1/bias": [1.0] * 64}))


def test_check_refuses(plain: Arrays) -> None:
    name = "conv3_2/bias"
    infinite = plain[name].copy()
    infinite[:2] = np.inf, np.nan
    for value, words in (
        (np.zeros((256, 1), "f4"), "expected shape (256,), found (256, 1)"),
        (np.zeros(256, "i4"), "expected real floating-point values, found int32"),
        (np.zeros(256, "c8"), "expected real floating-point values, found complex64"),
        (np.zeros(256, object), "expected real floating-point values, found object"),
        (["a"] * 256, "expected real floating-point values"),
        ([[1.0], [1.0, 2.0]], "found no array"),
        (infinite, "2 of 256 infinite or not a number"),
        (np.full(256, 1e39), "256 of 256 infinite"),
    ):
        with pytest.raises(WeightsError) as caught:
            weights.check(plain | {name: value})  # type: ignore[dict-item]
        assert str(caught.value).startswith(f"{name}: ")
        assert words in str(caught.value)
    with pytest.raises(WeightsError, match=r"missing conv1_1/weight, .* and 16 more; unexpected x, <tuple>"):
        weights.check({"x": 1.0, (): 2.0})  # type: ignore[dict-item]
    with pytest.raises(WeightsError, match="must be a mapping"):
        weights.check([1, 2])  # type: ignore[arg-type]


def test_errors_are_d2np_errors() -> None:
    assert issubclass(WeightsError, errors.Error)


def test_provenance_of_arrays(plain: Arrays) -> None:
    provenance = Provenance.of_arrays(plain)
    assert provenance.name == "arrays"
    assert provenance == Provenance.of_arrays({name: array.copy() for name, array in plain.items()})
    changed = plain | {"conv4_3/bias": plain["conv4_3/bias"] + 1}
    assert provenance.sha256 != Provenance.of_arrays(changed).sha256


# --- names -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tf", "ots", "tf_no_phototourism"])
def test_published_weights_by_hand(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("D2NP_CACHE", str(tmp_path))
    with pytest.raises(WeightsError) as caught:
        weights.load(name)
    message = str(caught.value)
    assert f"download https://dusmanu.com/files/d2-net/d2_{name}.pth" in message
    assert f"`d2np convert FILE {tmp_path / (name + '.h5')}`" in message
    (tmp_path / f"{name}.h5").write_bytes(b"")
    assert catalogue.resolve(name) == tmp_path / f"{name}.h5"


def test_names_are_not_shadowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("D2NP_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    Path("tf").write_bytes(zipped(small()))
    with pytest.raises(WeightsError, match="not on this machine"):
        weights.load("tf")
    assert is_small(weights.load("./tf")[0])
    assert is_small(weights.load(Path("tf"))[0])


def test_packaged_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = tmp_path / "site-packages" / "d2np" / "weights"
    installed.mkdir(parents=True)
    monkeypatch.setattr(catalogue, "__file__", str(installed / "catalogue.py"))
    monkeypatch.setattr(catalogue.resources, "files", lambda package: installed)
    with pytest.raises(WeightsError, match="install d2np again"):
        catalogue.resolve("analytic")
    checkout = tmp_path / "site-packages" / "weights"
    checkout.mkdir()
    for folder in (checkout, installed):
        (folder / "analytic.h5").write_bytes(b"")
        assert catalogue.resolve("analytic").samefile(folder / "analytic.h5")


def test_packaged_weights_that_cannot_be_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "d2np.zip", "w") as archive:
        archive.writestr("analytic.h5", b"")
    monkeypatch.setattr(catalogue.resources, "files", lambda package: zipfile.Path(tmp_path / "d2np.zip"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    with pytest.raises(WeightsError, match="TMPDIR"):
        catalogue.resolve("analytic")


def test_packaged_weights_in_a_zip_file_outlive_a_forked_child(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "d2np.zip", "w") as archive:
        archive.writestr("analytic.h5", b"")
    script = (
        "import os, sys, zipfile\n"
        "from d2np.weights import catalogue\n"
        "catalogue.resources.files = lambda package: zipfile.Path(sys.argv[1])\n"
        "path = catalogue.resolve('analytic')\n"
        "if not (child := os.fork()): sys.exit()\n"
        "os.waitpid(child, 0)\n"
        "assert path.is_file()\n"
        "print(path)\n"
    )
    path = Path(run(script, tmp_path / "d2np.zip").stdout.strip())
    assert path.name == "analytic.h5"
    assert not path.exists()


def test_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    for variable in ("D2NP_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(variable, raising=False)
    for platform, parts in (
        ("linux", (".cache", "d2np")),
        ("darwin", ("Library", "Caches", "d2np")),
        ("win32", ("AppData", "Local", "d2np", "Cache")),
    ):
        monkeypatch.setattr(sys, "platform", platform)
        assert catalogue.cache_folder() == tmp_path.joinpath(*parts)
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert catalogue.cache_folder() == tmp_path / "local" / "d2np" / "Cache"
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert catalogue.cache_folder() == tmp_path / ".cache" / "d2np"
    monkeypatch.setattr(Path, "home", lambda: Path("relative"))
    with pytest.raises(WeightsError, match="set D2NP_CACHE"):
        catalogue.cache_folder()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert catalogue.cache_folder() == tmp_path / "xdg" / "d2np"
    monkeypatch.setenv("D2NP_CACHE", str(tmp_path / "mine"))
    assert catalogue.cache_folder() == tmp_path / "mine"


def test_no_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(Path, "home", fail)
    monkeypatch.delenv("D2NP_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    with pytest.raises(WeightsError, match="set D2NP_CACHE"):
        catalogue.resolve("tf")
    assert catalogue.default() == "d2np"
