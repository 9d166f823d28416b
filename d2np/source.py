"""A picture as rows that are read when they are needed."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from . import image
from .image import Picture


class Source(Protocol):
    """A picture at the size at which the network sees it; usable in a ``with`` statement.

    Attributes
    ----------
    given : (int, int)
        (height, width) of the picture as given, in pixels.
    shape : (int, int)
        (height, width) as the network sees it.
    """

    given: tuple[int, int]
    shape: tuple[int, int]

    def read(self, first: int, last: int) -> NDArray[Any]:
        """The rows ``first`` to ``last``, (last - first, width, 3) uint8 or float32, red first, in 0..255."""

    def __enter__(self) -> Source: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def open_source(
    picture: Picture,
    *,
    orient: bool = False,
    max_edge: int | None = 1600,
    max_sum_edges: int | None = 2800,
) -> Source:
    """Open a picture for reading row by row.

    A :class:`numpy.memmap` and an h5py dataset, or whatever else has a shape, a dtype and slices, are read
    only as far as rows are asked for, unless they have to be shrunk. All others, and what is shrunk, are read
    whole.

    Raises
    ------
    ImageError
        If the picture cannot be used, see :func:`d2np.image.open_picture`. Of rows that are read later, when
        they are read.
    OptionError
        If a limit makes no sense.
    """
    if image.is_read_by_rows(picture):
        rows = _ByRows(picture)
        height, width = rows.given
        if image.network_size(width, height, max_edge=max_edge, max_sum_edges=max_sum_edges) == (
            width,
            height,
        ):
            return rows
    whole = image.open_picture(picture, orient=orient)
    seen = image.shrink(whole, max_edge=max_edge, max_sum_edges=max_sum_edges)
    return _Whole(whole.shape[:2], seen)


class _Source:
    """What both kinds have in common: nothing of theirs needs closing."""

    def __enter__(self) -> Any:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Whoever opened the file closes it."""


class _Whole(_Source):
    def __init__(self, given: tuple[int, ...], seen: NDArray[Any]) -> None:
        self.given = given[0], given[1]
        self.shape = seen.shape[0], seen.shape[1]
        self._seen = seen

    def read(self, first: int, last: int) -> NDArray[Any]:
        return self._seen[first:last]


class _ByRows(_Source):
    def __init__(self, picture: Any) -> None:
        # The shape and the type are checked at once, on no rows at all but as if they were there.
        image.check_array(picture.shape, np.dtype(picture.dtype))
        self.given = self.shape = int(picture.shape[0]), int(picture.shape[1])
        self._picture = picture

    def read(self, first: int, last: int) -> NDArray[Any]:
        rows = np.asarray(self._picture[first:last])
        return image.from_array(rows, f"the image array, rows {first} to {last},", is_part=True)
