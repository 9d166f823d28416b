"""How many overlapping pairs ``d2np pairs --retrieval K`` finds.

    python benchmarks/retrieval.py
    python benchmarks/retrieval.py --photographs SCENE_1 SCENE_2

The images are views of those that scikit-image ships: each is seen several times through a window of 0.3 to
0.5 of its shorter side, turned by up to 15 degrees, in perspective, and darker by up to a half. Two views
overlap where each of them shows at least 30 % of the other one. With ``--photographs`` each folder is a
scene, and any two photographs of one scene count as overlapping; the views are among them.

Each cell has the share of the overlapping pairs that are chosen; the first row has that of pairs at random,
as many as K for each image.
"""

from __future__ import annotations

import argparse
from itertools import combinations
from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data

import d2np
from d2np.dataset.pair_choice import most_similar

NAMES = (
    *("astronaut", "brick", "camera", "cat", "clock", "coffee", "coins", "grass", "gravel"),
    *("hubble_deep_field", "immunohistochemistry", "moon", "retina", "rocket", "cell"),
)
KS = (1, 3, 5, 10, 20)
SIDE, OVERLAP = 192, 0.3

Views = list[tuple[np.ndarray, str, np.ndarray | None]]
"""Images, of what they are, and the window's corners (4, 2) if they are views: counterclockwise."""


def views(number: int) -> Views:
    """Return so many views of each image."""
    rng = np.random.default_rng(0)
    found: Views = []
    for name in NAMES:
        image = Image.fromarray(np.asarray(getattr(data, name)())).convert("RGB")
        size = np.array(image.size)
        for _ in range(number):
            side = rng.uniform(0.3, 0.5) * size.min()
            corners = np.array([[-1, -1], [-1, 1], [1, 1], [1, -1]]) / 2 + rng.uniform(-0.1, 0.1, (4, 2))
            cosine, sine = (function(np.deg2rad(rng.uniform(-15, 15))) for function in (np.cos, np.sin))
            turned = corners @ np.array([[cosine, sine], [-sine, cosine]])
            window = np.clip(side * turned + rng.uniform(side / 2, size - side / 2), 0, size - 1)
            seen = image.transform(
                (SIDE, SIDE), Image.Transform.QUAD, tuple(window.ravel()), Image.Resampling.BICUBIC
            )
            found.append(((np.asarray(seen) * rng.uniform(0.5, 1)).astype(np.uint8), name, window))
    return found


def photographs(folders: list[Path]) -> Views:
    """Return the photographs of each folder, with 400 px at most."""
    found: Views = []
    for folder in folders:
        for file in sorted(folder.iterdir()):
            image = Image.open(file).convert("RGB")
            image.thumbnail((400, 400))
            found.append((np.asarray(image), str(folder), None))
    return found


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    """Return the share of each window that lies in the other one, of both the smaller."""
    return min(_inside(first, _grid(second)).mean(), _inside(second, _grid(first)).mean())


def _grid(window: np.ndarray) -> np.ndarray:
    u, v = (axis.reshape(-1, 1) for axis in np.meshgrid(*[np.linspace(0.02, 0.98, 25)] * 2))
    a, b, c, d = window
    return (1 - u) * ((1 - v) * a + v * b) + u * (v * c + (1 - v) * d)


def _inside(window: np.ndarray, points: np.ndarray) -> np.ndarray:
    within = np.ones(len(points), bool)
    for corner, following in zip(window, np.roll(window, -1, axis=0), strict=True):
        (x, y), (to_x, to_y) = following - corner, (points - corner).T
        within &= x * to_y - y * to_x <= 0
    return within


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--views", type=int, default=14, help="of each image; default: 14")
    parser.add_argument("--weights", nargs="*", default=["d2np", "vgg16", "analytic"])
    parser.add_argument("--photographs", type=Path, nargs="*", default=[], help="folders, one for a scene")
    options = parser.parse_args()
    images = [*views(options.views), *photographs(options.photographs)]
    names = [f"{number:05}" for number in range(len(images))]
    sets: dict[str, set[tuple[str, str]]] = {"views": set(), "photographs": set()}
    for (a, (_, scene, window)), (b, (_, other_scene, other)) in combinations(
        zip(names, images, strict=True), 2
    ):
        if scene == other_scene and window is None:
            sets["photographs"].add((a, b))
        elif scene == other_scene and overlap(window, other) >= OVERLAP:
            sets["views"].add((a, b))
    sets = {label: pairs for label, pairs in sets.items() if pairs}
    total = len(names) * (len(names) - 1) // 2
    told = ", ".join(f"{len(pairs)} of {label}" for label, pairs in sets.items())
    print(f"{len(images)} images, {total} pairs, of which overlap: {told}\n")
    print("| weights, pairs | " + " | ".join(f"K = {k}" for k in KS) + " |")
    print("| --- |" + " --- |" * len(KS))
    print("| at random | " + " | ".join(f"{k * len(names) / total:.1%}" for k in KS) + " |")
    for weights in options.weights:
        net = d2np.Net.load(weights)
        found = [net(image, global_descriptor=True, max_keypoints=0) for image, *_ in images]
        vectors = np.array([features.global_descriptor for features in found])
        chosen = [set(most_similar(names, vectors, k)) for k in KS]
        for label, pairs in sets.items():
            shares = [len(pairs & pairs_of_k) / len(pairs) for pairs_of_k in chosen]
            print(f"| {weights}, {label} | " + " | ".join(f"{share:.0%}" for share in shares) + " |")


if __name__ == "__main__":
    main()
