"""D2-Net as an ONNX file, written for other engines and read back for its weights. Needs the extra ``onnx``.

The graph that is written has the network's layers as nodes, named as everywhere in d2np: ``conv1_1``,
``relu1_1``, ... ``conv4_3``, and ``relu4_3`` for the last ReLU. Initializers are named like the arrays,
``conv1_1/weight`` and so on. Batch size is 1, height and width are free.

==================  =====================================================================================
input ``planes``    float32 (1, 3, height, width): the preprocessed image, for ``"caffe"`` blue, green, red
                    in 0..255 minus their means
output ``map``      float32 (1, 512, rows, columns): what :meth:`d2np.Net.dense` returns, channels first
==================  =====================================================================================

Files are read by following the graph from its input. Names in a graph depend on who exported it, so none is
looked at: what counts is that the same 22 layers follow each other, with the same sizes. They are those of a
D2-Net, or the first ones of a VGG16. What follows ``conv4_3`` does not matter.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..atomic import writing
from ..errors import WeightsError
from ..extras import require
from ..layers import LAYERS, SMALLEST_SIDE, Layer
from ..options import Preprocessing
from ..version import __version__
from .parameters import Provenance, StoredArray, check, known_preprocessing, read_arrays, shortened

_OPERATORS = {
    "convolution": "Conv",
    "relu": "Relu",
    "max_pooling": "MaxPool",
    "average_pooling": "AveragePool",
}

_LICENCE = (
    "weights: that of their source (for the published ones see https://github.com/mihaidusmanu/d2-net); "
    "the graph around them: BSD-3-Clause, as d2np"
)

# Old enough for every engine of the last years to know it, new enough to have all that is needed.
_OPSET, _IR_VERSION = 13, 8

_LARGEST_FILE = 10**9  # VGG16 with its classifier has 553 MB
_LONGEST_TEXT = 4096


def write(
    path: str | os.PathLike[str], arrays: Mapping[str, ArrayLike], provenance: Provenance | None = None
) -> None:
    """Write the network as an ONNX file; all of it or nothing.

    Parameters
    ----------
    path : str or path
        A file that is there already is replaced once the new one is complete.
    arrays : mapping of str to array_like
        ``net.arrays``, or what else :func:`d2np.weights.check` accepts.
    provenance : Provenance, optional
        ``net.provenance``; name and sum go into the file's metadata. Without one, the sum of the arrays does.

    Raises
    ------
    WeightsError
        If the arrays are not those of a D2-Net, the file cannot be written, or the package onnx is missing.
    """
    content = serialize(arrays, provenance)
    with writing(path, error=WeightsError) as stream:
        stream.write(content)


def serialize(arrays: Mapping[str, ArrayLike], provenance: Provenance | None = None) -> bytes:
    """Return the bytes that :func:`write` writes, for engines that take a graph from memory.

    The same arrays and provenance give the same bytes. For the parameters and errors see there.
    """
    onnx = _package()
    checked = check(arrays)
    source = provenance or Provenance.of_arrays(checked)
    model = onnx.helper.make_model(
        _graph(onnx, checked),
        producer_name="d2np",
        producer_version=__version__,
        doc_string="D2-Net: A Trainable CNN for Joint Detection and Description of Local Features "
        "(Dusmanu et al., CVPR 2019): the dense feature map, before detection",
        opset_imports=[onnx.helper.make_opsetid("", _OPSET)],
        ir_version=_IR_VERSION,
    )
    metadata = {
        "architecture": "D2-Net",
        "trained_with": source.preprocessing,
        # Names of files may hold bytes that are no text.
        "source_name": source.name.encode("utf-8", "backslashreplace").decode("utf-8")[:_LONGEST_TEXT],
        "source_sha256": source.sha256,
        "model_license": "BSD-3-Clause, as d2np" if source.name == "d2np/weights/analytic.py" else _LICENCE,
    }
    onnx.helper.set_model_props(model, metadata)
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _graph(onnx: ModuleType, arrays: Mapping[str, NDArray[np.float32]]) -> Any:
    nodes: list[Any] = []
    here = "planes"
    for layer in LAYERS:
        sizes: dict[str, Any] = {}
        if layer.type != "relu":
            sizes = {"kernel_shape": [layer.kernel] * 2, "strides": [layer.stride] * 2}
        if layer.type == "convolution":
            sizes |= {"pads": [layer.padding] * 4, "dilations": [layer.dilation] * 2}
        inputs = [here, *layer.parameters]
        nodes.append(onnx.helper.make_node(_OPERATORS[layer.type], inputs, [layer.name], layer.name, **sizes))
        here = layer.name
    nodes.append(onnx.helper.make_node("Relu", [here], ["map"], "relu4_3"))

    float32, value = onnx.TensorProto.FLOAT, onnx.helper.make_tensor_value_info
    pixels = (
        "the preprocessed image; caffe: blue, green, red minus 103.939, 116.779, 123.68; at least "
        f"{SMALLEST_SIDE} px on either side"
    )
    cells = "feature map; cell (i, j) lies at x = 4 j + 1.5, y = 4 i + 1.5 px"
    return onnx.helper.make_graph(
        nodes,
        "D2-Net",
        [value("planes", float32, [1, 3, "height", "width"], pixels)],
        [value("map", float32, [1, 512, "rows", "columns"], cells)],
        [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )


def read(stream: BinaryIO, path: Path) -> tuple[dict[str, NDArray[Any]], Provenance]:
    """Read the weights of a D2-Net, or of a VGG16, from an ONNX file.

    Parameters
    ----------
    stream : seekable binary file
    path : Path
        Where it is.

    Returns
    -------
    arrays : dict of str to arrays
        ``"conv1_1/weight"`` ... in network order.
    provenance : Provenance
        For files that d2np wrote, the recorded source. For others the file itself.

    Raises
    ------
    WeightsError
        If it is another network, keeps values in other files, or onnx is missing.
    Exception
        Of almost any kind, if the file is damaged.
    """
    onnx = _package()
    size = stream.seek(0, os.SEEK_END)
    if size > _LARGEST_FILE:
        raise WeightsError(f"an ONNX file of {size:,} bytes; at most {_LARGEST_FILE:,} are read")
    stream.seek(0)
    model = onnx.load_model_from_string(stream.read(size))
    tensors, trained_with = _follow(onnx, model)
    arrays = read_arrays(
        {
            name: StoredArray(name, tuple(tensor.dims), partial(_values, onnx, tensor))
            for name, tensor in tensors.items()
        }
    )
    producer = shortened(f"{model.producer_name} {model.producer_version}".strip())
    format = f"ONNX, {producer}" if producer else "ONNX"
    if model.producer_name != "d2np":
        return arrays, Provenance.of_file(stream, path, format, trained_with)
    recorded = {entry.key: entry.value[:_LONGEST_TEXT] for entry in model.metadata_props}
    if "source_sha256" not in recorded:
        raise WeightsError("truncated: d2np wrote it, but its metadata is missing")
    return arrays, Provenance(
        recorded["source_name"],
        recorded["source_sha256"],
        format,
        # Version 1.0 wrote no such entry.
        preprocessing=known_preprocessing(recorded.get("trained_with", "caffe")),
    )


def _package() -> ModuleType:
    onnx: ModuleType = require("onnx", "ONNX files need", "onnx", WeightsError)
    return onnx


def _values(onnx: ModuleType, tensor: Any) -> NDArray[Any]:
    """Return the values of a tensor, of which the file with the graph is all that is read."""
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        raise WeightsError("is in another file: onnx.save(onnx.load(FILE), NEW) makes one file of both")
    values: NDArray[Any] = onnx.numpy_helper.to_array(tensor)
    return values.astype(np.float32) if tensor.data_type == onnx.TensorProto.BFLOAT16 else values


def _follow(onnx: ModuleType, model: Any) -> tuple[dict[str, Any], Preprocessing]:
    """Return the tensors of a D2-Net, or of the beginning of a VGG16, and the preprocessing of its weights.

    Raises
    ------
    WeightsError
        If it is another network; the message tells the first layer that differs, and in what.
    """
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    chain = _chain(onnx, model, tensors)
    found: dict[str, Any] = {}
    after, is_vgg16 = "its input", False
    for layer in LAYERS:
        node: Any = next(chain, None)
        if layer.name == "pool3":
            is_vgg16 = node is not None and node.op_type == "MaxPool"
        if difference := _difference(onnx, _of_vgg16(layer) if is_vgg16 else layer, node):
            raise WeightsError(f"not a {'VGG16' if is_vgg16 else 'D2-Net'}: after {after} {difference}")
        after = layer.name
        for name, tensor in zip(layer.parameters, node.input[1:], strict=True):
            if tensor not in tensors:
                raise WeightsError(
                    f"{name}: expected numbers in the file; {shortened(tensor)} is computed or missing"
                )
            found[name] = tensors[tensor]
    return found, "torch" if is_vgg16 and model.producer_name != "tf2onnx" else "caffe"


def _chain(onnx: ModuleType, model: Any, tensors: dict[str, Any]) -> Iterator[Any]:
    """Yield the nodes between the input and the output, each the first that takes what the one before makes.

    What changes nothing is passed over: Identity, Dropout, Cast, Pad by nothing, Shape beside the way, a
    transposition of the input, and the preprocessing of older files of d2np. Constants are put into
    ``tensors``.
    """
    here = {value.name for value in model.graph.input if value.name not in tensors}
    # A value stands in the file before the nodes that take it.
    for node in model.graph.node:
        if node.op_type == "Constant":
            tensors[node.output[0]] = node.attribute[0].t
        elif node.op_type == "Identity" and node.input[0] in tensors:
            tensors[node.output[0]] = tensors[node.input[0]]
        elif node.input and node.input[0] in here and _changes_nothing(onnx, model, node, tensors):
            here.add(node.output[0])
        elif not here.isdisjoint(node.input) and node.op_type not in ("Shape", "Size"):
            yield node
            here = {node.output[0]}


def _changes_nothing(onnx: ModuleType, model: Any, node: Any, tensors: Mapping[str, Any]) -> bool:
    given = _attributes(onnx, node)
    if node.op_type == "Pad":
        pads = given.get("pads")
        if pads is None and len(node.input) > 1 and node.input[1] in tensors:
            pads = _values(onnx, tensors[node.input[1]])
        return pads is not None and not np.any(pads)
    if node.op_type == "Transpose":
        return given.get("perm") == [0, 3, 1, 2]
    is_old = model.producer_name == "d2np" and node.name.startswith("preprocessing/")
    return is_old or node.op_type in ("Identity", "Dropout", "Cast")


def _attributes(onnx: ModuleType, node: Any) -> dict[str, Any]:
    return {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}


def _of_vgg16(layer: Layer) -> Layer:
    """Return the layer as VGG16 has it."""
    if layer.name == "pool3":
        return replace(layer, type="max_pooling", stride=2)
    return replace(layer, padding=1, dilation=1) if layer.name.startswith("conv4") else layer


def _difference(onnx: ModuleType, layer: Layer, node: Any) -> str:
    """Say in what a node, or None, is not the layer; nothing if it is."""
    told = "the end" if node is None else shortened(f"{node.op_type} ({node.name})")
    if node is None or node.op_type != _OPERATORS[layer.type]:
        return f"expected {layer.name} ({_OPERATORS[layer.type]}), found {told}"
    if layer.type == "relu":
        return ""
    given = _attributes(onnx, node)
    # TensorFlow's words for no padding, and for one that keeps the size, as those of convolutions here do.
    automatic = given.get("auto_pad", b"NOTSET").decode()
    if automatic == "VALID":
        given["pads"] = [0] * 4
    elif automatic != "NOTSET":
        given["pads"] = [layer.padding] * 4 if layer.type == "convolution" else automatic
    for key, default, wanted in (
        ("pads", [0] * 4, [layer.padding] * 4),
        ("kernel_shape", [3, 3], [layer.kernel] * 2),
        ("strides", [1, 1], [layer.stride] * 2),
        ("dilations", [1, 1], [layer.dilation] * 2),
        ("group", 1, 1),
        ("ceil_mode", 0, 0),
    ):
        if (found := given.get(key, default)) != wanted:
            return f"{told} has {key} {shortened(str(found))}, where {layer.name} has {wanted}"
    if len(node.input) != 1 + len(layer.parameters):
        return f"{told} has no bias"
    return ""
