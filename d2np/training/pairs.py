"""Training pairs: views of photographs, images of a COLMAP model, or pairs with depth or disparity."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import FormatError, ImageError, OptionError, count
from ..extras import require
from ..images.open import open_file, open_rgb
from ..layers import map_size
from ..verification import transformed
from .loss import Correspondences
from .views import views

LONGEST_EDGE = 640
"""Pixels to which photographs are reduced."""

PUBLISHED, TRUE = 1.5, 3.5
"""Pixels from an image's first pixel to the centre of the first cell: as published, and in truth."""

FEWEST = 128
"""Pairs with fewer correspondences teach nothing and are left out, as in the published code."""

SMALLEST = 64
"""Pixels of a view that still has correspondences outside the safe radius."""

Points = NDArray[np.float64]


class Pair(NamedTuple):
    """Two images of one scene, (H, W, 3) uint8, and which positions of their maps correspond."""

    first: NDArray[np.uint8]
    second: NDArray[np.uint8]
    correspondences: Correspondences


class Pairs(ABC):
    """Pairs of images to train with.

    Parameters
    ----------
    what : str
        What they come from.
    files : sequence of path
    size : int
        Longest edge of the images in pixels.
    published : bool
        Let a cell lie where the published code has it, and round positions to whole cells, as it does. By
        default a cell lies in the middle of what it sees, and features are interpolated.

    Attributes
    ----------
    description : str
        What they are, with a checksum of the files' names and sizes: a training goes on with the same only.

    Raises
    ------
    OptionError
        If the size makes no sense.
    """

    def __init__(self, what: str, files: Sequence[Path], size: int, published: bool = False) -> None:
        if size < SMALLEST:
            raise OptionError(f"views of {size} px are too small to train on: give {SMALLEST} px at least")
        self.files, self.size, self.published = list(files), size, published
        self._centre = PUBLISHED if published else TRUE
        told = repr([(file.name, file.stat().st_size) for file in files])
        digest = hashlib.sha256(told.encode()).hexdigest()[:12]
        places = ", published positions" if published else ""
        self.description = f"{what} ({digest}), views of {size} px{places}"

    def __len__(self) -> int:
        """Return the number of first images."""
        return len(self.files)

    @abstractmethod
    def draw(self, number: int, rng: np.random.Generator) -> Pair:
        """Return a pair with the first image ``number``; all else is drawn by ``rng``."""

    def _pair(
        self, first: NDArray[np.uint8], second: NDArray[np.uint8], mapping: Callable[[Points], Points]
    ) -> Pair:
        """Return a pair whose correspondences are the first map's cells and where a mapping takes them."""
        cells = np.indices(map_size(*first.shape[:2]), np.float64).reshape(2, -1).T
        found = (mapping(cells[:, ::-1] * 4 + self._centre)[:, ::-1] - self._centre) / 4
        return self._kept(first, second, cells, found)

    def _kept(
        self, first: NDArray[np.uint8], second: NDArray[np.uint8], cells: Points, found: Points
    ) -> Pair:
        """Return a pair with those of the correspondences that lie inside both maps."""
        if self.published:
            cells, found = np.rint(cells), np.rint(found)
        kept = np.ones(len(cells), np.bool_)
        places = []
        for positions, image in ((cells, first), (found, second)):
            last = np.array(map_size(*image.shape[:2])) - 1
            # Positions on the map's border must not fall off it by a rounding error.
            with np.errstate(invalid="ignore"):
                kept &= ((positions > -1e-6) & (positions < last + 1e-6)).all(axis=1)
            places.append(np.clip(positions, 0, last))
        return Pair(first, second, Correspondences(*(positions[kept] for positions in places)))

    def _window(self, image: NDArray[np.uint8], point: Points) -> tuple[NDArray[np.uint8], Points]:
        """Return the part of an image around a point, and where it begins: (x, y)."""
        most = np.maximum(np.array(image.shape[1::-1]) - self.size, 0)
        x, y = np.clip(np.rint(np.nan_to_num(point) - self.size / 2), 0, most).astype(int)
        window = image[y : y + self.size, x : x + self.size]
        return np.ascontiguousarray(window), np.array([x, y], np.float64)


class Photographs(Pairs):
    """Two views of one photograph, see :mod:`d2np.training.views`.

    Parameters
    ----------
    files, size, published
        As for :class:`Pairs`.

    Raises
    ------
    ImageError
        If a photograph cannot be read or is smaller than a view.
    """

    def __init__(self, files: Sequence[Path], size: int, published: bool = False) -> None:
        super().__init__(count(len(files), "photograph"), files, size, published)
        for file in files:
            with open_file(file) as opened:
                width, height = opened.size
            factor = min(1, LONGEST_EDGE / max(width, height))
            if round(min(width, height) * factor) < size:
                reduced = f", or {round(width * factor)} x {round(height * factor)} px as trained on"
                raise ImageError(
                    f"{file} has {width} x {height} px{reduced if factor < 1 else ''}, less than a view of "
                    f"{size} px: leave it out, or give a smaller --size"
                )

    def draw(self, number: int, rng: np.random.Generator) -> Pair:
        """Return two views of a photograph.

        Raises
        ------
        ImageError
            If it cannot be read.
        """
        found = views(_photograph(self.files[number]), self.size, rng)
        return self._pair(found.first, found.second, lambda xy: transformed(found.truth, xy))


class Depths(Pairs):
    """Pairs of images with dense geometry, in NumPy archives.

    Each ``.npz`` has ``image1`` and ``image2`` (H, W, 3) uint8, and either ``disparity`` (H, W), the pixels
    that a point of the first image lies further left in the second, or ``depth1``, ``depth2`` (H, W),
    ``intrinsics1``, ``intrinsics2`` (3, 3) and ``pose1``, ``pose2`` (4, 4), world to camera, as in MegaDepth.
    0 or NaN is unknown. Intrinsics are COLMAP's, whose first pixel has its centre at (0.5, 0.5).

    Parameters
    ----------
    files, size, published
        As for :class:`Pairs`.
    """

    # A point is hidden in the second image where its depth differs by more than this share of it.
    _HIDDEN = 0.05

    def __init__(self, files: Sequence[Path], size: int, published: bool = False) -> None:
        super().__init__(count(len(files), "pair") + " with depth", files, size, published)

    def draw(self, number: int, rng: np.random.Generator) -> Pair:
        """Return windows of both images around a point that both show.

        Raises
        ------
        FormatError
            If the archive lacks an array or they do not fit each other.
        """
        path = self.files[number]
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
        (first, a), (second, b) = map(self._window, images, (point[0], mapping(point)[0]))
        return self._pair(first, second, lambda xy: mapping(xy + a) - b)

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
            # Intrinsics as COLMAP has them: the centre of the first pixel is (0.5, 0.5).
            rays = np.column_stack([xy + 0.5, np.ones(len(xy))]) @ np.linalg.inv(first).T
            moved = (rays * depth[:, np.newaxis]) @ motion[:3, :3].T + motion[:3, 3]
            with np.errstate(divide="ignore", invalid="ignore"):
                found = (moved @ second.T)[:, :2] / moved[:, 2:] - 0.5
                seen = _at(depths[1], found)
                good = (depth > 0) & (moved[:, 2] > 0) & (np.abs(seen / moved[:, 2] - 1) < cls._HIDDEN)
            return np.where(good[:, np.newaxis], found, np.nan)

        return mapping


class Model(Pairs):
    """Pairs of images of a COLMAP model that see common 3D points; their tracks give the positions.

    Needs the package ``pycolmap``.

    Parameters
    ----------
    model : path
        A folder with ``cameras``, ``images`` and ``points3D``, ``.bin`` or ``.txt``.
    images : path
        The folder that the names of its images start from.
    size, published
        As for :class:`Pairs`.

    Raises
    ------
    FormatError
        If pycolmap is missing, or the model cannot be read or has no two images with common points.
    """

    def __init__(self, model: Path, images: Path, size: int, published: bool = False) -> None:
        pycolmap = require("pycolmap", "training on a COLMAP model needs", "colmap", FormatError)
        try:
            read = pycolmap.Reconstruction(str(model))
        except (ValueError, RuntimeError, OSError) as error:
            raise FormatError(f"{model} is not a COLMAP model: {error}") from None
        self._images = images
        # COLMAP's pixel centres are halves.
        self._seen = {
            image.name: {p.point3D_id: p.xy - 0.5 for p in image.points2D if p.has_point3D()}
            for image in read.images.values()
        }
        names = sorted(self._seen)
        common = {a: [b for b in names if b != a and self._common(a, b) >= FEWEST] for a in names}
        self._others = {name: others for name, others in common.items() if others}
        if not self._others:
            raise FormatError(f"{model}: no two images have {FEWEST} points in common")
        files = [images / name for name in self._others]
        super().__init__(f"{count(len(files), 'image')} of a COLMAP model", files, size, published)

    def _common(self, a: str, b: str) -> int:
        return len(self._seen[a].keys() & self._seen[b].keys())

    def draw(self, number: int, rng: np.random.Generator) -> Pair:
        """Return windows of two images around a common point."""
        name = list(self._others)[number]
        other = self._others[name][rng.integers(len(self._others[name]))]
        ids = sorted(self._seen[name].keys() & self._seen[other].keys())
        positions, images = [], []
        for each in (name, other):
            file = self._images / each
            small = _photograph(file, orient=False)  # as COLMAP has them
            with open_file(file) as opened:
                factor = small.width / opened.size[0]
            positions.append((np.array([self._seen[each][one] for one in ids]) + 0.5) * factor - 0.5)
            images.append(np.asarray(small))
        chosen = rng.integers(len(ids))
        (first, a), (second, b) = map(self._window, images, (points[chosen] for points in positions))
        cells = (
            (points - o - self._centre)[:, ::-1] / 4 for points, o in zip(positions, (a, b), strict=True)
        )
        return self._kept(first, second, *cells)


def _at(values: NDArray[Any], xy: Points) -> Points:
    """Return a map's values at the nearest pixels; NaN outside."""
    columns, rows = np.rint(np.nan_to_num(xy, nan=-1)).astype(np.int64).T
    inside = (rows >= 0) & (columns >= 0) & (rows < values.shape[0]) & (columns < values.shape[1])
    found = np.full(len(xy), np.nan)
    found[inside] = values[rows[inside], columns[inside]]
    return found


@lru_cache(maxsize=256)
def _photograph(path: Path, *, orient: bool = True) -> Image.Image:
    """Return a photograph with the longest edge at most :data:`LONGEST_EDGE`."""
    photo = Image.fromarray(open_rgb(path, orient=orient))
    photo.thumbnail((LONGEST_EDGE, LONGEST_EDGE), Image.Resampling.LANCZOS)
    return photo
