"""VGG16 in files that Keras, torchvision, timm and safetensors write, from weights that are known.

Not collected by default: run ``pytest tests/with_libraries`` where those and PyTorch are installed.
"""

from __future__ import annotations

import gc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import timm
import torch
import torchvision
from keras.src.legacy.saving import legacy_h5_format
from torch import nn

import d2np
from d2np import weights
from d2np.errors import WeightsError
from d2np.weights.state_dict import PUBLISHED_NAMES

# Keras' remarks on itself.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def arrays(make_weights: Callable[[int], Arrays]) -> Arrays:
    return make_weights(7)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Return a path by its name; whole networks are large, so nothing is left of them."""
    yield lambda name: tmp_path / name
    for path in tmp_path.iterdir():
        path.unlink()
    gc.collect()


def assert_holds(path: Path, arrays: Arrays, preprocessing: str, format: str) -> None:
    found, provenance = weights.load(path)
    assert (provenance.preprocessing, provenance.format) == (preprocessing, format)
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert found[name].tobytes() == array.tobytes(), name


def refusal(path: Path) -> str:
    with pytest.raises(WeightsError) as caught:
        weights.load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


def image() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (48, 64, 3), np.uint8)


def assert_same_map(net: d2np.Net, expected: np.ndarray) -> None:
    """By far nearer than with channels in another order, or other means, which differ by a tenth and more."""
    found = net.dense(image())
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 1e-5 * expected.max()


# Keras


def of_keras(arrays: Arrays, **options: Any) -> keras.Model:
    model = keras.applications.VGG16(weights=None, **{"input_shape": (32, 32, 3), **options})
    for name in dict.fromkeys(name.split("/")[0] for name in arrays):
        kernel = arrays[f"{name}/weight"].transpose(2, 3, 1, 0)
        model.get_layer(f"block{name[4]}_conv{name[6]}").set_weights([kernel, arrays[f"{name}/bias"]])
    return model


@pytest.fixture(scope="module", params=[False, True], ids=["without top", "with top"])
def whole(request: pytest.FixtureRequest, arrays: Arrays) -> keras.Model:
    return of_keras(arrays, include_top=request.param)


def save_keras_2(model: keras.Model, path: Path) -> None:
    """Save weights alone as Keras 2 did, such as ``vgg16_weights_tf_dim_ordering_tf_kernels.h5``."""
    with h5py.File(path, "w") as stream:
        legacy_h5_format.save_weights_to_hdf5_group(stream, model)


KERAS = pytest.mark.parametrize(
    ("name", "save"),
    [
        ("vgg16_weights.h5", save_keras_2),
        ("vgg16.h5", keras.Model.save),
        ("vgg16.weights.h5", keras.Model.save_weights),
    ],
    ids=["Keras 2, weights", "Keras 2, model", "Keras 3"],
)


@KERAS
def test_keras(
    arrays: Arrays,
    whole: keras.Model,
    file: Callable[[str], Path],
    name: str,
    save: Callable[[keras.Model, Path], None],
) -> None:
    save(whole, file(name))
    assert_holds(file(name), arrays, "caffe", "Keras HDF5")


@KERAS
def test_keras_inside_another_model(
    arrays: Arrays, file: Callable[[str], Path], name: str, save: Callable[[keras.Model, Path], None]
) -> None:
    model = of_keras(arrays, include_top=False)
    outer = keras.Sequential([model, keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3)])
    save(outer, file(name))
    assert_holds(file(name), arrays, "caffe", "Keras HDF5")


def test_whole_model_of_keras_3(arrays: Arrays, file: Callable[[str], Path]) -> None:
    of_keras(arrays, include_top=False).save(file("vgg16.keras"))
    assert "expected one data.pkl in it, found metadata.json" in refusal(file("vgg16.keras"))
    with zipfile.ZipFile(file("vgg16.keras")) as archive:
        archive.extract("model.weights.h5", file("vgg16.keras").parent)
    assert_holds(file("model.weights.h5"), arrays, "caffe", "Keras HDF5")


def test_map_of_keras(arrays: Arrays, file: Callable[[str], Path]) -> None:
    model = of_keras(arrays, include_top=False, input_shape=(48, 64, 3))
    cells = keras.layers.AveragePooling2D(2, strides=1)(model.get_layer("block3_conv3").output)
    for number in "123":
        layer = keras.layers.Conv2D(512, 3, padding="same", dilation_rate=2, activation="relu")
        cells = layer(cells)
        layer.set_weights(model.get_layer(f"block4_conv{number}").get_weights())
    given = keras.applications.vgg16.preprocess_input(image()[np.newaxis].astype(np.float32))
    expected = keras.Model(model.input, cells).predict(given, verbose=0)[0]
    model.save_weights(file("vgg16.weights.h5"))
    assert_same_map(d2np.Net.load(file("vgg16.weights.h5")), expected)


def text_of_keras(**options: Any) -> keras.Model:
    return keras.Sequential([keras.Input((5,)), keras.layers.Embedding(9, 4), keras.layers.Dense(2)])


@pytest.mark.parametrize(
    ("network", "keras_2", "keras_3"),
    [
        (
            keras.applications.VGG19,
            "block3_conv4/kernel: expected shape (3, 3, 256, 512), found (3, 3, 256, 256)",
            "layers/conv2d_7/vars/0: expected shape (3, 3, 256, 512), found (3, 3, 256, 256)",
        ),
        (
            keras.applications.ResNet50,
            "is an HDF5 file but not weights written by d2np",
            "not a VGG16: expected ten convolutions without batch normalisation",
        ),
        (
            text_of_keras,
            "is an HDF5 file but not weights written by d2np",
            "is an HDF5 file but not weights written by d2np",
        ),
    ],
    ids=["VGG19", "ResNet50", "text"],
)
def test_other_networks_of_keras(
    file: Callable[[str], Path], network: Callable[..., keras.Model], keras_2: str, keras_3: str
) -> None:
    model = network(weights=None, include_top=False, input_shape=(32, 32, 3))
    save_keras_2(model, file("x.h5"))
    assert keras_2 in refusal(file("x.h5"))
    model.save_weights(file("x.weights.h5"))
    assert keras_3 in refusal(file("x.weights.h5"))


# PyTorch


def network(make: Callable[..., nn.Module], arrays: Arrays | None = None, **options: Any) -> nn.Module:
    """Make a network of zeros but for the given arrays, without the time that random values would take."""
    with torch.device("meta"):
        model = make(**options)
    model.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.zero_()
    if arrays is not None:
        given = {f"features.{name}": torch.from_numpy(arrays[ours]) for name, ours in PUBLISHED_NAMES.items()}
        assert not model.load_state_dict(given, strict=False).unexpected_keys
    return model.eval()


@pytest.fixture(scope="module")
def of_torchvision(arrays: Arrays) -> nn.Module:
    return network(torchvision.models.vgg16, arrays)


@pytest.mark.parametrize("format", ["zip", "legacy"])
def test_torchvision(
    arrays: Arrays, of_torchvision: nn.Module, file: Callable[[str], Path], format: str
) -> None:
    path = file("vgg16.pth")
    torch.save(of_torchvision.state_dict(), path, _use_new_zipfile_serialization=format == "zip")
    assert_holds(path, arrays, "torch", f"PyTorch checkpoint ({format})")


@pytest.mark.filterwarnings("ignore:You are using the legacy TorchScript:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The feature will be removed:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*:FutureWarning")
@pytest.mark.parametrize("dynamo", [False, True], ids=["torchscript", "dynamo"])
def test_torchvision_as_onnx(arrays: Arrays, file: Callable[[str], Path], dynamo: bool) -> None:
    model = network(torchvision.models.vgg16, arrays)
    model.classifier = nn.Sequential(nn.Dropout(), nn.Linear(25088, 3))
    batch = torch.zeros(1, 3, 224, 224)
    options = {"dynamo": True, "external_data": False} if dynamo else {"dynamo": False}
    torch.onnx.export(model.eval(), (batch,), file("vgg16.onnx"), verbose=False, **options)
    format = weights.load(file("vgg16.onnx"))[1].format
    assert format.startswith("ONNX, pytorch 2.")
    assert_holds(file("vgg16.onnx"), arrays, "torch", format)


def test_timm(arrays: Arrays, tmp_path: Path) -> None:
    """As timm writes it for a model hub."""
    model = network(timm.create_model, arrays, model_name="vgg16")
    timm.models.save_for_hf(model, tmp_path, safe_serialization=True)
    path = tmp_path / "model.safetensors"
    assert_holds(path, arrays, "torch", "safetensors")
    path.unlink()


def test_tuned(arrays: Arrays, file: Callable[[str], Path]) -> None:
    """Another top, trained on several devices, in half precision."""
    model = network(torchvision.models.vgg16, arrays)
    model.classifier = nn.Sequential(nn.Linear(4, 3))
    state = nn.DataParallel(model.half()).state_dict()
    halves = {name: array.astype(np.float16).astype(np.float32) for name, array in arrays.items()}
    torch.save({"state_dict": state}, file("tuned.pth"))
    assert_holds(file("tuned.pth"), halves, "torch", "PyTorch checkpoint (zip)")
    safetensors.torch.save_file(state, file("tuned.safetensors"))
    assert_holds(file("tuned.safetensors"), halves, "torch", "safetensors")
    upper = {name: tensor.bfloat16() for name, tensor in state.items()}
    safetensors.torch.save_file(upper, file("tuned.safetensors"))
    given = {ours: upper[f"module.features.{name}"].float().numpy() for name, ours in PUBLISHED_NAMES.items()}
    assert_holds(file("tuned.safetensors"), given, "torch", "safetensors")


@pytest.mark.parametrize(
    ("prefix", "preprocessing"),
    [("features.", "torch"), ("dense_feature_extraction.model.", "caffe")],
    ids=["VGG16", "D2-Net"],
)
def test_safetensors_of_arrays(
    arrays: Arrays, file: Callable[[str], Path], prefix: str, preprocessing: str
) -> None:
    path = file("x.safetensors")
    state = {prefix + name: arrays[ours] for name, ours in PUBLISHED_NAMES.items()}
    safetensors.numpy.save_file(state, path, {"format": "np"})
    assert_holds(path, arrays, preprocessing, "safetensors")


def test_map_of_torchvision(arrays: Arrays, of_torchvision: nn.Module, file: Callable[[str], Path]) -> None:
    told = torchvision.models.VGG16_Weights.IMAGENET1K_V1.transforms()
    timms = timm.get_pretrained_cfg("vgg16")
    assert (list(timms.mean), list(timms.std)) == (told.mean, told.std)
    features = of_torchvision.features
    given = (torch.from_numpy(image()) / 255 - torch.tensor(told.mean)) / torch.tensor(told.std)
    with torch.no_grad():
        cells = nn.functional.avg_pool2d(features[:16](given.permute(2, 0, 1)[None]), 2, stride=1)
        for index in (17, 19, 21):
            layer = features[index]
            cells = nn.functional.conv2d(cells, layer.weight, layer.bias, padding=2, dilation=2).relu()
    state = {name: value for name, value in of_torchvision.state_dict().items() if "features" in name}
    safetensors.torch.save_file(state, file("x.safetensors"))
    assert_same_map(d2np.Net.load(file("x.safetensors")), cells[0].permute(1, 2, 0).numpy())


def text(**options: Any) -> nn.Module:
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)


@pytest.mark.parametrize(
    ("make", "difference"),
    [
        (torchvision.models.vgg19, "missing features.17.weight, features.17.bias; unexpected features.16."),
        (torchvision.models.vgg16_bn, "missing features.2.weight, features.2.bias, features.5.weight"),
        (torchvision.models.resnet18, "not a D2-Net: expected tensors named"),
        (text, "not a D2-Net: expected tensors named"),
    ],
    ids=["VGG19", "VGG16 with batch normalisation", "ResNet18", "text"],
)
def test_other_networks_of_torch(
    file: Callable[[str], Path], make: Callable[..., nn.Module], difference: str
) -> None:
    model = network(make)
    if hasattr(model, "classifier"):
        del model.classifier  # most of the bytes
    torch.save(model.state_dict(), file("x.pth"))
    assert difference in refusal(file("x.pth"))
    safetensors.torch.save_file(model.state_dict(), file("x.safetensors"))
    assert difference in refusal(file("x.safetensors"))
