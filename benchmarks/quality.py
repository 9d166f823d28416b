"""How well the packaged weights match, beside OpenCV's SIFT on the same pairs.

    python benchmarks/quality.py --seeds 10
    python benchmarks/quality.py --seeds 0 --photographs FOLDER...
    python benchmarks/quality.py --seeds 2 --dimensions 128 256
    python benchmarks/quality.py --seeds 1 --rotations

The pairs are scikit-image's stereo pair ``motorcycle``, whose disparity is known, and five images of its
``data``, each with views of it through a known homography that are darker by a fifth. All methods keep mutual
nearest neighbours, and nothing else. Each cell of the table has the share of the matches that are correct,
within 3 px of the truth, and their number: means over the pairs. The truth of photographs in a folder is not
known: there it is the share that agrees with one fundamental matrix, 0 where that may be chance.

With ``--dimensions`` descriptors are also projected, to principal components that are learnt from the five
images as ``d2np extract`` does it. With ``--rotations`` there are views turned by 90 and 180 degrees as well.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import chain, combinations
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image
from skimage import data

import d2np
from d2np.dataset import Settings, listing
from d2np.dataset.learning import learnt
from d2np.features import Projection
from d2np.matching import project

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from evaluation import MEDIUM, MILD, Score, images, rotation_case, scale_case, score, stereo_score, warp

Extract = Callable[[np.ndarray], d2np.Features]


def sift() -> Extract | None:
    """Return OpenCV's SIFT, or None without OpenCV."""
    try:
        import cv2
    except ImportError:
        print("SIFT is left out: it needs OpenCV, pip install opencv-python-headless", file=sys.stderr)
        return None

    def extract(image: np.ndarray) -> d2np.Features:
        grey = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        keypoints, descriptors = cv2.SIFT_create().detectAndCompute(grey, None)
        # Zeros fill its 128 numbers up to 512, which changes no product.
        vectors = np.zeros((len(keypoints), 512), np.float32)
        vectors[:, :128] = descriptors / np.linalg.norm(descriptors, axis=1, keepdims=True)
        places = [(*keypoint.pt, keypoint.size / 10) for keypoint in keypoints]
        scores = [keypoint.response for keypoint in keypoints]
        return d2np.Features(places, scores, vectors, grey.shape[::-1])

    return extract


def extractors(multiscale: bool, rotations: bool, dimensions: list[int]) -> Iterator[tuple[str, Extract]]:
    """Return the methods by their names."""
    for name in ("d2np", "vgg16", "analytic"):
        net = d2np.Net.load(name)
        yield name, net
        if multiscale:
            yield f"{name}, 3 scales", lambda image, net=net: net(image, scales=(0.5, 1.0, 2.0))
        if rotations:
            yield f"{name}, 4 rotations", lambda image, net=net: net(image, rotations=(0, 90, 180, 270))
        yield from projected(name, net, dimensions)
    if found := sift():
        yield "SIFT", found


def projected(name: str, net: d2np.Net, dimensions: list[int]) -> Iterator[tuple[str, Extract]]:
    """Return a method with fewer dimensions."""
    with TemporaryDirectory() as folder:
        for label, image in images().items() if dimensions else ():
            Image.fromarray(image).save(f"{folder}/{label}.png")
        entries = listing([folder]) if dimensions else []
        learnt_of = [learnt(net, entries, Settings(), size) for size in dimensions]
    for projection in learnt_of:

        def extract(image: np.ndarray, projection: Projection = projection) -> d2np.Features:
            return project(net(image), projection)

        yield f"{name}, {projection.dimensions} dimensions", extract


def stereo(extract: Extract) -> Iterator[tuple[str, Score]]:
    """Score a method on the stereo pair."""
    try:
        left, right, disparity = data.stereo_motorcycle()
    except (ImportError, OSError) as error:  # in the wheel up to scikit-image 0.26, else downloaded by pooch
        reason = str(error).partition("\n")[0]
        print(f"the stereo pair is left out: this scikit-image cannot give it ({reason})", file=sys.stderr)
        return
    a, b = extract(left), extract(right)
    yield "motorcycle, stereo", stereo_score(a, b, d2np.match(a, b), disparity)


def synthetic(extract: Extract, seeds: int, rotations: bool) -> Iterator[tuple[str, Score]]:
    """Score a method on the views of each image."""
    for name, image in images().items() if seeds else ():
        views = [("scale 0.7", scale_case(image)), ("rotation 15°", rotation_case(image))]
        if rotations:
            views += [(f"rotation {angle}°", rotation_case(image, angle)) for angle in (90, 180)]
        for label, strength in (("mild", MILD), ("medium", MEDIUM)):
            views += [(label, warp(image, strength, 1000 + seed)) for seed in range(seeds)]
        own = extract(image)
        for label, (view, homography) in views:
            other = extract(view)
            found = score(own, other, d2np.match(own, other), homography, own.image_size)
            # It repeats itself, which makes it another task.
            yield (f"brick, {label}" if name == "brick" else label), found


def photographs(extract: Extract, folders: list[Path]) -> Iterator[tuple[str, Score]]:
    """Count the matches that one camera's motion explains, in all pairs of a folder's photographs."""
    for folder in folders:
        features = [extract(np.asarray(Image.open(file).convert("RGB"))) for file in sorted(folder.iterdir())]
        for a, b in combinations(features, 2):
            found = d2np.verification.verify(a, b, d2np.match(a, b), "fundamental")
            right = int(found.inliers.sum())
            yield folder.name, Score(len(found), right, right / max(1, len(found)), np.inf)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--seeds", type=int, default=10, help="mild and medium views of each image; default: 10"
    )
    parser.add_argument("--multiscale", action="store_true", help="three scales too")
    parser.add_argument("--rotations", action="store_true", help="four rotations too")
    parser.add_argument(
        "--dimensions", type=int, nargs="*", default=[], help="descriptors of so many dimensions too"
    )
    parser.add_argument(
        "--photographs", type=Path, nargs="*", default=[], help="folders with photographs of one scene each"
    )
    options = parser.parse_args()
    rows: dict[str, list[str]] = defaultdict(list)
    methods = []
    for method, extract in extractors(options.multiscale, options.rotations, options.dimensions):
        methods.append(method)
        found = defaultdict(list)
        views = synthetic(extract, options.seeds, options.rotations)
        for case, result in chain(stereo(extract), views, photographs(extract, options.photographs)):
            found[case].append(result)
        for case, results in found.items():
            share, matches = (np.mean([getattr(one, key) for one in results]) for key in ("share", "matches"))
            rows[case].append(f"{share:.0%} of {matches:.0f}")
    print("| pairs | " + " | ".join(methods) + " |")
    print("| --- |" + " --- |" * len(methods))
    for case, cells in rows.items():
        print(f"| {case} | " + " | ".join(cells) + " |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
