"""The engines that d2np is measured against, each running the same network on the same weights.

An engine is made for one image size and one number of threads, and maps the preprocessed image
(H, W, 3) float32 to the feature map (h, w, 512). Those that are not installed are left out.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2np.layers import LAYERS
from d2np.network.bands import whole_map
from d2np.network.stages import PackedWeights, stages, tiles_at_a_time
from d2np.threads import Team, Workspace
from d2np.weights.onnx import serialize

FloatArray = NDArray[np.float32]
Arrays = Mapping[str, FloatArray]
Forward = Callable[[FloatArray], FloatArray]


def random_weights(seed: int = 20190509) -> dict[str, FloatArray]:
    """Weights that keep the size of what flows through, from NumPy's frozen stream."""
    random = np.random.RandomState(seed)
    arrays: dict[str, FloatArray] = {}
    for layer in LAYERS:
        for name, shape in layer.parameters.items():
            factor = np.sqrt(2 / (9 * layer.in_channels)) if len(shape) == 4 else 0.1
            arrays[name] = (random.standard_normal(shape) * factor).astype(np.float32)
    return arrays


def d2np_winograd(
    arrays: Arrays, height: int, width: int, threads: int, algorithm: str = "winograd"
) -> Forward:
    packed = PackedWeights(arrays, algorithm)
    workspace = Workspace()

    def forward(pixels: FloatArray) -> FloatArray:
        with Team(threads, workspace=workspace) as team:
            tiles = tiles_at_a_time(width, team.size)
            made = stages(packed, width, workspace, relu=True, tiles=tiles)
            return whole_map(lambda first, last: pixels[first:last], height, made, team)

    return forward


def d2np_direct(arrays: Arrays, height: int, width: int, threads: int) -> Forward:
    return d2np_winograd(arrays, height, width, threads, "direct")


def _planes(pixels: FloatArray) -> FloatArray:
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[np.newaxis])


def _cells(planes: Any) -> FloatArray:
    return np.asarray(planes, np.float32).reshape(512, *np.shape(planes)[-2:]).transpose(1, 2, 0)


def onnxruntime(arrays: Arrays, height: int, width: int, threads: int) -> Forward:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(serialize(arrays), options, providers=["CPUExecutionProvider"])
    return lambda pixels: _cells(session.run(None, {"planes": _planes(pixels)})[0])


def openvino(arrays: Arrays, height: int, width: int, threads: int) -> Forward:
    import openvino

    core = openvino.Core()
    model = core.read_model(serialize(arrays))
    model.reshape([1, 3, height, width])
    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": 1}
    compiled = core.compile_model(model, "CPU", settings)
    return lambda pixels: _cells(compiled(_planes(pixels))[0])


def torch_model(arrays: Arrays) -> Any:
    """The network as a PyTorch module."""
    import torch
    from torch import nn

    modules: list[nn.Module] = []
    for layer in LAYERS:
        if layer.type == "convolution":
            convolution = nn.Conv2d(
                layer.in_channels, layer.out_channels, 3, padding=layer.padding, dilation=layer.dilation
            )
            with torch.no_grad():
                convolution.weight.copy_(torch.from_numpy(arrays[f"{layer.name}/weight"]))
                convolution.bias.copy_(torch.from_numpy(arrays[f"{layer.name}/bias"]))
            modules.append(convolution)
        elif layer.type == "relu":
            modules.append(nn.ReLU(inplace=True))
        else:
            pooling = nn.MaxPool2d if layer.type == "max_pooling" else nn.AvgPool2d
            modules.append(pooling(layer.kernel, layer.stride))
    return nn.Sequential(*modules, nn.ReLU(inplace=True)).eval()


def torch_default(arrays: Arrays, height: int, width: int, threads: int) -> Forward:
    import torch

    torch.set_num_threads(threads)
    model = torch_model(arrays)

    def forward(pixels: FloatArray) -> FloatArray:
        with torch.inference_mode():
            return _cells(model(torch.from_numpy(_planes(pixels))).numpy())

    return forward


def torch_channels_last(arrays: Arrays, height: int, width: int, threads: int) -> Forward:
    import torch

    torch.set_num_threads(threads)
    model = torch_model(arrays).to(memory_format=torch.channels_last)

    def forward(pixels: FloatArray) -> FloatArray:
        with torch.inference_mode():
            batch = torch.from_numpy(np.ascontiguousarray(pixels)[np.newaxis]).permute(0, 3, 1, 2)
            return _cells(model(batch).contiguous().numpy())

    return forward


def opencv(arrays: Arrays, height: int, width: int, threads: int) -> Forward:
    import cv2

    cv2.setNumThreads(threads)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "d2net.onnx"
        path.write_bytes(serialize(arrays))
        net = cv2.dnn.readNetFromONNX(str(path))

    def forward(pixels: FloatArray) -> FloatArray:
        net.setInput(_planes(pixels))
        return _cells(net.forward())

    return forward


def ncnn(arrays: Arrays, height: int, width: int, threads: int) -> Forward:
    import ncnn

    lines = ["Input image 0 1 image"]
    binary = bytearray()
    name = "image"
    for layer in LAYERS:
        head = f"{layer.name} 1 1 {name} {layer.name}"
        if layer.type == "convolution":
            weight, bias = arrays[f"{layer.name}/weight"], arrays[f"{layer.name}/bias"]
            lines.append(
                f"Convolution {head} 0={layer.out_channels} 1=3 2={layer.dilation} 3=1 4={layer.padding} 5=1 "
                f"6={weight.size}"
            )
            binary += np.uint32(0).tobytes() + weight.tobytes() + bias.tobytes()
        elif layer.type == "relu":
            lines.append(f"ReLU {head}")
        else:
            kind = 0 if layer.type == "max_pooling" else 1
            lines.append(f"Pooling {head} 0={kind} 1={layer.kernel} 2={layer.stride} 5=1")
        name = layer.name
    lines.append(f"ReLU map 1 1 {name} map")
    net = ncnn.Net()
    net.opt.num_threads = threads
    for option in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"):
        setattr(net.opt, option, False)
    with tempfile.TemporaryDirectory() as folder:
        parameters, weights = Path(folder) / "net.param", Path(folder) / "net.bin"
        parameters.write_text("\n".join(["7767517", f"{len(lines)} {len(lines)}", *lines, ""]))
        weights.write_bytes(binary)
        net.load_param(str(parameters))
        net.load_model(str(weights))

    def forward(pixels: FloatArray) -> FloatArray:
        extractor = net.create_extractor()
        planes = _planes(pixels)[0]  # ncnn.Mat does not keep what it looks at alive
        extractor.input("image", ncnn.Mat(planes).clone())
        _, out = extractor.extract("map")
        return _cells(np.array(out))

    return forward


def mnn(arrays: Arrays, height: int, width: int, threads: int) -> Forward:
    import MNN.expr
    import MNN.nn

    # Not the package's command mnnconvert: it installs another package that reports each conversion.
    convert = [sys.executable, "-c", "import sys, _tools; _tools.mnnconvert(sys.argv)", "-f", "ONNX"]
    with tempfile.TemporaryDirectory() as folder:
        onnx, path = Path(folder) / "d2net.onnx", Path(folder) / "d2net.mnn"
        onnx.write_bytes(serialize(arrays))
        files = ["--modelFile", str(onnx), "--MNNModel", str(path)]
        subprocess.run([*convert, *files], check=True, stdout=subprocess.DEVNULL)
        runtime = MNN.nn.create_runtime_manager(
            ({"backend": "CPU", "precision": "high", "numThread": threads},)
        )
        module = MNN.nn.load_module_from_file(str(path), ["planes"], ["map"], runtime_manager=runtime)

    def forward(pixels: FloatArray) -> FloatArray:
        given = MNN.expr.const(_planes(pixels), [1, 3, height, width], MNN.expr.NCHW)
        (found,) = module.forward([given])
        return _cells(MNN.expr.convert(found, MNN.expr.NCHW).read())

    return forward


ENGINES: dict[str, tuple[str, Callable[[Arrays, int, int, int], Forward]]] = {
    "d2np": ("numba", d2np_winograd),
    "d2np direct": ("numba", d2np_direct),
    "ONNX Runtime": ("onnxruntime onnx", onnxruntime),
    "OpenVINO": ("openvino onnx", openvino),
    "PyTorch": ("torch", torch_default),
    "PyTorch, channels last": ("torch", torch_channels_last),
    "ncnn": ("ncnn", ncnn),
    "OpenCV dnn": ("cv2 onnx", opencv),
    "MNN": ("MNN onnx", mnn),
}


def installed(modules: str) -> bool:
    """Whether all packages that an engine needs are there; most read the network as ONNX."""
    return all(importlib.util.find_spec(module) for module in modules.split())
