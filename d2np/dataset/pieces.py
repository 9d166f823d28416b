"""Features of one large image, on their way from the thread that finds them to the one that uses them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator

from ..features import Features

_AHEAD = 1
"""Pieces that wait, at most, while somebody takes them."""


class Pieces:
    """Features of some rows of an image at a time, from its top to its bottom.

    They can be gone through once, while they are made. Until somebody begins to, they pile up, so that work
    on an image whose turn has not come goes on. From then on the thread that makes them waits to be rid of
    them.

    Parameters
    ----------
    image_size : (int, int)
        (width, height) of the image.

    Attributes
    ----------
    image_size : (int, int)
    count : int
        How many keypoints were in those that have been gone through.
    """

    def __init__(self, image_size: tuple[int, int]) -> None:
        self.image_size = image_size
        self.count = 0
        self._ready: deque[Features] = deque()
        self._wanted = self._closed = self._ended = False
        self._error: BaseException | None = None
        self._changed = threading.Condition()

    def fill(self, pieces: Iterable[Features]) -> None:
        """Hand these on, and the error that they end with, if they do. Ends early once they are closed."""
        try:
            for piece in pieces:
                with self._changed:
                    self._changed.wait_for(self._takes_more)
                    if self._closed:
                        break
                    self._ready.append(piece)
                    self._changed.notify_all()
                del piece
        except BaseException as error:
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def __iter__(self) -> Iterator[Features]:
        """The pieces; raises the error with which they end, if they do."""
        while True:
            with self._changed:
                self._wanted = True
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._ready or self._ended)
                if not self._ready:
                    break
                piece = self._ready.popleft()
            self.count += len(piece)
            yield piece
            # Not held while the next one is awaited.
            del piece
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Nobody wants any more of them."""
        with self._changed:
            self._closed = True
            self._ready.clear()
            self._changed.notify_all()

    def _takes_more(self) -> bool:
        return self._closed or not self._wanted or len(self._ready) < _AHEAD
