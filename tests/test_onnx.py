"""ONNX files: what is written runs elsewhere and comes back the same; what is read may come from anyone."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import skimage.data
from onnx import TensorProto, helper, numpy_helper

import d2np
from d2np import weights
from d2np.cli import main
from d2np.errors import WeightsError
from d2np.images.pixels import preprocess
from d2np.layers import LAYERS, PARAMETER_COUNT, PARAMETER_SHAPES
from d2np.weights import Provenance
from d2np.weights.onnx import serialize, write

SOURCE = Provenance("d2_tf.pth", "0123456789abcdef" * 4, "PyTorch checkpoint (legacy)")
NAMES = [layer.name for layer in LAYERS]


@pytest.fixture(scope="module")
def arrays(make_weights):
    return make_weights(11)


@pytest.fixture(scope="module")
def our_net(arrays):
    return d2np.Net(arrays, provenance=SOURCE)


@pytest.fixture(scope="module")
def content(arrays):
    return serialize(arrays, SOURCE)


@pytest.fixture
def model(content):
    """The model that d2np writes, for changing it."""
    return onnx.ModelProto.FromString(content)


@pytest.fixture
def load(tmp_path):
    """The arrays that a model, or the bytes of a file, hold."""

    def loaded(given, name="d2.onnx"):
        path = tmp_path / name
        path.write_bytes(given if isinstance(given, bytes) else given.SerializeToString())
        return weights.load(path)[0]

    return loaded


@pytest.fixture
def refused(load, tmp_path):
    """The message with which a model, or the bytes of a file, are refused."""

    def message(given, name="d2.onnx"):
        with pytest.raises(WeightsError) as caught:
            load(given, name)
        text = str(caught.value)
        assert text.startswith(str(tmp_path / name))
        assert "\n" not in text
        assert len(text) < 600 + len(str(tmp_path))
        return text

    return message


def assert_same(found, expected):
    assert list(found) == list(PARAMETER_SHAPES)
    for name, values in expected.items():
        assert found[name].dtype == np.float32
        assert found[name].tobytes() == np.asarray(values, np.float32).tobytes(), name


def node_of(model, name):
    (found,) = (node for node in model.graph.node if node.name == name)
    return found


def tensor_of(model, name):
    (found,) = (tensor for tensor in model.graph.initializer if tensor.name == name)
    return found


def attribute(model, name, key, value):
    """Give a node an attribute, in place of the one it has."""
    node = node_of(model, name)
    kept = [entry for entry in node.attribute if entry.name != key]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(key, value)])


def insert(model, after, kind, *inputs, **attributes):
    """Put a node behind another one, or in front of the network."""
    nodes = list(model.graph.node)
    place = [node.name for node in nodes].index(after) + 1 if after else 0
    value = nodes[place - 1].output[0] if after else nodes[0].input[0]
    node = helper.make_node(kind, [value, *inputs], [f"inserted_{place}"], f"inserted_{place}", **attributes)
    for taker in nodes[place:]:
        for number, name in enumerate(taker.input):
            if name == value:
                taker.input[number] = node.output[0]
    if value == "map":
        model.graph.output[0].name = node.output[0]
    model.graph.node.insert(place, node)


def remove(model, name):
    """Take a node out; what took its output takes its input."""
    gone = node_of(model, name)
    for node in model.graph.node:
        for number, value in enumerate(node.input):
            if value == gone.output[0]:
                node.input[number] = gone.input[0]
    if gone.output[0] == "map":
        model.graph.output[0].name = gone.input[0]
    model.graph.node.remove(gone)


def replace_tensor(model, name, values):
    tensor_of(model, name).CopyFrom(
        values if isinstance(values, TensorProto) else numpy_helper.from_array(values, name)
    )


# --- what is written -------------------------------------------------------------------------------------


def test_graph(arrays):
    content = serialize(arrays, SOURCE)
    assert content == serialize(arrays, SOURCE)
    model = onnx.ModelProto.FromString(content)
    onnx.checker.check_model(model, full_check=True)
    assert [node.name for node in model.graph.node] == [*NAMES, "relu4_3"]
    assert [tensor.name for tensor in model.graph.initializer] == list(PARAMETER_SHAPES)
    (entry,), (end,) = model.graph.input, model.graph.output
    assert entry.name == "planes"
    assert "blue, green, red" in entry.doc_string
    assert end.name == "map"
    for value, channels, free in ((entry, 3, ["height", "width"]), (end, 512, ["rows", "columns"])):
        assert value.type.tensor_type.elem_type == TensorProto.FLOAT
        batch, depth, *rest = value.type.tensor_type.shape.dim
        assert (batch.dim_value, depth.dim_value) == (1, channels)
        assert [size.dim_param for size in rest] == free
    assert (model.producer_name, model.producer_version) == ("d2np", d2np.__version__)
    told = {entry.key: entry.value for entry in model.metadata_props}
    assert told["architecture"] == "D2-Net"
    assert (told["source_name"], told["source_sha256"]) == (SOURCE.name, SOURCE.sha256)
    assert "mihaidusmanu/d2-net" in told["model_license"]
    assert len(content) - 4 * PARAMETER_COUNT < 10_000


@pytest.mark.parametrize("preprocessing", ["caffe", "torch"])
def test_onnxruntime_gives_the_dense_map(our_net, make_image, preprocessing):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    session = onnxruntime.InferenceSession(
        serialize(our_net.arrays),
        options,
        providers=["CPUExecutionProvider"],
    )
    for height, width in ((8, 9), (61, 83), (120, 161)):
        img = make_image(height, width, seed=height)
        expected = our_net.dense(img, preprocessing=preprocessing)
        planes = preprocess(img, preprocessing).astype(np.float32).transpose(2, 0, 1)[np.newaxis]
        (found,) = session.run(["map"], {"planes": planes})
        found = found[0].transpose(1, 2, 0)
        assert found.shape == expected.shape
        assert abs(found - expected).max() <= 1e-4 * abs(expected).max()


@pytest.mark.parametrize("name", ["astronaut", "chelsea", "camera"])
def test_onnxruntime_on_the_analytic_weights(name):
    """The part they take away at the frame must not be so large that its rounding shows in the rest."""
    img = d2np.images.pixels.as_rgb(getattr(skimage.data, name)()[:301, :413])
    net = d2np.Net.load("analytic")
    content = serialize(net.arrays)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"planes": preprocess(img, "caffe").transpose(2, 0, 1)[np.newaxis]})
    expected = net.dense(img)
    assert abs(found[0].transpose(1, 2, 0) - expected).max() <= 2e-5 * expected.max()


def test_comes_back_bit_by_bit(our_net, tmp_path, image):
    path = tmp_path / "d2.onnx"
    write(path, our_net.arrays, our_net.provenance)
    net = d2np.Net.load(path)
    assert_same(net.arrays, our_net.arrays)
    expected = Provenance(SOURCE.name, SOURCE.sha256, f"ONNX, d2np {d2np.__version__}")
    assert net.provenance == expected
    small = image[:24, :24]
    np.testing.assert_array_equal(net.dense(small), our_net.dense(small))
    assert os.listdir(tmp_path) == ["d2.onnx"]


def test_preprocessing_of_the_weights(arrays, tmp_path, model):
    write(tmp_path / "d2.onnx", arrays, Provenance("a", "", "", preprocessing="torch"))
    assert d2np.Net.load(tmp_path / "d2.onnx").preprocessing == "torch"
    model.metadata_props.add(key="trained_with", value="tf")
    (tmp_path / "d2.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(WeightsError, match="trained with caffe or torch preprocessing, found tf"):
        weights.load(tmp_path / "d2.onnx")


def test_arrays_without_provenance(arrays, load, model):
    content = serialize(arrays)
    load(content)
    told = {entry.key: entry.value for entry in onnx.ModelProto.FromString(content).metadata_props}
    assert told["source_name"] == "arrays"
    assert told["source_sha256"] == Provenance.of_arrays(arrays).sha256


def test_names_that_are_no_text(arrays, tmp_path):
    name = os.fsdecode(b"d2\xff.pth")
    write(tmp_path / "x.onnx", arrays, Provenance(name, "0" * 64, "HDF5"))
    assert weights.load(tmp_path / "x.onnx")[1].name == "d2\\udcff.pth"


def test_licence_of_the_analytic_weights():
    net = d2np.Net.load("analytic")
    model = onnx.ModelProto.FromString(serialize(net.arrays, net.provenance))
    told = {entry.key: entry.value for entry in model.metadata_props}
    assert told["model_license"] == "BSD-3-Clause, as d2np"


def test_writing_refused(arrays, tmp_path):
    with pytest.raises(WeightsError, match="missing conv4_3/bias"):
        serialize({name: values for name, values in arrays.items() if name != "conv4_3/bias"})
    with pytest.raises(WeightsError, match="cannot be written"):
        write(tmp_path / "none" / "x.onnx", arrays)
    (tmp_path / "x.onnx").mkdir()
    with pytest.raises(WeightsError, match="cannot be written"):
        write(tmp_path / "x.onnx", arrays)
    assert os.listdir(tmp_path) == ["x.onnx"]


def test_save_is_hdf5(our_net, tmp_path):
    with pytest.raises(WeightsError, match=r"d2np\.weights\.onnx\.write"):
        our_net.save(tmp_path / "x.onnx")
    assert os.listdir(tmp_path) == []


def test_without_the_package(arrays, content, tmp_path, monkeypatch):
    (tmp_path / "x.onnx").write_bytes(content)
    monkeypatch.setitem(sys.modules, "onnx", None)
    sentence = r"ONNX files need the package onnx: pip install 'd2np\[onnx\]'$"
    with pytest.raises(WeightsError, match=sentence):
        d2np.Net.load(tmp_path / "x.onnx")
    with pytest.raises(WeightsError, match=sentence):
        write(tmp_path / "y.onnx", arrays)
    assert os.listdir(tmp_path) == ["x.onnx"]


def test_not_imported_before_it_is_needed():
    code = (
        "import sys, d2np, d2np.weights.onnx; d2np.Net; d2np.weights.load('analytic'); "
        "assert not {'onnx', 'google.protobuf', 'onnxruntime'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- what others write -----------------------------------------------------------------------------------


def test_names_do_not_matter(model, arrays, load):
    names = {}
    model.producer_name = "anyone"
    for tensor in model.graph.initializer:
        tensor.name = names.setdefault(tensor.name, f"onnx::{len(names)}")
    # In another order, and named to mislead.
    tensors = sorted(model.graph.initializer, key=lambda tensor: tensor.name)
    del model.graph.initializer[:]
    model.graph.initializer.extend(tensors)
    for number, node in enumerate(model.graph.node):
        node.name = NAMES[-number]
        for values in (node.input, node.output):
            for place, name in enumerate(values):
                values[place] = names.setdefault(name, f"value_{len(names)}")
    for value in (model.graph.input[0], model.graph.output[0]):
        value.name = names[value.name]
    assert_same(load(model), arrays)


def test_provenance_of_others(model, tmp_path):
    model.producer_name, model.producer_version = "pytorch", "2.13.0"
    path = tmp_path / "theirs.onnx"
    path.write_bytes(model.SerializeToString())
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert weights.load(path)[1] == Provenance("theirs.onnx", sha256, "ONNX, pytorch 2.13.0")
    model.ClearField("producer_name")
    model.ClearField("producer_version")
    path.write_bytes(model.SerializeToString())
    assert weights.load(path)[1].format == "ONNX"


def nothing_in_between(model):
    """Nodes that change nothing, all over the graph."""
    two = numpy_helper.from_array(np.zeros(8, np.int64), "no_pads")
    model.graph.initializer.append(two)
    insert(model, None, "Cast", to=TensorProto.FLOAT)
    insert(model, "relu1_2", "Identity")
    insert(model, "pool2", "Dropout")
    insert(model, "relu3_3", "Pad", "no_pads")
    insert(model, "pool3", "Pad", pads=[0] * 8)  # as before opset 11
    insert(model, "conv4_3", "Identity")
    insert(model, "relu4_3", "Identity")


def constants(model):
    """Weights as Constant nodes, one of them behind an Identity."""
    tensors = list(model.graph.initializer)
    del model.graph.initializer[:]
    for tensor in tensors:
        name = tensor.name
        if name == "conv2_1/weight":
            model.graph.node.insert(0, helper.make_node("Identity", ["there"], [name]))
            name = "there"
        model.graph.node.insert(0, helper.make_node("Constant", [], [name], value=tensor))


def inputs_too(model):
    """Initializers among the inputs, as before IR version 4."""
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, 1, list(tensor.dims)))


def defaults(model):
    for node in model.graph.node:
        kept = [
            entry
            for entry in node.attribute
            if not (node.op_type == "Conv" and entry.name == "kernel_shape")
            and not (entry.name in ("strides", "dilations") and list(entry.ints) == [1, 1])
        ]
        del node.attribute[:]
        node.attribute.extend(kept)
    for name, padding in (("conv1_1", "SAME_UPPER"), ("conv4_1", "SAME_LOWER"), ("pool1", "VALID")):
        attribute(model, name, "auto_pad", padding)
    attribute(model, "conv1_1", "pads", [0] * 4)


def preprocessing_inside(model):
    """Preprocessing as earlier versions of d2np put it into the graph."""
    model.producer_name, model.producer_version = "d2np", "1.0"
    channels = numpy_helper.from_array(np.array([2, 1, 0]), "channels")
    means = numpy_helper.from_array(np.ones((1, 3, 1, 1), np.float32), "means")
    model.graph.initializer.extend([channels, means])
    insert(model, None, "Sub", "means")
    insert(model, None, "Gather", "channels", axis=1)
    for number, node in enumerate(model.graph.node[:2]):
        node.name = f"preprocessing/{number}_{node.op_type.lower()}"


def longer(model):
    insert(model, "relu4_3", "MaxPool", kernel_shape=[2, 2])
    insert(model, "inserted_23", "Conv", "conv4_3/weight", "conv4_3/bias")


def more_outputs(model):
    """The published detection looks at the map, and a program at sizes on the way."""
    for number, value in enumerate(("planes", "pool1", "map")):
        model.graph.node.append(helper.make_node("Shape", [value], [f"size_{number}"]))
    model.graph.node.append(helper.make_node("MaxPool", ["map"], ["peaks"], kernel_shape=[3, 3]))
    model.graph.node.append(helper.make_node("Relu", ["map"], ["other"]))
    model.graph.output.append(helper.make_tensor_value_info("peaks", 1, [1, 512, None, None]))
    model.graph.output.append(helper.make_tensor_value_info("conv1_1", 1, [1, 64, None, None]))


@pytest.mark.parametrize(
    "change",
    [nothing_in_between, constants, inputs_too, defaults, preprocessing_inside, longer, more_outputs],
    ids=lambda change: change.__name__,
)
def test_variants(model, arrays, load, change):
    change(model)
    assert_same(load(model), arrays)


# --- VGG16 -----------------------------------------------------------------------------------------------


def vgg16(model, producer):
    """Make a classifier of the model, which goes on behind conv4_3."""
    model.producer_name, model.producer_version = producer, "1"
    node_of(model, "pool3").op_type = "MaxPool"
    attribute(model, "pool3", "strides", [2, 2])
    for name in ("conv4_1", "conv4_2", "conv4_3"):
        attribute(model, name, "pads", [1] * 4)
        attribute(model, name, "dilations", [1, 1])
    insert(model, "relu4_3", "MaxPool", kernel_shape=[2, 2], strides=[2, 2])
    insert(model, "inserted_23", "Conv", "conv4_3/weight", "conv4_3/bias", pads=[1] * 4)
    insert(model, "inserted_24", "Flatten")
    model.graph.output[0].name = model.graph.node[-1].output[0]


@pytest.mark.parametrize(
    ("producer", "transposed", "preprocessing"),
    [
        ("pytorch", False, "torch"),
        ("", False, "torch"),  # the model zoo's, by MXNet
        ("tf2onnx", True, "caffe"),
        ("tf2onnx", False, "caffe"),  # --inputs-as-nchw
        ("anyone", True, "torch"),
    ],
)
def test_vgg16(model, arrays, load, tmp_path, producer, transposed, preprocessing):
    vgg16(model, producer)
    if transposed:
        insert(model, None, "Transpose", perm=[0, 3, 1, 2])
    assert_same(load(model), arrays)
    assert weights.load(tmp_path / "d2.onnx")[1].preprocessing == preprocessing


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda model: attribute(model, "conv4_2", "dilations", [2, 2]),
            "not a VGG16: after relu4_1 Conv (conv4_2) has dilations [2, 2], where conv4_2 has [1, 1]",
        ),
        (
            lambda model: insert(model, "relu3_3", "Conv", "conv3_3/weight", "conv3_3/bias"),
            "not a D2-Net: after relu3_3 expected pool3 (AveragePool), found Conv (inserted_16)",
        ),
        (
            lambda model: insert(model, "conv2_1", "BatchNormalization"),
            "after conv2_1 expected relu2_1 (Relu), found BatchNormalization (inserted_6)",
        ),
        (lambda model: insert(model, None, "Transpose", perm=[0, 2, 3, 1]), "found Transpose (inserted_0)"),
    ],
    ids=["dilated", "VGG19", "batch normalisation", "transposed in another way"],
)
def test_other_vggs(model, refused, change, message):
    vgg16(model, "pytorch")
    change(model)
    assert message in refused(model)


@pytest.mark.parametrize("kind", ["float", "double", "float16", "bfloat16"])
@pytest.mark.parametrize("raw", [True, False], ids=["raw", "one by one"])
def test_types(model, arrays, load, kind, raw):
    expected = dict(arrays)
    for name in ("conv1_1/weight", "conv1_2/bias", "conv2_1/weight"):
        values = arrays[name]
        tensor = TensorProto(name=name, dims=values.shape, data_type=getattr(TensorProto, kind.upper()))
        if kind == "bfloat16":
            bits = (values.view(np.uint32) >> 16).astype(np.uint16)
            stored, field = bits, "int32_data"
            expected[name] = (bits.astype(np.uint32) << 16).view(np.float32)
        elif kind == "float16":
            stored, field = values.astype(np.float16), "int32_data"
            expected[name] = stored.astype(np.float32)
            bits = stored.view(np.uint16)
        else:
            stored = bits = values.astype(np.dtype(kind if kind == "double" else "float32"))
            field = f"{kind}_data"
        if raw:
            tensor.raw_data = stored.tobytes()
        else:
            getattr(tensor, field).extend(bits.ravel().tolist())
        replace_tensor(model, name, tensor)
    assert_same(load(model), expected)


# --- values in a file beside it --------------------------------------------------------------------------


def test_values_beside(model, tmp_path):
    """They are refused before the file is looked for, whatever its name is."""
    model.producer_name = "anyone"
    path = tmp_path / "d2.onnx"
    onnx.save(model, path, save_as_external_data=True, location="d2.onnx.data", size_threshold=1024)
    for location in ("d2.onnx.data", "../elsewhere", "/dev/zero"):
        changed = onnx.load(path, load_external_data=False)
        tensor_of(changed, "conv1_2/weight").external_data[0].value = location
        path.write_bytes(changed.SerializeToString())
        with pytest.raises(WeightsError, match=r"is in another file: onnx\.save\(onnx\.load\(FILE\), NEW\)"):
            weights.load(path)


# --- other networks --------------------------------------------------------------------------------------


def grow(model, name, shape):
    replace_tensor(model, name, np.zeros(shape, np.float32))


def quantize_weight(model):
    values = numpy_helper.from_array(np.zeros((64, 3, 3, 3), np.int8), "small")
    scale = numpy_helper.from_array(np.array(0.1, np.float32), "scale")
    model.graph.initializer.remove(tensor_of(model, "conv1_1/weight"))
    model.graph.initializer.extend([values, scale])
    model.graph.node.insert(
        0, helper.make_node("DequantizeLinear", ["small", "scale"], ["conv1_1/weight"], "dq")
    )


def weights_as_inputs(model):
    inputs_too(model)
    del model.graph.initializer[:]


def residual(model):
    insert(model, "relu1_2", "Add", "relu1_1")


def circle(model):
    """A weight that is made from itself."""
    node_of(model, "conv1_2").input[1] = "there"
    for one, other in (("there", "back"), ("back", "there")):
        model.graph.node.append(helper.make_node("Identity", [one], [other], f"{one} and {other}"))


def ratio(model):
    """The value on the way is not what is dropped from, but how much."""
    node_of(model, "relu3_1").op_type = "Dropout"
    node_of(model, "relu3_1").input.insert(0, "conv3_1/bias")


def other_mean(model):
    mean = np.array([103.939, 116.779, 124.0], np.float32).reshape(1, 3, 1, 1)
    model.graph.initializer.append(numpy_helper.from_array(mean, "mean"))
    insert(model, None, "Sub", "mean")


def on(function, *arguments):
    return lambda model: function(model, *arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            on(attribute, "conv4_1", "dilations", [1, 1]),
            "not a D2-Net: after pool3 Conv (conv4_1) has dilations [1, 1], where conv4_1 has [2, 2]",
        ),
        (
            on(attribute, "conv2_1", "strides", [2, 2]),
            "Conv (conv2_1) has strides [2, 2], where conv2_1 has [1, 1]",
        ),
        (on(attribute, "conv2_1", "strides", [1, 2]), "has strides [1, 2], where conv2_1 has [1, 1]"),
        (on(attribute, "conv4_2", "pads", [1] * 4), "has pads [1, 1, 1, 1], where conv4_2 has [2, 2, 2, 2]"),
        (
            on(attribute, "conv4_2", "pads", [2, 2, 1, 1]),
            "has pads [2, 2, 1, 1], where conv4_2 has [2, 2, 2, 2]",
        ),
        (on(attribute, "conv1_2", "group", 2), "group 2, where conv1_2 has 1"),
        (on(attribute, "conv1_2", "auto_pad", "VALID"), "pads [0, 0, 0, 0], where conv1_2 has [1, 1, 1, 1]"),
        (on(attribute, "pool1", "auto_pad", "SAME_UPPER"), "pads SAME_UPPER, where pool1 has [0, 0, 0, 0]"),
        (
            on(attribute, "pool1", "strides", [1, 1]),
            "MaxPool (pool1) has strides [1, 1], where pool1 has [2, 2]",
        ),
        (on(attribute, "pool2", "ceil_mode", 1), "ceil_mode 1, where pool2 has 0"),
        (on(attribute, "pool3", "strides", [2, 2]), "strides [2, 2], where pool3 has [1, 1]"),
        (on(attribute, "pool3", "kernel_shape", [3, 3]), "kernel_shape [3, 3], where pool3 has [2, 2]"),
        (
            on(remove, "pool2"),
            "after relu2_2 expected pool2 (MaxPool), found Conv (conv3_1)",
        ),
        (on(remove, "relu3_2"), "after conv3_2 expected relu3_2 (Relu), found Conv (conv3_3)"),
        (on(insert, "conv1_1", "BatchNormalization"), "after conv1_1 expected relu1_1 (Relu), found BatchN"),
        (
            on(grow, "conv3_1/weight", (256, 64, 3, 3)),
            "conv3_1/weight: expected shape (256, 128, 3, 3), found (256, 64, 3, 3)",
        ),
        (on(grow, "conv1_1/bias", (3,)), "conv1_1/bias: expected shape (64,), found (3,)"),
        (
            on(grow, "conv1_1/bias", (1,) * 9),
            "conv1_1/bias: expected shape (64,), found (1, 1, 1, 1, 1, 1, 1, 1, 1)",
        ),
        (lambda model: node_of(model, "conv1_1").input.pop(), "Conv (conv1_1) has no bias"),
        (quantize_weight, "expected numbers in the file; conv1_1/weight is computed or missing"),
        (on(insert, None, "QuantizeLinear"), "expected conv1_1 (Conv), found QuantizeLinear (inserted_0)"),
        (
            lambda model: replace_tensor(model, "conv3_3/weight", np.zeros((256, 256, 3, 3), np.int8)),
            "conv3_3/weight: expected real floating-point values, found int8",
        ),
        (
            lambda model: setattr(tensor_of(model, "conv1_1/bias"), "data_type", 99),
            "conv1_1/bias: damaged or truncated",
        ),
        (
            lambda model: replace_tensor(model, "conv1_1/bias", np.full(64, np.nan, np.float32)),
            "conv1_1/bias: expected finite float32 values, found 64 of 64",
        ),
        (
            lambda model: setattr(tensor_of(model, "conv1_1/bias"), "raw_data", b"1234"),
            "conv1_1/bias: damaged or truncated (ValueError: cannot reshape array of size 1 into shape",
        ),
        (
            weights_as_inputs,
            "conv1_1/weight: expected numbers in the file; conv1_1/weight is computed or missing",
        ),
        (
            lambda model: model.graph.initializer.remove(tensor_of(model, "conv2_2/weight")),
            "conv2_2/weight: expected numbers in the file; conv2_2/weight is computed or missing",
        ),
        (residual, "after relu1_2 expected pool1 (MaxPool), found Add (inserted_4)"),
        (
            lambda model: model.graph.ClearField("input"),
            "after its input expected conv1_1 (Conv), found the end",
        ),
        (on(remove, "conv4_3"), "after relu4_2 expected conv4_3 (Conv), found Relu (relu4_3)"),
        (circle, "expected numbers in the file; there is computed or missing"),
        (ratio, "after conv3_1 expected relu3_1 (Relu), found Dropout (relu3_1)"),
        (other_mean, "after its input expected conv1_1 (Conv), found Sub (inserted_0)"),
        (
            on(insert, None, "Transpose"),
            "after its input expected conv1_1 (Conv), found Transpose (inserted_0)",
        ),
        (lambda model: model.ClearField("graph"), "after its input expected conv1_1 (Conv), found the end"),
        (
            lambda model: model.ClearField("metadata_props"),
            "d2np wrote it, but its metadata is missing",
        ),
    ],
)
def test_refused(model, refused, change, message):
    change(model)
    assert message in refused(model)


def test_ends_too_soon(model, refused):
    del model.graph.node[17:]
    assert "after pool3 expected conv4_1 (Conv), found the end" in refused(model)


def test_shapes_are_believed_by_nobody(model, refused):
    tensor_of(model, "conv4_3/weight").dims[:] = [2**62, 2**62, 3, 3]
    assert "expected shape (512, 512, 3, 3), found (4611686018427387904, 46116860184" in refused(model)
    tensor_of(model, "conv4_3/weight").dims[:] = [512, 512, 3, 3]
    tensor_of(model, "conv4_3/weight").raw_data = b""
    assert "conv4_3/weight: damaged or truncated (ValueError: cannot reshape array of size 0" in refused(
        model
    )


# --- damaged files ---------------------------------------------------------------------------------------


def test_truncated(content, refused):
    # Behind the graph come versions and metadata, the last thousand bytes.
    places = [
        *np.linspace(3, len(content) - 1100, 12).astype(int),
        *range(len(content) - 1100, len(content), 60),
    ]
    for place in places:
        assert "WeightsError" not in refused(content[:place])


def test_noise(refused):
    random = np.random.RandomState(0)
    for size in (1, 10, 1000, 100_000):
        refused(b"\x08\x08\x3a" + random.bytes(size))
        refused(random.bytes(size))


def test_flipped_bytes(model, tmp_path):
    """Whatever byte is wrong, the file is read or refused, and nothing else happens."""
    path = tmp_path / "d2.onnx"
    # Without the large arrays, so that what is changed is the graph.
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) > 4096:
            tensor.raw_data = b""
    original = model.SerializeToString()
    random = np.random.RandomState(1)
    refusals = []
    for _ in range(120):
        changed = bytearray(original)
        for place in random.randint(0, len(original), random.randint(1, 4)):
            changed[place] = random.randint(256)
        path.write_bytes(changed)
        try:
            weights.load(path)
        except WeightsError as error:
            refusals.append(str(error))
    assert len(refusals) > 20
    assert not [text for text in refusals if "\n" in text or len(text) > 800]


def test_large_file(tmp_path):
    path = tmp_path / "large.onnx"
    with open(path, "wb") as stream:
        stream.write(b"\x08\x08\x12\x00")
        stream.truncate(2**40)
    with pytest.raises(WeightsError, match=r"of 1,099,511,627,776 bytes; at most 1,000,000,000 are read"):
        weights.load(path)


# --- the command line ------------------------------------------------------------------------------------


def test_convert(capsys, tmp_path, monkeypatch, our_net, arrays):
    monkeypatch.chdir(tmp_path)
    our_net.save("d2.h5")
    assert main(["convert", "d2.h5", "d2.onnx"]) == 0
    content = Path("d2.onnx").read_bytes()
    assert f"wrote d2.onnx, {len(content):,} bytes" in capsys.readouterr().out
    assert content == serialize(arrays, SOURCE)
    # What a file is, is told by its content.
    Path("d2.onnx").rename("d2.bin")
    assert main(["convert", "d2.bin", "back.h5"]) == 0
    assert Path("back.h5").read_bytes() == Path("d2.h5").read_bytes()
    assert main(["convert", "d2.h5", "none/x.onnx"]) == 1
    assert main(["convert", "d2.h5", "back.h5"]) == 1
    assert main(["convert", "d2.h5", "x.bin"]) == 2
    assert sorted(os.listdir()) == ["back.h5", "d2.bin", "d2.h5"]


def test_info(capsys, tmp_path, content):
    path = tmp_path / "d2.onnx"
    path.write_bytes(content)
    assert main(["info", str(path)]) == 0
    out = capsys.readouterr().out
    assert f"ONNX, d2np {d2np.__version__}" in out
    assert f"{SOURCE.name}, SHA-256 {SOURCE.sha256}" in out
    assert f"{path}, {len(content):,} bytes" in out
    path.write_bytes(content[:1000])
    assert main(["info", str(path)]) == 1
    assert "truncated" in capsys.readouterr().err
