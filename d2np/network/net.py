"""The network: images in, features out."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import weights
from ..errors import ImageError, OptionError, WeightsError
from ..features import DESCRIPTOR_SIZE, Features
from ..images import open as image
from ..images.open import ImageLike, network_size, open_image
from ..images.source import Source, open_source
from ..kernels import topk
from ..layers import LAYERS, PARAMETER_COUNT, Layer, map_size
from ..options import Algorithm, InputChanges, MapChanges, OptionChanges, Options, Preprocessing, chosen
from ..threads import Clock, Team, Workspace
from . import detect, pyramid
from .bands import RowBuffer, WholeMap, flow
from .gathering import Gathering, Pile
from .profile import Profile, summarise
from .stages import PackedWeights, stages

if TYPE_CHECKING:
    from typing_extensions import Unpack

FloatArray = NDArray[np.float32]

# A workspace is kept for the next call unless it is larger than this: those for one scale are not.
_KEPT_BYTES = 384 << 20


@dataclass(frozen=True)
class _Frame:
    """An image as given and as the network sees it: (height, width) in pixels, and how cells lie in both."""

    given: tuple[int, int]
    seen: tuple[int, int]
    centered: bool = False

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
        """Cells (N, 2) row, column of a level's map to x, y in pixels of the image as given."""
        inner, size = np.array(self.seen), np.array((level.height, level.width))
        # The pyramid puts centres of corner pixels on each other. The published code divides whole sizes.
        factor = (inner - 1) / (size - 1) if self.centered else inner / size
        pixels = (positions * np.float32(4) + self._offset) * factor.astype(np.float32)
        pixels = (pixels + self._edge) * (self.given / inner).astype(np.float32) - self._edge
        return pixels[:, ::-1]

    def to_cells(self, xy: NDArray[np.float64]) -> FloatArray:
        """x, y in pixels of the image as given to cells (N, 2) row, column."""
        edge = float(self._edge)
        pixels = (xy[:, ::-1] + edge) * (np.array(self.seen) / self.given) - edge
        cells = (pixels - float(self._offset)) / 4
        # Keypoints on the map's border must not fall off it by a rounding error.
        last = np.array(map_size(*self.seen)) - 1
        near = (cells > -1e-4) & (cells < last + 1e-4)
        with np.errstate(over="ignore"):  # too far away for float32 is outside too
            return np.where(near, np.clip(cells, 0, last), cells).astype(np.float32)


class Net:
    """D2-Net (Dusmanu et al., CVPR 2019) with its weights.

    A net may be called from many threads at once, pickled, and used in a forked child.

    Parameters
    ----------
    arrays : mapping
        ``"conv1_1/weight"`` -> (out, in, 3, 3) float32, ``"conv1_1/bias"`` -> (out,) float32, and so on to
        ``conv4_3``; the input channels of ``conv1_1`` are blue, green, red as published.
    provenance : Provenance, optional
        Where the weights come from.
    algorithm : {"winograd", "direct"}
        How convolutions are computed. Winograd's is the faster one; both agree to about 1e-5 of the map's
        maximum.

    Raises
    ------
    WeightsError
        If an array is missing, unknown, of another shape, or not finite.
    OptionError
        If there is no such algorithm.
    """

    def __init__(
        self,
        arrays: Mapping[str, ArrayLike],
        *,
        provenance: weights.Provenance | None = None,
        algorithm: Algorithm = "winograd",
    ) -> None:
        self._arrays = weights.check(arrays)
        self.provenance = provenance
        self._packed = PackedWeights(self._arrays, algorithm)
        self._idle: list[Workspace] = []

    @classmethod
    def load(cls, source: str | os.PathLike[str], *, algorithm: Algorithm = "winograd") -> Net:
        """Read weights from a file.

        Parameters
        ----------
        source : path or name
            HDF5 written by d2np, a PyTorch checkpoint (read without PyTorch, and without running any code
            in it), safetensors, an ONNX file of the network, a VGG16 in HDF5 of Keras, or a name: "vgg16",
            "analytic", "tf", "ots", "tf_no_phototourism".
        algorithm : {"winograd", "direct"}
            See :class:`Net`.

        Raises
        ------
        WeightsError
            If there is no such file, or it does not hold the weights of a D2-Net.
        """
        arrays, provenance = weights.load(source)
        return cls(arrays, provenance=provenance, algorithm=algorithm)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the weights as d2np's HDF5, with where they come from.

        For ONNX see :func:`d2np.weights.onnx.write`.
        """
        weights.save(path, self._arrays, self.provenance)

    @property
    def arrays(self) -> Mapping[str, FloatArray]:
        """The 20 parameter arrays by name, read-only."""
        return MappingProxyType(self._arrays)

    @property
    def preprocessing(self) -> Preprocessing:
        """How colours were scaled when the weights were trained, ``"caffe"`` or ``"torch"``."""
        return self.provenance.preprocessing if self.provenance else "caffe"

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The 22 layers in order."""
        return LAYERS

    @property
    def parameter_count(self) -> int:
        """How many numbers all arrays hold: 7,635,264."""
        return PARAMETER_COUNT

    def __call__(
        self,
        image: ImageLike | Source,
        options: Options | None = None,
        *,
        threads: int | None = None,
        **changes: Unpack[OptionChanges],
    ) -> Features:
        """Find and describe keypoints.

        Parameters
        ----------
        image : path, PIL.Image or array (H, W[, 3 | 4])
            uint8, uint16 over its full range, or float in 0..255; red first. Or what
            :func:`d2np.images.source.open_source` has opened ahead with the same options, which is closed.
        options : Options, optional
            See :class:`d2np.Options`.
        threads : int, optional
            How many to use; by default every core this process may use. Results are the same, bit for bit.
        **changes
            Options by name, such as ``max_keypoints=2000``; they count where there are both.

        Returns
        -------
        Features
            In pixels of the image as given. In order of level and row, or of score if ``max_keypoints`` is
            given or the detector is ``"strength"``.

        Raises
        ------
        ImageError
            If the image cannot be used, or is too small for one of the scales.
        OptionError
            If an option has a value that makes no sense.
        WeightsError
            If the weights are so large that the feature map overflows.
        """
        with self._team(threads) as team:
            return self._extract(image, chosen(options, **changes), team)

    def profile(
        self,
        image: ImageLike,
        options: Options | None = None,
        *,
        threads: int | None = None,
        **changes: Unpack[OptionChanges],
    ) -> Profile:
        """Extract features twice, and tell where the time of the second run went.

        For the parameters and errors see :meth:`__call__`.

        Returns
        -------
        Profile
            Time per layer and phase; ``print`` shows it as a table.
        """
        options = chosen(options, **changes)
        pixels = open_image(image, options)
        with self._team(threads) as team:
            self._extract(pixels, options, team)  # compiles what has not been compiled yet
        clock = Clock()
        with self._team(threads, clock) as team:
            start = time.perf_counter()
            self._extract(pixels, options, team)
            wall_seconds = time.perf_counter() - start
        width, height = network_size(pixels.shape[1], pixels.shape[0], options)
        sizes = [(level.height, level.width) for level in pyramid.levels(height, width, options.scales)]
        return summarise(clock, wall_seconds, team.size, sizes)

    def stream(
        self,
        image: ImageLike | Source,
        options: Options | None = None,
        *,
        threads: int | None = None,
        **changes: Unpack[OptionChanges],
    ) -> Generator[Features]:
        """Find and describe keypoints, and hand them out as the image is worked through from its top.

        For callers who do not want to hold all features of a large image. The parameters and errors are
        those of :meth:`__call__`; the best of all keypoints are not known before the end, so
        ``max_keypoints`` must be None.

        Yields
        ------
        Features
            The keypoints of some rows of one level of the pyramid, in pixels of the whole image as given:
            all together those of :meth:`__call__`, and in the same order among those of one scale.
        """
        options = chosen(options, **changes)
        if options.max_keypoints is not None:
            raise OptionError("max_keypoints: the best keypoints are not known before the end of a stream")
        return self._stream(image, options, threads)

    def _stream(
        self, image: ImageLike | Source, options: Options, threads: int | None
    ) -> Generator[Features]:
        with self._team(threads) as team:
            for _, features in self._pieces(image, options, team):
                if len(features):
                    yield features

    def _extract(self, image: ImageLike | Source, options: Options, team: Team) -> Features:
        most = options.max_keypoints
        if most is None and options.detector == "strength":
            most = np.iinfo(np.int64).max
        # In the order of the levels, as published: what comes of the finer ones has to wait.
        levels: dict[int, Gathering | Pile] = {}
        for number, features in self._pieces(image, options, team):
            if number not in levels:
                gathers = number == 1 or most is not None
                levels[number] = Gathering(features.image_size, most) if gathers else Pile()
            levels[number].add(features)
        whole = levels.pop(1)
        for number in sorted(levels):
            for block in levels.pop(number).blocks():
                whole.add(block)
        (features,) = whole.blocks()
        return features

    def _pieces(
        self, image: ImageLike | Source, options: Options, team: Team
    ) -> Iterator[tuple[int, Features]]:
        """The number of a level and the features of some of its rows, until all levels are done."""
        with open_source(image, options) as source:
            frame = _Frame(source.given, source.shape, options.centered)
            allowed = _checked_mask(options.mask, frame)
            steps = pyramid.levels(*frame.seen, options.scales)
            ranked = options.detector == "strength"
            read = self._preprocessed(source, options)
            found: list[tuple[int, Features]] = []

            def flows(level: pyramid.Level) -> tuple[Iterator[int], RowBuffer, int]:
                # Strength is defined without the last ReLU; descriptors get theirs when they are sampled.
                return self._flow(
                    pyramid.reader(read, frame.seen[0], level, team),
                    (level.height, level.width),
                    team,
                    relu=options.relu and not ranked,
                    name=level.number,
                    beside=(steps[-1].width, len(steps)),
                )

            def emit(level: pyramid.Level, rows: detect.MapRows, candidates: detect.Candidates) -> None:
                _check_finite(rows.cells)
                xy = frame.to_image(candidates.positions, level)
                # Summed maps grow with the level's number; strengths are normalised and do not.
                scores = candidates.scores if ranked else candidates.scores / np.float32(level.number)
                chosen = np.arange(len(xy)) if allowed is None else np.flatnonzero(_inside(xy, allowed))
                if options.max_keypoints is not None:
                    # Only these can be among the best of all: no others are described.
                    chosen = np.sort(chosen[topk.strongest(scores[chosen], options.max_keypoints)])
                described, _ = detect.descriptors(
                    rows, candidates.positions[chosen], team, relu=options.relu and ranked
                )
                scale = np.full((len(chosen), 1), 1 / level.scale, np.float32)
                keypoints = np.concatenate([xy[chosen], scale], axis=1)
                size = (frame.given[1], frame.given[0])
                found.append((level.number, Features(keypoints, scores[chosen], described, size)))

            for _ in pyramid.climb(steps, flows, detect.DETECTORS[options.detector], emit, team):
                yield from found
                found.clear()

    def dense(
        self,
        image: ImageLike,
        options: Options | None = None,
        *,
        threads: int | None = None,
        **changes: Unpack[MapChanges],
    ) -> FloatArray:
        """The dense feature map.

        Cell (i, j) lies at x = 4 j + 1.5, y = 4 i + 1.5 of the image as the network sees it. For the
        parameters and errors see :meth:`__call__`.

        Returns
        -------
        (h, w, 512) float32
            55 x 55 x 512 for 224 x 224 pixels.
        """
        options = chosen(options, MapChanges, **changes)
        with self._team(threads) as team, open_source(image, options) as source:
            height, width = _checked_size(source)
            cells = np.empty((*map_size(height, width), DESCRIPTOR_SIZE), np.float32)
            made = stages(self._packed, width, team.workspace, relu=options.relu)
            for _ in flow(self._preprocessed(source, options), height, made, WholeMap(cells), team):
                pass
        for row in cells:  # the whole map at once would need a quarter of its memory again
            _check_finite(row)
        return cells

    def strength(
        self,
        image: ImageLike,
        options: Options | None = None,
        *,
        threads: int | None = None,
        **changes: Unpack[InputChanges],
    ) -> FloatArray:
        """The largest element of each cell's L2-normalised feature vector, without the last ReLU.

        For the parameters and errors see :meth:`__call__`.

        Returns
        -------
        (h, w) float32
        """
        options = chosen(options, InputChanges, **changes)
        with self._team(threads) as team, open_source(image, options) as source:
            result = np.empty(map_size(*_checked_size(source)), np.float32)
            for rows in self._rows(self._preprocessed(source, options), source.shape, team, relu=False):
                result[rows.top : rows.top + len(rows.cells)] = detect.strength(rows.cells, team)
        return result

    def describe(
        self,
        image: ImageLike,
        xy: ArrayLike,
        options: Options | None = None,
        *,
        threads: int | None = None,
        **changes: Unpack[MapChanges],
    ) -> tuple[FloatArray, NDArray[np.bool_]]:
        """Descriptors at positions of your own.

        For the other parameters and the errors see :meth:`__call__`.

        Parameters
        ----------
        image : path, PIL.Image or array
        xy : (N, 2) array
            x, y in pixels of the image as given. More columns, such as the scale in
            ``features.keypoints``, are left out.

        Returns
        -------
        descriptors : (N, 512) float32
            L2-normalised; zeros where the position lies outside the feature map.
        valid : (N,) bool
            Whether it lies inside.
        """
        try:
            places = np.asarray(xy, np.float64)
        except (TypeError, ValueError):
            raise OptionError("xy must be an array (N, 2) of numbers") from None
        if places.size == 0:
            places = places.reshape(0, 2)
        if places.ndim != 2 or places.shape[1] < 2:
            raise OptionError(f"xy must have shape (N, 2); got {places.shape}")
        options = chosen(options, MapChanges, **changes)
        with self._team(threads) as team, open_source(image, options) as source:
            frame = _Frame(source.given, _checked_size(source), options.centered)
            positions = frame.to_cells(places[:, :2])
            result = np.zeros((len(positions), DESCRIPTOR_SIZE), np.float32)
            valid = np.zeros(len(positions), np.bool_)
            for rows in self._rows(
                self._preprocessed(source, options), source.shape, team, relu=options.relu, kept=1
            ):
                # Those of which the row above and the row below are there.
                last = rows.top + len(rows.cells) - 1
                end = np.inf if last == rows.height - 1 else last
                here = (positions[:, 0] >= rows.top) & (positions[:, 0] < end)
                result[here], valid[here] = detect.descriptors(rows, positions[here], team, relu=False)
        return result, valid

    def _preprocessed(self, source: Source, options: Options) -> Callable[[int, int], FloatArray]:
        how = options.preprocessing or self.preprocessing
        return lambda first, last: image.preprocess(source.read(first, last), how)

    def _flow(
        self,
        read: Callable[[int, int], FloatArray],
        size: tuple[int, int],
        team: Team,
        *,
        relu: bool,
        name: object = None,
        beside: tuple[int, int] | None = None,
    ) -> tuple[Iterator[int], RowBuffer, int]:
        """The flow of a preprocessed image, the buffer of its map, and the rows of the whole map.

        ``name`` tells apart those that share the team's workspace at the same time; for ``beside`` see
        :func:`stages`.
        """
        height, width = size
        rows, columns = map_size(height, width)
        memory = partial(team.workspace.array, (name, "map"))
        window = RowBuffer(columns, DESCRIPTOR_SIZE, 0, memory, straight=True, dense=True)
        made = stages(self._packed, width, team.workspace, relu=relu, name=name, beside=beside)
        return flow(read, height, made, window, team), window, rows

    def _rows(
        self,
        read: Callable[[int, int], FloatArray],
        size: tuple[int, int],
        team: Team,
        *,
        relu: bool,
        kept: int = 0,
    ) -> Iterator[detect.MapRows]:
        """The map as it comes, from top to bottom; ``kept`` rows are handed out again before the next."""
        advance, window, height = self._flow(read, size, team, relu=relu)
        for _ in advance:
            cells = window.held()
            _check_finite(cells)
            yield detect.MapRows(cells, window.dropped, height)
            window.drop(window.count - kept)

    @contextmanager
    def _team(self, threads: int | None, clock: Clock | None = None) -> Iterator[Team]:
        """A team with a workspace that an earlier call has left, if no other call is using it."""
        try:
            workspace = self._idle.pop()
        except IndexError:
            workspace = Workspace()
        with Team(threads, clock, workspace) as team:
            yield team
        if workspace.nbytes <= _KEPT_BYTES:
            self._idle.append(workspace)

    def __repr__(self) -> str:
        origin = f" from {self.provenance.name}" if self.provenance else ""
        return f"<Net: D2-Net, {len(self.layers)} layers, {self.parameter_count:,} parameters{origin}>"

    def __getstate__(self) -> dict[str, Any]:
        # The packed weights depend on the processor: another machine packs its own.
        return {
            "arrays": self._arrays,
            "provenance": self.provenance,
            "algorithm": self._packed.algorithm,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._arrays = state["arrays"]
        self.provenance = state["provenance"]
        self._packed = PackedWeights(self._arrays, state["algorithm"])
        self._idle = []


def _checked_size(source: Source) -> tuple[int, int]:
    pyramid.levels(*source.shape, (1.0,))
    return source.shape


def _check_finite(values: FloatArray) -> None:
    """Weights are finite, but what they make of an image may not be."""
    if not np.isfinite(values).all():
        raise WeightsError(
            "the feature map goes beyond what float32 holds: the weights are too large to be those of a "
            "working network"
        )


def _checked_mask(mask: ArrayLike | None, frame: _Frame) -> NDArray[np.bool_] | None:
    if mask is None:
        return None
    allowed = image.to_array(mask, "the mask")
    if allowed.shape != frame.given:
        raise ImageError(f"the mask must have the image's shape {frame.given}; got {allowed.shape}")
    return allowed != 0


def _inside(xy: FloatArray, allowed: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which positions fall on a pixel that the mask allows; the nearest pixel counts, as in OpenCV."""
    height, width = allowed.shape
    columns = np.clip(np.floor(xy[:, 0] + 0.5).astype(np.int64), 0, width - 1)
    rows = np.clip(np.floor(xy[:, 1] + 0.5).astype(np.int64), 0, height - 1)
    return allowed[rows, columns]
