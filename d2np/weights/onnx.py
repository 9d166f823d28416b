"""D2-Net as an ONNX file, written for other engines and read back for its weights. Needs the extra ``onnx``.

The graph that is written has the network's layers as nodes, named as everywhere in d2np: ``conv1_1``,
``relu1_1``, ... ``conv4_3``, and ``relu4_3`` for the last ReLU, which may be left out. Initializers are named
like the arrays, ``conv1_1/weight`` and so on. Batch size is 1, height and width are free.

==================  =====================================================================================
input ``planes``    float32 (1, 3, height, width): the preprocessed image, for ``"caffe"`` blue, green, red
                    in 0..255 minus their means
input ``image``     instead, where preprocessing is inside the graph: red, green, blue in 0..255
output ``map``      float32 (1, 512, rows, columns): what :meth:`d2np.Net.dense` returns, channels first
==================  =====================================================================================

Files are read by following the graph from its input to its output, whatever its nodes are called: see
:mod:`d2np.weights.onnx_graph`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from math import prod
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import options
from ..atomic import replacing
from ..errors import WeightsError
from ..extras import require
from ..layers import LAYERS, PARAMETER_SHAPES, SMALLEST_SIDE
from ..options import Preprocessing
from . import onnx_graph, onnx_wire
from .onnx_tensors import Values
from .parameters import DAMAGE, Provenance, check, shortened

ARCHITECTURE = "D2-Net"

INPUTS: dict[str | None, tuple[str, str]] = {
    None: (
        "planes",
        "the preprocessed image: for the published and the analytic weights blue, green, red in 0..255 "
        "minus 103.939, 116.779, 123.68 (caffe)",
    ),
    "caffe": (
        "image",
        "red, green, blue in 0..255; the graph turns them into blue, green, red minus their means",
    ),
    "torch": (
        "image",
        "red, green, blue in 0..255; the graph brings them to 0..1, minus the mean, divided by the deviation",
    ),
}
"""Name and meaning of the graph's input for each preprocessing that can be put into it."""

# Old enough for every engine of the last years to know it, new enough to have all that is needed.
_OPSET, _IR_VERSION = 13, 8

_KINDS = {
    "convolution": "Conv",
    "relu": "Relu",
    "max_pooling": "MaxPool",
    "average_pooling": "AveragePool",
}

_LARGEST_FILE = 128 << 20  # the arrays are 31 MB as float32, 61 MB as float64
_LONGEST_TEXT = 4096


def write(
    path: str | os.PathLike[str],
    arrays: Mapping[str, ArrayLike],
    provenance: Provenance | None = None,
    *,
    relu: bool = True,
    preprocessing: Preprocessing | None = None,
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
    relu : bool
        Whether the last convolution is followed by a ReLU, as published.
    preprocessing : {"caffe", "torch"}, optional
        Put it into the graph, in front of the network. The published and the analytic weights need
        ``"caffe"``.

    Raises
    ------
    WeightsError
        If the arrays are not those of a D2-Net, the file cannot be written, or the package onnx is missing.
    OptionError
        If there is no such preprocessing.
    """
    content = serialize(arrays, provenance, relu=relu, preprocessing=preprocessing)
    try:
        target = Path(os.fsdecode(path))
        with replacing(target) as stream:
            stream.write(content)
    except TypeError:
        raise WeightsError(f"weights are saved to a path, got {type(path).__name__}") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise WeightsError(f"{target}: cannot be written: {reason}") from None


def serialize(
    arrays: Mapping[str, ArrayLike],
    provenance: Provenance | None = None,
    *,
    relu: bool = True,
    preprocessing: Preprocessing | None = None,
) -> bytes:
    """The bytes that :func:`write` writes, for engines that take a graph from memory.

    The same arrays, provenance and options give the same bytes. For the parameters and errors see there.
    """
    onnx = _package()
    if preprocessing is not None:
        options.check("preprocessing", preprocessing, Preprocessing, ", or None to leave it out of the graph")
    checked = check(arrays)
    model = _model(onnx, checked, provenance or Provenance.of_arrays(checked), relu, preprocessing)
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def read(stream: BinaryIO, path: Path) -> tuple[dict[str, NDArray[Any]], Provenance]:
    """Read the weights of a D2-Net from an ONNX file.

    Parameters
    ----------
    stream : seekable binary file
    path : Path
        Where it is: values may lie in files beside it.

    Returns
    -------
    arrays : dict of str to arrays
        ``"conv1_1/weight"`` ... in network order.
    provenance : Provenance
        For files that d2np wrote, the recorded source. For others the file itself; its sum is that of the
        file, followed by the files beside it if there are any.

    Raises
    ------
    WeightsError
        If the file is damaged or another network, keeps values outside its folder, or onnx is missing.
    """
    onnx = _package()
    from google.protobuf.message import Error as ProtobufError

    try:
        content = _content(stream)
        onnx_wire.check_size(content)
        model = onnx.ModelProto.FromString(content)
        values = Values(onnx.TensorProto, path)
        found = onnx_graph.follow(model, values)
        arrays = {name: values.parameter(name, tensor) for name, tensor in found.parameters.items()}
        return arrays, _provenance(model, found.preprocessing, content, path, values.beside)
    except WeightsError:
        raise
    except (ProtobufError, *DAMAGE) as error:
        raise WeightsError(
            f"damaged or truncated ONNX file ({type(error).__name__}: {shortened(str(error))})"
        ) from None


def _package() -> ModuleType:
    onnx: ModuleType = require("onnx", "ONNX files need", "onnx", WeightsError)
    return onnx


# --- writing ---------------------------------------------------------------------------------------------


def _model(
    onnx: ModuleType,
    arrays: Mapping[str, NDArray[np.float32]],
    provenance: Provenance,
    relu: bool,
    preprocessing: Preprocessing | None,
) -> Any:
    from .. import __version__

    nodes: list[Any] = []
    constants: list[Any] = []

    def constant(name: str, values: NDArray[Any]) -> str:
        constants.append(onnx.numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    entry, meaning = INPUTS[preprocessing]
    here = entry
    for number, (kind, values) in enumerate(onnx_graph.STEPS[preprocessing] if preprocessing else ()):
        name = f"preprocessing/{number}_{kind.lower()}"
        if kind == "Gather":
            channels = constant(f"{name}/channels", np.array(values, np.int64))
            nodes.append(onnx.helper.make_node(kind, [here, channels], [name], name, axis=1))
        else:
            planes = constant(f"{name}/values", np.array(values, np.float32).reshape(1, -1, 1, 1))
            nodes.append(onnx.helper.make_node(kind, [here, planes], [name], name))
        here = name

    for layer in LAYERS:
        inputs = [here, *(constant(name, arrays[name]) for name in layer.parameters)]
        options: dict[str, Any] = {}
        if layer.type != "relu":
            options = {"kernel_shape": [layer.kernel] * 2, "strides": [layer.stride] * 2}
        if layer.type == "convolution":
            options |= {"pads": [layer.padding] * 4, "dilations": [layer.dilation] * 2}
        nodes.append(onnx.helper.make_node(_KINDS[layer.type], inputs, [layer.name], layer.name, **options))
        here = layer.name
    if relu:
        nodes.append(onnx.helper.make_node("Relu", [here], ["relu4_3"], "relu4_3"))
    nodes[-1].output[0] = "map"

    float32, value = onnx.TensorProto.FLOAT, onnx.helper.make_tensor_value_info
    told = f"{meaning}; at least {SMALLEST_SIDE} px on either side"
    cells = "feature map; cell (i, j) lies at x = 4 j + 1.5, y = 4 i + 1.5 px"
    graph = onnx.helper.make_graph(
        nodes,
        ARCHITECTURE,
        [value(entry, float32, [1, 3, "height", "width"], told)],
        [value("map", float32, [1, 512, "rows", "columns"], cells)],
        constants,
    )
    model = onnx.helper.make_model(
        graph,
        producer_name="d2np",
        producer_version=__version__,
        doc_string="D2-Net: A Trainable CNN for Joint Detection and Description of Local Features "
        "(Dusmanu et al., CVPR 2019): the dense feature map, before detection",
        opset_imports=[onnx.helper.make_opsetid("", _OPSET)],
        ir_version=_IR_VERSION,
    )
    onnx.helper.set_model_props(
        model,
        {
            "architecture": ARCHITECTURE,
            "last_relu": "yes" if relu else "no",
            "preprocessing": preprocessing or "none",
            "trained_with": provenance.preprocessing,
            "input": meaning,
            "source_name": _text(provenance.name),
            "source_sha256": _text(provenance.sha256),
            "model_license": _licence(provenance),
        },
    )
    return model


def _text(text: str) -> str:
    """File names may hold bytes that are not text."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")[:_LONGEST_TEXT]


def _licence(provenance: Provenance) -> str:
    if provenance.name == "d2np/weights/analytic.py":
        return "BSD-3-Clause, as d2np"
    return (
        "weights: that of their source (for the published ones see https://github.com/mihaidusmanu/d2-net); "
        "the graph around them: BSD-3-Clause, as d2np"
    )


# --- reading ---------------------------------------------------------------------------------------------


def _content(stream: BinaryIO) -> bytes:
    size = stream.seek(0, os.SEEK_END)
    if size > _LARGEST_FILE:
        held = 4 * sum(map(prod, PARAMETER_SHAPES.values()))
        raise WeightsError(
            f"not a D2-Net: an ONNX file of {size:,} bytes, where the parameters are {held:,} (as float32); "
            f"at most {_LARGEST_FILE:,} are read"
        )
    stream.seek(0)
    return stream.read(size)


def _provenance(
    model: Any, preprocessing: Preprocessing | None, content: bytes, path: Path, beside: tuple[Path, ...]
) -> Provenance:
    producer = shortened(" ".join(part for part in (model.producer_name, model.producer_version) if part))
    format = ", ".join(
        part for part in ("ONNX", producer, preprocessing and f"{preprocessing} preprocessing inside") if part
    )
    names = tuple(file.name for file in beside)
    if model.producer_name == "d2np":
        recorded = {entry.key: entry.value for entry in model.metadata_props}
        for key in ("source_name", "source_sha256"):
            if key not in recorded:
                raise WeightsError(f"truncated: d2np wrote it, but its metadata lacks {key}")
        name, sha256 = (recorded[key][:_LONGEST_TEXT] for key in ("source_name", "source_sha256"))
        # Version 1.0 wrote no such entry.
        trained_with = recorded.get("trained_with", "caffe")
        if trained_with not in options.names(Preprocessing):
            raise WeightsError(
                f"expected weights trained with {' or '.join(options.names(Preprocessing))} preprocessing, "
                f"found {shortened(trained_with)}"
            )
        return Provenance(name, sha256, format, beside=names, preprocessing=cast(Preprocessing, trained_with))
    digest = hashlib.sha256(content)
    for file in beside:
        with open(file, "rb") as stream:
            while block := stream.read(2**20):
                digest.update(block)
    return Provenance(
        path.name, digest.hexdigest(), format, beside=names, preprocessing=preprocessing or "caffe"
    )
