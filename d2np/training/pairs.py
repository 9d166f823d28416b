"""Training pairs: views of photographs, images of a COLMAP model, or pairs with depth or disparity."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .. import homography
from ..errors import FormatError, ImageError
from ..extras import require
from ..images.open import open_rgb
from ..layers import map_size
from .loss import Correspondences
from .views import views

LONGEST_EDGE = 640
"""Pixels to which photographs are reduced."""

PUBLISHED, TRUE = 1.5, 3.5
"""Pixels from an image's first pixel to the centre of the first cell: as published, and in truth."""

Points = NDArray[np.float64]


class Pair(NamedTuple):
    """Two images of one scene, (H, W, 3) uint8, and which positions of their maps correspond."""

    first: NDArray[np.uint8]
    second: NDArray[np.uint8]
    correspondences: Correspondences


class Pairs(Protocol):
    """Pairs of images to train with."""

    def __len__(self) -> int:
        """Return the number of first images."""

    def draw(self, number: int, rng: np.random.Generator) -> Pair:
        """Return a pair with the first image ``number``; all else is drawn by ``rng``."""


class Photographs:
    """Two views of one photograph, see :mod:`d2np.training.views`.

    Parameters
    ----------
    paths : sequence of path
    size : int
        Edge of the views in pixels.
    centre : float
        :data:`PUBLISHED` or :data:`TRUE`.
    """

    def __init__(self, paths: Sequence[Path], size: int, centre: float = PUBLISHED) -> None:
        self.paths, self.size, self.centre = list(paths), size, centre

    def __len__(self) -> int:
        return len(self.paths)

    def draw(self, number: int, rng: np.random.Generator) -> Pair:
        """Return two views of a photograph.

        Raises
        ------
        ImageError
            If it cannot be read or is smaller than a view.
        """
        photo = _photograph(self.paths[number])
        if min(photo.size) < self.size:
            raise ImageError(
                f"{self.paths[number]}: {photo.width} x {photo.height} px, once reduced, are less "
                f"than a view of {self.size} px: leave it out, or give a smaller --size"
            )
        found = views(photo, self.size, rng)
        return _pair(found.first, found.second, lambda xy: homography.apply(found.truth, xy), self.centre)


class Depths:
    """Pairs of images with dense geometry, in NumPy archives.

    Each ``.npz`` has ``image1`` and ``image2`` (H, W, 3) uint8, and either ``disparity`` (H, W), the pixels
    that a point of the first image lies further left in the second, or ``depth1``, ``depth2`` (H, W),
    ``intrinsics1``, ``intrinsics2`` (3, 3) and ``pose1``, ``pose2`` (4, 4), world to camera, as in MegaDepth.
    0 or NaN is unknown.

    Parameters
    ----------
    paths, size, centre
        As for :class:`Photographs`.
    """

    # A point is hidden in the second image where its depth differs by more than this share of it.
    _HIDDEN = 0.05

    def __init__(self, paths: Sequence[Path], size: int, centre: float = PUBLISHED) -> None:
        self.paths, self.size, self.centre = list(paths), size, centre

    def __len__(self) -> int:
        return len(self.paths)

    def draw(self, number: int, rng: np.random.Generator) -> Pair:
        """Return windows of both images around a point that both show.

        Raises
        ------
        FormatError
            If the archive lacks an array or they do not fit each other.
        """
        path = self.paths[number]
        try:
            with np.load(path, allow_pickle=False) as saved:
                arrays = {name: saved[name] for name in saved.files}
            images = arrays["image1"], arrays["image2"]
            mapping = self._disparity(arrays) if "disparity" in arrays else self._depth(arrays)
            known = arrays["disparity" if "disparity" in arrays else "depth1"]
            rows, columns = np.nonzero(np.nan_to_num(known) > 0)
            chosen = rng.integers(len(rows))
            point = np.array([[columns[chosen], rows[chosen]]], np.float64)
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise FormatError(f"{path} is not a pair with depth or disparity: {error}") from None
        return _windows(images, mapping, (point[0], mapping(point)[0]), self.size, self.centre)

    @staticmethod
    def _disparity(arrays: dict[str, NDArray[Any]]) -> Callable[[Points], Points]:
        disparity = arrays["disparity"]

        def mapping(xy: Points) -> Points:
            shift = _at(disparity, xy)
            return np.where(
                shift[:, np.newaxis] > 0, xy - np.stack([shift, np.zeros_like(shift)], axis=1), np.nan
            )

        return mapping

    @classmethod
    def _depth(cls, arrays: dict[str, NDArray[Any]]) -> Callable[[Points], Points]:
        depths = arrays["depth1"], arrays["depth2"]
        first, second = (arrays[f"intrinsics{n}"].astype(np.float64) for n in (1, 2))
        motion = arrays["pose2"].astype(np.float64) @ np.linalg.inv(arrays["pose1"].astype(np.float64))

        def mapping(xy: Points) -> Points:
            depth = _at(depths[0], xy)
            rays = np.column_stack([xy, np.ones(len(xy))]) @ np.linalg.inv(first).T
            moved = (rays * depth[:, np.newaxis]) @ motion[:3, :3].T + motion[:3, 3]
            with np.errstate(divide="ignore", invalid="ignore"):
                found = (moved @ second.T)[:, :2] / moved[:, 2:]
                seen = _at(depths[1], found)
                good = (depth > 0) & (moved[:, 2] > 0) & (np.abs(seen / moved[:, 2] - 1) < cls._HIDDEN)
            return np.where(good[:, np.newaxis], found, np.nan)

        return mapping


class Model:
    """Pairs of images of a COLMAP model that see common 3D points; their tracks give the positions.

    Needs the package ``pycolmap``.

    Parameters
    ----------
    model : path
        A folder with ``cameras``, ``images`` and ``points3D``, ``.bin`` or ``.txt``.
    images : path
        The folder that the names of its images start from.
    size, centre
        As for :class:`Photographs`.
    """

    _FEWEST_COMMON = 64

    def __init__(self, model: Path, images: Path, size: int, centre: float = PUBLISHED) -> None:
        pycolmap = require("pycolmap", "training on a COLMAP model", "pycolmap", FormatError)
        try:
            read = pycolmap.Reconstruction(str(model))
        except (ValueError, RuntimeError, OSError) as error:
            raise FormatError(f"{model} is not a COLMAP model: {error}") from None
        self.folder, self.size, self.centre = images, size, centre
        # COLMAP's pixel centres are halves.
        self._seen = {
            image.name: {p.point3D_id: p.xy - 0.5 for p in image.points2D if p.has_point3D()}
            for image in read.images.values()
        }
        names = sorted(self._seen)
        common = {
            a: [b for b in names if b != a and self._common(a, b) >= self._FEWEST_COMMON] for a in names
        }
        self._others = {name: others for name, others in common.items() if others}
        if not self._others:
            raise FormatError(f"{model}: no two images have {self._FEWEST_COMMON} points in common")

    def _common(self, a: str, b: str) -> int:
        return len(self._seen[a].keys() & self._seen[b].keys())

    def __len__(self) -> int:
        return len(self._others)

    def draw(self, number: int, rng: np.random.Generator) -> Pair:
        """Return windows of two images around a common point."""
        name = list(self._others)[number]
        other = self._others[name][rng.integers(len(self._others[name]))]
        ids = sorted(self._seen[name].keys() & self._seen[other].keys())
        positions, images = [], []
        for each in (name, other):
            photo = open_rgb(self.folder / each)
            small = _photograph(self.folder / each)
            factor = small.width / photo.shape[1]
            positions.append((np.array([self._seen[each][one] for one in ids]) + 0.5) * factor - 0.5)
            images.append(np.asarray(small))
        chosen = rng.integers(len(ids))
        (first, a), (second, b) = (
            _window(image, points[chosen], self.size) for image, points in zip(images, positions, strict=True)
        )
        pairs = Correspondences(
            *((p - o - self.centre)[:, ::-1] / 4 for p, o in zip(positions, (a, b), strict=True))
        )
        return Pair(first, second, _inside(pairs, first, second))


def _pair(
    first: NDArray[np.uint8], second: NDArray[np.uint8], mapping: Callable[[Points], Points], centre: float
) -> Pair:
    """Return a pair whose correspondences are the first map's cells, where a mapping of pixels takes them."""
    cells = np.indices(map_size(*first.shape[:2]), np.float64).reshape(2, -1).T
    found = (mapping(cells[:, ::-1] * 4 + centre)[:, ::-1] - centre) / 4
    return Pair(first, second, _inside(Correspondences(cells, found), first, second))


def _inside(pairs: Correspondences, *images: NDArray[np.uint8]) -> Correspondences:
    """Return the correspondences that lie inside both maps."""
    kept = np.ones(len(pairs.first), np.bool_)
    for positions, image in zip(pairs, images, strict=True):
        with np.errstate(invalid="ignore"):
            kept &= ((positions >= 0) & (positions <= np.array(map_size(*image.shape[:2])) - 1)).all(axis=1)
    return Correspondences(pairs.first[kept], pairs.second[kept])


def _windows(
    images: tuple[NDArray[np.uint8], NDArray[np.uint8]],
    mapping: Callable[[Points], Points],
    points: tuple[Points, Points],
    size: int,
    centre: float,
) -> Pair:
    """Return the windows of two images around a point in each, with a mapping of the whole images' pixels."""
    (first, a), (second, b) = (
        _window(image, point, size) for image, point in zip(images, points, strict=True)
    )
    return _pair(first, second, lambda xy: mapping(xy + a) - b, centre)


def _window(image: NDArray[np.uint8], point: Points, size: int) -> tuple[NDArray[np.uint8], Points]:
    """Return the part of an image around a point, and where it begins: (x, y)."""
    most = np.maximum(np.array(image.shape[1::-1]) - size, 0)
    x, y = np.clip(np.rint(np.nan_to_num(point) - size / 2), 0, most).astype(int)
    return np.ascontiguousarray(image[y : y + size, x : x + size]), np.array([x, y], np.float64)


def _at(values: NDArray[Any], xy: Points) -> Points:
    """Return a map's values at the nearest pixels; NaN outside."""
    columns, rows = np.rint(np.nan_to_num(xy, nan=-1)).astype(np.int64).T
    inside = (rows >= 0) & (columns >= 0) & (rows < values.shape[0]) & (columns < values.shape[1])
    found = np.full(len(xy), np.nan)
    found[inside] = values[rows[inside], columns[inside]]
    return found


@lru_cache(maxsize=256)
def _photograph(path: Path) -> Image.Image:
    """Return a photograph with the longest edge at most :data:`LONGEST_EDGE`."""
    photo = Image.fromarray(open_rgb(path, orient=True))
    photo.thumbnail((LONGEST_EDGE, LONGEST_EDGE), Image.Resampling.LANCZOS)
    return photo
