"""D2-Net's loss and its gradient (paper, section 4; published files ``lib/loss.py`` and ``lib/model.py``).

For corresponding positions i of two maps, with descriptors d and soft detection scores s::

    L = sum_i s1_i s2_i max(0, 1 + p_i - n_i) / sum_i s1_i s2_i

    p_i = |d1_i - d2_i|^2 = 2 - 2 d1_i . d2_i                      (the positive distance, equation 7)
    n_i = the least |d1_i - d2_k|^2 or |d2_i - d1_k|^2 over all cells k that are farther than the safe
          radius from the true position                            (the hardest negative, equations 8 and 9)

A descriptor is a cell's feature vector over its length, ``d = f / |f|``. A cell's soft detection score is the
largest ``alpha * beta`` of its channels, over the sum of all cells (equations 3 to 6)::

    alpha = exp(x / M) / sum of exp(x / M) over the 3 x 3 cells     x = max(0, f), M = the map's largest x
    beta  = x / the cell's largest x

All gradients follow by the chain rule; each function below gives its own. A maximum or minimum passes its
gradient to the element that it chose.

Arrays have the shape (rows, columns, channels), in float32 or float64; results have the dtype of the maps.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating[Any]]

MARGIN = 1.0
SAFE_RADIUS = 4
"""Cells around the true position, in rows and in columns, that are no negatives."""

_FAR = 10.0  # added to the squared distances of those: no true one is larger than 4


class Correspondences(NamedTuple):
    """Positions of the same points in two maps.

    Attributes
    ----------
    first, second : (N, 2) float64
        Positions (row, column) in cells of the two maps, inside them. Between cells features are
        interpolated; whole numbers give the published loss, which rounds the second positions.
    """

    first: NDArray[np.float64]
    second: NDArray[np.float64]


class Loss(NamedTuple):
    """The loss of one pair, its gradients, and the share of points whose nearest neighbour is the true one.

    Attributes
    ----------
    value : float
    first, second : (h, w, channels)
        Derivatives of the loss with respect to the two maps.
    accuracy : float
        Share of the positions of the first map whose nearest descriptor in the second map lies within one
        cell, in rows and in columns, of the true position.
    """

    value: float
    first: FloatArray
    second: FloatArray
    accuracy: float


def ranking_loss(first: FloatArray, second: FloatArray, pairs: Correspondences) -> Loss:
    """Compute the loss of two maps and its gradient.

    Parameters
    ----------
    first, second : (h, w, channels)
        Feature maps without the last ReLU.
    pairs : Correspondences
        At least one.

    Returns
    -------
    Loss
        NaN and zeros where no pair of positions has a score in both maps: the published code divides by 0.
    """
    a = _Descriptors(first)
    b = _Descriptors(second)
    scores_a, scores_b = soft_scores(first), soft_scores(second)
    from_a, from_b = _Sampling(pairs.first, a.shape), _Sampling(pairs.second, b.shape)
    one = _Descriptors(from_a.take(first))
    two = _Descriptors(from_b.take(second))
    s_one, s_two = from_a.take(scores_a.scores), from_b.take(scores_b.scores)

    positive = 2 - 2 * np.einsum("nc,nc->n", one.unit, two.unit)
    in_b, nearest_b, accuracy = _hardest(one.unit, b.unit, pairs.second, b.shape)
    in_a, nearest_a, _ = _hardest(two.unit, a.unit, pairs.first, a.shape)
    negative = np.minimum(in_a, in_b)
    ranking = np.maximum(0, MARGIN + positive - negative)
    weights = s_one * s_two
    total = weights.sum()
    if not total:
        return Loss(np.nan, np.zeros_like(first), np.zeros_like(second), accuracy)
    value = (weights * ranking).sum() / total

    # The ranking loss: positives come closer, the chosen negative goes away.
    step = np.where(ranking > 0, 2 * weights / total, 0).astype(first.dtype)[:, np.newaxis]
    by_one, by_two = -step * two.unit, -step * one.unit
    by_a, by_b = np.zeros_like(a.unit), np.zeros_like(b.unit)
    chosen = (in_b < in_a)[:, np.newaxis]
    here, there = np.where(chosen, step, 0), np.where(chosen, 0, step)
    by_one += here * b.unit[nearest_b]
    by_two += there * a.unit[nearest_a]
    np.add.at(by_b, nearest_b, here * one.unit)
    np.add.at(by_a, nearest_a, there * two.unit)

    # The weights: a position counts for more where its ranking loss is below the mean.
    by_weights = (ranking - value) / total
    gradient_a = a.backward(by_a).reshape(first.shape) + from_a.put(one.backward(by_one), first.shape)
    gradient_b = b.backward(by_b).reshape(second.shape) + from_b.put(two.backward(by_two), second.shape)
    gradient_a += scores_a.backward(from_a.put(by_weights * s_two, first.shape[:2]))
    gradient_b += scores_b.backward(from_b.put(by_weights * s_one, second.shape[:2]))
    return Loss(float(value), gradient_a, gradient_b, accuracy)


class _Descriptors:
    """Feature vectors of length 1, (n, channels), and the way back of their gradient."""

    def __init__(self, features: FloatArray) -> None:
        self.shape = features.shape[:2]
        rows = features.reshape(-1, features.shape[-1])
        # As in the published code, a vector of zeros stays one.
        self._lengths = np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
        self.unit = rows / self._lengths

    def backward(self, gradient: FloatArray) -> FloatArray:
        """Return the derivatives by the features: what changes a vector's length changes nothing."""
        along = np.einsum("nc,nc->n", gradient, self.unit)[:, np.newaxis]
        return (gradient - along * self.unit) / self._lengths


class _Sampling:
    """Bilinear interpolation at (N, 2) positions of a map, and the way back of its gradient."""

    def __init__(self, positions: NDArray[Any], shape: tuple[int, int]) -> None:
        whole = np.minimum(np.floor(positions).astype(np.int64), np.array(shape) - 1)
        share = positions - whole
        self._corners = []
        for down in (0, 1):
            for right in (0, 1):
                weight = np.abs(1 - down - share[:, 0]) * np.abs(1 - right - share[:, 1])
                row = np.minimum(whole[:, 0] + down, shape[0] - 1)
                column = np.minimum(whole[:, 1] + right, shape[1] - 1)
                if weight.any():
                    self._corners.append((row, column, weight))

    def take(self, cells: FloatArray) -> FloatArray:
        """Return (N, channels) or (N,) values of an (h, w, channels) or (h, w) map."""
        one_each = (slice(None),) + (np.newaxis,) * (cells.ndim - 2)
        parts = [cells[row, column] * weight[one_each] for row, column, weight in self._corners]
        return np.asarray(sum(parts), cells.dtype)

    def put(self, gradient: FloatArray, shape: tuple[int, ...]) -> FloatArray:
        """Return the derivatives by all cells of a map of this shape."""
        found = np.zeros(shape, gradient.dtype)
        one_each = (slice(None),) + (np.newaxis,) * (len(shape) - 2)
        for row, column, weight in self._corners:
            np.add.at(found, (row, column), (gradient * weight[one_each]).astype(gradient.dtype))
        return found


def _hardest(
    unit: FloatArray, others: FloatArray, positions: NDArray[Any], shape: tuple[int, int]
) -> tuple[FloatArray, NDArray[np.int64], float]:
    """Find the nearest descriptor of another map that is farther off than the safe radius.

    Returns
    -------
    distances : (N,)
        Squared distances to them.
    cells : (N,) int64
        Which they are, counted row by row.
    accuracy : float
        Share of the positions whose nearest descriptor of all lies within one cell.
    """
    distances = 2 - 2 * (unit @ others.T)
    rows = np.abs(np.arange(shape[0]) - positions[:, :1])
    columns = np.abs(np.arange(shape[1]) - positions[:, 1:])
    each = np.arange(len(unit))
    nearest_row, nearest_column = np.divmod(distances.argmin(axis=1), shape[1])
    correct = np.maximum(rows[each, nearest_row], columns[each, nearest_column]) <= 1
    safe = (rows <= SAFE_RADIUS)[:, :, np.newaxis] & (columns <= SAFE_RADIUS)[:, np.newaxis]
    distances[safe.reshape(distances.shape)] += _FAR
    cells = distances.argmin(axis=1)
    return distances[each, cells], cells, float(correct.mean())


class SoftScores(NamedTuple):
    """Soft detection scores of a map, with what their gradient needs.

    Attributes
    ----------
    scores : (h, w)
        Their sum is 1.
    """

    scores: FloatArray
    features: FloatArray
    raised: FloatArray  # exp(x / M)
    sums: FloatArray  # of raised over 3 x 3 cells, of the chosen channel
    channels: NDArray[np.int64]  # the chosen one of each cell
    products: FloatArray  # alpha beta of the chosen channel

    def backward(self, gradient: FloatArray) -> FloatArray:
        """Return the derivatives by the features of a function of the scores, given those by the scores."""
        rectified = np.maximum(self.features, 0)
        height, width, _ = rectified.shape
        rows, columns = np.indices((height, width))
        chosen = (rows, columns, self.channels)
        x, raised = rectified[chosen], self.raised[chosen]
        most = rectified.max()
        loudest = rectified.argmax(axis=2)
        largest = _or_one(rectified[rows, columns, loudest])
        alpha, beta = raised / self.sums, x / largest
        # Scores are products over their sum.
        by_products = (gradient - (gradient * self.scores).sum()) / self.products.sum()

        found = np.zeros_like(rectified)
        np.add.at(found, chosen, by_products * alpha / largest)
        np.add.at(found, (rows, columns, loudest), -by_products * alpha * beta / largest)
        # alpha = raised / sums, where a cell's sum has the raised features of nine cells.
        by_raised = np.zeros_like(rectified)
        by_raised[chosen] += by_products * beta / self.sums
        by_sums = -by_products * beta * raised / self.sums**2
        for down in (-1, 0, 1):
            for right in (-1, 0, 1):
                row, column = rows + down, columns + right
                inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
                place = (row[inside], column[inside], self.channels[inside])
                by_raised[place] += by_sums[inside]
        by_raised *= self.raised
        found += by_raised / most
        found.reshape(-1)[rectified.argmax()] -= (by_raised * rectified).sum() / most**2
        return np.where(self.features > 0, found, 0).astype(gradient.dtype)


def soft_scores(features: FloatArray) -> SoftScores:
    """Compute the soft detection scores of an (h, w, channels) map without the last ReLU.

    Where the published code divides by zero, in a cell without a positive feature, the score is 0.
    """
    rectified = np.maximum(features, 0)
    raised = np.exp(rectified / _or_one(rectified.max()))
    height, width, _ = raised.shape
    # Cells beyond the border count as zeros, whose exponential is 1.
    wide = np.pad(raised, ((1, 1), (1, 1), (0, 0)), constant_values=1)
    high = wide[:height] + wide[1 : height + 1] + wide[2:]
    sums = high[:, :width] + high[:, 1 : width + 1] + high[:, 2:]
    products = raised / sums * (rectified / _or_one(rectified.max(axis=2, keepdims=True)))
    channels = products.argmax(axis=2)
    chosen = (*np.indices((height, width)), channels)
    return SoftScores(
        products[chosen] / _or_one(products[chosen].sum()),
        features, raised, sums[chosen], channels, products[chosen],
    )  # fmt: skip


def _or_one(values: FloatArray) -> FloatArray:
    """Return the values, and 1 for those that are 0: nothing divided by them is nothing."""
    return np.where(values == 0, np.ones_like(values), values)
