"""The parser, and options that commands share."""

from __future__ import annotations

import argparse
import math
import re
import sys
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

from ..errors import did_you_mean
from ..options import Detector, Preprocessing, names
from .report import complain

if TYPE_CHECKING:
    from ..dataset import Settings

Commands: TypeAlias = "argparse._SubParsersAction[Parser]"

_PYRAMID = (0.5, 1.0, 2.0)

WEIGHTS = (
    "a file (.h5, .pth, .safetensors, .onnx), or a name: vgg16, analytic, tf, ots, tf_no_phototourism; "
    "default: tf if it is in the cache, else vgg16 (packaged, trained on ImageNet)"
)
"""Help on which weights may be given."""


class Parser(argparse.ArgumentParser):
    """Says what is wrong, and what may have been meant, in one line; keeps examples as they are laid out."""

    def __init__(self, **options: Any) -> None:
        options["description"] = textwrap.fill(options.get("description", ""), 79)
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **options)

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        args = sys.argv[1:] if args is None else list(args)
        # Before argparse complains of what is missing for that reason.
        self._refuse_unknown(args)
        options, rest = super().parse_known_args(args, namespace)
        if rest:
            self.error(f"too many arguments: {' '.join(rest)}")
        return options, rest

    def _refuse_unknown(self, args: Sequence[str]) -> None:
        known = self._option_string_actions
        for arg in args:
            # Behind it come names of files, or a command that has options of its own.
            if arg == "--" or (self._subparsers and not arg.startswith("-")):
                return
            name = arg.partition("=")[0]
            if not re.match(r"-(?!\.?\d)[^ ]+$", arg) or name in known or arg[:2] in known:
                continue
            shown = [option for option, action in known.items() if action.help != argparse.SUPPRESS]
            self.error(f"there is no option {name}{did_you_mean(name, shown)}")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            known = list(action.choices)
            raise argparse.ArgumentError(
                action, f"{value!r} is none of {', '.join(known)}{did_you_mean(value, known)}"
            )

    def error(self, message: str) -> NoReturn:
        complain(f"{message} (see {self.prog} --help)")
        self.exit(2)


def whole_number(text: str) -> int:
    """1, 2, 3, ..."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"a whole number from 1 up is expected, not {text!r}")
    return value


def edge_limit(text: str) -> int | None:
    """A number of pixels, or "none"."""
    if text.lower() == "none":
        return None
    try:
        return whole_number(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f"a number of pixels is expected, or none for no limit, not {text!r}"
        ) from None


def size(text: str) -> tuple[int, int]:
    """Width and height, as in 640x480."""
    width, _, height = text.lower().replace("×", "x").partition("x")
    try:
        return whole_number(width), whole_number(height)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"WIDTHxHEIGHT is expected, such as 640x480, not {text!r}") from None


def positive_number(text: str) -> float:
    """Any number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"a number above 0 is expected, not {text!r}")
    return value


def number_within(low: float, high: float, *, above: bool = False) -> Any:
    """A parser of numbers from ``low``, or ``above`` it, to ``high``."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high or (above and value == low):
            reach = f"above {low:g}, up to {high:g}" if above else f"from {low:g} to {high:g}"
            raise argparse.ArgumentTypeError(f"a number {reach} is expected, not {text!r}")
        return value

    return parse


def add_overwrite(parser: argparse.ArgumentParser | argparse._ArgumentGroup, what: str, *former: str) -> None:
    """The option ``--overwrite``, and what it was called in version 1.0."""
    parser.add_argument("--overwrite", action="store_true", help=what)
    for name in former:
        parser.add_argument(name, dest="overwrite", action="store_true", help=argparse.SUPPRESS)


def add_quiet(parser: argparse.ArgumentParser) -> None:
    """The option ``--quiet``."""
    parser.add_argument("-q", "--quiet", action="store_true", help="show no progress, only the result")


def add_weights(parser: argparse.ArgumentParser) -> None:
    """The option ``--weights``."""
    parser.add_argument(
        "--weights",
        metavar="WEIGHTS",
        help=WEIGHTS,
    )


def add_threads(parser: argparse.ArgumentParser) -> None:
    """The option ``--threads``."""
    parser.add_argument(
        "--threads",
        type=whole_number,
        metavar="N",
        help="how many threads to use; the results do not depend on it; default: one for every core",
    )


def add_matching(parser: argparse.ArgumentParser) -> None:
    """Options on which neighbours of two images A and B are matches."""
    group = parser.add_argument_group("matching")
    group.add_argument(
        "--ratio",
        type=number_within(0, 1, above=True),
        metavar="R",
        help="Lowe's test: the nearest neighbour must be closer than R times the second nearest; "
        "0.95 is common for D2-Net; default: no test",
    )
    group.add_argument(
        "--min-similarity",
        type=number_within(-1, 1),
        metavar="S",
        help="keep only matches whose descriptors have at least this cosine; default: all",
    )
    group.add_argument(
        "--no-mutual",
        dest="mutual",
        action="store_false",
        help="keep the nearest neighbour of every keypoint of A, even if B's nearest one is another",
    )


def add_extraction(parser: argparse.ArgumentParser) -> None:
    """Options on how images are read and keypoints found."""
    group = parser.add_argument_group("network and keypoints")
    add_weights(group)  # type: ignore[arg-type]
    group.add_argument(
        "--detector",
        choices=names(Detector),
        default="d2",
        help="d2: local maxima, as published (default); strength: the strongest cells, wherever they are",
    )
    group.add_argument(
        "-k",
        "--max-keypoints",
        type=whole_number,
        metavar="N",
        help="keep only the N keypoints with the highest scores; default: all",
    )
    group.add_argument(
        "--multiscale",
        action="store_true",
        help="look at the image at half, full and double size, as published; about five times the work",
    )
    group.add_argument(
        "--no-relu", dest="relu", action="store_false", help="leave out the ReLU behind the last layer"
    )
    group.add_argument(
        "--centered",
        action="store_true",
        help="put keypoints where their cells truly lie, about 2 px further right and down than published",
    )
    add_threads(group)  # type: ignore[arg-type]
    group = parser.add_argument_group("images")
    for option, limit, what in (
        ("--max-edge", 1600, "longest edge"),
        ("--max-sum-edges", 2800, "sum of width and height"),
    ):
        group.add_argument(
            option,
            type=edge_limit,
            default=limit,
            metavar="PX",
            help=f"shrink larger images to this {what}; none: no limit; default: {limit}",
        )
    group.add_argument(
        "--max-pixels",
        type=whole_number,
        metavar="N",
        help="open files with up to N pixels; default: where Pillow refuses them, about 179 million",
    )
    group.add_argument(
        "--orient", action="store_true", help="turn images as their EXIF data says; default: as stored"
    )
    group.add_argument(
        "--stretch",
        action="store_true",
        help="spread the values that a 16-bit image uses over the full range, as thermal images need; "
        "default: as stored",
    )
    group.add_argument(
        "--preprocessing",
        choices=names(Preprocessing),
        help="how to scale colours; default: as the weights were trained, which `d2np info` shows",
    )


def add_min_score(parser: argparse.ArgumentParser) -> None:
    """The option ``--min-score``."""
    parser.add_argument(
        "--min-score",
        type=number_within(-math.inf, math.inf),
        metavar="S",
        help="only keypoints with at least this score; default: all",
    )


def settings(options: argparse.Namespace) -> Settings:
    """What the options of :func:`add_extraction` say."""
    from ..dataset import Settings

    given = {name: getattr(options, name) for name in Settings.__dataclass_fields__ if hasattr(options, name)}
    return Settings(**given, scales=_PYRAMID if options.multiscale else (1.0,))
