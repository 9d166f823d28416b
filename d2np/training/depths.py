"""Training pairs with depth or disparity."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import FormatError, count
from .pairs import SMALLEST, Pair, Pairs, Points


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
