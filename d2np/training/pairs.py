"""Training pairs: views of photographs, images of a COLMAP model, or pairs with depth or disparity."""

from __future__ import annotations

import hashlib
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import combinations
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
        If the size makes no sense or there is no file.
    """

    def __init__(self, what: str, files: Sequence[Path], size: int, published: bool = False) -> None:
        if size < SMALLEST:
            raise OptionError(f"views of {size} px are too small to train on: give {SMALLEST} px at least")
        if not files:
            raise OptionError(f"{what} are too few to train on: give one at least")
        self.files, self.size, self.published = list(files), size, published
        for file in self.files:
            self._check(file)
        self._centre = PUBLISHED if published else TRUE
        told = repr([(file.name, file.stat().st_size) for file in files])
        digest = hashlib.sha256(told.encode()).hexdigest()[:12]
        places = ", published positions" if published else ""
        self.description = f"{what} ({digest}), views of {size} px{places}"

    def __len__(self) -> int:
        """Return the number of first images."""
        return len(self.files)

    @abstractmethod
    def _check(self, file: Path) -> None:
        """Raise an error if a file cannot be trained on; called for all files before anything is drawn."""

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

    All photographs are decoded at once, so that a damaged one is found before the training. 256 of them, of
    :data:`LONGEST_EDGE` px, stay in memory: about 300 MB.

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

    def _check(self, file: Path) -> None:
        with open_file(file) as opened:
            width, height = opened.size
        factor = min(1, LONGEST_EDGE / max(width, height))
        if round(min(width, height) * factor) < self.size:
            reduced = f", or {round(width * factor)} x {round(height * factor)} px as trained on"
            raise ImageError(
                f"{file} has {width} x {height} px{reduced if factor < 1 else ''}, less than a view of "
                f"{self.size} px: leave it out, or give a smaller --size"
            )
        _photograph(file)

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
    0, NaN, infinite or negative is unknown. Intrinsics are COLMAP's, whose first pixel has its centre at
    (0.5, 0.5).

    A point is hidden in the second image where the depth of the nearest pixel differs from its own by more
    than 5 % of its own. The published code allows 0.05, whatever the depth, and interpolates depth between
    four known pixels.

    All archives are read and checked at first, and each again whenever it is drawn: they may be too many for
    the memory.

    Parameters
    ----------
    files, size, published
        As for :class:`Pairs`.

    Raises
    ------
    FormatError
        If an archive cannot be read, lacks an array, or has one of another shape or type.
    """

    _HIDDEN = 0.05

    def __init__(self, files: Sequence[Path], size: int, published: bool = False) -> None:
        super().__init__(count(len(files), "pair") + " with depth", files, size, published)

    def _check(self, file: Path) -> None:
        _read(file)

    def draw(self, number: int, rng: np.random.Generator) -> Pair:
        """Return windows of both images around a point whose depth or disparity is known.

        Raises
        ------
        FormatError
            If the archive can no longer be read.
        """
        arrays = _read(self.files[number])
        by_disparity = "disparity" in arrays
        mapping = self._disparity(arrays) if by_disparity else self._depth(arrays)
        rows, columns = np.nonzero(arrays["disparity" if by_disparity else "depth1"])
        chosen = rng.integers(len(rows))
        point = np.array([[columns[chosen], rows[chosen]]], np.float64)
        images = arrays["image1"], arrays["image2"]
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
        _photograph(file, orient=False)

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
        images = [_photograph(each, orient=False) for each in (file, other)]  # as COLMAP has them
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


def _read(path: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays of a pair with disparity or depth, in which unknown values are 0.

    Raises
    ------
    FormatError
        If it is not as :class:`Depths` says.
    """
    try:
        with path.open("rb") as stream:
            if not zipfile.is_zipfile(stream):
                raise ValueError("it is none, or not the whole of one")
            stream.seek(0)
            with np.load(stream, allow_pickle=False) as saved:
                arrays = {name: np.asarray(saved[name]) for name in saved.files}
    except Exception as error:  # a damaged archive sets off almost anything
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise FormatError(f"{path} cannot be read as a .npz archive: {reason.splitlines()[0]}") from error

    told = f"{path} is not a pair with depth or disparity"

    def refused(name: str, expected: str) -> FormatError:
        found = f"{arrays[name].shape} {arrays[name].dtype}" if name in arrays else "missing"
        return FormatError(f"{told}: {name} is {found}, expected is {expected}")

    none = np.array("")
    for name in ("image1", "image2"):
        image = arrays.get(name, none)
        shape = image.shape
        if image.dtype != np.uint8 or len(shape) != 3 or shape[2] != 3 or min(shape[:2]) < SMALLEST:
            raise refused(name, f"(H, W, 3) uint8, H and W at least {SMALLEST}")
    maps = {"disparity": "image1"} if "disparity" in arrays else {"depth1": "image1", "depth2": "image2"}
    for name, image_name in maps.items():
        shape = arrays[image_name].shape[:2]
        values = arrays.get(name, none)
        if values.dtype.kind not in "fiu" or values.shape != shape:
            raise refused(name, f"{shape} numbers, as {image_name}")
        arrays[name] = np.where(np.isfinite(values) & (values > 0), values, 0)
        if not arrays[name].any():
            raise FormatError(f"{told}: no value of {name} is above 0 and finite, at least one is expected")
    if "disparity" not in arrays:
        for name, edge in (("intrinsics1", 3), ("intrinsics2", 3), ("pose1", 4), ("pose2", 4)):
            matrix = arrays.get(name, none)
            if matrix.dtype.kind not in "fiu" or matrix.shape != (edge, edge) or not _invertible(matrix):
                raise refused(name, f"({edge}, {edge}), finite and invertible")
    return arrays


def _invertible(matrix: NDArray[Any]) -> bool:
    finite = bool(np.isfinite(matrix).all())
    return finite and np.linalg.matrix_rank(matrix.astype(np.float64)) == len(matrix)


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
