"""Use every kernel once, so that all of them are compiled, or loaded from the cache."""

from __future__ import annotations

import numpy as np

from .matching import match, nearest_pairs
from .network.net import Net


def warm_up() -> None:
    """Compile every kernel, on images of a few pixels; those in Numba's cache are only loaded."""
    image = np.random.default_rng(0).integers(0, 256, (32, 40, 3)).astype(np.uint8)
    analytic = Net.load("analytic")
    for net in (analytic, Net(analytic.arrays, algorithm="direct")):
        features = net(image, scales=(0.5, 1.0), detector="strength", max_keypoints=5)
        net(image, relu=False)
    match(features, features)
    nearest_pairs(features, features, 1)
