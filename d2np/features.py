"""The results of extraction and matching: two small dataclasses of NumPy arrays."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import FormatError

DESCRIPTOR_SIZE = 512


@dataclass(frozen=True, eq=False)
class Projection:
    """A projection of descriptors to fewer dimensions, in which cosines are nearly the same.

    Attributes
    ----------
    components : (D, 512) float32
        Orthonormal, the most important one first. Nothing is subtracted from descriptors.

    Raises
    ------
    FormatError
        If they are of another shape, or not finite.
    """

    components: NDArray[np.float32]

    def __post_init__(self) -> None:
        components = checked("components", self.components, np.float32, (None, DESCRIPTOR_SIZE))
        if not np.isfinite(components).all():
            raise FormatError("components must be finite")
        vars(self).update(components=components)

    @property
    def dimensions(self) -> int:
        """How many numbers a descriptor has that is projected."""
        return len(self.components)

    @cached_property
    def id(self) -> str:
        """A text that tells this projection from all others."""
        return blake2b(self.components.tobytes(), digest_size=8).hexdigest()


@dataclass(frozen=True, eq=False)
class Features:
    """Keypoints of one image with their descriptors.

    Attributes
    ----------
    keypoints : (N, 3) float32
        x, y in pixels of the image as given, (0, 0) being the centre of its top-left pixel; and the
        scale: 1 for the image's own size, 2 for a keypoint found at half size, 0.5 at double size.
    scores : (N,) float32
        Higher is better, within one image.
    descriptors : (N, 512) float32
        L2-normalised. Of as many numbers as the projection has, where there is one.
    image_size : (int, int)
        (width, height) of the image as given, in pixels.
    rotations : (N,) int16, or None
        By how many degrees the image was turned anticlockwise when each keypoint was seen; None where it was
        not turned at all. See :class:`d2np.Options`.
    global_descriptor : (512,) float32, or None
        One L2-normalised vector of the whole image, where :class:`d2np.Options` asks for it.
    projection : Projection, or None
        What the descriptors were projected with, if they were.

    Raises
    ------
    FormatError
        If the shapes do not fit each other.
    """

    keypoints: NDArray[np.float32]
    scores: NDArray[np.float32]
    descriptors: NDArray[np.float32]
    image_size: tuple[int, int]
    rotations: NDArray[np.int16] | None = None
    global_descriptor: NDArray[np.float32] | None = None
    projection: Projection | None = None

    def __post_init__(self) -> None:
        keypoints = checked("keypoints", self.keypoints, np.float32, (None, 3))
        n = len(keypoints)
        size = DESCRIPTOR_SIZE if self.projection is None else self.projection.dimensions
        try:
            width, height = (int(edge) for edge in self.image_size)
        except (TypeError, ValueError, OverflowError):
            raise FormatError(f"image_size must be (width, height); got {self.image_size!r}") from None
        # vars() is what a frozen dataclass lets one write to.
        vars(self).update(
            keypoints=keypoints,
            scores=checked("scores", self.scores, np.float32, (n,)),
            descriptors=checked("descriptors", self.descriptors, np.float32, (n, size)),
            image_size=(width, height),
        )
        if self.rotations is not None:
            vars(self).update(rotations=checked("rotations", self.rotations, np.int16, (n,)))
        if self.global_descriptor is not None:
            given = checked("global_descriptor", self.global_descriptor, np.float32, (DESCRIPTOR_SIZE,))
            vars(self).update(global_descriptor=given)

    def __len__(self) -> int:
        return len(self.keypoints)

    def __repr__(self) -> str:
        width, height = self.image_size
        return f"<Features: {len(self)} keypoints of a {width} x {height} image>"

    def select(self, which: ArrayLike) -> Features:
        """Return the chosen keypoints, in the order chosen.

        Parameters
        ----------
        which : (K,) integers or (N,) bool
            Indices, or a mask over all keypoints.
        """
        chosen = _selection(which, len(self), "keypoints")
        arrays: dict[str, Any] = {"keypoints": self.keypoints[chosen], "scores": self.scores[chosen]}
        if self.rotations is not None:
            arrays["rotations"] = self.rotations[chosen]
        return replace(self, descriptors=self.descriptors[chosen], **arrays)


@dataclass(frozen=True)
class Evidence:
    """How sure it is that matches which fit one model do not do so by accident.

    Attributes
    ----------
    fitting : int
        How many matches fit the model with the most support.
    log10_chance : float
        Logarithm to base 10 of the number of models with as much support that are expected among matches
        which are all wrong, the "number of false alarms"; see :func:`d2np.verification.verify`. At -52 this
        happens in one of 10^52 pairs of images that have nothing in common.
    sufficient : bool
        Whether that is so rare that the matches are said to agree.
    """

    fitting: int
    log10_chance: float
    sufficient: bool


@dataclass(frozen=True, eq=False)
class Matches:
    """Pairs of keypoints of two images.

    Attributes
    ----------
    indices : (M, 2) int64
        Positions in the first and in the second :class:`Features`.
    similarities : (M,) float32
        Cosine of the two descriptors.
    inliers : (M,) bool, or None
        Which matches agree with ``model``; None where they have not been verified.
    model : (3, 3) float64, or None
        The homography that takes x, y, 1 of the first image to the second; or the fundamental matrix F,
        with (x', y', 1) F (x, y, 1) = 0 for x', y' in the second one. None where there is none.
    evidence : Evidence, or None
        How many matches fit one model, and how likely that is by accident; None where they have not been
        verified.
    rotation : int, or None
        By how many degrees the second image is to be turned anticlockwise to look like the first one; None
        where it was not looked at that way. See :class:`d2np.Options`.

    Raises
    ------
    FormatError
        If the shapes do not fit each other.
    """

    indices: NDArray[np.int64]
    similarities: NDArray[np.float32]
    inliers: NDArray[np.bool_] | None = None
    model: NDArray[np.float64] | None = None
    evidence: Evidence | None = None
    rotation: int | None = None

    def __post_init__(self) -> None:
        indices = checked("match indices", self.indices, np.int64, (None, 2))
        n = len(indices)
        vars(self).update(
            indices=indices, similarities=checked("similarities", self.similarities, np.float32, (n,))
        )
        if self.inliers is not None:
            vars(self).update(inliers=checked("inliers", self.inliers, np.bool_, (n,)))
        if self.model is not None:
            vars(self).update(model=checked("the model", self.model, np.float64, (3, 3)))

    def __len__(self) -> int:
        return len(self.indices)

    def __repr__(self) -> str:
        checked = "" if self.inliers is None else f", {int(self.inliers.sum())} of them inliers"
        return f"<Matches: {len(self)} pairs{checked}>"

    def select(self, which: ArrayLike) -> Matches:
        """Return the chosen matches, in the order chosen, such as ``matches.select(matches.inliers)``.

        Parameters
        ----------
        which : (K,) integers or (M,) bool
            Indices, or a mask over all matches.
        """
        chosen = _selection(which, len(self), "matches")
        inliers = None if self.inliers is None else self.inliers[chosen]
        arrays = {"indices": self.indices[chosen], "similarities": self.similarities[chosen]}
        return replace(self, **arrays, inliers=inliers)


def _selection(which: ArrayLike, count: int, what: str) -> NDArray[Any]:
    """Return indices or a mask, checked against the number of elements."""
    indices = np.asarray(which)
    if indices.size == 0 and indices.dtype != bool:
        indices = indices.astype(np.int64)
    try:
        chosen = np.arange(count)[indices]
    except IndexError as error:
        raise FormatError(f"select among {count} {what}: {error}") from None
    if chosen.ndim != 1:
        raise FormatError(f"select takes a list of indices or a mask; got an array {indices.shape}")
    return chosen


def strongest(values: NDArray[np.float32], k: int | None) -> NDArray[np.int64]:
    """Return the positions of the ``k`` largest values, largest first; of equals the first one first."""
    return np.argsort(-values, kind="stable")[:k]


# On average: of fewer, weak keypoints would be taken where better ones are near.
_CHOSEN_OF_A_CELL = 8


def evenly(
    xy: NDArray[np.float32], values: NDArray[np.float32], k: int, size: tuple[int, int]
) -> NDArray[np.int64]:
    """Return the positions of ``k`` values that come from all parts of an image, largest first.

    First the largest value of each cell of a grid is chosen, then the second largest of each, and so on; in
    the last round, only the largest of these. What is chosen of all values is also chosen of any part of them
    that has it, so values can be left out as they are found.

    Parameters
    ----------
    xy : (N, 2) float32
        In pixels.
    values : (N,) float32
    k : int
    size : (int, int)
        Width and height of the image.
    """
    # Cells are about square.
    side = max(1.0, math.sqrt(size[0] * size[1] * _CHOSEN_OF_A_CELL / max(1, k)))
    columns, rows = (max(1, round(edge / side)) for edge in size)
    place = [
        np.clip((xy[:, axis] + 0.5) * (n / size[axis]), 0, n - 1) for axis, n in enumerate((columns, rows))
    ]
    largest_first = strongest(values, None)
    cells = (place[1].astype(np.int64) * columns + place[0].astype(np.int64))[largest_first]
    by_cell = np.argsort(cells, kind="stable")
    begins = np.searchsorted(cells[by_cell], cells[by_cell])
    rounds = np.empty(len(cells), np.int64)
    rounds[by_cell] = np.arange(len(cells)) - begins
    return largest_first[np.sort(np.argsort(rounds, kind="stable")[:k])]


def check_indices(matches: Matches, count_a: int, count_b: int) -> None:
    """Find out whether matches are of images with that many keypoints.

    Raises
    ------
    FormatError
        If not.
    """
    for column, which, count in ((0, "a", count_a), (1, "b", count_b)):
        used = matches.indices[:, column]
        if len(outside := used[(used < 0) | (used >= count)]):
            raise FormatError(f"a match names keypoint {outside[0]} of {which}, which has {count}")


def checked(name: str, given: Any, kind: type[Any], shape: tuple[int | None, ...]) -> NDArray[Any]:
    """Return a contiguous array of a type and a shape, in which None stands for any number of rows.

    Raises
    ------
    FormatError
        If it is of another shape, or of a type that is not taken; where it is empty, all types are.
    """
    try:
        array = np.asarray(given)
        casting: Any = "same_kind" if array.size else "unsafe"
        with np.errstate(over="ignore", invalid="ignore"):
            array = array.astype(kind, order="C", casting=casting, copy=False)
    except (TypeError, ValueError):
        raise FormatError(f"{name} must be {np.dtype(kind)}") from None
    if len(shape) != array.ndim or any(
        n not in (None, size) for n, size in zip(shape, array.shape, strict=True)
    ):
        expected = ", ".join("N" if n is None else str(n) for n in shape)
        raise FormatError(f"{name} must have shape ({expected}); got {array.shape}")
    return array
