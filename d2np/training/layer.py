"""The one layer that learns, conv4_3, and Adam, which changes its parameters."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..layers import LAYERS

LAYER = LAYERS[-1]

FloatArray = NDArray[np.floating[Any]]

_SUMMED = 512


class LastLayer:
    """conv4_3 by matrix products, one for each of the nine taps.

    Parameters
    ----------
    weight : (out, in, 3, 3) float32 or float64
    bias : (out,) of the same dtype
    """

    def __init__(self, weight: FloatArray, bias: FloatArray) -> None:
        # (tap, in, out), so that each tap is the right side of a product.
        self.taps = np.ascontiguousarray(weight.transpose(2, 3, 1, 0).reshape(9, *weight.shape[1::-1]))
        self.bias = bias.copy()

    @property
    def arrays(self) -> Mapping[str, FloatArray]:
        """The weight (out, in, 3, 3) and the bias by their names."""
        weight = self.taps.reshape(3, 3, *self.taps.shape[1:]).transpose(3, 2, 0, 1)
        return {f"{LAYER.name}/weight": np.ascontiguousarray(weight), f"{LAYER.name}/bias": self.bias}

    def forward(self, cells: FloatArray) -> FloatArray:
        """Return the (h, w, out) output for an (h, w, in) input, without ReLU."""
        found = np.empty((*cells.shape[:2], self.bias.size), cells.dtype)
        found[:] = self.bias
        flat = found.reshape(-1, self.bias.size)
        for tap, shifted in zip(self.taps, _shifted(cells), strict=True):
            flat += shifted @ tap
        return found

    def gradient(self, cells: FloatArray, by_output: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the derivatives by ``taps`` and ``bias``, given the input and those by the output."""
        flat = by_output.reshape(-1, by_output.shape[-1])
        return np.stack([_product(shifted, flat) for shifted in _shifted(cells)]), flat.sum(axis=0)


def _product(a: FloatArray, b: FloatArray) -> FloatArray:
    """Return a.T @ b, summed over some rows at a time: longer sums depend on BLAS's number of threads."""
    return np.sum([a[k : k + _SUMMED].T @ b[k : k + _SUMMED] for k in range(0, len(a), _SUMMED)], axis=0)


def _shifted(cells: FloatArray) -> Iterator[FloatArray]:
    """Yield (h w, channels): what each of the nine taps sees, with zeros beyond the border."""
    height, width, channels = cells.shape
    reach = LAYER.dilation
    wide = np.pad(cells, ((reach, reach), (reach, reach), (0, 0)))
    for down in range(0, 3 * reach, reach):
        for right in range(0, 3 * reach, reach):
            yield wide[down : down + height, right : right + width].reshape(-1, channels)


class Adam:
    """Kingma and Ba's stochastic gradient descent, algorithm 1 (ICLR 2015)."""

    def __init__(self, parameters: list[FloatArray], decays: tuple[float, float] = (0.9, 0.999)) -> None:
        self.parameters = parameters
        self.decays = decays
        self.means = [np.zeros_like(values) for values in parameters]
        self.squares = [np.zeros_like(values) for values in parameters]
        self.steps = 0

    def step(self, gradients: list[FloatArray], rate: float) -> None:
        """Change the parameters in place by one step of the learning rate ``rate``."""
        self.steps += 1
        first, second = self.decays
        rate *= math.sqrt(1 - second**self.steps) / (1 - first**self.steps)
        for values, gradient, mean, square in zip(
            self.parameters, gradients, self.means, self.squares, strict=True
        ):
            mean += (1 - first) * (gradient - mean)
            square += (1 - second) * (gradient * gradient - square)
            values -= rate * mean / (np.sqrt(square) + 1e-8)
