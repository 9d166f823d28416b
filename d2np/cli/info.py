"""``d2np info``: the network and its weights."""

from __future__ import annotations

import argparse
from collections import Counter
from math import prod
from pathlib import Path

from ..errors import OptionError
from .network import weights_or_default
from .parser import WEIGHTS, Commands, size
from .report import say

_EPILOG = """\
examples:
  d2np info
  d2np info d2_tf.pth --size 1024x768
  d2np info d2.onnx
"""

_TYPES = {
    "convolution": "convolution",
    "relu": "ReLU",
    "max_pooling": "max pooling",
    "average_pooling": "average pooling",
}


def add(commands: Commands) -> None:
    parser = commands.add_parser(
        "info",
        help="layers, parameters, origin and licence of weights",
        description="Lists the network's layers with their output shapes, the weights' arrays, where they "
        "come from and under which licence.",
        epilog=_EPILOG,
    )
    parser.add_argument(
        "weights",
        nargs="?",
        metavar="WEIGHTS",
        help=WEIGHTS,
    )
    parser.add_argument(
        "--size",
        type=size,
        default=(640, 480),
        metavar="WxH",
        help="the size of the image, in pixels, that shapes are given for; default: 640x480",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from .. import weights
    from ..layers import LAYERS, PARAMETER_COUNT, SMALLEST_SIDE
    from ..weights import Provenance, catalogue

    width, height = options.size
    if min(width, height) < SMALLEST_SIDE:
        raise OptionError(f"--size {width}x{height}: the network needs {SMALLEST_SIDE} px on either side")
    source = weights_or_default(options.weights)
    arrays, provenance = weights.load(source)
    path = catalogue.resolve(source)

    held = sum(array.nbytes for array in arrays.values())
    types: Counter[str] = Counter(layer.type for layer in LAYERS)
    summary = ", ".join(f"{types[kind]} {name}" for kind, name in _TYPES.items())
    for label, value in (
        ("network", "D2-Net"),
        ("layers", f"{len(LAYERS)}: {summary}"),
        (
            "parameters",
            f"{PARAMETER_COUNT:,} in {len(arrays)} arrays, SHA-256 {Provenance.of_arrays(arrays).sha256}",
        ),
        ("weights", str(path)),
        ("format", provenance.format),
        ("trained", f"with {provenance.preprocessing} preprocessing"),
        ("source", f"{provenance.name}, SHA-256 {provenance.sha256}"),
        *([("fetched", f"from {provenance.url}")] if provenance.url else []),
        ("licence", catalogue.licence(source, arrays, provenance)),
        ("file", _compared([path, *(path.with_name(name) for name in provenance.beside)], held)),
    ):
        say(f"{label:<12}{value}")
    say()
    _list_layers(width, height)
    say()
    say(f"{'array':<16}{'shape':<20}{'parameters':>12}")
    for name, array in arrays.items():
        shape = " x ".join(str(edge) for edge in array.shape)
        say(f"{name:<16}{shape:<20}{array.size:>12,}")
    say(f"{'total':<36}{sum(array.size for array in arrays.values()):>12,}")
    return 0


def _compared(files: list[Path], held: int) -> str:
    """The size of the files beside that of the parameters in them."""
    size = sum(file.stat().st_size for file in files)
    what = f" in {', '.join(file.name for file in files)}" if len(files) > 1 else ""
    return (
        f"{size:,} bytes{what}; the parameters are {held:,} bytes of float32: "
        f"overhead {100 * (size - held) / held:+.2f} %"
    )


def _list_layers(width: int, height: int) -> None:
    from ..layers import output_sizes

    say(f"For an image of {width} x {height} pixels; multiply-adds of direct convolution:")
    say()
    columns_of_text = f"{'layer':<9}{'type':<17}{'rows x columns x channels':<27}"
    say(f"    {columns_of_text}{'parameters':>12}{'multiply-adds':>18}")
    parameters = multiplications = 0
    for number, (layer, rows, columns) in enumerate(output_sizes(height, width), 1):
        work = sum(prod(shape) for name, shape in layer.parameters.items() if name.endswith("weight"))
        work *= rows * columns
        parameters += layer.parameter_count
        multiplications += work
        shape = f"{rows} x {columns} x {layer.out_channels}"
        numbers = f"{layer.parameter_count:>12,}{work:>18,}" if layer.parameter_count else ""
        say(f"{number:>2}  {layer.name:<9}{_TYPES[layer.type]:<17}{shape:<27}{numbers}".rstrip())
    say(f"    {'total':<53}{parameters:>12,}{multiplications:>18,}")
