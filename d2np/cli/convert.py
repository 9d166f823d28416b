"""``d2np convert``: weights from one file format to another."""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

from ..errors import Error, OptionError
from .parser import Commands
from .pictures import check_place
from .report import say

_EPILOG = """\
example:
  d2np convert d2_tf.pth d2.h5
  d2np match left.jpg right.jpg --weights d2.h5
"""


def add(commands: Commands) -> None:
    parser = commands.add_parser(
        "convert",
        help="turn a PyTorch checkpoint into an HDF5 file of weights",
        description="Reads weights and writes them as d2np's HDF5. Checkpoints are read without PyTorch and "
        "without running any code in them.",
        epilog=_EPILOG,
    )
    parser.add_argument(
        "source", metavar="SRC", help="a published .pth, or d2np's .h5, or the name of weights"
    )
    parser.add_argument("target", metavar="DST", help="the file to write, .h5")
    parser.add_argument("--force", action="store_true", help="replace DST if it is there")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from .. import weights
    from ..weights import store

    target = Path(options.target)
    for path in (options.source, options.target):
        if Path(path).suffix.lower() == ".onnx":
            raise OptionError(f"{path}: d2np {_version()} does not read or write ONNX yet")
    if target.suffix.lower() not in (".h5", ".hdf5"):
        raise OptionError(f"{target}: weights are written as HDF5: give it the extension .h5")
    source = store.resolve(options.source)
    # Weights may go into the cache folder before there is one.
    if target.exists() or target.parent.exists():
        check_place(options.target, [str(source)])
    if target.exists() and not options.force:
        raise Error(f"{target} is there already: choose another name, or replace it with --force")
    arrays, provenance = weights.load(options.source)
    weights.save(target, arrays, provenance)

    content = target.read_bytes()
    say(f"read  {source} ({provenance.format}), SHA-256 of the source {provenance.sha256}")
    say(f"wrote {target}, {len(content):,} bytes, SHA-256 {hashlib.sha256(content).hexdigest()}")
    return 0


def _version() -> str:
    from .. import __version__

    return __version__
