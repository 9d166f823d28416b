"""Checkpoints that PyTorch itself writes, compared bit for bit with what d2np reads. Needs PyTorch.

Not collected by default: run ``pytest tests/with_torch`` where PyTorch is installed.
"""

from __future__ import annotations

import argparse
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from d2np import weights
from d2np.errors import WeightsError
from d2np.layers import LAYERS, PARAMETER_SHAPES
from d2np.weights.state_dict import PUBLISHED_NAMES

LEGACY = pytest.mark.parametrize("legacy", [True, False], ids=["legacy", "zip"])


class Extraction(nn.Module):
    """The published module's structure."""

    def __init__(self) -> None:
        super().__init__()
        modules: list[nn.Module] = []
        for layer in LAYERS:
            if layer.type == "convolution":
                modules.append(nn.Conv2d(layer.in_channels, layer.out_channels, 3, padding=1))
            elif layer.type == "relu":
                modules.append(nn.ReLU(inplace=True))
            else:
                modules.append(nn.MaxPool2d(2) if layer.type == "max_pooling" else nn.AvgPool2d(2, stride=1))
        self.model = nn.Sequential(*modules)


class D2Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dense_feature_extraction = Extraction()


@pytest.fixture(scope="module")
def network() -> D2Net:
    torch.manual_seed(0)
    return D2Net()


def save(value: Any, path: Path, legacy: bool, **options: Any) -> None:
    torch.save(value, path, _use_new_zipfile_serialization=not legacy, **options)


def compare(path: Path, state: Any, prefix: str = "dense_feature_extraction.model.") -> None:
    arrays, provenance = weights.load(path)
    assert provenance.name == path.name
    assert list(arrays) == list(PARAMETER_SHAPES)
    for theirs, ours in PUBLISHED_NAMES.items():
        expected = state[prefix + theirs].detach().cpu().float().numpy()
        assert arrays[ours].dtype == np.float32
        assert arrays[ours].tobytes() == np.ascontiguousarray(expected).tobytes()


@LEGACY
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_state_dict(network: D2Net, legacy: bool, protocol: int, tmp_path: Path) -> None:
    state = network.state_dict()
    save({"model": state}, tmp_path / "d2_tf.pth", legacy, pickle_protocol=protocol)
    compare(tmp_path / "d2_tf.pth", state)


@LEGACY
def test_other_layouts(network: D2Net, legacy: bool, tmp_path: Path) -> None:
    path = tmp_path / "d2.pth"
    state = network.state_dict()
    for value, prefix in (
        (network.state_dict(), "dense_feature_extraction.model."),
        (nn.DataParallel(network).state_dict(), "module.dense_feature_extraction.model."),
        (network.dense_feature_extraction.state_dict(), "model."),
        (network.dense_feature_extraction.model.state_dict(), ""),
        (OrderedDict(network.named_parameters()), "dense_feature_extraction.model."),
    ):
        save(value, path, legacy)
        compare(path, value, prefix)
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        converted = {name: tensor.to(dtype) for name, tensor in state.items()}
        save({"model": converted}, path, legacy)
        compare(path, converted)


@LEGACY
def test_training_checkpoint(network: D2Net, legacy: bool, tmp_path: Path) -> None:
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    for parameter in network.parameters():
        parameter.grad = torch.full_like(parameter, 1e-3)
    optimizer.step()
    checkpoint = {
        "args": argparse.Namespace(num_epochs=10, checkpoint_directory="checkpoints", plot=True),
        "epoch_idx": 4,
        "model": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "train_loss_history": [np.float64(0.5), np.mean(np.ones(3, "f4"))],
        "validation_loss_history": np.arange(3.0),
        "device": torch.device("cuda:0"),
        "dtype": torch.float32,
        "shape": torch.zeros(2, 3).shape,
        "counts": torch.arange(5),
        "flags": torch.zeros(3, dtype=torch.bool),
        "raw": torch.arange(4, dtype=torch.uint8).untyped_storage(),
    }
    save(checkpoint, tmp_path / "d2.pth", legacy)
    compare(tmp_path / "d2.pth", network.state_dict())


@LEGACY
def test_cuda_tags(network: D2Net, legacy: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
    save({"model": network.state_dict()}, tmp_path / "d2.pth", legacy)
    assert b"cuda:0" in (tmp_path / "d2.pth").read_bytes()
    compare(tmp_path / "d2.pth", network.state_dict())


@LEGACY
def test_views(network: D2Net, legacy: bool, tmp_path: Path) -> None:
    state = network.state_dict()
    flat = torch.cat([torch.zeros(3), *(tensor.flatten() for tensor in state.values())])
    shared, position = {}, 3
    for name, tensor in state.items():
        shared[name] = flat[position : position + tensor.numel()].view(tensor.shape)
        position += tensor.numel()
    last = {name: tensor.to(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor
            for name, tensor in state.items()}  # fmt: skip
    expanded = {name: torch.full((1,), 0.5).expand(tensor.shape) for name, tensor in state.items()}
    for views in (shared, last, expanded):
        save({"model": views}, tmp_path / "d2.pth", legacy)
        compare(tmp_path / "d2.pth", views)


@LEGACY
def test_refused(network: D2Net, legacy: bool, tmp_path: Path) -> None:
    path = tmp_path / "d2.pth"
    save(network, path, legacy)
    with pytest.raises(WeightsError, match=r"wants to run `.*D2Net`"):
        weights.load(path)
    save({"features.0.weight": torch.zeros(64, 3, 3, 3)}, path, legacy)
    with pytest.raises(WeightsError, match=r"features\.0\.weight"):
        weights.load(path)
    save({name: tensor.int() for name, tensor in network.state_dict().items()}, path, legacy)
    with pytest.raises(WeightsError, match="int32"):
        weights.load(path)
    save(network.state_dict(), path, legacy)
    data = path.read_bytes()
    for size in np.linspace(0, len(data) - 1, 30).astype(int):
        path.write_bytes(data[:size])
        with pytest.raises(WeightsError):
            weights.load(path)


def test_torchscript(network: D2Net, tmp_path: Path) -> None:
    # The format itself, without the deprecated compiler.
    path = tmp_path / "d2.pth"
    writer = torch._C.PyTorchFileWriter(str(path))
    writer.write_record("data.pkl", b"\x80\x02N.", 4)
    writer.write_record("constants.pkl", b"\x80\x02).", 4)
    writer.write_end_of_file()
    with pytest.raises(WeightsError, match="single object"):
        weights.load(path)
