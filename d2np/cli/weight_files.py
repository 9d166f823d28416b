"""Commands on weights: what they are, other formats, and downloads."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from ..errors import Error, OptionError
from .arguments import QUIET, WEIGHTS, Command
from .console import say
from .files import weights_or_default


@Command(f"WEIGHTS  {WEIGHTS}", weights={"nargs": "?"})
def info(options: argparse.Namespace) -> int:
    """List the layers, parameters, origin and licence of weights.

    Lists the network's layers with their output shapes for an image of 640 x 480, the weights' arrays, where
    they come from and under which licence.

    examples:
      d2np info
      d2np info d2_tf.pth
      d2np info d2.onnx
    """
    from .. import weights
    from ..layers import LAYERS, PARAMETER_COUNT, output_sizes
    from ..weights import Provenance, catalogue

    source = weights_or_default(options.weights)
    arrays, provenance = weights.load(source)
    path = catalogue.resolve(source)
    types = {layer: "ReLU" if layer.type == "relu" else layer.type.replace("_", " ") for layer in LAYERS}
    summary = ", ".join(f"{number} {type}" for type, number in Counter(types.values()).items())
    for label, value in (
        ("network", "D2-Net"),
        ("layers", f"{len(LAYERS)}: {summary}"),
        (
            "parameters",
            f"{PARAMETER_COUNT:,} in {len(arrays)} arrays, SHA-256 {Provenance.of_arrays(arrays).sha256}",
        ),
        ("weights", f"{path}, {path.stat().st_size:,} bytes"),
        ("format", provenance.format),
        ("trained", f"with {provenance.preprocessing} preprocessing"),
        ("source", f"{provenance.name}, SHA-256 {provenance.sha256}"),
        ("fetched", provenance.url and f"from {provenance.url}"),
        ("licence", catalogue.licence(source, arrays, provenance)),
    ):
        if value:
            say(f"{label:<12}{value}")
    say()
    say(f"    {'layer':<9}{'type':<17}{'rows x columns x channels':<27}{'parameters':>12}")
    for number, (layer, rows, columns) in enumerate(output_sizes(480, 640), 1):
        shape = f"{rows} x {columns} x {layer.out_channels}"
        say(f"{number:>2}  {layer.name:<9}{types[layer]:<17}{shape:<27}{layer.parameter_count:>12,}")
    say()
    say(f"{'array':<16}{'shape':<20}{'parameters':>12}")
    for name, array in arrays.items():
        say(f"{name:<16}{' x '.join(map(str, array.shape)):<20}{array.size:>12,}")
    say(f"{'total':<36}{PARAMETER_COUNT:>12,}")
    return 0


@Command(
    """
    SRC  a file (.h5, .pth, .safetensors, .onnx), or the name of weights
    DST  the file to write, .h5 or .onnx
    --overwrite  replace DST if it is there
    --force
    """
)
def convert(options: argparse.Namespace) -> int:
    """Convert weights to HDF5 or ONNX.

    Reads weights and writes them as d2np's HDF5, or with the network as ONNX for other engines.
    Checkpoints are read without PyTorch and without running any code in them.

    examples:
      d2np convert d2_tf.pth d2.h5
      d2np match left.jpg right.jpg --weights d2.h5
      d2np convert d2.h5 d2.onnx
      d2np convert d2.onnx d2.h5

    ONNX needs pip install 'd2np[onnx]'. The graph's input is the preprocessed
    image, float32 (1, 3, height, width), its output the feature map, (1, 512,
    rows, columns).
    """
    from .. import weights

    target = Path(options.dst)
    to_onnx = target.suffix.lower() == ".onnx"
    if not to_onnx and target.suffix.lower() not in (".h5", ".hdf5"):
        raise OptionError(
            f"{target}: weights are written as HDF5 or ONNX: give it the extension .h5 or .onnx"
        )
    if target.exists() and not options.overwrite:
        raise Error(f"{target} is there already: choose another name, or replace it with --overwrite")
    arrays, provenance = weights.load(options.src)
    say(f"read  {options.src} ({provenance.format}), SHA-256 of the source {provenance.sha256}")
    if to_onnx:
        weights.onnx.write(target, arrays, provenance)
    else:
        weights.save(target, arrays, provenance)
    say(f"wrote {target}, {target.stat().st_size:,} bytes")
    return 0


@Command(
    f"""
    NAME  of the weights, see below; default: tf
    --url URL  download from this address only
    --sha256 SUM  refuse the download unless its SHA-256 is this one
    --overwrite  download it again and replace what is there
    --force
    {QUIET}
    """,
    name={"nargs": "?", "default": "tf"},
)
def fetch(options: argparse.Namespace) -> int:
    """Download published weights and keep them where commands find them.

    Downloads a checkpoint, checks that it is a D2-Net, and keeps it as d2np's HDF5. Checkpoints are read
    without PyTorch and without running any code in them.

    NAME is one of
      tf                    trained on MegaDepth, as in the paper (default)
      ots                   off the shelf: VGG16 before that training
      tf_no_phototourism    trained on MegaDepth without its PhotoTourism scenes

    The sources of a name are tried in order: its authors' site, then others that
    keep the same weights.

    environment
      D2NP_CACHE           the folder in which weights are kept; default: the user's
                           folder for caches
      D2NP_FETCH_MIRROR    the address of a folder with d2_tf.pth and so on, to
                           download from instead of these sources
      HTTPS_PROXY, HTTP_PROXY, NO_PROXY, REQUESTS_CA_BUNDLE    as usual

    examples:
      d2np fetch
      d2np match left.jpg right.jpg --weights tf
      d2np fetch ots --url https://intranet.example/d2_ots.pth
    """
    from ..weights import fetch, load
    from .progress import Bar

    with Bar(desc=options.name, unit="B", disable=options.quiet, delay=1e-3, unit_scale=True) as bar:
        path = fetch.fetch(
            options.name,
            url=options.url,
            sha256=options.sha256,
            force=options.overwrite,
            progress=bar.reach,
            note=bar.note,
        )
    provenance = load(path)[1]
    say(f"{path}: from {provenance.url or provenance.name}, SHA-256 {provenance.sha256}")
    say(f"use it as --weights {options.name}")
    return 0
