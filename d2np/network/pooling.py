"""The global descriptor: one vector of a whole image, made of its feature map.

It is the generalised mean of the map's cells, channel by channel: the third root of the mean of the third
powers, which lies between the mean and the maximum. Radenović et al. (Fine-tuning CNN image retrieval with no
human annotation, TPAMI 2019) call it GeM, and train a network for it. Nothing here is trained for retrieval.

Powers are summed row by row of the map, and the rows' sums in their order: the result is the same, bit for
bit, with any number of threads and any cut into bands.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..threads import Team
from .detect import MapRows

FloatArray = NDArray[np.float32]

POWER = 3


class Pooling:
    """Sums up a feature map as it is worked through from its top.

    Parameters
    ----------
    team : Team
    """

    def __init__(self, team: Team) -> None:
        self._team = team
        self._sums: list[FloatArray] = []
        self._cells = 0

    def add(self, rows: MapRows, first: int, last: int) -> None:
        """Add rows of the map; all of them are to be added once, in their order."""
        cells = rows.between(first, last)
        sums = np.empty((len(cells), cells.shape[2]), np.float32)

        def work(row: int) -> None:
            values = np.maximum(cells[row], 0)
            # What float32 does not hold is infinite, and dealt with at the end.
            with np.errstate(over="ignore"):
                powers = values * values
                powers *= values
                powers.sum(axis=0, out=sums[row])

        self._team.share(self._team.timed("global", "generalised mean", work), range(len(cells)))
        self._sums.append(sums)
        self._cells += cells.shape[0] * cells.shape[1]

    def vector(self) -> FloatArray:
        """Return the L2-normalised global descriptor (512,); zeros if the map is zero, or overflows."""
        means = np.concatenate(self._sums).sum(axis=0, dtype=np.float64) / self._cells
        vector = means ** (1 / POWER)
        norm = np.sqrt((vector * vector).sum())
        if not 0 < norm < np.inf:
            return np.zeros(len(vector), np.float32)
        return (vector / norm).astype(np.float32)
