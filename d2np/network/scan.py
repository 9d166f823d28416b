"""One image on its way through the network: its bands, its pyramid, and what is found in its maps."""

from __future__ import annotations

import mmap
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ..errors import ImageError
from ..features import DESCRIPTOR_SIZE, Features, evenly, strongest
from ..images.open import Source, is_encoded, name_of, open_mask, to_array
from ..images.pixels import preprocess
from ..layers import map_size
from ..options import Options, Preprocessing
from ..threads import Team
from . import detect, pooling, pyramid, stages
from .bands import RowBuffer, flow

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Frame:
    """An image as given and as the network sees it: (height, width) in pixels, and how cells lie in both.

    Maps are those of the image turned anticlockwise by ``turns`` quarters; both sizes are of the image before
    that.
    """

    given: tuple[int, int]
    seen: tuple[int, int]
    centered: bool = False
    turns: int = 0

    def turned(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return (height, width) after the image is turned."""
        return (size[1], size[0]) if self.turns % 2 else size

    @property
    def _offset(self) -> np.float32:
        # Two poolings by 2 put cell 0 at pixel 1.5. The 2 x 2 average that follows moves the centre by half
        # a cell more, which the published code leaves out.
        return np.float32(3.5 if self.centered else 1.5)

    @property
    def _edge(self) -> np.float32:
        # Shrinking puts edges of images on edges, which are half a pixel outside the centres of the outermost
        # pixels. The published code scales positions about the centre of the first pixel instead.
        return np.float32(0.5 if self.centered else 0)

    def to_image(self, positions: FloatArray, level: pyramid.Level) -> FloatArray:
        """Convert cells (N, 2) row, column of a level's map to x, y in pixels of the image as given."""
        inner, size = np.array(self.turned(self.seen)), np.array((level.height, level.width))
        # The pyramid puts centres of corner pixels on each other. The published code divides whole sizes.
        factor = (inner - 1) / (size - 1) if self.centered else inner / size
        pixels = (positions * np.float32(4) + self._offset) * factor.astype(np.float32)
        outer = self.turned(self.given)
        pixels = (pixels + self._edge) * (outer / inner).astype(np.float32) - self._edge
        return self._turned_back(pixels[:, ::-1])

    def _turned_back(self, xy: FloatArray) -> FloatArray:
        height, width = self.given
        x, y = xy.T
        right, bottom = np.float32(width - 1), np.float32(height - 1)
        turned = ((x, y), (right - y, x), (right - x, bottom - y), (y, bottom - x))[self.turns]
        return xy if not self.turns else np.column_stack(turned)

    def to_cells(self, xy: NDArray[np.float64]) -> FloatArray:
        """Convert x, y in pixels of the image as given to cells (N, 2) row, column."""
        edge = float(self._edge)
        pixels = (xy[:, ::-1] + edge) * (np.array(self.seen) / self.given) - edge
        cells = (pixels - float(self._offset)) / 4
        # Keypoints on the map's border must not fall off it by a rounding error.
        last = np.array(map_size(*self.seen)) - 1
        near = (cells > -1e-4) & (cells < last + 1e-4)
        with np.errstate(over="ignore"):  # too far away for float32 is outside too
            return np.where(near, np.clip(cells, 0, last), cells).astype(np.float32)


@dataclass
class Scan:
    """An image that goes through the network once, from its top to its bottom.

    Parameters
    ----------
    packed : PackedWeights
    source : Source
    options : Options
    preprocessing : {"caffe", "torch"}
    team : Team
    turns : int
        By how many quarters the image is turned anticlockwise.
    allowed : (H, W) bool, or None
        Where keypoints may be: the mask of the options, checked.

    Attributes
    ----------
    frame : Frame
    levels : list of Level
        Of the pyramid.
    """

    packed: stages.PackedWeights
    source: Source
    options: Options
    preprocessing: Preprocessing
    team: Team
    turns: int = 0
    allowed: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        source, options = self.source, self.options
        self.frame = Frame(source.given, source.shape, options.centered, self.turns)
        self.levels = pyramid.levels(*self.frame.turned(source.shape), options.scales)
        self._read = source.turned(self.turns) if self.turns else source.read

    def dense(self) -> FloatArray:
        """Return the feature map (h, w, 512)."""
        return self._whole_map(lambda cells: cells, (DESCRIPTOR_SIZE,), relu=self.options.relu)

    def strength(self) -> FloatArray:
        """Return the strength (h, w) of each cell."""
        return self._whole_map(lambda cells: detect.strength(cells, self.team), (), relu=False)

    def _whole_map(
        self, compute: Callable[[FloatArray], FloatArray], shape: tuple[int, ...], *, relu: bool
    ) -> FloatArray:
        result = np.empty((*map_size(*self.frame.seen), *shape), np.float32)

        def keep(rows: detect.MapRows, first: int, last: int, *_: object) -> None:
            result[first:last] = compute(rows.between(first, last))

        deque(self._climb(keep, relu=relu), maxlen=0)
        return result

    def describe(self, xy: NDArray[np.float64]) -> tuple[FloatArray, NDArray[np.bool_]]:
        """Return descriptors (N, 512) at positions (N, 2) of the image as given, and which are valid (N,)."""
        positions = self.frame.to_cells(xy)
        result = np.zeros((len(positions), DESCRIPTOR_SIZE), np.float32)
        valid = np.zeros(len(positions), np.bool_)

        def sample(rows: detect.MapRows, first: int, last: int, *_: object) -> None:
            here = (positions[:, 0] >= first) & (positions[:, 0] < last)
            result[here], valid[here] = detect.descriptors(rows, positions[here], self.team, relu=False)

        deque(self._climb(sample, relu=self.options.relu), maxlen=0)
        return result, valid

    def features(self) -> Features:
        """Return the features of all rotations, one after the other."""
        found = [scan._of_one_rotation() for scan in self._rotations()]
        return found[0] if len(found) == 1 else join(found)

    def stream(self) -> Iterator[Features]:
        """Yield the features of some rows of one level, until all levels of all rotations are done."""
        for scan in self._rotations():
            for _, features in scan.pieces():
                yield features

    def _rotations(self) -> Iterator[Scan]:
        # A mask in a file is read once.
        allowed = _checked_mask(self.options, self.frame)
        for degrees in self.options.rotations:
            yield replace(self, turns=degrees // 90, allowed=allowed)

    def _of_one_rotation(self) -> Features:
        """Return all features, level by level as published, or the best ones first."""
        options = self.options
        most = options.max_keypoints
        found: list[list[Features]] = [[] for _ in self.levels]
        for number, piece in self.pieces():
            level = found[number - 1]
            level.append(replace(piece, descriptors=_in_own_pages(piece.descriptors)))
            # No more than twice as many as can be among the best of all are held.
            if most is not None and sum(map(len, level)) > 2 * most:
                whole = join(level)
                level.append(whole.select(self._best(whole.keypoints, whole.scores)))
        pieces = [piece for level in found for piece in level]
        for level in found:
            level.clear()  # the last of which has a name of its own
        whole = join(pieces)
        if most is None and options.detector == "d2":
            return whole
        return whole.select(self._best(whole.keypoints, whole.scores))

    def _best(self, xy: FloatArray, scores: FloatArray) -> NDArray[np.int64]:
        """Return which keypoints to keep, or may be kept if these are not all, the highest score first."""
        most, (height, width) = self.options.max_keypoints, self.frame.given
        if self.options.spread and most is not None:
            return evenly(xy, scores, most, (width, height))
        return strongest(scores, most)

    def pieces(self) -> Iterator[tuple[int, Features]]:
        """Yield the number of a level and the features of some of its rows, until all levels are done."""
        options, team, frame, allowed = self.options, self.team, self.frame, self.allowed
        ranked = options.detector == "strength"
        found: list[tuple[int, Features]] = []
        pooled = pooling.Pooling(team) if options.global_descriptor and not self.turns else None
        # The image at its own size, or at the first scale that is asked for.
        pooled_scale = 1.0 if 1.0 in options.scales else options.scales[0]

        def search(
            rows: detect.MapRows, first: int, last: int, blocked: NDArray[np.bool_], level: pyramid.Level
        ) -> bool:
            if pooled is not None and level.scale == pooled_scale:
                pooled.add(rows, first, last)
            candidates = detect.DETECTORS[options.detector](rows, blocked, first, last, team)
            xy = frame.to_image(candidates.positions, level)
            # Summed maps grow with the level's number; strengths are normalised and do not.
            scores = candidates.scores if ranked else candidates.scores / np.float32(level.number)
            chosen = np.arange(len(xy)) if allowed is None else np.flatnonzero(_inside(xy, allowed))
            if options.max_keypoints is not None:
                # Only these can be among the best of all: no others are described.
                chosen = np.sort(chosen[self._best(xy[chosen], scores[chosen])])
            # Strength is defined without the last ReLU; descriptors get theirs when they are sampled.
            described, _ = detect.descriptors(
                rows, candidates.positions[chosen], team, relu=options.relu and ranked
            )
            scale = np.full((len(chosen), 1), 1 / level.scale, np.float32)
            keypoints = np.concatenate([xy[chosen], scale], axis=1)
            found.append((level.number, self._piece(keypoints, scores[chosen], described)))
            return len(xy) > 0

        for _ in self._climb(search, relu=options.relu and not ranked):
            yield from found
            found.clear()
        if pooled is not None:
            keypoints, descriptors = (np.zeros((0, n), np.float32) for n in (3, DESCRIPTOR_SIZE))
            yield len(self.levels), self._piece(keypoints, keypoints[:, 0], descriptors, pooled.vector())

    def _piece(
        self,
        keypoints: FloatArray,
        scores: FloatArray,
        descriptors: FloatArray,
        global_descriptor: FloatArray | None = None,
    ) -> Features:
        """Return features of this rotation."""
        height, width = self.frame.given
        turned = len(self.options.rotations) > 1
        rotations = np.full(len(scores), 90 * self.turns, np.int16) if turned else None
        return Features(keypoints, scores, descriptors, (width, height), rotations, global_descriptor)

    def _climb(self, visit: pyramid.Visit, *, relu: bool) -> Iterator[None]:
        """Have rows of all levels' maps looked at; ``relu`` is for the last convolution."""
        team, levels = self.team, self.levels
        tiles = stages.tiles_at_a_time(levels[-1].width, team.size) // len(levels)

        def read(first: int, last: int) -> FloatArray:
            return preprocess(self._read(first, last), self.preprocessing)

        def flow_of(level: pyramid.Level) -> tuple[Iterator[int], RowBuffer, int]:
            rows, columns = map_size(level.height, level.width)
            memory = partial(team.workspace.array, (level.number, "map"))
            window = RowBuffer(columns, DESCRIPTOR_SIZE, 0, memory, straight=True, dense=True)
            made = stages.stages(
                self.packed, level.width, team.workspace, relu=relu, name=level.number, tiles=tiles
            )
            resized = pyramid.reader(read, self.frame.turned(self.frame.seen)[0], level, team)
            return flow(resized, level.height, made, window, team), window, rows

        return pyramid.climb(levels, flow_of, visit, team)


def join(pieces: list[Features]) -> Features:
    """Return the features of pieces, one at least, of one image.

    The list is empty afterwards: what is copied from it is let go, so that little is held twice.
    """
    count, first = sum(map(len, pieces)), 0
    pooled = next((p.global_descriptor for p in pieces if p.global_descriptor is not None), None)
    keypoints, scores = np.empty((count, 3), np.float32), np.empty(count, np.float32)
    descriptors = np.empty((count, DESCRIPTOR_SIZE), np.float32)
    rotations = None if pieces[0].rotations is None else np.empty(count, np.int16)
    pieces.reverse()
    while pieces:
        piece = pieces.pop()
        there = slice(first, first + len(piece))
        keypoints[there], scores[there] = piece.keypoints, piece.scores
        descriptors[there] = piece.descriptors
        if rotations is not None and piece.rotations is not None:
            rotations[there] = piece.rotations
        first += len(piece)
    return Features(keypoints, scores, descriptors, piece.image_size, rotations, pooled)


def _in_own_pages(array: FloatArray) -> FloatArray:
    """Return a copy in pages of its own, which the system gets back as soon as the copy is let go.

    An allocator would keep them, since other memory that is in use lies behind them.
    """
    pages = mmap.mmap(-1, max(1, array.nbytes))
    copy = np.frombuffer(pages, array.dtype, array.size).reshape(array.shape)
    copy[...] = array
    return copy


def in_blocks(pieces: Iterable[Features], least: int) -> Iterator[Features]:
    """Join pieces of one image's features to blocks of at least so many keypoints, but for the last one."""
    block: list[Features] = []
    for piece in pieces:
        block.append(piece)
        if sum(map(len, block)) >= least:
            yield join(block)
    if block:
        yield join(block)


def _checked_mask(options: Options, frame: Frame) -> NDArray[np.bool_] | None:
    mask = options.mask
    if mask is None:
        return None
    if is_encoded(mask):
        allowed = open_mask(mask, options)
        if allowed.shape != frame.given:
            sizes = ["{1} x {0} px".format(*shape) for shape in (frame.given, allowed.shape)]
            raise ImageError(
                f"{name_of(mask)}: a mask must have its image's size {sizes[0]}; it has {sizes[1]}"
            )
        return allowed
    allowed = to_array(mask, "the mask")
    if allowed.shape != frame.given:
        raise ImageError(f"the mask must have the image's shape {frame.given}; got {allowed.shape}")
    return allowed != 0


def _inside(xy: FloatArray, allowed: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which positions are on a pixel that the mask allows; the nearest pixel counts, as in OpenCV."""
    height, width = allowed.shape
    columns = np.clip(np.floor(xy[:, 0] + 0.5).astype(np.int64), 0, width - 1)
    rows = np.clip(np.floor(xy[:, 1] + 0.5).astype(np.int64), 0, height - 1)
    return allowed[rows, columns]
