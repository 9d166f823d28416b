"""Commands with their arguments, those that several commands share, and the parser."""

from __future__ import annotations

import argparse
import inspect
import math
import re
import sys
import textwrap
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

from ..errors import did_you_mean
from ..options import Detector, Preprocessing, names
from .console import complain

if TYPE_CHECKING:
    from ..dataset import Settings

Argument: TypeAlias = "Callable[[argparse._ActionsContainer], object]"
"""Adds itself to a parser, or to a group of one."""


@dataclass(frozen=True)
class Command:
    """A command: the function that does its work, and its arguments.

    The function has the command's name, and its docstring is the help text: what it does in a few words, what
    it does in a sentence or two, and the rest.
    """

    run: Callable[[argparse.Namespace], int]
    arguments: tuple[Argument, ...]

    def add(self, commands: argparse._SubParsersAction[Parser]) -> None:
        """Add the command to those of the parser."""
        summary, description, epilog, *_ = [*(inspect.getdoc(self.run) or "").split("\n\n", 2), "", ""]
        parser = commands.add_parser(
            self.run.__name__,
            help=summary[:1].lower() + summary[1:].rstrip("."),
            description=description,
            epilog=epilog,
        )
        for add in self.arguments:
            add(parser)
        parser.set_defaults(run=self.run)


def command(*arguments: Argument) -> Callable[[Callable[[argparse.Namespace], int]], Command]:
    """Make a function a command with these arguments."""
    return lambda run: Command(run, arguments)


def argument(form: str, text: str, **settings: Any) -> Argument:
    """Return an argument.

    Parameters
    ----------
    form : str
        As the help shows it: ``"IMAGE"``; ``"-k, --max-keypoints N"``; ``"--orient"``, an option that is
        there or not; ``"--no-relu"``, which makes ``relu`` False.
    text : str
        What the help says of it.
    **settings
        Those of ``add_argument`` of :mod:`argparse`.
    """
    *flags, last = form.split(", ")
    name, _, metavar = last.partition(" ")
    if not name.startswith("-"):
        settings["metavar"], name = name, name.partition(".")[0].lower()
    elif metavar:
        settings["metavar"] = metavar
    elif not {"action", "choices"} & settings.keys():
        settings["action"] = "store_false" if name.startswith("--no-") else "store_true"
        settings.setdefault("dest", name.removeprefix("--no-").strip("-").replace("-", "_"))
    return lambda parser: parser.add_argument(*flags, name, help=text, **settings)


def group(title: str, *arguments: Argument) -> Argument:
    """Return arguments that have a heading of their own in the help."""

    def add(parser: argparse._ActionsContainer) -> None:
        inner = parser.add_argument_group(title)
        for add_one in arguments:
            add_one(inner)

    return add


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
) -> Callable[[str], Any]:
    """Return a ``type`` for :mod:`argparse` that says what is expected."""

    def parse(text: str) -> Any:
        with suppress(ValueError):
            if accepts(value := convert(text)):
                return value
        raise argparse.ArgumentTypeError(f"{expected}, not {text!r}")

    return parse


WHOLE_NUMBER = checked(int, lambda number: number >= 1, "a whole number from 1 up is expected")
POSITIVE_NUMBER = checked(float, lambda number: 0 < number < math.inf, "a number above 0 is expected")
_EDGE = checked(
    lambda text: None if text.lower() == "none" else int(text),
    lambda edge: edge is None or edge >= 1,
    "a number of pixels is expected, or none for no limit",
)

WEIGHTS_HELP = (
    "a file (.h5, .pth, .safetensors, .onnx), or a name: vgg16, analytic, tf, ots, tf_no_phototourism; "
    "default: tf if it is in the cache, else vgg16 (packaged, trained on ImageNet)"
)

QUIET = argument("-q, --quiet", "show no progress, only the result")

THREADS = argument(
    "--threads N",
    "how many threads to use; the results do not depend on it; default: one for every core",
    type=WHOLE_NUMBER,
)

NO_RELU = argument("--no-relu", "leave out the ReLU behind the last layer")

MIN_SCORE = argument(
    "--min-score S",
    "only keypoints with at least this score; default: all",
    type=checked(float, lambda score: not math.isnan(score), "a number is expected"),
)

MATCHING = group(
    "matching",
    argument(
        "--ratio R",
        "Lowe's test: the nearest neighbour must be closer than R times the second nearest; "
        "0.95 is common for D2-Net; default: no test",
        type=checked(float, lambda ratio: 0 < ratio <= 1, "a number above 0, up to 1 is expected"),
    ),
    argument(
        "--min-similarity S",
        "keep only matches whose descriptors have at least this cosine; default: all",
        type=checked(float, lambda cosine: -1 <= cosine <= 1, "a number from -1 to 1 is expected"),
    ),
    argument(
        "--no-mutual", "keep the nearest neighbour of every keypoint of A, even if B's nearest one is another"
    ),
)

_KEYPOINTS = group(
    "network and keypoints",
    argument("--weights WEIGHTS", WEIGHTS_HELP),
    argument(
        "--detector",
        "d2: local maxima, as published (default); strength: the strongest cells, wherever they are",
        choices=names(Detector),
        default="d2",
    ),
    argument(
        "-k, --max-keypoints N",
        "keep only the N keypoints with the highest scores; default: all",
        type=WHOLE_NUMBER,
    ),
    argument(
        "--multiscale",
        "look at the image at half, full and double size, as published; about five times the work",
        action="store_const",
        const=(0.5, 1.0, 2.0),
        default=(1.0,),
        dest="scales",
    ),
    NO_RELU,
    argument(
        "--centered",
        "put keypoints where their cells truly lie, about 2 px further right and down than published",
    ),
    THREADS,
)

_IMAGES = group(
    "images",
    argument(
        "--max-edge PX",
        "shrink larger images to this longest edge; none: no limit; default: 1600",
        type=_EDGE,
        default=1600,
    ),
    argument(
        "--max-sum-edges PX",
        "shrink larger images to this sum of width and height; none: no limit; default: 2800",
        type=_EDGE,
        default=2800,
    ),
    argument(
        "--max-pixels N",
        "open files with up to N pixels; default: where Pillow refuses them, about 179 million",
        type=WHOLE_NUMBER,
    ),
    argument("--orient", "turn images as their EXIF data says; default: as stored"),
    argument(
        "--stretch",
        "spread the values that a 16-bit image uses over the full range, as thermal images need; "
        "default: as stored",
    ),
    argument(
        "--preprocessing",
        "how to scale colours; default: as the weights were trained, which `d2np info` shows",
        choices=names(Preprocessing),
    ),
)

EXTRACTION = (_KEYPOINTS, _IMAGES)
"""How images are read and keypoints found; see :func:`settings`."""


def overwrite(what: str, *former: str) -> tuple[Argument, ...]:
    """Return the option ``--overwrite``, and what it was called in version 1.0."""
    hidden = [argument(name, argparse.SUPPRESS, dest="overwrite") for name in former]
    return argument("--overwrite", what), *hidden


def settings(options: argparse.Namespace) -> Settings:
    """Return what the options of :data:`EXTRACTION` say."""
    from ..dataset import Settings

    given: dict[str, Any] = {field.name: getattr(options, field.name, None) for field in fields(Settings)}
    return Settings(**given)
