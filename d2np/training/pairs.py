"""Training pairs, and those of views of single photographs."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import ImageError, OptionError, count
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
    name : str
        What they are.
    description : str
        The same with a checksum of the files' names and sizes: a training goes on with the same only.

    Raises
    ------
    OptionError
        If the size makes no sense or there is no file.
    """

    def __init__(self, what: str, files: Sequence[Path], size: int, published: bool = False) -> None:
        if not SMALLEST <= size <= LONGEST_EDGE:
            raise OptionError(f"views have {SMALLEST} to {LONGEST_EDGE} px to be trained on, not {size}")
        if not files:
            raise OptionError(f"{what} are too few to train on: give one at least")
        self.files, self.size, self.published = list(files), size, published
        for file in self.files:
            self._check(file)
        self._centre = PUBLISHED if published else TRUE
        told = repr([(file.name, file.stat().st_size) for file in files])
        digest = hashlib.sha256(told.encode()).hexdigest()[:12]
        places = ", published positions" if published else ""
        self.name = f"{what}, views of {size} px{places}"
        self.description = f"{self.name} ({digest})"

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
        photograph(file)

    def draw(self, number: int, rng: np.random.Generator) -> Pair:
        """Return two views of a photograph.

        Raises
        ------
        ImageError
            If it cannot be read.
        """
        found = views(photograph(self.files[number]), self.size, rng)
        return self._pair(found.first, found.second, lambda xy: transformed(found.truth, xy))


@lru_cache(maxsize=256)
def photograph(path: Path, *, orient: bool = True) -> Image.Image:
    """Return a photograph with the longest edge at most :data:`LONGEST_EDGE`."""
    photo = Image.fromarray(open_rgb(path, orient=orient))
    photo.thumbnail((LONGEST_EDGE, LONGEST_EDGE), Image.Resampling.LANCZOS)
    return photo
