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
:mod:`d2np.weights.onnx_graph`. Values may lie in files beside the ONNX file.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from functools import partial
from math import prod
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import options
from ..atomic import writing
from ..errors import WeightsError
from ..extras import require
from ..layers import LAYERS, SMALLEST_SIDE
from ..options import Preprocessing
from ..version import __version__
from . import onnx_graph
from .parameters import Provenance, StoredArray, check, known_preprocessing, read_arrays, shortened

INPUTS: dict[str | None, tuple[str, str]] = {
    None: ("planes", "the preprocessed image; caffe: blue, green, red minus 103.939, 116.779, 123.68"),
    "caffe": ("image", "red, green, blue in 0..255; the graph makes blue, green, red of them, minus means"),
    "torch": ("image", "red, green, blue in 0..255; the graph brings them to 0..1 and scales them"),
}
"""Name and meaning of the graph's input for each preprocessing that can be put into it."""

_LICENCE = (
    "weights: that of their source (for the published ones see https://github.com/mihaidusmanu/d2-net); "
    "the graph around them: BSD-3-Clause, as d2np"
)

# Old enough for every engine of the last years to know it, new enough to have all that is needed.
_OPSET, _IR_VERSION = 13, 8

_LARGEST_FILE = 10**9  # VGG16 with its classifier has 553 MB
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
    with writing(path, error=WeightsError) as stream:
        stream.write(content)


def serialize(
    arrays: Mapping[str, ArrayLike],
    provenance: Provenance | None = None,
    *,
    relu: bool = True,
    preprocessing: Preprocessing | None = None,
) -> bytes:
    """Return the bytes that :func:`write` writes, for engines that take a graph from memory.

    The same arrays, provenance and options give the same bytes. For the parameters and errors see there.
    """
    onnx = _package()
    if preprocessing is not None:
        options.check("preprocessing", preprocessing, Preprocessing, ", or None to leave it out of the graph")
    checked = check(arrays)
    source = provenance or Provenance.of_arrays(checked)
    model = onnx.helper.make_model(
        _graph(onnx, checked, relu, preprocessing),
        producer_name="d2np",
        producer_version=__version__,
        doc_string="D2-Net: A Trainable CNN for Joint Detection and Description of Local Features "
        "(Dusmanu et al., CVPR 2019): the dense feature map, before detection",
        opset_imports=[onnx.helper.make_opsetid("", _OPSET)],
        ir_version=_IR_VERSION,
    )
    metadata = {
        "architecture": "D2-Net",
        "last_relu": "yes" if relu else "no",
        "preprocessing": preprocessing or "none",
        "trained_with": source.preprocessing,
        "input": INPUTS[preprocessing][1],
        "source_name": _text(source.name),
        "source_sha256": _text(source.sha256),
        "model_license": "BSD-3-Clause, as d2np" if source.name == "d2np/weights/analytic.py" else _LICENCE,
    }
    onnx.helper.set_model_props(model, metadata)
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def read(stream: BinaryIO, path: Path) -> tuple[dict[str, NDArray[Any]], Provenance]:
    """Read the weights of a D2-Net, or of a VGG16, from an ONNX file.

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
        If it is another network, keeps values outside its folder, or onnx is missing.
    Exception
        Of almost any kind, if the file is damaged.
    """
    onnx = _package()
    size = stream.seek(0, os.SEEK_END)
    if size > _LARGEST_FILE:
        raise WeightsError(f"an ONNX file of {size:,} bytes; at most {_LARGEST_FILE:,} are read")
    stream.seek(0)
    content = stream.read(size)
    model = onnx.load_model_from_string(content)
    parameters, inside, trained_with = onnx_graph.follow(model)
    beside: dict[Path, None] = {}
    stored = {
        name: StoredArray(name, tuple(tensor.dims), partial(_values, onnx, tensor, path, beside))
        for name, tensor in parameters.items()
    }
    arrays = read_arrays(stored)
    producer = shortened(f"{model.producer_name} {model.producer_version}".strip())
    format = ", ".join(filter(None, ["ONNX", producer, inside and f"{inside} preprocessing inside"]))
    names = tuple(file.name for file in beside)
    if model.producer_name == "d2np":
        return arrays, _recorded(model, format, names)
    digest = hashlib.sha256(content)
    for file in beside:
        digest.update(file.read_bytes())
    return arrays, Provenance(path.name, digest.hexdigest(), format, "", names, trained_with)


def _package() -> ModuleType:
    onnx: ModuleType = require("onnx", "ONNX files need", "onnx", WeightsError)
    return onnx


# --- writing ---------------------------------------------------------------------------------------------


def _graph(
    onnx: ModuleType,
    arrays: Mapping[str, NDArray[np.float32]],
    relu: bool,
    preprocessing: Preprocessing | None,
) -> Any:
    entry, meaning = INPUTS[preprocessing]
    here = entry
    nodes: list[Any] = []
    constants: list[Any] = []

    def add(operator: str, name: str, values: Mapping[str, NDArray[Any]], **attributes: Any) -> None:
        nonlocal here
        constants.extend(onnx.numpy_helper.from_array(array, key) for key, array in values.items())
        nodes.append(onnx.helper.make_node(operator, [here, *values], [name], name, **attributes))
        here = name

    for number, (operator, steps) in enumerate(onnx_graph.STEPS[preprocessing] if preprocessing else ()):
        name = f"preprocessing/{number}_{operator.lower()}"
        if operator == "Gather":
            add(operator, name, {f"{name}/channels": np.array(steps, np.int64)}, axis=1)
        else:
            add(operator, name, {f"{name}/values": np.array(steps, np.float32).reshape(1, -1, 1, 1)})
    for layer in LAYERS:
        sizes: dict[str, Any] = {}
        if layer.type != "relu":
            sizes = {"kernel_shape": [layer.kernel] * 2, "strides": [layer.stride] * 2}
        if layer.type == "convolution":
            sizes |= {"pads": [layer.padding] * 4, "dilations": [layer.dilation] * 2}
        values = {name: arrays[name] for name in layer.parameters}
        add(onnx_graph.OPERATORS[layer.type], layer.name, values, **sizes)
    if relu:
        add("Relu", "relu4_3", {})
    nodes[-1].output[0] = "map"

    float32, value = onnx.TensorProto.FLOAT, onnx.helper.make_tensor_value_info
    told = f"{meaning}; at least {SMALLEST_SIDE} px on either side"
    cells = "feature map; cell (i, j) lies at x = 4 j + 1.5, y = 4 i + 1.5 px"
    return onnx.helper.make_graph(
        nodes,
        "D2-Net",
        [value(entry, float32, [1, 3, "height", "width"], told)],
        [value("map", float32, [1, 512, "rows", "columns"], cells)],
        constants,
    )


def _text(text: str) -> str:
    """Make a text of a file's name, which may hold bytes that are none."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")[:_LONGEST_TEXT]


# --- reading ---------------------------------------------------------------------------------------------


def _values(onnx: ModuleType, tensor: Any, path: Path, beside: dict[Path, None]) -> NDArray[Any]:
    """Return the values of a tensor that has the shape of one of the network's arrays."""
    kinds = onnx.TensorProto
    if tensor.data_type not in onnx_graph.floating_types():
        known = {number: kind for kind, number in kinds.DataType.items()}
        found = known.get(tensor.data_type, tensor.data_type)
        raise WeightsError(f"expected floating-point values, found {found}")
    if tensor.data_location == kinds.EXTERNAL:
        size = prod(tensor.dims) * {kinds.FLOAT: 4, kinds.DOUBLE: 8}.get(tensor.data_type, 2)
        tensor.raw_data = _read_beside(tensor, size, path, beside)
        tensor.data_location = kinds.DEFAULT
    values: NDArray[Any] = onnx.numpy_helper.to_array(tensor)
    return values.astype(np.float32) if tensor.data_type == kinds.BFLOAT16 else values


def _read_beside(tensor: Any, size: int, path: Path, beside: dict[Path, None]) -> bytes:
    """Read values that are kept in a file in the folder of the ONNX file."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    told = shortened(entries["location"])
    file = Path(os.path.realpath(path.parent / entries["location"]))
    # Download caches are full of links, from a folder of names into one of contents.
    folders = (Path(os.path.realpath(path.parent)), Path(os.path.realpath(path)).parent)
    if file.parent not in folders or not file.is_file() or file.stat().st_size > _LARGEST_FILE:
        raise WeightsError(
            f"its values are in {told!r}, which must be a file in the same folder, of at most "
            f"{_LARGEST_FILE:,} bytes"
        )
    with open(file, "rb") as stream:
        stream.seek(int(entries.get("offset", 0)))
        data = stream.read(size)
    if len(data) != size:
        raise WeightsError(f"{told} is truncated: expected {size} bytes, found {len(data)}")
    beside[path.parent / entries["location"]] = None
    return data


def _recorded(model: Any, format: str, beside: tuple[str, ...]) -> Provenance:
    """Return what d2np has recorded in a file that it wrote."""
    recorded = {entry.key: entry.value[:_LONGEST_TEXT] for entry in model.metadata_props}
    missing = {"source_name", "source_sha256"} - recorded.keys()
    if missing:
        raise WeightsError(f"truncated: d2np wrote it, but its metadata lacks {', '.join(sorted(missing))}")
    return Provenance(
        recorded["source_name"],
        recorded["source_sha256"],
        format,
        beside=beside,
        # Version 1.0 wrote no such entry.
        preprocessing=known_preprocessing(recorded.get("trained_with", "caffe")),
    )
