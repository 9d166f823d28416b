"""How well the analytic weights match, beside OpenCV's SIFT on the same pairs.

    python benchmarks/quality.py --seeds 10

Pictures of scikit-image's ``data`` and views of them through a known homography, darker by a fifth. A match
is right within 3 px of the truth. Both methods keep mutual nearest neighbours, and nothing else.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np

import d2np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from evaluation import MEDIUM, MILD, pictures, rotation_case, scale_case, score, warp


def sift(image: np.ndarray) -> d2np.Features:
    """OpenCV's SIFT as features; its 128 numbers are filled up with zeros, which changes no product."""
    grey = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    keypoints, descriptors = cv2.SIFT_create().detectAndCompute(grey, None)
    vectors = np.zeros((len(keypoints), 512), np.float32)
    vectors[:, :128] = descriptors / np.linalg.norm(descriptors, axis=1, keepdims=True)
    places = [(*keypoint.pt, keypoint.size / 10) for keypoint in keypoints]
    scores = [keypoint.response for keypoint in keypoints]
    return d2np.Features(places, scores, vectors, grey.shape[::-1])


def worst(errors: list[float]) -> str:
    """A homography that is off by half a picture is none."""
    return f"{max(errors):.1f}" if max(errors) < 100 else "fails"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=10)
    options = parser.parse_args()
    net = d2np.Net.load("analytic")
    methods = {
        "analytic": net,
        "analytic, 3 scales": lambda image: net(image, scales=(0.5, 1.0, 2.0)),
        "SIFT": sift,
    }
    shares, errors, counts = (defaultdict(list) for _ in range(3))
    for name, image in pictures().items():
        views = {"scale 0.7": [scale_case(image)], "rotation 15°": [rotation_case(image)]}
        for label, strength in (("mild", MILD), ("medium", MEDIUM)):
            views[label] = [warp(image, strength, 1000 + seed) for seed in range(options.seeds)]
        for method, extract in methods.items():
            own = extract(image)
            for case, pairs in views.items():
                key = f"brick, {case}" if name == "brick" else case
                for view, homography in pairs:
                    other = extract(view)
                    found = score(own, other, d2np.match(own, other), homography, own.image_size)
                    shares[key, method].append(found.share)
                    errors[key, method].append(found.corner_error)
                    counts[key, method].append(found.matches)
    print("| view | " + " | ".join(f"{method}: right | matches | corners" for method in methods) + " |")
    print("| --- |" + " --- | --- | --- |" * len(methods))
    for case in ("mild", "medium", "scale 0.7", "rotation 15°", "brick, mild", "brick, medium"):
        cells = [
            f"{np.mean(shares[case, method]):.0%} | {np.mean(counts[case, method]):.0f} | "
            f"{np.median(errors[case, method]):.1f} px, worst {worst(errors[case, method])}"
            for method in methods
        ]
        print(f"| {case} | " + " | ".join(cells) + " |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
