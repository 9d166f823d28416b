"""Features that come in pieces, put together; the best of them only, where there is a limit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from ..features import DESCRIPTOR_SIZE, Features
from ..kernels import topk


class Gathering:
    """Collects pieces of one image's features.

    Parameters
    ----------
    image_size : (int, int)
        (width, height) of the image.
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

    def blocks(self) -> Iterator[Features]:
        """What :meth:`features` gives, as the only block; see :class:`Pile`."""
        yield self.features()


def in_blocks(pieces: Iterable[Features], least: int) -> Iterator[Features]:
    """Pieces of one image's features put together to larger ones.

    Each has so many keypoints at least, but for the last one.
    """
    waiting: list[Features] = []
    for piece in pieces:
        waiting.append(piece)
        if sum(map(len, waiting)) >= least:
            block = _joined(waiting)
            # Not held while the next ones are awaited.
            waiting.clear()
            yield block
            del block
    if waiting:
        yield _joined(waiting)


def _joined(pieces: list[Features]) -> Features:
    return Features(
        np.concatenate([piece.keypoints for piece in pieces]),
        np.concatenate([piece.scores for piece in pieces]),
        np.concatenate([piece.descriptors for piece in pieces]),
        pieces[0].image_size,
    )


# Keypoints in a block of memory: their descriptors are 32 MiB, which malloc always takes from the system and
# gives back to it. What is never written to takes no memory.
_BLOCK = 16384


class Pile:
    """Pieces of one image's features that have to wait until they can be gathered.

    They lie in blocks of memory so large that the system gets each back once it is let go; smaller ones would
    stay with the process.
    """

    def __init__(self) -> None:
        self._blocks: list[tuple[Features, int]] = []

    def add(self, piece: Features) -> None:
        block, count = self._blocks.pop() if self._blocks else (_empty(0, piece.image_size), 0)
        if count + len(piece) > len(block):
            if count:
                self._blocks.append((block, count))
            block, count = _empty(max(_BLOCK, len(piece)), piece.image_size), 0
        last = count + len(piece)
        block.keypoints[count:last] = piece.keypoints
        block.scores[count:last] = piece.scores
        block.descriptors[count:last] = piece.descriptors
        self._blocks.append((block, last))

    def blocks(self) -> Iterator[Features]:
        """Everything, in order; what was handed out is forgotten."""
        self._blocks.reverse()
        while self._blocks:
            yield _first_of(*self._blocks.pop())


def _empty(count: int, image_size: tuple[int, int]) -> Features:
    return Features(
        np.empty((count, 3), np.float32),
        np.empty(count, np.float32),
        np.empty((count, DESCRIPTOR_SIZE), np.float32),
        image_size,
    )


def _first_of(block: Features, count: int) -> Features:
    keypoints, scores, descriptors = block.keypoints, block.scores, block.descriptors
    return Features(keypoints[:count], scores[:count], descriptors[:count], block.image_size)
