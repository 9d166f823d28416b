"""The command that trains."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from ..errors import Error, ImageError, OptionError, count
from . import files
from .arguments import QUIET, THREADS, Command, checked
from .console import file_size, finishing, note, say, seconds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..training import Pairs, Training

_SHOWN = 50
"""Iterations whose mean is shown with the bar."""

_FROM_ZERO = checked(int, lambda number: number >= 0, "a whole number from 0 up is expected")
_FROM_ONE = checked(int, lambda number: number >= 1, "a whole number from 1 up is expected")


@Command(
    f"""
    PHOTOS  photographs to learn from: images, folders, patterns, lists, as `d2np extract` takes them; or .npz
        files, each a pair of images with depth or disparity
    -o, --output OUT.h5  the weights to write
    --from WEIGHTS  weights to begin with: a file or a name; default: vgg16
    --validate PHOTOS  photographs that are not trained on, to measure the loss with
    --colmap MODEL  learn from the pairs of a COLMAP model, a folder; PHOTOS is the folder of its images
    --iterations N  pairs to learn from; default: 10000
    --size PX  edge of the views that are trained on; default: 192
    --rate R  highest learning rate of Adam; default: 0.0004
    --seed N  of everything that is drawn; default: 0
    --published  positions as published: rounded to whole cells, half a cell to the left and up
    --layers LAYERS  conv4_3, the only layer that is trained
    --overwrite  begin anew and replace what is there
    {QUIET}
    {THREADS}
    """,
    photos={"nargs": "+"},
    output={"required": True},
    **{"from": {"dest": "weights", "default": "vgg16"}},
    validate={"nargs": "+", "default": []},
    iterations={**_FROM_ONE, "default": 10_000},
    size={**_FROM_ONE, "default": 192},
    rate={
        **checked(float, lambda rate: 0 < rate < 1, "a number between 0 and 1 is expected"),
        "default": 4e-4,
    },
    seed={**_FROM_ZERO, "default": 0},
    layers={"default": "conv4_3"},
)
def train(options: argparse.Namespace) -> int:
    """Train the last layer on photographs of your own.

    Trains conv4_3 by the loss of the paper, as its authors do, and writes weights. The layers before it stay
    as they are.

    Each photograph is seen through two random homographies, lit and blurred
    differently, and reduced to 640 px before. What is at one place should have the
    same descriptor in both views, and keypoints should be where that is so. A few
    dozen sharp photographs of things with texture are enough; d2np.training says
    what a .npz with depth or disparity holds.

    Whatever ends it (Ctrl-C, kill, a full disk), the last checkpoint is in
    OUT.h5.checkpoint.npz, a few minutes old at most: start the same command again,
    and it goes on and ends with the same weights. At the end it draws the curve of
    the loss into OUT.png.

    10,000 iterations take about an hour and a half on two cores.

    examples:
      d2np train photos/ -o my.h5 --validate others/
      d2np train photos/ -o my.h5 --colmap sparse/0 --size 256
      d2np match left.jpg right.jpg --weights my.h5
    """
    output = Path(options.output)
    checkpoint = output.with_name(f"{output.name}.checkpoint.npz")
    _check(options, output, checkpoint)
    files.tell_of_compiling()
    import numpy as np

    from ..network.net import Net
    from ..training import FEWEST, Settings, Training, draw_curve

    net = Net.load(options.weights)
    settings = Settings(options.iterations, options.rate, seed=options.seed)
    held_out = _pairs(options, options.validate) if options.validate else None
    training = Training(net, _pairs(options, options.photos, options.colmap), settings, held_out)
    drawing = _drawing(output)
    _check_files(training, drawing)
    if options.overwrite:
        checkpoint.unlink(missing_ok=True)

    start = perf_counter()
    _carried_out(training, checkpoint, options)
    training.trained().save(output)
    files.write(draw_curve(training), str(drawing))
    checkpoint.unlink(missing_ok=True)
    done = count(options.iterations, "iteration")
    say(f"trained on {training.pairs.name}: {done} in {_since(start)}")
    if left_out := int(np.isnan(training.history).any(axis=1).sum()):
        say(f"left out {count(left_out, 'pair')} with fewer than {FEWEST} correspondences: see --size")
    if training.validation:
        (_, loss, share), (_, last_loss, last_share) = training.validation[0], training.validation[-1]
        say(
            f"held out: loss {loss:.3f} before, {last_loss:.3f} now; correct nearest neighbours "
            f"{100 * share:.1f} % before, {100 * last_share:.1f} % now"
        )
    say(f"wrote {output} ({file_size(output.stat().st_size)}), {drawing}; use it as --weights {output}")
    return 0


def _check(options: argparse.Namespace, output: Path, checkpoint: Path) -> None:
    if options.layers != "conv4_3":
        raise OptionError(
            f"--layers {options.layers}: conv4_3 alone is trained, as by D2-Net's authors: no gradient is "
            "computed through the layers before it"
        )
    files.check_output(options.output, [options.weights], (".h5", ".hdf5"))
    for path in (output, _drawing(output)):
        if path.exists() and not checkpoint.exists() and not options.overwrite:
            raise Error(f"{path} is there already: choose another name, or replace it with --overwrite")


def _drawing(output: Path) -> Path:
    return output.with_suffix(".png")


def _check_files(training: Training, drawing: Path) -> None:
    """Refuse to draw over a photograph, and to measure the loss with photographs that are trained on."""
    held_out = training.held_out.files if training.held_out else []
    files.check_place(str(drawing), [*training.pairs.files, *held_out])
    known = {file.resolve() for file in training.pairs.files}
    if twice := [file for file in held_out if file.resolve() in known]:
        raise OptionError(f"{twice[0]} is trained on: --validate takes photographs that are not")


def _pairs(options: argparse.Namespace, sources: Sequence[str], model: str | None = None) -> Pairs:
    from ..dataset import listing
    from ..training import Depths, Model, Photographs

    if model is not None:
        if len(sources) != 1:
            raise OptionError("with --colmap, PHOTOS is one folder, that of the model's images")
        files.check_there(model, sources[0])
        return Model(Path(model), Path(sources[0]), options.size, options.published)
    if archives := [Path(source) for source in sources if files.extension(source) == ".npz"]:
        if len(archives) < len(sources):
            raise OptionError("photographs and .npz files cannot be trained on together: give one kind")
        files.check_there(*sources)
        return Depths(archives, options.size, options.published)
    # Named by their whole paths: photographs of one name may lie in several folders.
    found = [entry.path for entry in listing(sources, beside=True, tell=note)]
    local = [path for path in found if isinstance(path, Path)]
    if len(local) < len(found):
        raise ImageError("photographs at URLs would be read again and again: download them first")
    return Photographs(local, options.size, options.published)


def _carried_out(training: Training, checkpoint: Path, options: argparse.Namespace) -> None:
    """Train with a bar that shows the last iterations' mean loss."""
    import numpy as np

    from ..training import train
    from .progress import Bar

    with (
        Bar(desc="training", unit="pair", total=options.iterations, disable=options.quiet) as bar,
        finishing("the current pair") as stop,
    ):

        def progress(training: Training) -> None:
            done = training.iteration
            part = training.history[max(0, done - _SHOWN) : done]
            if np.isfinite(part).any():  # not all of these pairs were left out
                loss, share = np.nanmean(part, axis=0)
                bar.set_postfix_str(f"loss {loss:.3f}, correct {100 * share:.0f} %", refresh=False)
            bar.reach(done, options.iterations)

        try:
            train(training, checkpoint, threads=options.threads, progress=progress, stop=stop)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                "interrupted: the same command without --overwrite goes on from the last checkpoint"
            ) from None


def _since(start: float) -> str:
    minutes = (perf_counter() - start) / 60
    return seconds(60 * minutes) if minutes < 2 else f"{math.floor(minutes)} min"
