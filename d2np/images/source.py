"""Images by rows: the network asks for the rows it needs next, and no more of the image is held.

Arrays in memory or in files, and large TIFF files, are read piece by piece. Other files are decoded whole,
and so is every image that has to be shrunk first.
"""

from __future__ import annotations

import math
import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import ImageError
from ..options import InputChanges, Options, chosen
from . import open as images
from .messages import reading
from .open import ImageLike
from .tiff import TiffRows

if TYPE_CHECKING:
    from typing_extensions import Unpack

# How many rows are remembered where rows can be read only many at once: the levels of a pyramid read the same
# image at places that lie this far apart.
_REMEMBERED = 256
# Rows looked at together where all of an image is looked through.
_PIECE = 64


class Source(ABC):
    """An image as the network sees it, by rows. May be read by several threads.

    Attributes
    ----------
    given : (int, int)
        Height and width of the image as given, in pixels.
    shape : (int, int)
        Height and width as the network sees it.
    """

    given: tuple[int, int]
    shape: tuple[int, int]

    @abstractmethod
    def read(self, first: int, last: int) -> NDArray[Any]:
        """Rows ``first`` to ``last`` (not included) of the image as the network sees it.

        Returns
        -------
        (last - first, width, 3) uint8 or float32
            Red first, 0..255. Not to be written to.

        Raises
        ------
        ImageError
            If these rows cannot be read, or hold values that are not finite or out of range.
        """

    @abstractmethod
    def close(self) -> None:
        """Close what :func:`open_source` has opened."""

    def __enter__(self) -> Source:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_source(
    image: ImageLike | Source, options: Options | None = None, **changes: Unpack[InputChanges]
) -> Source:
    """Open an image to be read by rows.

    An image that is larger than ``max_edge`` or ``max_sum_edges`` allow is read whole and shrunk. With both
    of them None, arrays in files (``numpy.memmap``, h5py datasets) and TIFF files above Pillow's limit, or of
    a kind that Pillow does not read, are never read whole, except for a compressed strip or tile that is as
    large as the image. Of these, values are checked as they are read.

    Whether floats lie in 0..1 instead of 0..255 can only be seen from all of them: they are looked through
    from the top until one is above 1, which is in the first rows of nearly every image.

    Parameters
    ----------
    image
        See :func:`d2np.images.open.open_image`. What is a source already is given back as it is, whatever the
        options: it was opened ahead of its use.
    options, **changes
        See :class:`d2np.Options`.

    Returns
    -------
    Source
        To be closed, or used as a context manager.

    Raises
    ------
    ImageError
        If it is no image, or too large, or would shrink to nothing.
    OptionError
        If an option has a value that makes no sense.
    """
    options = chosen(options, InputChanges, **changes)
    if isinstance(image, Source):
        return image
    given = images.known(image)
    stored: Any = given
    if images.is_encoded(given):
        name = images.name_of(given)
        stored = images.open_file(given, options.max_pixels)
        upright = not options.orient or (isinstance(stored, TiffRows) and stored.orientation == 1)
        if not isinstance(stored, TiffRows) or not upright:
            return _Whole(images.load(stored, options.orient, name, options.stretch), options)
    elif isinstance(given, Image.Image):
        return _Whole(images.open_image(given, options), options)
    else:
        name = "the image array" if isinstance(given, np.ndarray) else "the image dataset"
    source = _Rows(stored, name, options.stretch)
    try:
        height, width = source.given
        if images.network_size(width, height, options) == (width, height):
            return source
        with source:
            return _Whole(source.read(0, height), options)
    except BaseException:
        source.close()
        raise


class _Whole(Source):
    """An image in memory, shrunk."""

    def __init__(self, pixels: NDArray[Any], options: Options) -> None:
        height, width = pixels.shape[:2]
        self.given = (height, width)
        self._image = images.shrink(pixels, options)
        height, width = self._image.shape[:2]
        self.shape = (height, width)

    def read(self, first: int, last: int) -> NDArray[Any]:
        return self._image[first:last]

    def close(self) -> None:
        """No file is open."""


class _Rows(Source):
    """Rows of anything of which rows can be cut, checked and converted when they are asked for."""

    def __init__(self, stored: Any, name: str, stretch: bool) -> None:
        self._stored = stored
        self._name = name
        self._step = _step(stored)
        self._pieces: OrderedDict[int, NDArray[Any]] = OrderedDict()
        self._lock = threading.Lock()
        self._told: set[str] = set()
        self._levels, self._range = images.Levels(), images.FULL
        self._stretch = stretch
        try:
            images.check_form(stored.shape, stored.dtype, name)
            self.given = self.shape = (int(stored.shape[0]), int(stored.shape[1]))
            self._floats = np.issubdtype(stored.dtype, np.floating)
            if self._floats:
                self._refuse_fractions()
            if stretch:
                for first in range(0, self.given[0], _PIECE):
                    self._levels.add(self._cut(first, min(first + _PIECE, self.given[0])))
                self._range = self._levels.range
        except BaseException:
            self.close()
            raise

    def read(self, first: int, last: int) -> NDArray[Any]:
        rows = self._cut(first, last)
        if self._floats and rows.size:
            images.check_floats(rows, self._name)
        if not self._stretch:
            with self._lock:
                self._levels.add(rows)
        return images.as_rgb(rows, self._range)

    def close(self) -> None:
        if not self._stretch:
            self._levels.remark(self._name)
        self._pieces.clear()
        if isinstance(self._stored, TiffRows):
            self._stored.close()

    def _refuse_fractions(self) -> None:
        height = self.given[0]
        lowest, highest = math.inf, -math.inf
        # Arrays in memory are checked before any work is done on them.
        everything = isinstance(self._stored, np.ndarray) and not isinstance(self._stored, np.memmap)
        for first in range(0, height, _PIECE):
            low, high = images.check_floats(self._cut(first, min(first + _PIECE, height)), self._name)
            lowest, highest = min(lowest, low), max(highest, high)
            if not everything and (lowest < 0 or highest > 1):
                return
        images.refuse_fractions(lowest, highest, self._name)

    def _cut(self, first: int, last: int) -> NDArray[Any]:
        """Rows as they are stored."""
        if self._step == 1 or first >= last:
            return self._fetch(first, last)
        with self._lock:
            parts = []
            for piece in range(first // self._step, math.ceil(last / self._step)):
                top = piece * self._step
                parts.append(self._piece(piece)[max(first - top, 0) : last - top])
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _piece(self, piece: int) -> NDArray[Any]:
        if piece not in self._pieces:
            top = piece * self._step
            rows = self._fetch(top, min(top + self._step, self.given[0]))
            # One piece may reach into the next, so two are kept however large they are.
            while len(self._pieces) >= max(2, math.ceil(_REMEMBERED / self._step)):
                self._pieces.popitem(last=False)
            self._pieces[piece] = rows
        self._pieces.move_to_end(piece)
        return self._pieces[piece]

    def _fetch(self, first: int, last: int) -> NDArray[Any]:
        try:
            with reading(self._name, self._told):
                return np.asarray(self._stored[first:last])
        except ImageError:
            raise
        # A damaged or a closed HDF5 file, or what another library's array raises.
        except Exception as error:
            raise ImageError(f"{self._name} cannot be read from row {first} on: {error}") from error


class Watched(Source):
    """Another source, of which is told how many of its rows have been read.

    Parameters
    ----------
    source : Source
    tell : callable
        Called with the number of rows that were read.
    """

    def __init__(self, source: Source, tell: Callable[[int], object]) -> None:
        self._source, self._tell = source, tell
        self.given, self.shape = source.given, source.shape

    def read(self, first: int, last: int) -> NDArray[Any]:
        rows = self._source.read(first, last)
        self._tell(last - first)
        return rows

    def close(self) -> None:
        self._source.close()


def _step(stored: Any) -> int:
    """How many rows are decoded at once: those of a strip, tile or chunk."""
    if isinstance(stored, TiffRows):
        return stored.step
    chunks = getattr(stored, "chunks", None)
    return int(chunks[0]) if isinstance(chunks, tuple) and chunks else 1
