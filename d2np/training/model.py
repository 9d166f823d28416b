"""Training pairs from a COLMAP model."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import FormatError, ImageError, count
from ..extras import require
from ..images.open import open_file
from .pairs import FEWEST, Pair, Pairs, Points, photograph


class Model(Pairs):
    """Pairs of images of a COLMAP model that see common 3D points; their tracks give the positions.

    Needs the package ``pycolmap``. All images are decoded at first, so that a damaged one is found before the
    training.

    Parameters
    ----------
    model : path
        A folder with ``cameras``, ``images`` and ``points3D``, ``.bin`` or ``.txt``.
    images : path
        The folder that the names of its images start from. They may have been resized since.
    size, published
        As for :class:`Pairs`.

    Raises
    ------
    FormatError
        If pycolmap is missing, or the model cannot be read or has no two images with common points.
    ImageError
        If an image cannot be read or has another aspect ratio than its camera.
    """

    # Windows of a pair that are drawn to find enough common points.
    _TRIES = 10

    def __init__(self, model: Path, images: Path, size: int, published: bool = False) -> None:
        pycolmap = require("pycolmap", "training on a COLMAP model needs", "colmap", FormatError)
        try:
            read = pycolmap.Reconstruction(str(model))
        except (ValueError, RuntimeError, OSError) as error:
            raise FormatError(f"{model} is not a COLMAP model: {error}") from None
        self._seen = {
            images / image.name: _Seen.of(image, read.cameras[image.camera_id])
            for image in sorted(read.images.values(), key=lambda image: str(image.name))
        }
        others: dict[Path, list[Path]] = {file: [] for file in self._seen}
        for a, b in combinations(others, 2):
            if len(np.intersect1d(self._seen[a].ids, self._seen[b].ids, assume_unique=True)) >= FEWEST:
                others[a].append(b)
                others[b].append(a)
        self._others = {file: found for file, found in others.items() if found}
        if not self._others:
            raise FormatError(f"{model}: no two images have {FEWEST} points in common")
        what = f"{count(len(self._others), 'image')} of a COLMAP model"
        super().__init__(what, list(self._others), size, published)

    def _check(self, file: Path) -> None:
        with open_file(file) as opened:
            width, height = opened.size
        camera = self._seen[file].camera
        # Both edges may have been rounded by less than a pixel.
        if abs(width * camera[1] - height * camera[0]) > max(camera):
            raise ImageError(
                f"{file} has {width} x {height} px, its camera in the model {camera[0]} x {camera[1]} px: "
                "give the image that COLMAP had, of whatever size"
            )
        photograph(file, orient=False)

    def draw(self, number: int, rng: np.random.Generator) -> Pair:
        """Return windows of two images around a common point.

        Several are drawn, until they have :data:`FEWEST` points in common; else those with the most are
        returned.

        Raises
        ------
        ImageError
            If an image can no longer be read.
        """
        pairs: list[Pair] = []
        while len(pairs) < self._TRIES:
            pairs.append(self._drawn(self.files[number], rng))
            if len(pairs[-1].correspondences.first) >= FEWEST:
                break
        return max(pairs, key=lambda pair: len(pair.correspondences.first))

    def _drawn(self, file: Path, rng: np.random.Generator) -> Pair:
        other = self._others[file][rng.integers(len(self._others[file]))]
        seen = self._seen[file], self._seen[other]
        ids, *places = np.intersect1d(seen[0].ids, seen[1].ids, assume_unique=True, return_indices=True)
        images = [photograph(each, orient=False) for each in (file, other)]  # as COLMAP has them
        positions = [
            one.xy[place] * (np.array(image.size) / one.camera) - 0.5
            for one, place, image in zip(seen, places, images, strict=True)
        ]
        chosen = rng.integers(len(ids))
        (first, a), (second, b) = (
            self._window(np.asarray(image), points[chosen])
            for image, points in zip(images, positions, strict=True)
        )
        cells = (
            (points - o - self._centre)[:, ::-1] / 4 for points, o in zip(positions, (a, b), strict=True)
        )
        return self._kept(first, second, *cells)


class _Seen(NamedTuple):
    """3D points that an image of a COLMAP model sees.

    Attributes
    ----------
    ids : (N,) int64, ascending
    xy : (N, 2) float64
        Pixels of the camera; the centre of the first pixel is (0.5, 0.5).
    camera : (int, int)
        Width and height.
    """

    ids: NDArray[np.int64]
    xy: Points
    camera: tuple[int, int]

    @classmethod
    def of(cls, image: Any, camera: Any) -> _Seen:
        points = [point for point in image.points2D if point.has_point3D()]
        # A point may be seen twice.
        ids, places = np.unique(np.array([p.point3D_id for p in points], np.int64), return_index=True)
        xy = np.array([point.xy for point in points], np.float64).reshape(-1, 2)
        return cls(ids, xy[places], (camera.width, camera.height))
