"""The loop of training, and its checkpoints."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from ..atomic import writing
from ..errors import FormatError, OptionError, count
from ..images.pixels import preprocess
from ..network.bands import whole_map
from ..network.net import Net
from ..network.stages import stages
from ..threads import Team, Workspace
from ..weights import Provenance
from .layer import LAYER, Adam, FloatArray, LastLayer
from .loss import Correspondences, Loss, ranking_loss
from .pairs import FEWEST, Pairs

CHECKPOINT_EVERY = 250
"""Iterations between two checkpoints: two minutes at 192 px."""
VALIDATE_EVERY = 500

# Pairs that are left out in a row, before the training is given up.
_MOST_LEFT_OUT = 100
_SEED_OF_VALIDATION = 2019
_VIEWS_OF_VALIDATION = 4
_TOO_FEW = f"no pair has {FEWEST} correspondences: give a larger --size, or other images"


@dataclass(frozen=True)
class Settings:
    """How to train.

    Attributes
    ----------
    iterations : int
        Pairs; each gives one step.
    rate : float
        Highest learning rate. The paper begins with 1e-3 and halves it every ten epochs.
    warm_up : int
        Iterations in which the rate rises to that, a tenth of all at most; then it falls to 0 along a cosine.
    seed : int
        Of everything that is drawn.

    Raises
    ------
    OptionError
        If a value makes no sense.
    """

    iterations: int = 10_000
    rate: float = 4e-4
    warm_up: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        if self.iterations < 1 or not 0 < self.rate < 1 or self.warm_up < 0 or self.seed < 0:
            raise OptionError(
                "training needs at least one iteration, a rate between 0 and 1, and a warm-up and seed from 0"
            )

    def rate_at(self, iteration: int) -> float:
        """Return the learning rate of an iteration, counted from 0."""
        rising = min(1.0, (iteration + 1) / max(1, min(self.warm_up, self.iterations // 10)))
        return self.rate * rising * (1 + math.cos(math.pi * iteration / self.iterations)) / 2


def train(
    training: Training,
    checkpoint: Path,
    *,
    threads: int | None = None,
    progress: Callable[[Training], object] = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Train to the last iteration, from the checkpoint if there is one.

    Parameters
    ----------
    training : Training
    checkpoint : path
        An ``.npz``, written now and then, and when the training is stopped. It stays at the end.
    threads : int, optional
        How many to use; by default every core that this process may use.
    progress : callable, optional
        Called after each iteration, and after what a checkpoint has is loaded.
    stop : callable, optional
        Asked after each iteration; once it says True, a checkpoint is written and the training ends.

    Raises
    ------
    FormatError
        If the checkpoint is of another training, or cannot be written; an older one is kept.
    ImageError
        If a photograph cannot be read.
    KeyboardInterrupt
        If ``stop`` said so.
    """
    if checkpoint.exists():
        training.load(checkpoint)
        progress(training)
    else:
        training.validate(threads)
    last = training.settings.iterations
    for _ in training.run(threads):
        progress(training)
        number = training.iteration
        if number % VALIDATE_EVERY == 0 or number == last:
            training.validate(threads)
        stopping = number < last and stop()
        if stopping or number % CHECKPOINT_EVERY == 0 or number == last:
            training.save(checkpoint)
        if stopping:
            raise KeyboardInterrupt


class Training:
    """A training at some iteration.

    Parameters
    ----------
    net : Net
        The weights to begin with. All layers but the last stay as they are.
    pairs : Pairs
    settings : Settings
    held_out : Pairs, optional
        What is not trained on: :func:`train` measures the loss on it before, now and then, and at the end.

    Attributes
    ----------
    history : (iterations, 2) float64
        Loss and accuracy of each iteration. NaN for those to come, and for pairs that are left out: with
        fewer than :data:`d2np.training.FEWEST` correspondences, or without any positive feature at them.
    validation : list of (int, float, float)
        Iteration, mean loss and mean accuracy on what is held out.
    """

    def __init__(self, net: Net, pairs: Pairs, settings: Settings, held_out: Pairs | None = None) -> None:
        self.net, self.pairs, self.settings, self.held_out = net, pairs, settings, held_out
        self.layer = LastLayer(net.arrays[f"{LAYER.name}/weight"], net.arrays[f"{LAYER.name}/bias"])
        self.adam = Adam([self.layer.taps, self.layer.bias])
        self.rng = np.random.default_rng(settings.seed)
        self.iteration = 0
        self.history = np.full((settings.iterations, 2), np.nan)
        self.validation: list[tuple[int, float, float]] = []
        weights = Provenance.of_arrays(net.arrays).sha256
        images = [given.description for given in (pairs, held_out) if given]
        self._identity = json.dumps([asdict(settings), images, weights, net.preprocessing])

    def run(self, threads: int | None = None) -> Iterator[tuple[float, float]]:
        """Train on to the last iteration; yield the loss and the accuracy of each."""
        with _trunk(self.net, threads) as before_last:
            while self.iteration < self.settings.iterations:
                pair = self.pairs.draw(int(self.rng.integers(len(self.pairs))), self.rng)
                if len(pair.correspondences.first) >= FEWEST:
                    cells = [before_last(image) for image in (pair.first, pair.second)]
                    found = self._loss(cells, pair.correspondences)
                    first, second = map(self.layer.gradient, cells, (found.first, found.second))
                    gradients: list[FloatArray] = [a + b for a, b in zip(first, second, strict=True)]
                    if np.isfinite(found.value) and all(np.isfinite(each).all() for each in gradients):
                        self.adam.step(gradients, self.settings.rate_at(self.iteration))
                        self.history[self.iteration] = found.value, found.accuracy
                self.iteration += 1
                self._refuse_useless()
                yield tuple(self.history[self.iteration - 1])

    def _refuse_useless(self) -> None:
        most = min(_MOST_LEFT_OUT, self.settings.iterations)
        if self.iteration >= most and np.isnan(self.history[self.iteration - most : self.iteration]).all():
            raise FormatError(f"{self.pairs.name}: {_TOO_FEW}")

    def validate(self, threads: int | None = None) -> None:
        """Measure loss and accuracy on what is held out, if there is anything: the same views each time.

        Raises
        ------
        FormatError
            If no pair is of use.
        """
        pairs = self.held_out
        if pairs is None:
            return
        rng = np.random.default_rng(_SEED_OF_VALIDATION)
        found = []
        with _trunk(self.net, threads) as before_last:
            for number in np.repeat(np.arange(len(pairs)), _VIEWS_OF_VALIDATION):
                pair = pairs.draw(int(number), rng)
                if len(pair.correspondences.first) >= FEWEST:
                    cells = [before_last(image) for image in (pair.first, pair.second)]
                    result = self._loss(cells, pair.correspondences)
                    found.append((result.value, result.accuracy))
        found = [each for each in found if np.isfinite(each[0])]
        if not found:
            raise FormatError(f"{pairs.name}: {_TOO_FEW}")
        value, accuracy = np.mean(found, axis=0)
        self.validation.append((self.iteration, float(value), float(accuracy)))

    def _loss(self, cells: Sequence[NDArray[np.float32]], correspondences: Correspondences) -> Loss:
        first, second = map(self.layer.forward, cells)
        return ranking_loss(first, second, correspondences)

    def trained(self) -> Net:
        """Return the network as it is now."""
        before = self.net.provenance
        origin = before.name if before else "weights"
        told = f"{origin}; conv4_3 trained by d2np for {count(self.iteration, 'iteration')}"
        arrays = {**self.net.arrays, **self.layer.arrays}
        provenance = replace(before or Provenance.of_arrays(arrays), name=told, url="")
        return Net(arrays, provenance=provenance)

    def save(self, path: Path) -> None:
        """Write a checkpoint, whole or not at all.

        Raises
        ------
        FormatError
            If it cannot be written. A checkpoint that is there stays.
        """
        state = json.dumps([self._identity, self.iteration, self.adam.steps, self.rng.bit_generator.state])
        with writing(path) as stream:
            np.savez(
                stream,
                state=np.array(state),
                validation=np.array(self.validation).reshape(-1, 3),
                **dict(zip(self._KEYS, self._arrays(), strict=True)),  # type: ignore[arg-type]
            )

    def load(self, path: Path) -> None:
        """Go on from a checkpoint: the rest gives the same numbers as a training that was never stopped.

        Raises
        ------
        FormatError
            If it is not a checkpoint of this training.
        """
        try:
            with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as saved:
                identity, iteration, steps, state = json.loads(str(saved["state"]))
                is_other = identity != self._identity
                pairs = () if is_other else zip(self._KEYS, self._arrays(), strict=True)
                arrays = [saved[key].reshape(values.shape) for key, values in pairs]
                validation = [(int(n), float(a), float(b)) for n, a, b in saved["validation"]]
        except (OSError, ValueError, TypeError, KeyError, EOFError, BadZipFile, zlib.error) as error:
            raise FormatError(
                f"{path} is not a checkpoint of d2np train, or damaged ({error}): remove it, and begin again"
            ) from None
        if is_other:
            raise FormatError(
                f"{path} is of a training with other settings, photographs or weights: "
                "go on with those, or begin again with --overwrite"
            )
        for values, array in zip(self._arrays(), arrays, strict=True):
            values[:] = array
        self.iteration, self.adam.steps, self.validation = iteration, steps, validation
        self.rng.bit_generator.state = state

    _KEYS = ("history", "taps", "bias", "means-0", "means-1", "squares-0", "squares-1")

    def _arrays(self) -> list[NDArray[Any]]:
        return [self.history, self.layer.taps, self.layer.bias, *self.adam.means, *self.adam.squares]


@contextmanager
def _trunk(net: Net, threads: int | None) -> Iterator[Callable[[NDArray[np.uint8]], NDArray[np.float32]]]:
    """Give what computes, for an image, the input of the last layer."""
    with Team(threads, None, Workspace()) as team:

        def before_last(image: NDArray[np.uint8]) -> NDArray[np.float32]:
            pixels = preprocess(image, net.preprocessing)
            height, width = image.shape[:2]
            fixed = stages(net._packed, width, team.workspace, relu=False)[:-1]
            return whole_map(lambda first, last: pixels[first:last], height, fixed, team)

        yield before_last
