"""Finds the network's arrays in an ONNX graph by following it from its input to its output.

Names in a graph depend on who exported it, so none is looked at: what counts is that the same 22 layers
follow each other, with the same sizes. What changes nothing is passed over: Identity, Dropout, Cast between
floating-point types, Pad by nothing, and Shape beside the way. A ReLU may be written as a Clip from 0 up.
Behind ``conv4_3``, or behind a ReLU after it, the map must be one of the graph's outputs; what else is made
from it, such as the published detection, does not matter.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import WeightsError
from ..images.pixels import CAFFE_MEAN, TORCH_DEVIATION, TORCH_MEAN
from ..layers import LAYERS, PARAMETER_SHAPES, Layer
from ..options import Preprocessing
from .onnx_tensors import Values, shape_of
from .parameters import shortened

STEPS: dict[Preprocessing, tuple[tuple[str, tuple[float, ...]], ...]] = {
    "caffe": (("Gather", (2, 1, 0)), ("Sub", tuple(CAFFE_MEAN))),
    "torch": (("Div", (255.0,)), ("Sub", tuple(TORCH_MEAN)), ("Div", tuple(TORCH_DEVIATION))),
}
"""Preprocessing as nodes: which operator, and its constant for each channel."""

_KINDS = {
    "convolution": ("Conv",),
    "relu": ("Relu", "Clip"),
    "max_pooling": ("MaxPool",),
    "average_pooling": ("AveragePool",),
}
_LOOKS_ON = ("Shape", "Size")
_QUANTIZED = (
    "QuantizeLinear",
    "DynamicQuantizeLinear",
    "DequantizeLinear",
    "QLinearConv",
    "ConvInteger",
)


@dataclass(frozen=True)
class Found:
    """What a graph holds.

    Attributes
    ----------
    parameters : dict of str to onnx.TensorProto
        ``"conv1_1/weight"`` ... in network order, of the right shapes; types and contents are not checked.
    preprocessing : str or None
        Which of :data:`STEPS` stands in front of the network.
    """

    parameters: dict[str, Any]
    preprocessing: Preprocessing | None


def follow(model: Any, values: Values) -> Found:
    """Find a D2-Net in a model.

    Parameters
    ----------
    model : onnx.ModelProto
    values : Values
        Reads its constants.

    Raises
    ------
    WeightsError
        If it is another network; the message tells the first layer that differs, and in what.
    """
    if not model.HasField("graph") or not model.opset_import:
        raise WeightsError("truncated or damaged ONNX file: it has no graph, or no version of its operators")
    graph = _Graph(model.graph, values)
    here = graph.entry()
    here, preprocessing = _pass_preprocessing(graph, here)
    parameters: dict[str, Any] = {}
    after = "its input"
    for number, layer in enumerate(LAYERS):
        node = graph.next(here)
        if node is None:
            raise WeightsError(
                f"not a D2-Net: it ends after {after}, {number} of {len(LAYERS)} layers; "
                f"expected {_described(layer)}"
            )
        _check_node(graph, layer, node, after, len(parameters) // 2 + 1)
        if layer.type == "convolution":
            parameters |= _parameters(graph, layer, node, len(parameters) // 2 + 1)
        here, after = node.output[0], layer.name
    _check_end(graph, here)
    return Found(parameters, preprocessing)


class _Graph:
    """Which nodes make a value and which take it."""

    def __init__(self, graph: Any, values: Values) -> None:
        self.values = values
        self.tensors: dict[str, Any] = {tensor.name: tensor for tensor in graph.initializer}
        # Files older than IR version 4 list initializers among the inputs as well.
        self.inputs = dict.fromkeys(entry.name for entry in graph.input if entry.name not in self.tensors)
        self.outputs = {entry.name for entry in graph.output}
        self.makers: dict[str, Any] = {}
        self.takers: dict[str, list[Any]] = {}
        for node in graph.node:
            for name in filter(None, node.output):
                if name in self.makers or name in self.tensors or name in self.inputs:
                    raise WeightsError(f"damaged ONNX file: {shortened(name)} is made twice")
                self.makers[name] = node
            for name in dict.fromkeys(filter(None, node.input)):
                self.takers.setdefault(name, []).append(node)

    def entry(self) -> str:
        """The input that the network starts from."""
        used = [name for name in self.inputs if name in self.takers]
        if len(used) == 1:
            return used[0]
        if set(used) & {name for node in self._convolutions() for name in node.input[1:]}:
            raise WeightsError("its weights are not in the file: they are inputs of the graph")
        told = ", ".join(map(shortened, used[:4])) + (f" and {len(used) - 4} more" if len(used) > 4 else "")
        raise WeightsError(f"not a D2-Net: expected one input, found {told or 'none'}")

    def next(self, name: str) -> Any | None:
        """The one node that works on a value; None at the end. Nodes that change nothing are passed over."""
        # Each value is made once, so this does not go round in circles.
        while nodes := [node for node in self.takers.get(name, []) if _operator(node) not in _LOOKS_ON]:
            if len(nodes) > 1:
                told = ", ".join(_told(node) for node in nodes[:3])
                raise WeightsError(
                    f"not a D2-Net: it branches at {shortened(name)}, into {told}"
                    + (f" and {len(nodes) - 3} more" if len(nodes) > 3 else "")
                )
            (node,) = nodes
            if node.input[0] != name:
                raise WeightsError(
                    f"not a D2-Net: {_told(node)} computes with {shortened(name)}, expected a layer that "
                    "works on it"
                )
            if not self.changes_nothing(node):
                return node
            name = node.output[0]
        return None

    def changes_nothing(self, node: Any) -> bool:
        kind = _operator(node)
        if kind == "Cast":
            return self.values.is_floating(_attributes(node).get("to"))
        if kind == "Pad":
            pads: Any = _attributes(node).get("pads")
            if pads is None and len(node.input) > 1:
                pads = self.few(node.input[1])
            return pads is not None and not np.any(pads)
        # Of Dropout's outputs the first is its input, where nothing is trained.
        return kind in ("Identity", "Dropout")

    def tensor(self, name: str) -> Any | None:
        """The constant of that name, or None if it is computed."""
        for _ in range(len(self.makers) + 1):
            if name in self.tensors:
                return self.tensors[name]
            node = self.makers.get(name)
            if node is None:
                return None
            if _operator(node) == "Constant":
                return _attributes(node).get("value")
            if _operator(node) != "Identity" or not node.input:
                return None
            name = node.input[0]
        return None

    def few(self, name: str) -> NDArray[np.float64] | None:
        """A small constant as numbers."""
        node = self.makers.get(name)
        if node is not None and _operator(node) == "Constant":
            attributes = _attributes(node)
            for key in ("value_float", "value_int", "value_floats", "value_ints"):
                if key in attributes:
                    return np.array(attributes[key], np.float64)
        tensor = self.tensor(name)
        return None if tensor is None else self.values.few(tensor)

    def _convolutions(self) -> Iterator[Any]:
        return (node for node in self.makers.values() if _operator(node) == "Conv")


# --- nodes -----------------------------------------------------------------------------------------------


def _operator(node: Any) -> str:
    """A node's operator, with its domain unless that is ONNX's own."""
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"


def _attributes(node: Any) -> dict[str, Any]:
    fields = {1: "f", 2: "i", 3: "s", 4: "t", 6: "floats", 7: "ints"}  # AttributeProto.AttributeType
    return {
        entry.name: getattr(entry, fields[entry.type]) for entry in node.attribute if entry.type in fields
    }


def _told(node: Any) -> str:
    operator = shortened(_operator(node))
    return f"{operator} ({shortened(node.name)})" if node.name else operator


def _described(layer: Layer) -> str:
    k = layer.kernel
    what = {
        "convolution": f"{k} x {k} convolution, {layer.in_channels} to {layer.out_channels} channels, "
        f"dilation {layer.dilation}",
        "relu": "ReLU",
        "max_pooling": f"{k} x {k} max pooling, stride {layer.stride}",
        "average_pooling": f"{k} x {k} average pooling, stride {layer.stride}",
    }
    return f"{layer.name} ({what[layer.type]})"


def _check_node(graph: _Graph, layer: Layer, node: Any, after: str, convolution: int) -> None:
    """Raise WeightsError unless the node does what the layer does."""
    if _operator(node) not in _KINDS[layer.type]:
        hint = "; quantized networks are not read" if _operator(node) in _QUANTIZED else ""
        raise WeightsError(
            f"not a D2-Net: after {after} expected {_described(layer)}, found {_told(node)}{hint}"
        )
    differences = list(_clipped(graph, node) if layer.type == "relu" else _differences(layer, node))
    if differences:
        which = f"convolution {convolution}, " if layer.type == "convolution" else ""
        raise WeightsError(f"not a D2-Net: {which}{_told(node)}, has {differences[0]}")


def _differences(layer: Layer, node: Any) -> Iterator[str]:
    """In what a convolution or pooling is not the layer, as ``dilation 1, where conv4_1 has 2``."""
    attributes = _attributes(node)
    kernel = [layer.kernel] * 2
    expected: dict[str, tuple[str, list[int], list[int]]] = {
        # what, the values if none are given, those of the layer
        "kernel_shape": ("kernel", kernel if layer.type == "convolution" else [], kernel),
        "strides": ("stride", [1, 1], [layer.stride] * 2),
        "dilations": ("dilation", [1, 1], [layer.dilation] * 2),
        "pads": ("padding", [0] * 4, [layer.padding] * 4),
    }
    automatic = bytes(attributes.get("auto_pad", b"NOTSET")).decode("ascii", "replace")
    if automatic in ("SAME_UPPER", "SAME_LOWER") and layer.type == "convolution":
        del expected["pads"]  # with stride 1 and an odd kernel it is the layer's own
    elif automatic not in ("NOTSET", "VALID"):
        yield f"the padding {shortened(automatic)}, where {layer.name} has {layer.padding}"
    elif automatic == "VALID":
        attributes.pop("pads", None)
    for key, (what, default, wanted) in expected.items():
        found = list(attributes.get(key, default))
        if found != wanted:
            yield f"{what} {_brief(found)}, where {layer.name} has {_brief(wanted)}"
    if attributes.get("group", 1) != 1:
        yield f"{attributes['group']} groups, where {layer.name} has 1"
    # With stride 1, rounding up makes no difference.
    if attributes.get("ceil_mode", 0) and layer.stride > 1:
        yield f"a size that is rounded up, where {layer.name} rounds down"


def _brief(numbers: list[int]) -> str:
    """``2`` for 2 x 2."""
    if numbers and all(number == numbers[0] for number in numbers):
        return str(numbers[0])
    return " x ".join(str(number) for number in numbers[:8]) or "of no size"


def _clipped(graph: _Graph, node: Any) -> Iterator[str]:
    """In what a node is no ReLU; a Clip has its limits as attributes or, since opset 11, as inputs."""
    if _operator(node) != "Clip":
        return
    limits = _attributes(node)
    for place, key in ((1, "min"), (2, "max")):
        if len(node.input) > place and node.input[place]:
            constant = graph.few(node.input[place])
            limits[key] = np.nan if constant is None or constant.size != 1 else constant.item()
    if limits.get("min") != 0:
        yield f"the lower limit {limits.get('min', 'none')}, where a ReLU has 0"
    # The largest float32 is how some write that there is none.
    if not limits.get("max", np.inf) > 3.4e38:
        yield f"the upper limit {limits['max']:g}, where a ReLU has none"


def _parameters(graph: _Graph, layer: Layer, node: Any, convolution: int) -> dict[str, Any]:
    found = {}
    for place, name in enumerate(layer.parameters, 1):
        part = name.rsplit("/", 1)[1]
        if len(node.input) <= place or not node.input[place]:
            raise WeightsError(f"not a D2-Net: convolution {convolution}, {_told(node)}, has no {part}")
        tensor = graph.tensor(node.input[place])
        if tensor is None:
            maker = graph.makers.get(node.input[place])
            if maker is None:
                what = "is an input of the graph" if node.input[place] in graph.inputs else "is not in it"
            else:
                hint = "; quantized networks are not read" if _operator(maker) in _QUANTIZED else ""
                what = f"is computed by {_told(maker)}{hint}"
            raise WeightsError(f"{name}: expected numbers in the file, but the {part} {what}")
        if tuple(tensor.dims[:8]) != PARAMETER_SHAPES[name]:
            raise WeightsError(
                f"not a D2-Net: convolution {convolution}, {_told(node)}, has a {part} of shape "
                f"{shape_of(tensor)}, where {layer.name} has {PARAMETER_SHAPES[name]}"
            )
        found[name] = tensor
    return found


# --- before and behind -----------------------------------------------------------------------------------


def _pass_preprocessing(graph: _Graph, here: str) -> tuple[str, Preprocessing | None]:
    """The value that goes into ``conv1_1``, and how it was preprocessed."""
    steps: list[tuple[str, tuple[float, ...]]] = []
    told: list[str] = []
    longest = max(map(len, STEPS.values()))
    while (node := graph.next(here)) is not None and _operator(node) in ("Gather", "Sub", "Div"):
        step = _step(graph, node, here)
        told.append(_told(node))
        if step is None or len(steps) == longest:
            break
        steps.append(step)
        here = node.output[0]
    if not told:
        return here, None
    for name, known in STEPS.items():
        if len(steps) == len(told) == len(known) and all(
            kind == wanted and len(numbers) == len(expected) and np.allclose(numbers, expected, 1e-6, 0)
            for (kind, numbers), (wanted, expected) in zip(steps, known, strict=True)
        ):
            return here, name
    raise WeightsError(
        f"preprocesses its input in a way that d2np does not know: {', '.join(told)}; expected none, or that "
        f"of {' or '.join(STEPS)}"
    )


def _step(graph: _Graph, node: Any, here: str) -> tuple[str, tuple[float, ...]] | None:
    """A node as one of the steps of a preprocessing, if it may be one."""
    if len(node.input) != 2 or node.input[0] == node.input[1]:
        return None
    constant = graph.few(node.input[1])
    if constant is None:
        return None
    if _operator(node) == "Gather":
        fits = _attributes(node).get("axis", 0) == 1 and constant.ndim == 1
    else:
        fits = constant.size == 1 or constant.shape[-3:] == (constant.size, 1, 1)
    return (_operator(node), tuple(constant.ravel())) if fits else None


def _check_end(graph: _Graph, here: str) -> None:
    """Raise WeightsError unless the map, with or without a last ReLU, is an output."""
    ends = [here]
    seen = set()
    relus = set()
    rest: list[Any] = []
    while ends:
        name = ends.pop()
        if name in graph.outputs:
            return
        seen.add(name)
        for node in graph.takers.get(name, []):
            if not node.output or node.output[0] in seen:
                continue
            first_relu = name not in relus and _operator(node) in _KINDS["relu"]
            if first_relu and not list(_clipped(graph, node)):
                relus.add(node.output[0])
            elif not graph.changes_nothing(node):
                rest.append(node)
                continue
            elif name in relus:
                relus.add(node.output[0])
            ends.append(node.output[0])
    convolutions = sum(_operator(node) == "Conv" for node in graph.makers.values())
    more = f" ({convolutions} convolutions instead of 10)" if convolutions > 10 else ""
    found = _told(rest[0]) if rest else "no output"
    raise WeightsError(
        f"not a D2-Net: after conv4_3 expected the end, with or without a ReLU, as an output; "
        f"found {found}{more}"
    )
