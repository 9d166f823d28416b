"""``d2np convert``: weights from one file format to another."""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

from ..errors import Error, OptionError
from ..options import Preprocessing, names
from .images import check_place
from .parser import Commands, add_overwrite
from .report import say

_EPILOG = """\
examples:
  d2np convert d2_tf.pth d2.h5
  d2np match left.jpg right.jpg --weights d2.h5
  d2np convert d2.h5 d2.onnx --preprocessing caffe
  d2np convert d2.onnx d2.h5

ONNX needs pip install 'd2np[onnx]'. The graph's input is float32 (1, 3, height,
width), its output the feature map (1, 512, rows, columns).
"""

_HDF5 = (".h5", ".hdf5")


def add(commands: Commands) -> None:
    parser = commands.add_parser(
        "convert",
        help="convert weights to HDF5 or ONNX",
        description="Reads weights and writes them as d2np's HDF5, or with the network as ONNX for other "
        "engines. Checkpoints are read without PyTorch and without running any code in them.",
        epilog=_EPILOG,
    )
    parser.add_argument(
        "source", metavar="SRC", help="a file (.h5, .pth, .safetensors, .onnx), or the name of weights"
    )
    parser.add_argument("target", metavar="DST", help="the file to write, .h5 or .onnx")
    add_overwrite(parser, "replace DST if it is there", "--force")
    group = parser.add_argument_group("for .onnx")
    group.add_argument(
        "--no-relu", dest="relu", action="store_false", help="leave out the ReLU behind the last layer"
    )
    group.add_argument(
        "--preprocessing",
        choices=names(Preprocessing),
        help="scale colours inside the graph, whose input is then red, green, blue in 0..255; the published "
        "and the packaged weights need caffe; default: the input is the preprocessed image",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from .. import weights
    from ..weights import catalogue

    target = Path(options.target)
    to_onnx = target.suffix.lower() == ".onnx"
    if not to_onnx and target.suffix.lower() not in _HDF5:
        raise OptionError(
            f"{target}: weights are written as HDF5 or ONNX: give it the extension .h5 or .onnx"
        )
    if not to_onnx and (options.preprocessing or not options.relu):
        raise OptionError("--no-relu and --preprocessing are about the graph in an .onnx; an .h5 has none")
    source = catalogue.resolve(options.source)
    # Weights may go into the cache folder before there is one.
    if to_onnx or target.exists() or target.parent.exists():
        check_place(options.target, [str(source)])
    if target.exists() and not options.overwrite:
        raise Error(f"{target} is there already: choose another name, or replace it with --overwrite")
    arrays, provenance = weights.load(options.source)
    if to_onnx:
        from ..weights import onnx

        onnx.write(target, arrays, provenance, relu=options.relu, preprocessing=options.preprocessing)
    else:
        weights.save(target, arrays, provenance)

    content = target.read_bytes()
    say(f"read  {source} ({provenance.format}), SHA-256 of the source {provenance.sha256}")
    say(f"wrote {target}, {len(content):,} bytes, SHA-256 {hashlib.sha256(content).hexdigest()}")
    if to_onnx:
        name, meaning = onnx.INPUTS[options.preprocessing]
        say(f"input  {name}, float32 (1, 3, height, width): {meaning}")
        say("output map, float32 (1, 512, rows, columns): the feature map")
    return 0
