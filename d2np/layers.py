"""The network as data: the 22 layers of D2-Net, in order.

D2-Net's extractor is VGG16 up to conv4_3 with the third pooling turned into a 2 x 2 average of stride 1
and the convolutions behind it dilated by 2, so that the map keeps a quarter of the image's resolution
(paper, section 4.3; published file ``lib/model_test.py``). The last convolution has no ReLU of its own:
the published code applies one on top unless told otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Literal, TypeAlias, get_args

LayerType: TypeAlias = Literal["convolution", "relu", "max_pooling", "average_pooling"]

LayerName: TypeAlias = Literal[
    "conv1_1", "relu1_1", "conv1_2", "relu1_2", "pool1",
    "conv2_1", "relu2_1", "conv2_2", "relu2_2", "pool2",
    "conv3_1", "relu3_1", "conv3_2", "relu3_2", "conv3_3", "relu3_3", "pool3",
    "conv4_1", "relu4_1", "conv4_2", "relu4_2", "conv4_3",
]  # fmt: skip


@dataclass(frozen=True)
class Layer:
    """One layer: what it is and the shapes of what goes through it.

    Attributes
    ----------
    name : str
        The field's name for it, such as ``"conv3_2"``.
    type : str
        ``"convolution"``, ``"relu"``, ``"max_pooling"`` or ``"average_pooling"``.
    in_channels, out_channels : int
        Channels of its input and its output.
    kernel, stride, padding, dilation : int
        The same in both directions, in cells of the layer's input.
    """

    name: LayerName
    type: LayerType
    in_channels: int
    out_channels: int
    kernel: int = 1
    stride: int = 1
    padding: int = 0
    dilation: int = 1

    @property
    def parameters(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the layer's arrays by their full names, such as ``"conv1_1/weight"``."""
        if self.type != "convolution":
            return {}
        return {
            f"{self.name}/weight": (self.out_channels, self.in_channels, self.kernel, self.kernel),
            f"{self.name}/bias": (self.out_channels,),
        }

    @property
    def parameter_count(self) -> int:
        return sum(prod(shape) for shape in self.parameters.values())

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the rows and columns of the output for ``height`` rows and ``width`` columns of input."""
        reach = self.dilation * (self.kernel - 1) + 1
        return (
            (height + 2 * self.padding - reach) // self.stride + 1,
            (width + 2 * self.padding - reach) // self.stride + 1,
        )


_CHANNELS = {"1": 64, "2": 128, "3": 256, "4": 512}


def _layers() -> Iterator[Layer]:
    """Yield the layers; the first digit in a name is that of a block, which has one number of channels."""
    before = 3
    for name in get_args(LayerName):
        block = name[4]
        channels = _CHANNELS[block]
        if name.startswith("conv"):
            dilation = 2 if block == "4" else 1
            yield Layer(name, "convolution", before, channels, 3, 1, dilation, dilation)
        elif name.startswith("relu"):
            yield Layer(name, "relu", channels, channels)
        elif name == "pool3":
            yield Layer(name, "average_pooling", channels, channels, kernel=2, stride=1)
        else:
            yield Layer(name, "max_pooling", channels, channels, kernel=2, stride=2)
        before = channels


LAYERS: tuple[Layer, ...] = tuple(_layers())

PARAMETER_SHAPES: dict[str, tuple[int, ...]] = {
    name: shape for layer in LAYERS for name, shape in layer.parameters.items()
}

PARAMETER_COUNT: int = sum(layer.parameter_count for layer in LAYERS)

CAFFE_MEAN = (103.939, 116.779, 123.68)
"""The values that ``caffe`` preprocessing subtracts from blue, green, red; published ``lib/utils.py``."""

TORCH_MEAN, TORCH_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""The values that ``torch`` preprocessing subtracts from red, green, blue in 0..1, then divides by."""

SMALLEST_SIDE = 8
"""Shortest side, in pixels, for which every layer still has something to put out."""


def output_sizes(height: int, width: int) -> Iterator[tuple[Layer, int, int]]:
    """Yield each layer with the rows and columns of its output for an image of the given size."""
    for layer in LAYERS:
        height, width = layer.output_size(height, width)
        yield layer, height, width


def map_size(height: int, width: int) -> tuple[int, int]:
    """Return the rows and columns of the feature map of an image of the given size in pixels."""
    *_, (_, rows, columns) = output_sizes(height, width)
    return rows, columns
