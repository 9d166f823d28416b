"""Matching descriptors: mutual nearest neighbours, ratio test, the closest pairs of all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from numbers import Real
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import verification
from .errors import FormatError, OptionError
from .features import Features, Matches, Projection, strongest
from .kernels import nearest, normalize
from .kernels.simd import host_block
from .options import GeometricModel, whole_number
from .threads import Team, spans

FloatArray = NDArray[np.float32]

# Rows of the first set in one task, and products that it may hold. The cut does not depend on the threads.
_ROWS = 504
_PRODUCTS = 16 << 20
_SAMPLE = 1 << 16
_LARGEST = float(np.finfo(np.float32).max)


def match(
    a: Features | ArrayLike,
    b: Features | ArrayLike,
    *,
    mutual: bool = True,
    ratio: float | None = None,
    min_similarity: float | None = None,
    verify: GeometricModel | None = None,
    threshold: float = verification.THRESHOLD,
    threads: int | None = None,
) -> Matches:
    """Match each keypoint of one image to its nearest neighbour in the other.

    Parameters
    ----------
    a, b : Features, or (N, D) float32
        L2-normalised descriptors.
    mutual : bool
        Keep a pair only if each is the other's nearest neighbour.
    ratio : float, optional
        Lowe's test: the distance to the nearest neighbour must be at most this share of the distance to the
        second one in the other image; 0.8 is common for SIFT, 0.95 for D2-Net. With ``mutual`` it holds
        in both directions, as in hloc. Where there is no second neighbour the test is passed.
    min_similarity : float, optional
        Keep pairs with at least this cosine.
    verify : {"homography", "fundamental"}, optional
        Mark the pairs that agree with one homography or one fundamental matrix as ``inliers``; see
        :func:`d2np.verification.verify`. This needs the keypoints, and so :class:`Features`; and OpenCV.
    threshold : float
        How far, in pixels, a pair may be off and still agree with that model.
    threads : int, optional
        How many to use; by default every core this process may use.

    Returns
    -------
    Matches
        In the order of ``a``. Of equally near neighbours the first counts. ``verify`` leaves none out. Where
        an image was also looked at turned (``rotations`` of :class:`d2np.Options`), ``a`` is taken as given
        and ``b`` in that one of its rotations that has the most inliers or, unless ``verify`` is given, the
        most matches; ``rotation`` tells which.

    Raises
    ------
    FormatError
        If the descriptors do not fit each other, are not finite or far from normalised, or there are no
        keypoints to verify with.
    OptionError
        If ``ratio`` is not above 0 and up to 1, ``min_similarity`` is not a number, or nothing can be
        verified as ``verify`` and ``threshold`` say.
    Error
        If they are to be verified, and OpenCV is missing.
    """
    if isinstance(a, Features) and isinstance(b, Features) and not (a.rotations is b.rotations is None):
        options: dict[str, Any] = {"mutual": mutual, "ratio": ratio, "min_similarity": min_similarity}
        options.update(verify=verify, threshold=threshold, threads=threads)
        return best_of(_of_each_rotation(a, b, options))
    if verify is not None:
        verification.check(verify, threshold)
        if not (isinstance(a, Features) and isinstance(b, Features)):
            raise FormatError("verify needs keypoints, not only descriptors: pass d2np.Features")
        found = match(a, b, mutual=mutual, ratio=ratio, min_similarity=min_similarity, threads=threads)
        return verification.verify(a, b, found, verify, threshold=threshold)
    first, second = _descriptors(a, b)
    if ratio is not None and not (isinstance(ratio, Real) and 0 < ratio <= 1):
        raise OptionError(f"ratio must lie above 0 and be at most 1; got {ratio!r}")
    if min_similarity is not None and not (isinstance(min_similarity, Real) and -np.inf < min_similarity):
        raise OptionError(f"min_similarity must be a number; got {min_similarity!r}")
    if not len(first) or not len(second):
        return Matches(np.empty((0, 2), np.int64), np.empty(0, np.float32))
    of_a, of_b = _two_best(first, second, threads)
    (similarity, partner, runner_up), (back_similarity, back, back_runner_up) = of_a, of_b
    here = np.arange(len(first))
    keep = np.ones(len(first), np.bool_)
    if mutual:
        keep &= back[partner] == here
    if ratio is not None:
        keep &= _passes_ratio(similarity, runner_up, ratio)
        if mutual:
            keep &= _passes_ratio(back_similarity, back_runner_up, ratio)[partner]
    if min_similarity is not None:
        keep &= similarity >= min_similarity
    return Matches(np.stack([here[keep], partner[keep]], axis=1), similarity[keep])


def best_of(candidates: Iterable[Matches]) -> Matches:
    """Return the matches with the most inliers, else those that are most; of equals the first ones."""

    def score(matches: Matches) -> tuple[int, int]:
        return 0 if matches.inliers is None else int(matches.inliers.sum()), len(matches)

    return max(candidates, key=score)


def _of_each_rotation(a: Features, b: Features, options: dict[str, Any]) -> Iterator[Matches]:
    """Yield the matches of one image as given with each rotation of another one."""
    here, first = _seen_by(a, 0)
    of_b = np.empty(0, np.int16) if b.rotations is None else b.rotations
    for degrees in sorted({0, *of_b.tolist()}):
        there, second = _seen_by(b, degrees)
        found = match(first, second, **options)
        indices = np.stack([here[found.indices[:, 0]], there[found.indices[:, 1]]], axis=1)
        yield replace(found, indices=indices, rotation=degrees)


def _seen_by(features: Features, degrees: int) -> tuple[NDArray[np.int64], Features]:
    """Return which keypoints were seen in an image so turned, and the features of these."""
    rotations = np.zeros(len(features)) if features.rotations is None else features.rotations
    chosen = np.flatnonzero(rotations == degrees)
    return chosen, replace(features.select(chosen), rotations=None)


def project(features: Features, projection: Projection, *, threads: int | None = None) -> Features:
    """Return features whose descriptors are projected to fewer dimensions, and L2-normalised again.

    Each descriptor becomes the same, bit for bit, whatever others are projected with it.

    Parameters
    ----------
    features : Features
    projection : Projection
    threads : int, optional
        How many to use; by default every core this process may use.

    Raises
    ------
    FormatError
        If they are projected already.
    """
    if features.projection is not None:
        raise FormatError("these descriptors are projected already")
    projected = np.empty((len(features), projection.dimensions), np.float32)

    def keep(first: int, products: FloatArray) -> None:
        rows = projected[first : first + len(products)]
        rows[:] = products[:, : projection.dimensions]
        normalize.l2_normalize(rows, 0, len(rows))

    _multiply(features.descriptors, projection.components, threads, keep)
    return replace(features, descriptors=projected, projection=projection)


def nearest_pairs(
    a: Features | ArrayLike, b: Features | ArrayLike, n: int, *, threads: int | None = None
) -> Matches:
    """Return the ``n`` closest pairs over all pairs, closest first.

    Unlike in :func:`match`, a keypoint may stand in several pairs. For the parameters and errors see there;
    of equally close pairs the one with the lower indices comes first.
    """
    first, second = _descriptors(a, b)
    n = min(whole_number("n", n, 0), len(first) * len(second))
    if n == 0:
        return Matches(np.empty((0, 2), np.int64), np.empty(0, np.float32))
    found: list[tuple[FloatArray, NDArray[np.int64]]] = []
    floor = -_LARGEST  # at most the n-th best of all

    def keep(start: int, products: FloatArray) -> None:
        nonlocal floor
        values = products.ravel()
        if len(some := values[: max(8 * n, _SAMPLE)]) > n:  # what few values tell leaves few of the others
            floor = max(floor, np.partition(some, -n)[-n])
        places = np.flatnonzero(values >= floor)
        if len(places) > n:
            floor = max(floor, np.partition(values[places], -n)[-n])
            places = places[values[places] >= floor]
            places = places[np.sort(strongest(values[places], n))]
        row, column = np.divmod(places, products.shape[1])
        found.append((values[places], (start + row) * len(second) + column))

    _multiply(first, second, threads, keep)
    values, keys = (np.concatenate(part) for part in zip(*found, strict=True))
    order = np.lexsort((keys, -values))[:n]
    return Matches(np.stack(np.divmod(keys[order], len(second)), axis=1), values[order])


def _multiply(
    a: FloatArray, b: FloatArray, threads: int | None, use: Callable[[int, FloatArray], None]
) -> None:
    """Call ``use(first, products)`` with the products of rows of ``a``, from ``first`` on, and all of ``b``.

    It is called from several threads, in any order, for some rows at a time; the next call overwrites them.
    Behind the columns of ``b`` there may be some that hold -inf.
    """
    block = host_block()
    kernel, packed = nearest.kernel(block), nearest.pack(b, block)

    def work(span: tuple[int, int]) -> None:
        first, last = span
        filled = -(last - first) % block.rows
        rows = np.concatenate([a[first:last], np.zeros((filled, a.shape[1]), np.float32)])
        width = len(packed) * block.columns
        products = team.scratch(len(rows) * width).reshape(len(rows), width)
        kernel(rows, packed, products)
        products[:, len(b) :] = -np.inf
        use(first, products[: last - first])

    with Team(threads) as team:
        team.share(work, spans(len(a), min(_ROWS, _PRODUCTS // len(b))))


def _two_best(a: FloatArray, b: FloatArray, threads: int | None) -> list[tuple[FloatArray, Any, FloatArray]]:
    """Return the largest product of each row of ``a``, its partner, and the second-largest; then of ``b``."""
    of_a, of_b = (
        (np.full(count, -np.inf, np.float32), np.empty(count, np.int32), np.full(count, -np.inf, np.float32))
        for count in (len(a), len(b))
    )
    lock = Lock()

    def use(first: int, products: FloatArray) -> None:
        with lock:
            nearest.two_best_of_columns(products, first, *of_b)
        here, partner = np.arange(len(products)), products.argmax(1)
        best, index, second = (array[first : first + len(products)] for array in of_a)
        best[:], index[:] = products[here, partner], partner
        products[here, partner] = -np.inf
        second[:] = products.max(1)

    _multiply(a, b, threads, use)
    return [of_a, of_b]


def _passes_ratio(similarity: FloatArray, runner_up: FloatArray, ratio: float) -> NDArray[np.bool_]:
    # For unit vectors the squared distance is 2 - 2 cos; rounding may push the cosine past 1.
    near, far = (np.maximum(2 - 2 * values.astype(np.float64), 0) for values in (similarity, runner_up))
    return near <= ratio**2 * far


def _descriptors(*sets: Features | ArrayLike) -> list[FloatArray]:
    arrays = [given.descriptors if isinstance(given, Features) else given for given in sets]
    made_by = {given.projection and given.projection.id for given in sets if isinstance(given, Features)}
    if len(made_by) > 1:
        raise FormatError(
            "these features have descriptors of different projections: extract both with one of them, "
            "d2np extract --projection FEATURES.h5"
        )
    try:
        found = [np.ascontiguousarray(array, np.float32) for array in arrays]
    except (TypeError, ValueError):
        raise FormatError("descriptors must be an array (N, D) of numbers") from None
    shapes = [array.shape for array in found]
    if any(len(shape) != 2 for shape in shapes) or shapes[0][1] != shapes[1][1]:
        raise FormatError(f"descriptors must be arrays (N, D), both with the same D; got {shapes}")
    for array in found:
        # NaN and infinities show in the extremes; no copy is made to look for them. Products that overflow
        # would have no order.
        largest = max(float(array.max(initial=0)), -float(array.min(initial=0)))
        if not largest**2 * array.shape[1] <= _LARGEST:
            raise FormatError(
                f"descriptors must be L2-normalised and finite; there is a value of {largest:g} among them"
            )
    return found
