"""Commands on weights: what they are, other formats, and downloads."""

from __future__ import annotations

import argparse
import hashlib
from collections import Counter
from math import prod
from pathlib import Path

from ..errors import Error, OptionError
from .arguments import NO_RELU, QUIET, WEIGHTS, Command, checked
from .console import say
from .files import check_place, weights_or_default

_SIZE = checked(
    lambda text: tuple(int(edge) for edge in text.lower().replace("×", "x").split("x")),
    lambda size: len(size) == 2 and min(size) >= 1,
    "WIDTHxHEIGHT is expected, such as 640x480",
)


@Command(
    f"""
    WEIGHTS  {WEIGHTS}
    --size WxH  the size of the image, in pixels, that shapes are given for; default: 640x480
    """,
    weights={"nargs": "?"},
    size={**_SIZE, "default": (640, 480)},
)
def info(options: argparse.Namespace) -> int:
    """List the layers, parameters, origin and licence of weights.

    Lists the network's layers with their output shapes, the weights' arrays, where they come from and under
    which licence.

    examples:
      d2np info
      d2np info d2_tf.pth --size 1024x768
      d2np info d2.onnx
    """
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
    summary = ", ".join(f"{number} {_type_name(kind)}" for kind, number in types.items())
    sha256 = Provenance.of_arrays(arrays).sha256
    for label, value in (
        ("network", "D2-Net"),
        ("layers", f"{len(LAYERS)}: {summary}"),
        ("parameters", f"{PARAMETER_COUNT:,} in {len(arrays)} arrays, SHA-256 {sha256}"),
        ("weights", str(path)),
        ("format", provenance.format),
        ("trained", f"with {provenance.preprocessing} preprocessing"),
        ("source", f"{provenance.name}, SHA-256 {provenance.sha256}"),
        ("fetched", f"from {provenance.url}" if provenance.url else ""),
        ("licence", catalogue.licence(source, arrays, provenance)),
        ("file", _compared([path, *(path.with_name(name) for name in provenance.beside)], held)),
    ):
        if value:
            say(f"{label:<12}{value}")
    say()
    _list_layers(width, height)
    say()
    say(f"{'array':<16}{'shape':<20}{'parameters':>12}")
    for name, array in arrays.items():
        shape = " x ".join(str(edge) for edge in array.shape)
        say(f"{name:<16}{shape:<20}{array.size:>12,}")
    say(f"{'total':<36}{PARAMETER_COUNT:>12,}")
    return 0


def _type_name(kind: str) -> str:
    return "ReLU" if kind == "relu" else kind.replace("_", " ")


def _compared(files: list[Path], held: int) -> str:
    """Return the size of the files beside that of the parameters in them."""
    size = sum(file.stat().st_size for file in files)
    what = f" in {', '.join(file.name for file in files)}" if len(files) > 1 else ""
    return (
        f"{size:,} bytes{what}; the parameters are {held:,} bytes of float32: "
        f"overhead {100 * (size - held) / held:+.2f} %"
    )


def _list_layers(width: int, height: int) -> None:
    from ..layers import PARAMETER_COUNT, output_sizes

    say(f"For an image of {width} x {height} pixels; multiply-adds of direct convolution:")
    say()
    columns_of_text = f"{'layer':<9}{'type':<17}{'rows x columns x channels':<27}"
    say(f"    {columns_of_text}{'parameters':>12}{'multiply-adds':>18}")
    multiplications = 0
    for number, (layer, rows, columns) in enumerate(output_sizes(height, width), 1):
        work = sum(prod(shape) for name, shape in layer.parameters.items() if name.endswith("weight"))
        work *= rows * columns
        multiplications += work
        shape = f"{rows} x {columns} x {layer.out_channels}"
        numbers = f"{layer.parameter_count:>12,}{work:>18,}" if layer.parameter_count else ""
        say(f"{number:>2}  {layer.name:<9}{_type_name(layer.type):<17}{shape:<27}{numbers}".rstrip())
    say(f"    {'total':<53}{PARAMETER_COUNT:>12,}{multiplications:>18,}")


@Command(
    f"""
    SRC  a file (.h5, .pth, .safetensors, .onnx), or the name of weights
    DST  the file to write, .h5 or .onnx
    --overwrite  replace DST if it is there
    --force
    for .onnx:
    {NO_RELU}
    --preprocessing  scale colours inside the graph, whose input is then red, green, blue in 0..255; the
        published and the packaged weights need caffe; default: the input is the preprocessed image
    """
)
def convert(options: argparse.Namespace) -> int:
    """Convert weights to HDF5 or ONNX.

    Reads weights and writes them as d2np's HDF5, or with the network as ONNX for other engines.
    Checkpoints are read without PyTorch and without running any code in them.

    examples:
      d2np convert d2_tf.pth d2.h5
      d2np match left.jpg right.jpg --weights d2.h5
      d2np convert d2.h5 d2.onnx --preprocessing caffe
      d2np convert d2.onnx d2.h5

    ONNX needs pip install 'd2np[onnx]'. The graph's input is float32 (1, 3, height,
    width), its output the feature map (1, 512, rows, columns).
    """
    from .. import weights
    from ..weights import catalogue

    target = Path(options.dst)
    extension = target.suffix.lower()
    to_onnx = extension == ".onnx"
    if extension not in (".h5", ".hdf5", ".onnx"):
        raise OptionError(
            f"{target}: weights are written as HDF5 or ONNX: give it the extension .h5 or .onnx"
        )
    if not to_onnx and (options.preprocessing or not options.relu):
        raise OptionError("--no-relu and --preprocessing are about the graph in an .onnx; an .h5 has none")
    source = catalogue.resolve(options.src)
    # Weights may go into the cache folder before there is one.
    if to_onnx or target.exists() or target.parent.exists():
        check_place(options.dst, [source])
    if target.exists() and not options.overwrite:
        raise Error(f"{target} is there already: choose another name, or replace it with --overwrite")
    arrays, provenance = weights.load(options.src)
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


@Command(
    f"""
    WHAT  names or addresses; default: tf
    -o, --output FILE  write this .h5 file; default: see WHAT
    --url URL  take the weights of that name from this address only
    --sha256 SUM  refuse the download unless its SHA-256 is this one
    --overwrite  download it again and replace what is there
    --force
    {QUIET}
    """,
    what={"nargs": "*"},
)
def fetch(options: argparse.Namespace) -> int:
    """Download published weights and keep them where commands find them.

    Downloads a checkpoint, checks that it is a D2-Net, and keeps it as d2np's HDF5. Checkpoints are read
    without PyTorch and without running any code in them.

    WHAT is any of
      tf                    trained on MegaDepth, as in the paper (default)
      ots                   off the shelf: VGG16 before that training
      tf_no_phototourism    trained on MegaDepth without its PhotoTourism scenes
      https://...           any other checkpoint of a D2-Net, also http://; is
                            written into the working folder

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
      d2np fetch https://example.org/my_d2.pth -o my_d2.h5
    """
    from ..weights import catalogue, fetch, load
    from .progress import Bar

    if options.url is not None and not options.what:
        raise OptionError("--url is for weights that have a name: d2np fetch tf --url ...")
    sources = options.what or ["tf"]
    if len(sources) > 1 and (options.output, options.sha256, options.url) != (None, None, None):
        raise OptionError("-o, --sha256 and --url are for one download: give one name or address")
    # Whether they make sense is found out before the first is downloaded.
    plans = [fetch.plan(source, options.output, options.sha256, options.url) for source in sources]
    for source, plan in zip(sources, plans, strict=True):
        if not options.overwrite and (found := plan.present()):
            say(f"{plan.target} is there already, from {found.name}, SHA-256 {found.sha256}")
            say("to fetch it again: --overwrite")
            continue
        with Bar(desc=plan.target.stem, unit="B", disable=options.quiet, delay=1e-3, unit_scale=True) as bar:
            fetch.fetch(
                source,
                options.output,
                url=options.url,
                sha256=options.sha256,
                force=options.overwrite,
                progress=bar.reach,
                note=bar.note,
            )
        provenance = load(plan.target)[1]
        say(f"read  {provenance.name}, SHA-256 {provenance.sha256}")
        say(f"wrote {plan.target}, {plan.target.stat().st_size:,} bytes")
        default = "; tf is what commands now use when none is given" if source == catalogue.default() else ""
        say(f"use it as --weights {source}{default}" if plan.name else f"use it as --weights {plan.target}")
    return 0
