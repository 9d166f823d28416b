"""Features that come in pieces, put together; the best of them only, where there is a limit."""

from __future__ import annotations

import numpy as np

from .features import DESCRIPTOR_SIZE, Features
from .kernels import topk


class Gathering:
    """Collects pieces of one picture's features.

    Parameters
    ----------
    image_size : (int, int)
        (width, height) of the picture.
    most : int, optional
        Keep so many with the highest scores, and put the highest first; of equals the earlier one counts. No
        more than these and one piece are ever held.
    """

    def __init__(self, image_size: tuple[int, int], most: int | None = None) -> None:
        self._image_size = image_size
        self._most = most
        self._keypoints = np.empty((0, 3), np.float32)
        self._scores = np.empty(0, np.float32)
        self._descriptors = np.empty((0, DESCRIPTOR_SIZE), np.float32)

    def __len__(self) -> int:
        return len(self._scores)

    def add(self, piece: Features) -> None:
        first, last = len(self), len(self) + len(piece)
        for whole, part in (
            (self._keypoints, piece.keypoints),
            (self._scores, piece.scores),
            (self._descriptors, piece.descriptors),
        ):
            # In place: pieces put together at the end would take the memory twice.
            whole.resize((last, *whole.shape[1:]), refcheck=False)
            whole[first:] = part
        if self._most is not None and last > self._most:
            best = self.features()
            self._keypoints, self._scores = best.keypoints, best.scores
            self._descriptors = best.descriptors

    def features(self) -> Features:
        """All that was added, in that order, or the best of it, the best first."""
        whole = Features(self._keypoints, self._scores, self._descriptors, self._image_size)
        return whole if self._most is None else whole.select(topk.strongest(whole.scores, self._most))
