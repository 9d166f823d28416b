"""VGG16 in the containers of other libraries, made by hand; with_libraries/ has files that they wrote."""

import io
import json
import struct
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import d2np
from d2np import weights
from d2np.errors import WeightsError
from d2np.layers import PARAMETER_SHAPES
from d2np.weights.state_dict import PUBLISHED_NAMES

LAYERS = list(dict.fromkeys(name.split("/")[0] for name in PARAMETER_SHAPES))


@pytest.fixture(scope="module")
def arrays(make_weights):
    return make_weights(5)


def assert_holds(path, arrays, preprocessing, format):
    net = d2np.Net.load(path)
    assert net.preprocessing == preprocessing
    assert net.provenance.format == format
    assert net.provenance.name == path.name
    for name, array in arrays.items():
        np.testing.assert_array_equal(net.arrays[name], array, err_msg=name)


def refusal(path):
    with pytest.raises(WeightsError) as caught:
        weights.load(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Keras


def keras_file(path, arrays, name, more=()):
    """``name`` gives the group of a layer, by its number and name, and the names of kernel and bias in it."""
    with h5py.File(path, "w") as file:
        for number, layer in enumerate(LAYERS):
            group, kernel, bias = name(number, layer)
            file[f"{group}/{kernel}"] = arrays[f"{layer}/weight"].transpose(2, 3, 1, 0)
            file[f"{group}/{bias}"] = arrays[f"{layer}/bias"]
        for where, shape in more:
            file[where] = np.zeros(shape, np.float32)
    return path


def keras_1(number, layer):
    block = f"block{layer[4]}_conv{layer[6]}"
    return block, f"{block}_W_1:0", f"{block}_b_1:0"


def keras_2(number, layer):
    block = f"block{layer[4]}_conv{layer[6]}"
    return f"model_weights/vgg16/{block}/{block}", "kernel:0", "bias:0"


def keras_3(number, layer):
    return f"layers/functional/layers/conv2d{f'_{number}' if number else ''}/vars", "0", "1"


TOP = {
    keras_1: [("block5_conv1/block5_conv1_W_1:0", (3, 3, 512, 512)), ("fc1/fc1_W_1:0", (8, 9))],
    keras_2: [("model_weights/dense/dense/kernel:0", (8, 9))],
    keras_3: [("layers/conv2d_10/vars/0", (3, 3, 512, 512)), ("layers/dense/vars/0", (8, 9))],
}


@pytest.mark.parametrize("top", [True, False], ids=["with top", "without top"])
@pytest.mark.parametrize("name", TOP)
def test_keras(arrays, tmp_path, name, top):
    path = keras_file(tmp_path / "vgg16.h5", arrays, name, TOP[name] if top else ())
    assert_holds(path, arrays, "caffe", "Keras HDF5")


def test_other_networks_of_keras(arrays, tmp_path):
    path = tmp_path / "x.h5"
    vgg19 = [("block3_conv4/k", (3, 3, 256, 256)), ("block3_conv4/b", (256,))]
    message = refusal(keras_file(path, arrays, keras_1, vgg19))
    assert "block3_conv4/k: expected shape (3, 3, 256, 512), found (3, 3, 256, 256)" in message
    normalised = [("layers/batch_normalization_2/vars/0", (64,))]
    message = refusal(keras_file(path, arrays, keras_3, normalised))
    assert "not a VGG16: expected ten convolutions without batch normalisation, found layers" in message
    with h5py.File(keras_file(path, arrays, keras_2), "r+") as file:
        del file["model_weights/vgg16/block4_conv3"]
    assert "not a VGG16: expected ten convolutions" in refusal(path)
    with h5py.File(keras_file(path, arrays, keras_1), "r+") as file:
        del file["block2_conv1"]
        file["block2_conv1/k"] = np.zeros((5, 5, 64, 128), np.float32)
        file["block2_conv1/b"] = np.zeros(128, np.float32)
    assert "block2_conv1/k: expected shape (3, 3, 64, 128), found (5, 5, 64, 128)" in refusal(path)
    with h5py.File(path, "r+") as file:
        file["block1_conv1/again"] = np.zeros(64, np.float32)
    assert "block1_conv1/block1_conv1_b_1:0: expected shape (3, 3, 64, 64), found (64,)" in refusal(path)
    with h5py.File(path, "w") as file:
        file["group/array"] = np.zeros(3)
    assert "is an HDF5 file but not weights written by d2np" in refusal(path)


def test_hdf5_that_holds_itself(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        group = file.create_group("a")
        for name in "bcd":
            group[name] = group
    assert "arrays and groups, or too many inside each other" in refusal(tmp_path / "x.h5")


def test_links_out_of_a_file_of_keras(arrays, tmp_path):
    path = keras_file(tmp_path / "vgg16.h5", arrays, keras_2)
    with h5py.File(path, "r+") as file:
        file["model_weights/elsewhere"] = h5py.ExternalLink("other.h5", "/")
    assert "model_weights/elsewhere: is a link to somewhere else" in refusal(path)


def test_whole_model_of_keras_3(tmp_path):
    with zipfile.ZipFile(tmp_path / "vgg16.keras", "w") as archive:
        for name in ("metadata.json", "config.json", "model.weights.h5"):
            archive.writestr(name, "{}")
    message = refusal(tmp_path / "vgg16.keras")
    assert "expected one data.pkl in it, found metadata.json, config.json, model.weights.h5" in message


# safetensors


def safetensors(path, arrays, type="F32", change=lambda header: None, cut=None):
    header, content = {"__metadata__": {"format": "pt"}}, b""
    for name, array in arrays.items():
        data = array.tobytes()
        header[name] = {
            "dtype": type,
            "shape": list(array.shape),
            "data_offsets": [len(content), len(content) + len(data)],
        }
        content += data
    change(header)
    told = json.dumps(header).encode()
    path.write_bytes((struct.pack("<Q", len(told)) + told + content)[:cut])
    return path


def vgg16(arrays, prefix="features."):
    state = {prefix + name: arrays[ours] for name, ours in PUBLISHED_NAMES.items()}
    return {
        **state,
        f"{prefix}24.weight": np.zeros((2, 2), np.float32),
        "classifier.0.bias": np.zeros(3, "f4"),
    }


def test_safetensors(arrays, tmp_path):
    path = safetensors(tmp_path / "vgg16.safetensors", vgg16(arrays))
    assert_holds(path, arrays, "torch", "safetensors")
    prefix = "dense_feature_extraction.model."
    d2net = {prefix + name: arrays[ours] for name, ours in PUBLISHED_NAMES.items()}
    assert_holds(safetensors(path, d2net), arrays, "caffe", "safetensors")


def test_types_of_safetensors(arrays, tmp_path):
    path = tmp_path / "vgg16.safetensors"
    state = vgg16(arrays)
    halves = {name: array.astype("f2") for name, array in state.items()}
    assert_holds(
        safetensors(path, halves, "F16"),
        {name: array.astype("f2") for name, array in arrays.items()},
        *("torch", "safetensors"),
    )
    upper = {name: (array.view("u4") >> 16).astype("u2") for name, array in state.items()}
    rounded = {name: (array.view("u4") & 0xFFFF0000).view("f4") for name, array in arrays.items()}
    assert_holds(safetensors(path, upper, "BF16"), rounded, "torch", "safetensors")
    assert "(features.0.weight): expected floating-point values, found I32" in refusal(
        safetensors(path, state, "I32")
    )


def test_other_networks_in_state_dicts(arrays, tmp_path):
    path = tmp_path / "x.safetensors"
    state = vgg16(arrays)
    for name in ("features.17.weight", "features.17.bias"):
        state[name.replace("17", "16")] = state.pop(name)
    message = refusal(safetensors(path, state))
    assert "missing features.17.weight, features.17.bias; unexpected features.16.weight" in message
    normalised = {**vgg16(arrays), "features.1.running_mean": np.zeros(64, "f4")}
    assert "unexpected features.1.running_mean" in refusal(safetensors(path, normalised))
    assert "or those of a VGG16, features.0.weight" in refusal(safetensors(path, {"a": np.zeros(3, "f4")}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda header: header["features.0.bias"].update(shape=[65]), "expected shape (64,), found (65,)"),
        (
            lambda header: header["features.0.bias"].update(data_offsets=[-256, 0]),
            "its bytes are not in the file",
        ),
        (
            lambda header: header["features.0.bias"].update(data_offsets=[0, 2**70]),
            "its bytes are not in the file",
        ),
        (lambda header: header["features.0.bias"].update(data_offsets=[2**40, 2**40 + 256]), "truncated"),
        (lambda header: header["features.0.bias"].pop("dtype"), "damaged or truncated"),
        (lambda header: header.update({"features.0.bias": 3}), "damaged or truncated"),
    ],
)
def test_damaged_safetensors(arrays, tmp_path, change, message):
    assert message in refusal(safetensors(tmp_path / "x.safetensors", vgg16(arrays), change=change))


def test_headers_of_safetensors(arrays, tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", 5 << 20) + b"{" + bytes(100))
    assert "a header of 5,242,880 bytes" in refusal(path)
    path.write_bytes(struct.pack("<Q", 100) + b"{" + b"[" * 99)
    assert "damaged or truncated" in refusal(path)


@settings(deadline=None, max_examples=200, derandomize=True)
@given(st.data())
def test_any_damage_to_a_header_is_told(data):
    header = json.dumps(
        {"features.0.weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    ).encode()
    content = bytearray(struct.pack("<Q", len(header)) + header)
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with pytest.raises(WeightsError):
        weights.read(io.BytesIO(bytes(content)), Path("w.safetensors"))
