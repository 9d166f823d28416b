"""The image below a drawing: opened, checked against its features, and scaled."""

from __future__ import annotations

from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import FormatError
from ..features import Features, Matches, check_indices
from ..images.open import open_rgb

# Below this longest edge an image is enlarged, so that circles and lines do not hide all of it.
SMALL = 400
# More than this would only show the blur of the enlargement.
_MOST_ENLARGED = 8


def open_for(image: Any, features: Features, *, orient: bool, which: str) -> NDArray[np.uint8]:
    """Return the image, once it is sure that the features are numbers and lie in an image of its size."""
    if not isinstance(features, Features):
        raise FormatError(f"{which} must be d2np.Features; got {type(features).__name__}")
    pixels = open_rgb(image, orient=orient)
    height, width = pixels.shape[:2]
    if features.image_size != (width, height):
        raise FormatError(
            f"{which} belong to an image of {features.image_size[0]} x {features.image_size[1]} pixels; "
            f"this one has {width} x {height}"
        )
    if not (np.isfinite(features.keypoints).all() and np.isfinite(features.scores).all()):
        raise FormatError(f"{which} hold keypoints or scores that are not finite numbers")
    return pixels


def open_pair(
    images: tuple[Any, Any], features: tuple[Features, Features], matches: Matches, *, orient: bool
) -> list[NDArray[np.uint8]]:
    """Return two images, once it is sure that the matches are numbers and belong to their features.

    Raises
    ------
    FormatError
        If not.
    """
    pixels = [
        open_for(image, each, orient=orient, which=which)
        for image, each, which in zip(images, features, ("features_a", "features_b"), strict=True)
    ]
    if not isinstance(matches, Matches):
        raise FormatError(f"matches must be d2np.Matches; got {type(matches).__name__}")
    if not np.isfinite(matches.similarities).all():
        raise FormatError("similarities of matches must be finite numbers")
    check_indices(matches, *map(len, features))
    return pixels


def enlargement(longest_edge: int, wanted: int = SMALL) -> int:
    """Return the whole factor that brings an edge to the wanted length."""
    return max(1, min(_MOST_ENLARGED, ceil(wanted / longest_edge)))


def resized(pixels: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """Return the image at another size, smooth when it grows and without aliasing when it shrinks."""
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))


def scaled_positions(
    features: Features, pixels: NDArray[np.uint8], width: int, height: int
) -> NDArray[np.float64]:
    """Return the (N, 2) positions of the keypoints once the image is ``width`` x ``height``.

    Pixel centres are whole numbers, so an image begins at -0.5, and that edge stays where it is.
    """
    scale = np.array([width / pixels.shape[1], height / pixels.shape[0]])
    positions: NDArray[np.float64] = (features.keypoints[:, :2] + 0.5) * scale - 0.5
    return positions
