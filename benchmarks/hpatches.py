"""Mean matching accuracy on HPatches, by the protocol of the D2-Net paper (section 5.1).

    python benchmarks/hpatches.py hpatches-sequences-release --weights d2.h5 -o curves.png

FOLDER is the dataset as it is unpacked: folders ``i_*`` (other light) and ``v_*`` (another viewpoint), each
with ``1.ppm`` to ``6.ppm`` and the homographies ``H_1_2`` to ``H_1_6``. Image 1 is matched with each of the
others by mutual nearest neighbours; a match is right within a threshold of where the homography puts it; the
accuracy is the share of right matches, averaged over all pairs. The eight sequences of high resolution are
left out, as in the paper, which leaves 52 and 56.

What is found for a sequence is kept in the cache; started again, the same command goes on from there.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

import d2np
from d2np.atomic import replacing
from d2np.dataset import Settings
from d2np.extras import require
from d2np.verification import transformed
from d2np.weights import catalogue

THRESHOLDS = tuple(range(1, 11))
"""Pixels."""

# Those that the published hpatches_sequences/download.sh removes: larger than 1600 x 1200.
HIGH_RESOLUTION = frozenset(
    {
        *("i_contruction", "i_crownnight", "i_dc", "i_pencils", "i_whitebuilding"),
        *("v_artisans", "v_astronautis", "v_talent"),
    }
)

GROUPS = {"overall": ("i", "v"), "illumination": ("i",), "viewpoint": ("v",)}

Extract = Callable[[Path], d2np.Features]


@dataclass(frozen=True)
class Result:
    """The results of one sequence.

    Attributes
    ----------
    name : str
    keypoints : six numbers
        Of each image.
    matches : five numbers
        Of each pair.
    right : five lists
        For each pair, the share of matches that are right within each of :data:`THRESHOLDS`.
    """

    name: str
    keypoints: list[int]
    matches: list[int]
    right: list[list[float]]


def sequences(folder: Path) -> tuple[list[Path], list[str]]:
    """The sequences of a dataset, and the names of those left out.

    Raises
    ------
    d2np.ImageError
        If there are none, or one is incomplete.
    """
    if not folder.is_dir():
        raise d2np.ImageError(f"{folder}: there is no such folder")
    found = sorted(path for path in folder.iterdir() if path.is_dir() and path.name[:2] in ("i_", "v_"))
    if not found:
        raise d2np.ImageError(f"{folder} holds no sequences: folders named i_* and v_* are expected")
    files = [*(f"{k}.ppm" for k in range(1, 7)), *(f"H_1_{k}" for k in range(2, 7))]
    chosen = [path for path in found if path.name not in HIGH_RESOLUTION]
    for path in chosen:
        if missing := [name for name in files if not (path / name).is_file()]:
            raise d2np.ImageError(f"{path} is incomplete: {', '.join(missing)} missing")
    return chosen, [path.name for path in found if path.name in HIGH_RESOLUTION]


def evaluate(sequence: Path, extract: Extract) -> Result:
    """Match image 1 with the five others.

    Raises
    ------
    d2np.Error
        If a file cannot be read.
    """
    first = extract(sequence / "1.ppm")
    keypoints, matches, right = [len(first)], [], []
    for k in range(2, 7):
        other = extract(sequence / f"{k}.ppm")
        found = d2np.match(first, other)
        expected = transformed(truth(sequence / f"H_1_{k}"), first.keypoints[found.indices[:, 0], :2])
        distances = np.linalg.norm(other.keypoints[found.indices[:, 1], :2] - expected, axis=1)
        keypoints.append(len(other))
        matches.append(len(found))
        # Where there are no matches, none is right: so the published notebook.
        right.append([float((distances <= limit).mean()) if len(found) else 0.0 for limit in THRESHOLDS])
    return Result(sequence.name, keypoints, matches, right)


def truth(path: Path) -> np.ndarray:
    """A homography from its file."""
    try:
        matrix = np.loadtxt(path)
    except (OSError, ValueError) as error:
        raise d2np.FormatError(f"{path}: no homography: {error}") from None
    if matrix.shape != (3, 3):
        raise d2np.FormatError(f"{path}: a homography has 3 x 3 numbers, not {matrix.shape}")
    return matrix


def accuracy(results: Sequence[Result]) -> dict[str, np.ndarray]:
    """Mean matching accuracy of each of :data:`GROUPS` that there are sequences of, at each threshold."""
    means = {}
    for group, kinds in GROUPS.items():
        if chosen := [result.right for result in results if result.name[0] in kinds]:
            means[group] = np.concatenate(chosen).mean(axis=0)
    return means


class Cache:
    """Results of sequences for one choice of weights and options: a file for each.

    Parameters
    ----------
    folder : Path
        Of all caches.
    label : str
        For people.
    settings : dict
        Everything that the results depend on; each choice has a folder of its own.
    """

    def __init__(self, folder: Path, label: str, settings: dict[str, object]) -> None:
        text = json.dumps(settings, sort_keys=True)
        self.folder = folder / f"{label}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
        self.folder.mkdir(parents=True, exist_ok=True)
        with replacing(self.folder / "settings.json") as stream:
            stream.write(text.encode())

    def read(self, name: str) -> Result | None:
        try:
            result = Result(**json.loads((self.folder / f"{name}.json").read_text()))
            whole = np.shape(result.right) == (5, len(THRESHOLDS)) and len(result.matches) == 5
        except (OSError, ValueError, TypeError):
            return None
        return result if whole and result.name == name else None

    def write(self, result: Result) -> None:
        with replacing(self.folder / f"{result.name}.json") as stream:
            stream.write(json.dumps(asdict(result)).encode())


def run(found: Sequence[Path], extract: Extract, cache: Cache) -> list[Result]:
    """All sequences, those in the cache from there."""
    results = []
    for path in tqdm(found, desc="matching", unit="sequence", file=sys.stderr):
        result = cache.read(path.name)
        if result is None:
            result = evaluate(path, extract)
            cache.write(result)
        results.append(result)
    return results


def table(results: Sequence[Result]) -> str:
    """Return the text that the notebook prints, and the curves in numbers."""
    means = accuracy(results)
    lines = ["| accuracy within |" + "".join(f" {limit} px |" for limit in THRESHOLDS)]
    lines.append("| --- |" + " --- |" * len(THRESHOLDS))
    lines += [f"| {group} |" + "".join(f" {mean:.1%} |" for mean in means[group]) for group in means]
    lines.append("")
    for group in means:
        chosen = [result for result in results if result.name[0] in GROUPS[group]]
        keypoints = np.concatenate([result.keypoints for result in chosen])
        matches = np.concatenate([result.matches for result in chosen])
        lines.append(
            f"{group}: {len(chosen)} sequences, {keypoints.mean():.0f} keypoints an image "
            f"({keypoints.min()} to {keypoints.max()}), {matches.mean():.0f} matches a pair"
        )
    return "\n".join(lines)


def _check_plot(path: Path) -> None:
    """Find out before any work is done whether the curves can be written there."""
    require("matplotlib", "the curves need", "benchmark", d2np.Error)
    if not path.parent.is_dir():
        raise d2np.Error(f"{path} cannot be written: there is no folder {path.parent}")


def plot(results: Sequence[Result], label: str, path: Path) -> None:
    """The curves, as in the paper's figure."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    means = accuracy(results)
    figure = Figure(figsize=(11, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    for number, (group, kinds) in enumerate(GROUPS.items(), 1):
        axes = figure.add_subplot(1, len(GROUPS), number)
        count = sum(result.name[0] in kinds for result in results)
        axes.set_title(f"{group.capitalize()} ({count} sequences)")
        if group in means:
            axes.plot(THRESHOLDS, means[group], color="tab:purple", linewidth=2.5, label=label)
        axes.set(xlim=(1, 10), ylim=(0, 1), xticks=THRESHOLDS, xlabel="threshold [px]")
        axes.grid(alpha=0.4)
        if number == 1:
            axes.set_ylabel("mean matching accuracy")
            axes.legend(loc="lower right")
    with replacing(path) as stream:
        figure.savefig(stream, dpi=120, format=path.suffix[1:])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="the dataset")
    parser.add_argument("--weights", help="a file or a name; default: tf if it is in the cache, else vgg16")
    parser.add_argument("--multiscale", action="store_true", help="half, full and double size")
    parser.add_argument("--detector", choices=("d2", "strength"), default="d2")
    parser.add_argument("--max-keypoints", type=int, metavar="N", help="the published notebook also has 2000")
    parser.add_argument("--threads", type=int, metavar="N")
    parser.add_argument("--label", help="in the plot; default: from weights and options")
    parser.add_argument("--cache", type=Path, default=Path("hpatches-cache"), metavar="FOLDER")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("hpatches.png"), metavar="FILE", help="png, pdf or svg"
    )
    options = parser.parse_args(argv)
    if options.output.suffix not in (".png", ".pdf", ".svg"):
        parser.error(f"{options.output}: the plot can be written as png, pdf or svg")
    try:
        return _run(options)
    except (d2np.Error, OSError) as error:
        print(f"hpatches: {error}", file=sys.stderr)
        return 1


def _run(options: argparse.Namespace) -> int:
    _check_plot(options.output)
    found, left_out = sequences(options.folder)
    weights = options.weights or catalogue.default()
    print(f"weights: {weights}", file=sys.stderr)
    net = d2np.Net.load(weights)
    settings = Settings(
        detector=options.detector,
        scales=(0.5, 1.0, 2.0) if options.multiscale else (1.0,),
        max_keypoints=options.max_keypoints,
    )
    parts = [
        Path(weights).stem,
        options.detector,
        "multiscale" if options.multiscale else "",
        "" if options.max_keypoints is None else str(options.max_keypoints),
    ]
    label = "-".join(part for part in parts if part)
    cache = Cache(options.cache, label, {**settings.recorded(net), "dataset": str(options.folder.resolve())})
    if left_out:
        print(f"left out, as published: {', '.join(left_out)}", file=sys.stderr)
    results = run(found, lambda path: net(path, threads=options.threads, **settings.options()), cache)
    print(table(results))
    plot(results, options.label or label, options.output)
    print(f"curves: {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
