"""Finds the network's arrays in an ONNX graph by following it from its input to its output.

Names in a graph depend on who exported it, so none is looked at: what counts is that the same 22 layers
follow each other, with the same sizes. What changes nothing is passed over: Identity, Dropout, Cast between
floating-point types, Pad by nothing, and Shape beside the way.

The layers are those of a D2-Net, whose map, with or without a last ReLU, must be an output of the graph; or
the first ones of a VGG16, and then what follows ``conv4_3`` does not matter. Graphs that come from TensorFlow
begin with a transposition that puts the channels first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import WeightsError
from ..layers import CAFFE_MEAN, LAYERS, TORCH_DEVIATION, TORCH_MEAN, Layer
from ..options import Preprocessing
from .parameters import listed, shortened

STEPS: dict[Preprocessing, tuple[tuple[str, tuple[float, ...]], ...]] = {
    "caffe": (("Gather", (2, 1, 0)), ("Sub", CAFFE_MEAN)),
    "torch": (("Div", (255.0,)), ("Sub", TORCH_MEAN), ("Div", TORCH_DEVIATION)),
}
"""Preprocessing as nodes: which operator, and its constant for each channel."""

OPERATORS = {
    "convolution": "Conv",
    "relu": "Relu",
    "max_pooling": "MaxPool",
    "average_pooling": "AveragePool",
}
"""The operator of each type of layer."""

_MOST_CONSTANTS = 16


def follow(model: Any) -> tuple[dict[str, Any], Preprocessing | None, Preprocessing]:
    """Find a D2-Net, or the beginning of a VGG16, in a model.

    Parameters
    ----------
    model : onnx.ModelProto

    Returns
    -------
    parameters : dict of str to onnx.TensorProto
        ``"conv1_1/weight"`` ... in network order; shapes, types and contents are not checked.
    inside : str or None
        Which of :data:`STEPS` stands in front of the network.
    trained_with : {"caffe", "torch"}
        The preprocessing of the weights, as far as the graph tells.

    Raises
    ------
    WeightsError
        If it is another network; the message tells the first layer that differs, and in what.
    """
    graph = _Graph(model.graph)
    here, is_keras = _pass_transposition(graph, graph.entry())
    here, inside = _pass_preprocessing(graph, here)
    parameters: dict[str, Any] = {}
    after, is_vgg16 = "its input", False
    for layer in LAYERS:
        node = graph.next(here)
        is_vgg16 |= layer.name == "pool3" and node is not None and node.op_type == "MaxPool"
        for difference in _differences(_of_vgg16(layer) if is_vgg16 else layer, node):
            raise WeightsError(f"not a {'VGG16' if is_vgg16 else 'D2-Net'}: after {after} {difference}")
        for name, tensor in zip(layer.parameters, node.input[1:], strict=False):
            parameters[name] = graph.parameter(name, tensor)
        here, after = node.output[0], layer.name
    if is_vgg16:
        is_keras |= model.producer_name == "tf2onnx"
        return parameters, inside, inside or ("caffe" if is_keras else "torch")
    _check_end(graph, here)
    return parameters, inside, inside or "caffe"


class _Graph:
    """The constants of a graph, and the nodes that take a value.

    A value that a node passes on unchanged has one name here: the first.
    """

    def __init__(self, graph: Any) -> None:
        self._tensors: dict[str, Any] = {tensor.name: tensor for tensor in graph.initializer}
        # Files older than IR version 4 list initializers among the inputs as well.
        self._inputs = [entry.name for entry in graph.input if entry.name not in self._tensors]
        self._takers: dict[str, list[Any]] = {}
        self._first_names: dict[str, str] = {}
        made = [*self._tensors, *self._inputs, *(name for node in graph.node for name in node.output if name)]
        if len(made) > len(set(made)):
            raise WeightsError("damaged ONNX file: a value is made twice")
        # A value stands in the file before the nodes that take it.
        for node in graph.node:
            if node.op_type == "Constant":
                self._tensors[node.output[0]] = _tensor_of(node)
            elif self._changes_nothing(node):
                self._first_names[node.output[0]] = self._first(node.input[0])
            elif node.op_type not in ("Shape", "Size"):
                for name in dict.fromkeys(map(self._first, filter(None, node.input))):
                    self._takers.setdefault(name, []).append(node)
        self._outputs = {self._first(entry.name) for entry in graph.output}

    def _first(self, name: str) -> str:
        return self._first_names.get(name, name)

    def _changes_nothing(self, node: Any) -> bool:
        """Return whether the first output of a node is its first input, where nothing is trained."""
        given = _attributes(node)
        if node.op_type == "Cast":
            return given.get("to") in floating_types() and self._first(node.input[0]) not in self._tensors
        if node.op_type == "Pad":
            pads = given.get("pads", self.constant(node.input[1]) if len(node.input) > 1 else None)
            return pads is not None and not np.any(pads)
        return node.op_type in ("Identity", "Dropout")

    def entry(self) -> str:
        """Return the input that the network starts from."""
        used = [name for name in self._inputs if name in self._takers]
        if len(used) != 1:
            raise WeightsError(
                "not a D2-Net: expected one input, and the weights in the file; found "
                + (f"the inputs {listed(used)}" if used else "no input")
            )
        return used[0]

    def is_output(self, name: str) -> bool:
        """Return whether a value is an output of the graph."""
        return self._first(name) in self._outputs

    def takers(self, name: str) -> list[Any]:
        """Return the nodes that work on a value."""
        return self._takers.get(self._first(name), [])

    def next(self, name: str) -> Any:
        """Return the one node that works on a value; None at the end."""
        nodes = self.takers(name)
        if len(nodes) > 1 or (nodes and self._first(nodes[0].input[0]) != self._first(name)):
            raise WeightsError(
                f"not a D2-Net: expected one layer that works on {shortened(name)}, "
                f"found {listed(map(_told, nodes))}"
            )
        return nodes[0] if nodes else None

    def parameter(self, name: str, tensor: str) -> Any:
        """Return the tensor of that name, which holds the array ``name``."""
        found = self._tensors.get(self._first(tensor))
        if found is None:
            raise WeightsError(
                f"{name}: expected numbers in the file; {shortened(tensor)} is computed or missing"
            )
        return found

    def constant(self, name: str) -> NDArray[Any] | None:
        """Return a small constant, or None if it is none."""
        from onnx import TensorProto, numpy_helper

        tensor = self._tensors.get(self._first(name))
        known = (*floating_types(), TensorProto.INT64, TensorProto.INT32)
        if tensor is None or tensor.data_type not in known or tensor.data_location == TensorProto.EXTERNAL:
            return None
        if len(tensor.dims) > 8 or not 0 < prod(tensor.dims) <= _MOST_CONSTANTS:
            return None
        return numpy_helper.to_array(tensor).astype(np.float64)


# --- nodes -----------------------------------------------------------------------------------------------


def floating_types() -> tuple[int, ...]:
    """Return the numbers of the element types that are read."""
    from onnx import TensorProto

    return (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)


def _attributes(node: Any) -> dict[str, Any]:
    from onnx.helper import get_attribute_value

    return {entry.name: get_attribute_value(entry) for entry in node.attribute}


def _tensor_of(node: Any) -> Any:
    """Return the value of a Constant node."""
    from onnx import TensorProto, numpy_helper

    (value,) = _attributes(node).values()
    return value if isinstance(value, TensorProto) else numpy_helper.from_array(np.array(value))


def _told(node: Any) -> str:
    return shortened(f"{node.op_type} ({node.name})" if node.name else node.op_type)


# --- layers ----------------------------------------------------------------------------------------------


def _of_vgg16(layer: Layer) -> Layer:
    """Return the layer as VGG16 has it."""
    if layer.name == "pool3":
        return replace(layer, type="max_pooling", stride=2)
    return replace(layer, padding=1, dilation=1) if layer.name.startswith("conv4") else layer


def _differences(layer: Layer, node: Any) -> Iterator[str]:
    """Say in what a node, or None, is not the layer."""
    operator = OPERATORS[layer.type]
    if node is None or node.op_type != operator:
        yield f"expected {layer.name} ({operator}), found {_told(node) if node else 'the end'}"
        return
    if operator == "Relu":
        return
    given = _attributes(node)
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
            yield f"{_told(node)} has {key} {shortened(str(found))}, where {layer.name} has {wanted}"
    for place, name in enumerate(layer.parameters, 1):
        if len(node.input) <= place or not node.input[place]:
            yield f"{_told(node)} has no {name.partition('/')[2]}"


# --- before and behind -----------------------------------------------------------------------------------


def _pass_transposition(graph: _Graph, here: str) -> tuple[str, bool]:
    """Return the value with the channels first, and whether a transposition has put them there."""
    node = graph.next(here)
    if node is not None and node.op_type == "Transpose" and _attributes(node).get("perm") == [0, 3, 1, 2]:
        return node.output[0], True
    return here, False


def _pass_preprocessing(graph: _Graph, here: str) -> tuple[str, Preprocessing | None]:
    """Return the value that goes into ``conv1_1``, and how it was preprocessed."""
    for name, steps in STEPS.items():
        there = here
        for operator, values in steps:
            node = graph.next(there)
            if node is None or node.op_type != operator:
                break
            constant = graph.constant(node.input[1])
            if constant is None or constant.size != len(values):
                break
            if not np.allclose(constant.ravel(), values, 1e-6, 0):
                break
            there = node.output[0]
        else:
            return there, name
    return here, None


def _check_end(graph: _Graph, here: str) -> None:
    """Raise WeightsError unless the map, with or without a last ReLU, is an output."""
    takers = graph.takers(here)
    ends = [here, *(node.output[0] for node in takers if node.op_type == "Relu")]
    if not any(graph.is_output(end) for end in ends):
        others = [node for end in ends for node in graph.takers(end) if node.op_type != "Relu" or end != here]
        raise WeightsError(
            "not a D2-Net: after conv4_3 expected the end, with or without a ReLU, as an output; "
            f"found {listed(map(_told, others)) or 'no output'}"
        )
