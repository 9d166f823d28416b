"""Match an image with a view of it that is known exactly, and measure: ``d2np demo``."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from . import verification
from .features import Features, Matches

if TYPE_CHECKING:
    from .network.net import Net

IMAGE = "astronaut.jpg"

TOLERANCE = 3.0
"""Pixels that a match may be off and still be right."""

# The second view: its edge, and the homography from its pixels to those of the image, both with Pillow's
# coordinates, which begin at the top-left pixel's corner. All of it lies inside the image, so it has no black
# corners that no camera would see.
_EDGE = 461
_TO_FIRST = np.array(
    [
        [1.1062307508063596, -0.0555314533622556, 25.6],
        [0.1510290865419199, 0.9789915728839317, 0.0],
        [9.986940805370532e-05, 5.416645860540005e-05, 1.0],
    ]
)
_CONTRAST, _BRIGHTNESS = 0.8, 15


@dataclass(frozen=True)
class Views:
    """Two images of the same thing.

    Attributes
    ----------
    first, second : PIL.Image.Image
    truth : (3, 3) float64
        The homography from the pixels of the first to those of the second.
    """

    first: Image.Image
    second: Image.Image
    truth: NDArray[np.float64]


@dataclass(frozen=True)
class Result:
    """The features and matches of the demo, and how correct they are.

    Attributes
    ----------
    first, second : Features
    matches : Matches
    distances : (M,) float64
        How far each match is from where the true homography puts it, in pixels of the second view.
    """

    first: Features
    second: Features
    matches: Matches
    distances: NDArray[np.float64]

    @property
    def right(self) -> NDArray[np.bool_]:
        """(M,) bool: the matches within :data:`TOLERANCE` of the truth."""
        return self.distances <= TOLERANCE


def views() -> Views:
    """Return the shipped image, and a darker view of it through a known homography."""
    with resources.files(__package__).joinpath("data").joinpath(IMAGE).open("rb") as stream:
        first = Image.open(stream).convert("RGB")
    second = first.transform(
        (_EDGE, _EDGE), Image.Transform.PERSPECTIVE, _TO_FIRST.ravel()[:8].tolist(), Image.Resampling.BICUBIC
    )
    darker = np.rint(np.asarray(second) * _CONTRAST + _BRIGHTNESS).astype(np.uint8)
    # Keypoints' coordinates begin at the centre of the top-left pixel.
    shift = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    truth = np.linalg.inv(shift) @ np.linalg.inv(_TO_FIRST) @ shift
    return Views(first, Image.fromarray(darker), truth / truth[2, 2])


def run(net: Net, given: Views, *, threads: int | None = None) -> Result:
    """Extract, match and measure."""
    from .matching import match

    first, second = net(given.first, threads=threads), net(given.second, threads=threads)
    matches = match(first, second, threads=threads)
    a, b = first.keypoints[matches.indices[:, 0], :2], second.keypoints[matches.indices[:, 1], :2]
    distances = np.linalg.norm(verification.transformed(given.truth, a) - b, axis=1)
    return Result(first, second, matches, distances)
