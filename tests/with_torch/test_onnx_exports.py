"""Graphs that PyTorch's exporters write, compared bit for bit with the weights they were made from.

Not collected by default: run ``pytest tests/with_torch`` where PyTorch is installed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from torch.nn import functional

import d2np
from d2np import weights
from d2np.errors import WeightsError
from d2np.images.pixels import preprocess
from d2np.layers import LAYERS, PARAMETER_SHAPES
from d2np.weights.onnx import serialize

pytestmark = [
    # PyTorch's remarks on itself.
    pytest.mark.filterwarnings("ignore:You are using the legacy TorchScript:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The feature will be removed:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*:FutureWarning"),
]

EXPORTER = pytest.mark.parametrize("dynamo", [False, True], ids=["torchscript", "dynamo"])
FOLDING = pytest.mark.parametrize("folding", [False, True], ids=["as it is", "folded"])


class Extraction(nn.Module):
    """The published module's structure."""

    def __init__(self, relu: bool) -> None:
        super().__init__()
        modules: list[nn.Module] = []
        for layer in LAYERS:
            if layer.type == "convolution":
                sizes = {"padding": layer.padding, "dilation": layer.dilation}
                modules.append(nn.Conv2d(layer.in_channels, layer.out_channels, 3, **sizes))
            elif layer.type == "relu":
                modules.append(nn.ReLU(inplace=True))
            else:
                modules.append(nn.MaxPool2d(2) if layer.type == "max_pooling" else nn.AvgPool2d(2, stride=1))
        self.model = nn.Sequential(*modules)
        self.relu = relu

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        cells = self.model(batch)
        return functional.relu(cells) if self.relu else cells


class Network(nn.Module):
    """With something like the published detection, which looks at the map in several ways."""

    def __init__(self, relu: bool = True, detection: bool = False) -> None:
        super().__init__()
        self.dense_feature_extraction = Extraction(relu)
        self.detection = detection
        self.register_buffer("filter", torch.tensor([[0, 1.0, 0], [0, -2, 0], [0, 1, 0]])[None, None], False)

    def forward(self, batch: torch.Tensor) -> Any:
        cells = self.dense_feature_extraction(batch)
        if not self.detection:
            return cells
        n, channels, rows, columns = cells.size()
        best = cells == torch.max(cells, dim=1, keepdim=True)[0]
        peak = cells == functional.max_pool2d(cells, 3, stride=1, padding=1)
        second = functional.conv2d(cells.view(-1, 1, rows, columns), self.filter, padding=1)
        return {
            "dense_features": cells,
            "detections": torch.min(best, peak),
            "displacements": second.view(n, channels, rows, columns),
        }


def export(network: nn.Module, path: Path, dynamo: bool, folding: bool, **options: Any) -> None:
    batch = torch.zeros(1, 3, 40, 48)
    if dynamo:
        free = torch.export.Dim.DYNAMIC
        options = {
            "optimize": folding, "dynamic_shapes": ({2: free, 3: free},), "verbose": False,
            "external_data": False, **options,
        }  # fmt: skip
    else:
        free_axes = {"image": {2: "height", 3: "width"}}
        options = {
            "do_constant_folding": folding, "dynamic_axes": free_axes, "input_names": ["image"], **options
        }  # fmt: skip
    torch.onnx.export(network.eval(), (batch,), path, dynamo=dynamo, **options)


def state(network: nn.Module) -> list[np.ndarray]:
    """Weights and biases in the network's order."""
    return [parameter.detach().float().numpy() for parameter in network.parameters()]


def compare(path: Path, expected: list[np.ndarray]) -> weights.Provenance:
    arrays, provenance = weights.load(path)
    assert list(arrays) == list(PARAMETER_SHAPES)
    for found, wanted in zip(arrays.values(), expected, strict=True):
        assert found.tobytes() == np.ascontiguousarray(wanted).tobytes()
    assert provenance.format.startswith("ONNX, pytorch 2.")
    return provenance


@EXPORTER
@FOLDING
@pytest.mark.parametrize(
    "kind",
    [{}, {"relu": False}, {"detection": True}],
    ids=["map", "map without ReLU", "detection"],
)
def test_exports(tmp_path: Path, dynamo: bool, folding: bool, kind: dict[str, bool]) -> None:
    network = Network(**kind)
    path = tmp_path / "d2.onnx"
    export(network, path, dynamo, folding)
    compare(path, state(network))


def test_values_in_another_file(tmp_path: Path) -> None:
    """The new exporter puts large values into a file beside it, unless told not to."""
    network = Network()
    export(network, tmp_path / "d2.onnx", True, True, external_data=True)
    with pytest.raises(WeightsError, match="is in another file"):
        weights.load(tmp_path / "d2.onnx")
    onnx.save(onnx.load(tmp_path / "d2.onnx"), tmp_path / "one.onnx")
    compare(tmp_path / "one.onnx", state(network))


@EXPORTER
def test_in_one_file_without_names(tmp_path: Path, dynamo: bool) -> None:
    network = Network().dense_feature_extraction.model
    path = tmp_path / "d2.onnx"
    export(network, path, dynamo, True)
    compare(path, state(network))
    model = onnx.load(path)
    names: dict[str, str] = {}
    for tensor in model.graph.initializer:
        tensor.name = names.setdefault(tensor.name, f"onnx::Conv_{len(names)}")
    for node in model.graph.node:
        node.name = ""
        for place, name in enumerate(node.input):
            node.input[place] = names.get(name, name)
    onnx.save(model, path)
    compare(path, state(network))


@pytest.mark.parametrize("opset", [9, 11, 13, 18])
def test_opsets(tmp_path: Path, opset: int) -> None:
    network = Network()
    export(network, tmp_path / "d2.onnx", False, True, opset_version=opset)
    compare(tmp_path / "d2.onnx", state(network))


def test_half(tmp_path: Path) -> None:
    network = Network().half()
    path = tmp_path / "d2.onnx"
    batch = torch.zeros(1, 3, 40, 48).half()
    torch.onnx.export(network.eval(), (batch,), path, dynamo=True, verbose=False, external_data=False)
    compare(path, state(network))


@EXPORTER
def test_the_same_map(tmp_path: Path, dynamo: bool, image: np.ndarray) -> None:
    """PyTorch's network, exported and loaded, is PyTorch's network."""
    torch.manual_seed(3)
    network = Network()
    path = tmp_path / "d2.onnx"
    export(network, path, dynamo, True)
    pixels = preprocess(image, "caffe").transpose(2, 0, 1)[np.newaxis]
    with torch.inference_mode():
        expected = network(torch.from_numpy(np.ascontiguousarray(pixels)))[0].permute(1, 2, 0).numpy()
    found = d2np.Net.load(path).dense(image)
    assert abs(found - expected).max() <= 1e-4 * abs(expected).max()
    # And what d2np writes holds the same once more.
    arrays, provenance = weights.load(path)
    path.write_bytes(serialize(arrays, provenance))
    assert weights.load(path)[1].name == "d2.onnx"
    for again, before in zip(weights.load(path)[0].values(), arrays.values(), strict=True):
        assert again.tobytes() == before.tobytes()


@EXPORTER
def test_without_weights(tmp_path: Path, dynamo: bool) -> None:
    path = tmp_path / "d2.onnx"
    export(Network(), path, dynamo, False, export_params=False, **({"optimize": False} if dynamo else {}))
    with pytest.raises(WeightsError, match="is computed or missing"):
        weights.load(path)


@EXPORTER
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {16: nn.MaxPool2d(2)},
            r"not a VGG16: after pool3 Conv \(.*\) has pads \[2, 2, 2, 2\], where conv4_1 has \[1",
        ),
        (
            {17: nn.Conv2d(256, 512, 3, padding=2)},
            r"not a D2-Net: after pool3 Conv.* has dilations \[1, 1\], where conv4_1 has \[2, 2\]",
        ),
        ({0: nn.Conv2d(1, 64, 3, padding=1)}, r"expected shape \(64, 3, 3, 3\), found \(64, 1, 3, 3\)"),
        ({0: nn.Conv2d(3, 64, 3, padding=1, bias=False)}, r"after its input Conv.* has no bias"),
        ({3: nn.ReLU6()}, r"after conv1_2 expected relu1_2 \(Relu\), found"),
        ({9: nn.MaxPool2d(2, ceil_mode=True)}, r"has ceil_mode 1, where pool2 has 0"),
    ],
    ids=["half a VGG16", "dilation", "grey", "no bias", "ReLU6", "rounded up"],
)
def test_other_networks(tmp_path: Path, dynamo: bool, change: dict[int, nn.Module], message: str) -> None:
    modules = dict(enumerate(Network().dense_feature_extraction.model)) | change
    network = nn.Sequential(*modules.values())
    path = tmp_path / "d2.onnx"
    batch = torch.zeros(1, network[0].in_channels, 40, 48)
    options = {"verbose": False, "external_data": False} if dynamo else {}
    torch.onnx.export(network.eval(), (batch,), path, dynamo=dynamo, **options)
    with pytest.raises(WeightsError, match=message):
        weights.load(path)
