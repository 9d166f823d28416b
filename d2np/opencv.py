"""D2-Net as one of OpenCV's features: the calls of ``cv2.Feature2D``, with OpenCV's own types.

OpenCV's arrays are blue first, and so are the images here, unlike everywhere else in d2np.

:class:`D2Net` is no subclass of ``cv2.Feature2D``: OpenCV lets Python derive from it, but its C++ functions
look for a C++ object inside, find none, and crash the process (seen in 4.14 and 5.0). So functions that call
back from C++, such as ``cv2.detail.computeImageFeatures2``, cannot use it; whatever takes keypoints and
descriptors can.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .errors import FormatError, ImageError, OptionError
from .extras import require
from .features import DESCRIPTOR_SIZE, Features, Matches
from .options import Options

if TYPE_CHECKING:
    from .network.net import Net

_SIZE = 8.0
"""Diameter of a keypoint of scale 1: the 2 x 2 cells of 4 px that its descriptor is interpolated from."""


class D2Net:
    """Finds and describes keypoints as ``cv2.SIFT`` and the like do.

    Parameters
    ----------
    net : Net, path or name
        A network, or what :meth:`d2np.Net.load` loads one from, such as ``"vgg16"``.
    **options
        ``threads`` and the fields of :class:`d2np.Options`, such as ``max_keypoints=2000`` or
        ``scales=(0.5, 1.0, 2.0)``. A mask may be given to each call instead.

    Raises
    ------
    OptionError
        If an option has a value that makes no sense.
    TypeError
        If there is no such option.
    WeightsError
        If no network can be loaded.
    FormatError
        If OpenCV is missing.
    """

    def __init__(
        self, net: Net | str | os.PathLike[str], *, threads: int | None = None, **options: Any
    ) -> None:
        _opencv()
        from .network.net import Net

        if not isinstance(net, Net):
            net = Net.load(net)
        self._net, self._threads, self._options = net, threads, Options(**options)

    def detectAndCompute(
        self, image: Any, mask: Any = None
    ) -> tuple[tuple[Any, ...], NDArray[np.float32] | None]:
        """Find keypoints and describe them.

        Parameters
        ----------
        image : (H, W) or (H, W, 3 | 4) uint8
            Grey, or blue first: as ``cv2.imread`` returns it. Deeper images as in :class:`d2np.Net`.
        mask : (H, W) array, optional
            Keypoints only where it is not zero.

        Returns
        -------
        keypoints : tuple of cv2.KeyPoint
            See :func:`to_keypoints`.
        descriptors : (N, 512) float32, or None
            None where nothing was found, as with OpenCV.

        Raises
        ------
        ImageError
            If the image or the mask cannot be used.
        OptionError
            If there is no such number of threads.
        """
        options = self._options if mask is None else replace(self._options, mask=mask)
        features = self._net(_red_first(image), options, threads=self._threads)
        return to_keypoints(features), features.descriptors if len(features) else None

    def detect(self, image: Any, mask: Any = None) -> tuple[Any, ...]:
        """Find keypoints; for the parameters and errors see :meth:`detectAndCompute`."""
        return self.detectAndCompute(image, mask)[0]

    def compute(self, image: Any, keypoints: Sequence[Any]) -> tuple[tuple[Any, ...], Any]:
        """Describe keypoints from anywhere, at the image's own size.

        Those too near the border to be described are left out, as with OpenCV.
        """
        try:
            xy = np.array([keypoint.pt for keypoint in keypoints], np.float64).reshape(-1, 2)
        except (AttributeError, TypeError, ValueError):
            raise OptionError("keypoints must be cv2.KeyPoint") from None
        vectors, valid = self._net.describe(_red_first(image), xy, self._options, threads=self._threads)
        kept = tuple(keypoint for keypoint, inside in zip(keypoints, valid, strict=True) if inside)
        return kept, vectors[valid] if len(kept) else None

    def descriptorSize(self) -> int:
        """Return 512."""
        return DESCRIPTOR_SIZE

    def defaultNorm(self) -> int:
        """Return ``cv2.NORM_L2``: the distance that matchers are to use."""
        return int(_opencv().NORM_L2)


def to_keypoints(features: Features) -> tuple[Any, ...]:
    """Return features as OpenCV's keypoints, in their order.

    Returns
    -------
    tuple of cv2.KeyPoint
        ``pt`` is x, y, with (0, 0) the centre of the top-left pixel in both; ``size`` is 8 px times the
        scale; ``response`` the score; ``octave`` 0 for the image's own size, 1 for half and -1 for double
        size; ``angle`` -1, as D2-Net gives none, or how the image was turned for this keypoint.
    """
    KeyPoint = _opencv().KeyPoint
    octaves = np.rint(np.log2(features.keypoints[:, 2])).astype(np.int64).tolist()
    angles = [-1] * len(features) if features.rotations is None else features.rotations.tolist()
    rows = zip(features.keypoints.tolist(), features.scores.tolist(), angles, octaves, strict=True)
    return tuple(
        KeyPoint(x, y, _SIZE * scale, angle, score, octave) for (x, y, scale), score, angle, octave in rows
    )


def to_dmatches(matches: Matches) -> tuple[Any, ...]:
    """Return matches as ``cv2.DMatch``, for ``cv2.drawMatches`` and others; the distance is Euclidean."""
    DMatch = _opencv().DMatch
    # For unit vectors the squared distance is 2 - 2 cos; rounding may push the cosine past 1.
    distances = np.sqrt(np.maximum(2 - 2 * matches.similarities.astype(np.float64), 0)).tolist()
    return tuple(DMatch(i, j, each) for (i, j), each in zip(matches.indices.tolist(), distances, strict=True))


def _opencv() -> Any:
    return require("cv2", "OpenCV's types need", "opencv", FormatError, "opencv-python-headless")


def _red_first(image: Any) -> NDArray[Any]:
    if not isinstance(image, np.ndarray):
        raise ImageError(
            f"an image is an array here, not {type(image).__name__}; cv2.imread returns None for a file that "
            "it cannot read"
        )
    return image[..., 2::-1] if image.ndim == 3 and image.shape[2] in (3, 4) else image
