"""The network: pictures in, features out."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import detect, image, pyramid, weights
from .bands import flow
from .errors import ImageError, OptionError
from .features import DESCRIPTOR_SIZE, Features
from .image import Picture, network_size, open_picture
from .kernels import topk
from .layers import LAYERS, PARAMETER_COUNT, Layer, map_size
from .profile import Profile, summarise
from .stages import PackedWeights, stages
from .threads import Clock, Team, Workspace

FloatArray = NDArray[np.float32]

# A workspace is kept for the next call unless it is larger than this.
_KEPT_BYTES = 256 << 20


@dataclass(frozen=True)
class _Options:
    """What :meth:`Net.__call__` can be told; see there."""

    detector: str = "d2"
    scales: Sequence[float] = (1.0,)
    max_keypoints: int | None = None
    preprocessing: str = "caffe"
    relu: bool = True
    centered: bool = False
    max_edge: int | None = 1600
    max_sum_edges: int | None = 2800
    mask: ArrayLike | None = None
    orient: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.detector, str) or self.detector not in detect.DETECTORS:
            raise OptionError(f"detector must be one of {', '.join(detect.DETECTORS)}; got {self.detector!r}")
        most = self.max_keypoints
        if most is not None and (isinstance(most, bool) or not hasattr(most, "__index__") or most < 0):
            raise OptionError(f"max_keypoints must be a whole number from 0 up, or None; got {most!r}")


@dataclass(frozen=True)
class _Frame:
    """A picture as given and as the network sees it: sizes in pixels, and how cells lie in both."""

    height: int
    width: int
    pixels: FloatArray
    centered: bool

    @property
    def offset(self) -> np.float32:
        # Two poolings by 2 put cell 0 at pixel 1.5. The 2 x 2 average that follows moves the centre by half
        # a cell more, which the published code leaves out.
        return np.float32(3.5 if self.centered else 1.5)

    def to_picture(self, positions: FloatArray, level: pyramid.Level) -> FloatArray:
        """Cells (N, 2) row, column of a level's map to x, y in pixels of the picture as given."""
        inner = np.array(self.pixels.shape[:2])
        pixels = positions * np.float32(4) + self.offset
        pixels *= (inner / (level.height, level.width)).astype(np.float32)
        pixels *= ((self.height, self.width) / inner).astype(np.float32)
        return pixels[:, ::-1]

    def to_cells(self, xy: NDArray[np.float64]) -> FloatArray:
        """x, y in pixels of the picture as given to cells (N, 2) row, column."""
        inner = np.array(self.pixels.shape[:2])
        cells = (xy[:, ::-1] * (inner / (self.height, self.width)) - float(self.offset)) / 4
        # Keypoints on the map's border must not fall off it by a rounding error.
        last = np.array(map_size(*self.pixels.shape[:2])) - 1
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
        algorithm: str = "winograd",
    ) -> None:
        self._arrays = weights.check(arrays)
        self.provenance = provenance
        self._packed = PackedWeights(self._arrays, algorithm)
        self._idle: list[Workspace] = []

    @classmethod
    def load(cls, source: str | os.PathLike[str], *, algorithm: str = "winograd") -> Net:
        """Read weights from a file.

        Parameters
        ----------
        source : path or name
            HDF5 written by d2np, a PyTorch checkpoint (read without PyTorch, and without running any code
            in it), an ONNX file of the network, or a name: "analytic", "tf", "ots", "tf_no_phototourism".
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
    def layers(self) -> tuple[Layer, ...]:
        """The 22 layers in order."""
        return LAYERS

    @property
    def parameter_count(self) -> int:
        return PARAMETER_COUNT

    def __call__(
        self,
        image: Picture,
        *,
        detector: str = "d2",
        scales: Sequence[float] = (1.0,),
        max_keypoints: int | None = None,
        preprocessing: str = "caffe",
        relu: bool = True,
        centered: bool = False,
        max_edge: int | None = 1600,
        max_sum_edges: int | None = 2800,
        mask: ArrayLike | None = None,
        orient: bool = False,
        threads: int | None = None,
    ) -> Features:
        """Find and describe keypoints.

        Parameters
        ----------
        image : path, PIL.Image or array (H, W[, 3 | 4])
            uint8, uint16 over its full range, or float in 0..255; red first.
        detector : {"d2", "strength"}
            The published hard detection with sub-cell localisation, or a ranking of all cells by strength.
        scales : sequence of float
            Sizes of the pyramid's levels; ``(0.5, 1.0, 2.0)`` is the published one.
        max_keypoints : int, optional
            Keep the keypoints with the highest scores only, the highest first.
        preprocessing : {"caffe", "torch"}
            How colours are scaled; ``"caffe"`` is what the published weights expect.
        relu : bool
            Whether the last convolution is followed by a ReLU.
        centered : bool
            Put keypoints at the true centre of their cells, 2 px further right and down than published.
        max_edge, max_sum_edges : int or None
            The picture is shrunk until its longest edge and the sum of its edges are no larger, in pixels.
        mask : (H, W) array, optional
            Keypoints are kept only where it is not zero.
        orient : bool
            Turn the picture as its EXIF orientation says; keypoints are those of the turned picture.
        threads : int, optional
            How many to use; by default every core this process may use. Results are the same, bit for bit.

        Returns
        -------
        Features
            In pixels of the picture as given. In order of level and row, or of score if ``max_keypoints`` is
            given or the detector is ``"strength"``.

        Raises
        ------
        ImageError
            If the picture cannot be used, or is too small for one of the scales.
        OptionError
            If an option has a value that makes no sense.
        """
        options = _Options(
            detector,
            scales,
            max_keypoints,
            preprocessing,
            relu,
            centered,
            max_edge,
            max_sum_edges,
            mask,
            orient,
        )
        with self._team(threads) as team:
            return self._extract(image, options, team)

    def profile(self, image: Picture, *, threads: int | None = None, **options: Any) -> Profile:
        """Extract features twice, and tell where the time of the second run went.

        Parameters
        ----------
        image : path, PIL.Image or array
        threads : int, optional
        **options
            Those of :meth:`__call__`, as are the errors.

        Returns
        -------
        Profile
            Time per layer and phase; ``print`` shows it as a table.
        """
        chosen = _Options(**options)
        picture = open_picture(image, orient=chosen.orient)
        with self._team(threads) as team:
            self._extract(picture, chosen, team)  # compiles what has not been compiled yet
        clock = Clock()
        with self._team(threads, clock) as team:
            start = time.perf_counter()
            self._extract(picture, chosen, team)
            wall_seconds = time.perf_counter() - start
        height, width = picture.shape[:2]
        width, height = network_size(
            width, height, max_edge=chosen.max_edge, max_sum_edges=chosen.max_sum_edges
        )
        sizes = [(level.height, level.width) for level in pyramid.levels(height, width, chosen.scales)]
        return summarise(clock, wall_seconds, team.size, sizes)

    def _extract(self, image: Picture, options: _Options, team: Team) -> Features:
        frame = _frame(
            image,
            options.preprocessing,
            options.max_edge,
            options.max_sum_edges,
            options.orient,
            options.centered,
        )
        allowed = _checked_mask(options.mask, frame)
        steps = pyramid.levels(frame.pixels.shape[0], frame.pixels.shape[1], options.scales)
        ranked = options.detector == "strength"
        most = options.max_keypoints
        if ranked and most is None:
            most = np.iinfo(np.int64).max

        def forward(pixels: FloatArray, level: pyramid.Level) -> FloatArray:
            # Strength is defined without the last ReLU; descriptors get theirs when they are sampled.
            return self._forward(pixels, team, relu=options.relu and not ranked, name=level.number)

        keypoints, scores, vectors = [], [], []
        find = detect.DETECTORS[options.detector]
        for level, cells, found in pyramid.climb(frame.pixels, steps, forward, find, team):
            xy = frame.to_picture(found.positions, level)
            # Summed maps grow with the level's number; strengths are normalised and do not.
            level_scores = found.scores if ranked else found.scores / np.float32(level.number)
            chosen = np.arange(len(xy)) if allowed is None else np.flatnonzero(_inside(xy, allowed))
            if most is not None:
                chosen = chosen[topk.strongest(level_scores[chosen], most)]
            described, _ = detect.descriptors(
                cells, found.positions[chosen], team, relu=options.relu and ranked
            )
            scale = np.full((len(chosen), 1), 1 / level.scale, np.float32)
            keypoints.append(np.concatenate([xy[chosen], scale], axis=1))
            scores.append(level_scores[chosen])
            vectors.append(described)
        features = Features(
            np.concatenate(keypoints),
            np.concatenate(scores),
            np.concatenate(vectors),
            (frame.width, frame.height),
        )
        if most is not None and len(steps) > 1:
            features = features.select(topk.strongest(features.scores, most))
        return features

    def dense(
        self,
        image: Picture,
        *,
        relu: bool = True,
        preprocessing: str = "caffe",
        max_edge: int | None = 1600,
        max_sum_edges: int | None = 2800,
        orient: bool = False,
        threads: int | None = None,
    ) -> FloatArray:
        """The dense feature map.

        Cell (i, j) lies at x = 4 j + 1.5, y = 4 i + 1.5 of the picture as the network sees it. For the
        parameters and errors see :meth:`__call__`.

        Returns
        -------
        (h, w, 512) float32
            55 x 55 x 512 for 224 x 224 pixels.
        """
        frame = _frame(image, preprocessing, max_edge, max_sum_edges, orient)
        pixels = _checked_size(frame)
        cells = np.empty((*map_size(*pixels.shape[:2]), DESCRIPTOR_SIZE), np.float32)
        with self._team(threads) as team:
            self._fill(cells, pixels, team, relu=relu)
        return cells

    def strength(
        self,
        image: Picture,
        *,
        preprocessing: str = "caffe",
        max_edge: int | None = 1600,
        max_sum_edges: int | None = 2800,
        orient: bool = False,
        threads: int | None = None,
    ) -> FloatArray:
        """The largest element of each cell's L2-normalised feature vector, without the last ReLU.

        For the parameters and errors see :meth:`__call__`.

        Returns
        -------
        (h, w) float32
        """
        frame = _frame(image, preprocessing, max_edge, max_sum_edges, orient)
        with self._team(threads) as team:
            return detect.strength(self._forward(_checked_size(frame), team, relu=False), team)

    def describe(
        self,
        image: Picture,
        xy: ArrayLike,
        *,
        relu: bool = True,
        centered: bool = False,
        preprocessing: str = "caffe",
        max_edge: int | None = 1600,
        max_sum_edges: int | None = 2800,
        orient: bool = False,
        threads: int | None = None,
    ) -> tuple[FloatArray, NDArray[np.bool_]]:
        """Descriptors at positions of your own.

        Parameters
        ----------
        image : path, PIL.Image or array
        xy : (N, 2) array
            x, y in pixels of the picture as given. More columns, such as the scale in
            ``features.keypoints``, are left out.

        The others are those of :meth:`__call__`, as are the errors.

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
        frame = _frame(image, preprocessing, max_edge, max_sum_edges, orient, centered)
        with self._team(threads) as team:
            cells = self._forward(_checked_size(frame), team, relu=relu)
            return detect.descriptors(cells, frame.to_cells(places[:, :2]), team, relu=False)

    def _forward(self, pixels: FloatArray, team: Team, *, relu: bool, name: object = None) -> FloatArray:
        """The map of preprocessed pixels in the team's workspace: ``name`` tells maps in use apart."""
        shape = (*map_size(*pixels.shape[:2]), DESCRIPTOR_SIZE)
        cells = team.workspace.array(("map", name), prod(shape)).reshape(shape)
        self._fill(cells, pixels, team, relu=relu)
        return cells

    def _fill(self, cells: FloatArray, pixels: FloatArray, team: Team, *, relu: bool) -> None:
        for _ in flow(pixels, stages(self._packed, pixels.shape[1], team.workspace, relu=relu), cells, team):
            pass

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


def _frame(
    picture: Picture,
    preprocessing: str,
    max_edge: int | None,
    max_sum_edges: int | None,
    orient: bool,
    centered: bool = False,
) -> _Frame:
    given = image.open_picture(picture, orient=orient)
    small = image.shrink(given, max_edge=max_edge, max_sum_edges=max_sum_edges)
    return _Frame(given.shape[0], given.shape[1], image.preprocess(small, preprocessing), centered)


def _checked_size(frame: _Frame) -> FloatArray:
    pyramid.levels(frame.pixels.shape[0], frame.pixels.shape[1], (1.0,))
    return frame.pixels


def _checked_mask(mask: ArrayLike | None, frame: _Frame) -> NDArray[np.bool_] | None:
    if mask is None:
        return None
    allowed = np.asarray(mask)
    if allowed.shape != (frame.height, frame.width):
        raise ImageError(
            f"the mask must have the picture's shape ({frame.height}, {frame.width}); got {allowed.shape}"
        )
    return allowed != 0


def _inside(xy: FloatArray, allowed: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which positions fall on a pixel that the mask allows; the nearest pixel counts, as in OpenCV."""
    height, width = allowed.shape
    columns = np.clip(np.floor(xy[:, 0] + 0.5).astype(np.int64), 0, width - 1)
    rows = np.clip(np.floor(xy[:, 1] + 0.5).astype(np.int64), 0, height - 1)
    return allowed[rows, columns]
