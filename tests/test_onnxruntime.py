"""Another engine runs the same network, from a graph written here layer by layer."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import d2np
from d2np.images.pixels import preprocess


def graph(arrays):
    """Input (1, 3, H, W); outputs ``conv4_3`` and ``relu4_3``."""
    nodes, weights = [], []
    here = "pixels"

    def add(kind, name, inputs, **attributes):
        nonlocal here
        nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        here = name

    for block, convolutions in ((1, 2), (2, 2), (3, 3), (4, 3)):
        for number in range(1, convolutions + 1):
            name = f"conv{block}_{number}"
            dilation = 2 if block == 4 else 1
            for part in ("weight", "bias"):
                weights.append(numpy_helper.from_array(arrays[f"{name}/{part}"], f"{name}/{part}"))
            add(
                "Conv", name, [here, f"{name}/weight", f"{name}/bias"],
                kernel_shape=[3, 3], pads=[dilation] * 4, dilations=[dilation] * 2,
            )  # fmt: skip
            add("Relu", f"relu{block}_{number}", [here])
        if block < 3:
            add("MaxPool", f"pool{block}", [here], kernel_shape=[2, 2], strides=[2, 2])
        elif block == 3:
            add("AveragePool", "pool3", [here], kernel_shape=[2, 2], strides=[1, 1])
    made = helper.make_graph(
        nodes,
        "d2net",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [1, 3, "H", "W"])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 512, "h", "w"])
            for name in ("conv4_3", "relu4_3")
        ],
        weights,
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.checker.check_model(model)
    return model.SerializeToString()


@pytest.fixture(scope="module")
def arrays(make_weights):
    return make_weights(7)


@pytest.fixture(scope="module")
def session(arrays):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    return onnxruntime.InferenceSession(graph(arrays), options, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def nets(arrays):
    return {name: d2np.Net(arrays, algorithm=name) for name in ("winograd", "direct")}


@pytest.mark.parametrize(
    ("width", "height", "algorithms"),
    [
        (8, 8, ["winograd", "direct"]),
        (9, 31, ["winograd", "direct"]),
        (31, 9, ["winograd", "direct"]),
        (33, 500, ["winograd", "direct"]),
        (500, 33, ["winograd", "direct"]),
        (641, 479, ["winograd"]),
    ],
    ids=str,
)
def test_dense(nets, session, make_image, width, height, algorithms):
    img = make_image(height, width, seed=width)
    pixels = preprocess(img, "caffe").transpose(2, 0, 1)[np.newaxis]
    both = session.run(["conv4_3", "relu4_3"], {"pixels": pixels})
    for relu, expected in zip((False, True), both, strict=True):
        wanted = expected[0].transpose(1, 2, 0)
        for name in algorithms:
            found = nets[name].dense(img, relu=relu, threads=2)
            assert found.shape == wanted.shape
            assert abs(found - wanted).max() <= 1e-4 * abs(wanted).max()
