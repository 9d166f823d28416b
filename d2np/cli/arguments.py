"""Commands with their arguments, those that several commands share, and the parser."""

from __future__ import annotations

import argparse
import inspect
import math
import re
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from typing import TYPE_CHECKING, Any, NoReturn

from ..errors import OptionError, did_you_mean
from ..options import Detector, Preprocessing, names
from .console import complain

if TYPE_CHECKING:
    from ..dataset import Settings


class Command:
    """Make a function a command with these arguments.

    The function has the command's name, and its docstring is the help text: what it does in a few words, what
    it does in a sentence or two, and the rest.

    Parameters
    ----------
    arguments : str
        For each argument its form, two spaces, and what the help says of it; lines that are indented further
        go on with that. One of which nothing is said is not shown. The form is ``IMAGE``; ``-k,
        --max-keypoints N``; ``--orient``, an option that is there or not; or ``--no-relu``, which makes
        ``relu`` False. A line that ends with a colon is the heading of those below it.
    **settings
        What an argument is beside that, as ``add_argument`` of :mod:`argparse` has it, by its name in Python;
        of those that several commands share, see below.
    """

    run: Callable[[argparse.Namespace], int]

    def __init__(self, arguments: str = "", **settings: Mapping[str, Any]) -> None:
        self.arguments, self.settings = arguments, {**_SHARED, **settings}

    def __call__(self, run: Callable[[argparse.Namespace], int]) -> Command:
        self.run = run
        return self

    def add(self, commands: argparse._SubParsersAction[Parser]) -> None:
        """Add the command to those of the parser."""
        summary, description, epilog, *_ = [*(inspect.getdoc(self.run) or "").split("\n\n", 2), "", ""]
        parser = commands.add_parser(
            self.run.__name__,
            help=summary[:1].lower() + summary[1:].rstrip("."),
            description=description,
            epilog=epilog,
        )
        parser.set_defaults(run=self.run)
        group: argparse._ActionsContainer = parser
        for entry in re.split(r"\n {4}(?! )", self.arguments.strip()):
            form, _, meaning = entry.partition("  ")
            if form.endswith(":"):
                group = parser.add_argument_group(form[:-1])
            elif form:
                _add(group, form, " ".join(meaning.split()), self.settings)


def _add(
    group: argparse._ActionsContainer, form: str, meaning: str, settings: Mapping[str, Mapping[str, Any]]
) -> None:
    *flags, last = form.split(", ")
    name, _, metavar = last.partition(" ")
    key = name.strip("-").partition(".")[0].replace("-", "_").lower()
    chosen = {"help": meaning or argparse.SUPPRESS, **settings.get(key, {})}
    if not name.startswith("-"):
        group.add_argument(key, metavar=name, **chosen)
        return
    if metavar:
        chosen["metavar"] = metavar
    elif not {"action", "choices"} & chosen.keys():
        chosen["action"] = "store_false" if name.startswith("--no-") else "store_true"
    group.add_argument(*flags, name, **{"dest": key.removeprefix("no_"), **chosen})


class Parser(argparse.ArgumentParser):
    """Says what is wrong, and what may have been meant, in one line; keeps examples as they are laid out."""

    def __init__(self, **options: Any) -> None:
        options["description"] = textwrap.fill(options.get("description", ""), 79)
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **options)

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        args = sys.argv[1:] if args is None else list(args)
        known = self._option_string_actions
        # Before argparse complains of what is missing for that reason.
        for arg in args:
            # Behind it come names of files, or a command that has options of its own.
            if arg == "--" or (self._subparsers and not arg.startswith("-")):
                break
            name = arg.partition("=")[0]
            if re.match(r"-(?!\.?\d)[^ ]+$", arg) and name not in known and arg[:2] not in known:
                shown = [option for option, action in known.items() if action.help != argparse.SUPPRESS]
                self.error(f"there is no option {name}{did_you_mean(name, shown)}")
        options, rest = super().parse_known_args(args, namespace)
        if rest:
            self.error(f"too many arguments: {' '.join(rest)}")
        return options, rest

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            known = list(action.choices)
            raise argparse.ArgumentError(
                action, f"{value!r} is none of {', '.join(known)}{did_you_mean(value, known)}"
            )

    def error(self, message: str) -> NoReturn:
        complain(f"{message} (see {self.prog} --help)")
        self.exit(2)


def checked(
    convert: Callable[[str], Any], accepts: Callable[[Any], bool], expected: str
) -> dict[str, Callable[[str], Any]]:
    """Return the setting of an argument that is converted, and says what is expected."""

    def parse(text: str) -> Any:
        with suppress(ValueError):
            if accepts(value := convert(text)):
                return value
        raise argparse.ArgumentTypeError(f"{expected}, not {text!r}")

    return {"type": parse}


_WHOLE_NUMBER = checked(int, lambda number: number >= 1, "a whole number from 1 up is expected")
_EDGE = checked(
    lambda text: None if text.lower() == "none" else int(text),
    lambda edge: edge is None or edge >= 1,
    "a number of pixels is expected, or none for no limit",
)

POSITIVE = checked(float, lambda number: 0 < number < math.inf, "a number above 0 is expected")

_SHARED: dict[str, Mapping[str, Any]] = {
    "detector": {"choices": names(Detector), "default": "d2"},
    "dimensions": checked(int, lambda number: number in (128, 256), "128 or 256 is expected"),
    "force": {"dest": "overwrite"},  # what it was called in version 1.0
    "max_edge": {**_EDGE, "default": 1600},
    "max_keypoints": _WHOLE_NUMBER,
    "max_pixels": _WHOLE_NUMBER,
    "max_sum_edges": {**_EDGE, "default": 2800},
    "min_inliers": _WHOLE_NUMBER,
    "min_score": checked(float, lambda score: not math.isnan(score), "a number is expected"),
    "min_similarity": checked(float, lambda cosine: -1 <= cosine <= 1, "a number from -1 to 1 is expected"),
    "multiscale": {
        "action": "store_const",
        "const": (0.5, 1.0, 2.0),
        "default": (1.0,),
        "dest": "scales",
    },
    "nearest": _WHOLE_NUMBER,
    "preprocessing": {"choices": names(Preprocessing)},
    "ratio": checked(float, lambda ratio: 0 < ratio <= 1, "a number above 0, up to 1 is expected"),
    "restart": {"dest": "overwrite"},
    "retrieval": _WHOLE_NUMBER,
    "rotations": {"action": "store_const", "const": (0, 90, 180, 270), "default": (0,)},
    "threads": _WHOLE_NUMBER,
    "window": _WHOLE_NUMBER,
}

WEIGHTS = (
    "a file (.h5, .pth, .safetensors, .onnx), or a name: d2np, vgg16, analytic, tf, ots, "
    "tf_no_phototourism; default: tf if it is in the cache, else d2np (packaged)"
)
MIN_SCORE = "--min-score S  only keypoints with at least this score; default: all"
NO_RELU = "--no-relu  leave out the ReLU behind the last layer"
QUIET = "-q, --quiet  show no progress, only the result"
THREADS = "--threads N  how many threads to use; the results do not depend on it; default: one for every core"

MATCHING = """matching:
    --ratio R  Lowe's test: the nearest neighbour must be closer than R times the second nearest; 0.95 is
        common for D2-Net; default: no test
    --min-similarity S  keep only matches whose descriptors have at least this cosine; default: all
    --no-mutual  keep the nearest neighbour of every keypoint of A, even if B's nearest one is another"""

EXTRACTION = f"""network and keypoints:
    --weights WEIGHTS  {WEIGHTS}
    --detector  d2: local maxima, as published (default); strength: the strongest cells, wherever they are
    -k, --max-keypoints N  keep only the N keypoints with the highest scores; default: all
    --spread  with --max-keypoints: choose them evenly from all parts of the image, the best of each
    --multiscale  look at the image at half, full and double size, as published; about five times the work
    --rotations  also look at the image turned by 90, 180 and 270 degrees, as camera and scene may be turned;
        four times the work. Of two images the second one is matched in its best rotation
    {NO_RELU}
    --centered  put keypoints where their cells truly lie, about 2 px further right and down than published
    {THREADS}
    images:
    --max-edge PX  shrink larger images to this longest edge; none: no limit; default: 1600
    --max-sum-edges PX  shrink larger images to this sum of width and height; none: no limit; default: 2800
    --max-pixels N  open files with up to N pixels; default: where Pillow refuses them, about 179 million
    --masks MASKS  keypoints only where an image's mask is not black: a folder with the mask of a/b.jpg as
        a/b.jpg.png or a/b.png, as for COLMAP; or one file, the mask of all images
    --orient  turn images as their EXIF data says; default: as stored
    --stretch  spread the values that a 16-bit image uses over the full range, as thermal images need;
        default: as stored
    --preprocessing  how to scale colours; default: as the weights were trained, which `d2np info` shows"""
"""How images are read and keypoints found; see :func:`settings`."""


def flag(name: str) -> str:
    """Return an option's flag by its name."""
    return f"--{name.replace('_', '-')}"


def check_owners(options: argparse.Namespace, owners: Mapping[str, str]) -> None:
    """Find out whether options that belong to others, by their names, are given with these only.

    Raises
    ------
    OptionError
        If one is given alone.
    """
    for name, owner in owners.items():
        if getattr(options, name) not in (None, False) and getattr(options, owner) is None:
            raise OptionError(f"{flag(name)} is for {flag(owner)} only")


def settings(options: argparse.Namespace) -> Settings:
    """Return what the options of :data:`EXTRACTION` say."""
    from ..dataset import Settings

    given: dict[str, Any] = {field.name: getattr(options, field.name, None) for field in fields(Settings)}
    return Settings(**given)
