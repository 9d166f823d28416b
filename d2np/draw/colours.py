"""From numbers to colours."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..options import ColourMap, check

Colour = tuple[int, int, int]

# Nine equally spaced anchors of each of matplotlib's perceptually uniform maps. Between them the maps are
# smooth enough that linear interpolation cannot be told from the full table of 256.
_ANCHORS = {
    "viridis": "440154 472d7b 3b528b 2c728e 21918c 28ae80 5ec962 addc30 fde725",
    "plasma": "0d0887 4c02a1 7e03a8 aa2395 cc4778 e66c5c f89540 fdc527 f0f921",
    "inferno": "000004 210c4a 57106e 8a226a bc3754 e45a31 f98e09 f9cb35 fcffa4",
    "magma": "000004 1d1147 51127c 832681 b73779 e75263 fc8961 fec488 fcfdbf",
}


def colour_map(name: str, values: NDArray[np.floating], lowest: float = 0.0) -> NDArray[np.uint8]:
    """Return the colours of ``values`` in 0..1.

    Parameters
    ----------
    name : {"viridis", "plasma", "inferno", "magma"}
    values : array of any shape
        What lies outside 0..1 gets the colour of the nearer end.
    lowest : float
        Where in the map 0 lies. The maps begin almost black, which a thin line on a dark image cannot
        afford.

    Returns
    -------
    values.shape + (3,) uint8
    """
    check("colours", name, ColourMap)
    anchors = np.array([list(bytes.fromhex(code)) for code in _ANCHORS[name].split()], dtype=np.float64)
    steps = np.linspace(lowest, 1.0, 256) * (len(anchors) - 1)
    channels = [np.interp(steps, np.arange(len(anchors)), channel) for channel in anchors.T]
    table: NDArray[np.uint8] = np.rint(np.stack(channels, axis=-1)).astype(np.uint8)
    colours: NDArray[np.uint8] = table[np.rint(np.clip(values, 0.0, 1.0) * 255).astype(np.uint8)]
    return colours


def ranks(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return ranks in 0 (lowest) .. 1 (highest); equal values share one, and a single one is the highest."""
    if len(values) < 2:
        return np.ones(len(values))
    ordered = np.sort(values)
    below = np.searchsorted(ordered, values, side="left")
    not_above = np.searchsorted(ordered, values, side="right")
    return (below + not_above - 1) / (2.0 * (len(values) - 1))


def stretched(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return values moved and scaled to 0..1; all 1 where they are all the same."""
    low, high = values.min(initial=np.inf), values.max(initial=-np.inf)
    return np.interp(values, [low, high], [0.0, 1.0])
