"""The network: images in, features out."""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import weights
from ..errors import OptionError
from ..features import Features
from ..images.open import ImageLike, Source, open_image, open_source
from ..layers import LAYERS, PARAMETER_COUNT, Layer
from ..options import Algorithm, OptionChanges, Options, Preprocessing, chosen
from ..threads import Clock, Team, Workspace, thread_count
from .profile import Profile, Row
from .scan import Scan
from .stages import PackedWeights

if TYPE_CHECKING:
    from typing_extensions import Unpack

FloatArray = NDArray[np.float32]

# A workspace is kept for the next call unless it is larger than this for each thread, of two or more: those
# for one scale are not.
_KEPT_BYTES = 192 << 20


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
            in it), safetensors, an ONNX file of the network, a VGG16 in HDF5 of Keras, or a name: "d2np",
            "vgg16", "analytic", "tf", "ots", "tf_no_phototourism".
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
            :func:`d2np.images.open.open_source` has opened ahead with the same options, which is closed.
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
            given or the detector is ``"strength"``; one rotation after the other.

        Raises
        ------
        ImageError
            If the image cannot be used, or is too small for one of the scales.
        OptionError
            If an option has a value that makes no sense.
        WeightsError
            If the weights are so large that the feature map overflows.
        """
        with self._scan(image, chosen(options, **changes), threads) as scan:
            return scan.features()

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
        self(pixels, options, threads=threads)  # compiles what has not been compiled yet
        clock = Clock()
        start = time.perf_counter()
        with self._scan(pixels, options, threads, clock) as scan:
            scan.features()
        wall_seconds = time.perf_counter() - start
        # In the order of the layers; what is behind the network follows.
        names = [layer.name for layer in LAYERS]
        seconds = sorted(clock.seconds.items(), key=lambda item: [*names, item[0][0]].index(item[0][0]))
        rows = tuple(Row(*step, spent) for step, spent in seconds)
        return Profile(rows, wall_seconds, thread_count(threads))

    def stream(
        self,
        image: ImageLike | Source,
        options: Options | None = None,
        *,
        threads: int | None = None,
        **changes: Unpack[OptionChanges],
    ) -> Generator[Features]:
        """Find and describe keypoints, and yield them as the image is worked through from its top.

        For callers who do not want to hold all features of a large image. The parameters and errors are
        those of :meth:`__call__`; the best of all keypoints are not known before the end, so
        ``max_keypoints`` must be None.

        Yields
        ------
        Features
            The keypoints of some rows of one level of the pyramid, if any, in pixels of the whole image as
            given: all together those of :meth:`__call__`, and in the same order among those of one scale and
            rotation.
        """
        options = chosen(options, **changes)
        if options.max_keypoints is not None:
            raise OptionError("max_keypoints: the best keypoints are not known before the end of a stream")
        with self._scan(image, options, threads) as scan:
            yield from scan.stream()

    def dense(
        self,
        image: ImageLike,
        options: Options | None = None,
        *,
        threads: int | None = None,
        **changes: Unpack[OptionChanges],
    ) -> FloatArray:
        """Compute the dense feature map.

        Cell (i, j) lies at x = 4 j + 1.5, y = 4 i + 1.5 of the image as the network sees it. For the
        parameters and errors see :meth:`__call__`.

        Returns
        -------
        (h, w, 512) float32
            55 x 55 x 512 for 224 x 224 pixels.
        """
        with self._scan(image, _at_one_scale(options, changes), threads) as scan:
            return scan.dense()

    def strength(
        self,
        image: ImageLike,
        options: Options | None = None,
        *,
        threads: int | None = None,
        **changes: Unpack[OptionChanges],
    ) -> FloatArray:
        """Compute the largest element of each cell's L2-normalised vector, without the last ReLU.

        For the parameters and errors see :meth:`__call__`.

        Returns
        -------
        (h, w) float32
        """
        with self._scan(image, _at_one_scale(options, changes), threads) as scan:
            return scan.strength()

    def describe(
        self,
        image: ImageLike,
        xy: ArrayLike,
        options: Options | None = None,
        *,
        threads: int | None = None,
        **changes: Unpack[OptionChanges],
    ) -> tuple[FloatArray, NDArray[np.bool_]]:
        """Compute descriptors at positions of your own.

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
        with self._scan(image, _at_one_scale(options, changes), threads) as scan:
            return scan.describe(places[:, :2])

    @contextmanager
    def _scan(
        self, image: ImageLike | Source, options: Options, threads: int | None, clock: Clock | None = None
    ) -> Iterator[Scan]:
        """Open an image for a team of threads, with a workspace that no other call is using."""
        try:
            workspace = self._idle.pop()
        except IndexError:
            workspace = Workspace()
        preprocessing = options.preprocessing or self.preprocessing
        with Team(threads, clock, workspace) as team, open_source(image, options) as source:
            yield Scan(self._packed, source, options, preprocessing, team)
        if workspace.nbytes <= max(2, team.size) * _KEPT_BYTES:
            self._idle.append(workspace)

    def __repr__(self) -> str:
        origin = f" from {self.provenance.name}" if self.provenance else ""
        return f"<Net: D2-Net, {len(self.layers)} layers, {self.parameter_count:,} parameters{origin}>"

    def __reduce__(self) -> tuple[Any, ...]:
        # The packed weights depend on the processor: another machine packs its own.
        make = partial(type(self), provenance=self.provenance, algorithm=self._packed.algorithm)
        return make, (self._arrays,)


def _at_one_scale(options: Options | None, changes: OptionChanges) -> Options:
    return chosen(options, **{**changes, "scales": (1.0,)})
