"""Extraction from many images."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import ImageError, OptionError
from ..features import Features
from ..images.names import check, folders_of
from ..images.open import Source
from ..images.pixels import network_size
from ..network.scan import in_blocks
from ..options import Options
from . import cluster
from .changes import Failures
from .learning import learnt
from .listing import Entry
from .outputs import FeatureArchives, HlocOutput, Output, Task
from .pipeline import AnEntry, options_of, worked_on

if TYPE_CHECKING:
    from distributed import Client

    from ..network.net import Net

IMAGES = 16
"""Images that a worker of a cluster is given at a time, at most."""

# From which on features are stored as they are found: more than the published limits let through. Those of
# smaller images take 50 MB at most, about.
_LARGE_PIXELS = 2_000_000
# In a block, at least: 8 MB of descriptors.
_KEYPOINTS_OF_A_BLOCK = 4096

Put = Callable[[Any, Iterable[Features], float], int]
"""Stores the features of an image, with their uncertainty, and returns how many there are."""


class Settings(Options):
    """The options that the features of a job depend on: :class:`d2np.Options`, without a mask.

    Masks belong to single images: :class:`~d2np.dataset.Entry` has them.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mask is not None:
            raise OptionError("a job has no mask for all images: see the masks of d2np.dataset.listing")

    def recorded(self, net: Net) -> dict[str, Any]:
        """These and the weights, as texts and plain numbers."""
        weights = net.provenance.sha256 if net.provenance else None
        # What is opened at all changes no features, nor does what is made of the whole image.
        changes_none = {"max_pixels", "global_descriptor"}
        features = {name: value for name, value in self.options().items() if name not in changes_none}
        preprocessing = self.preprocessing or net.preprocessing
        lists = {name: list(getattr(self, name)) for name in ("scales", "rotations")}
        return {**features, **lists, "preprocessing": preprocessing, "weights": weights}

    def options(self) -> dict[str, Any]:
        """As keyword arguments of the network's call."""
        return {name: value for name, value in vars(self).items() if name != "mask"}


@dataclass
class Report:
    """Tells what became of the images.

    Attributes
    ----------
    done : int
        Images extracted now.
    skipped : int
        Images whose features were there already.
    keypoints : int
        Of all that were extracted now.
    failed : list of (Entry, str)
        Images that could not be done, and why; their names are in the reasons.
    failed_before : int
        The first so many of them failed before and are unchanged: they were not tried again.
    """

    done: int = 0
    skipped: int = 0
    keypoints: int = 0
    failed: list[tuple[Entry, str]] = field(default_factory=list)
    failed_before: int = 0


class Progress(Protocol):
    """Shows how far the job is: the part of :class:`tqdm.tqdm` that is used."""

    def update(self, n: int = 1) -> object:
        """So many more images are done."""


def extract(
    net: Net,
    entries: Sequence[Entry],
    output: Output,
    settings: Settings,
    *,
    threads: int | None = None,
    retry_failed: bool = False,
    progress: Progress | None = None,
    stop: Callable[[], bool] | None = None,
    client: Client | None = None,
    shards: str | os.PathLike[str] | None = None,
) -> Report:
    """Extract features from images into an output, leaving out those that it holds already.

    An image that cannot be read is reported and the others are done. What is done is safe at once, whatever
    ends the job. The output is finished at the end, and closed whatever happens.

    Parameters
    ----------
    net : Net
    entries : list of Entry
    output : Output
    settings : Settings
    threads : int, optional
        See :func:`features_of`. Nothing depends on it.
    retry_failed : bool
        Try images again that failed before and have not changed since. By default they are reported only.
    progress : Progress, optional
        Updated after each image that was not skipped.
    stop : callable, optional
        Asked after each image; once it says True, the images under way are finished, and the job ends as
        if interrupted.
    client : distributed.Client, optional
        Has the workers of this Dask cluster do the work. They must see the images under the same paths or
        URLs. For an :class:`~d2np.dataset.HlocOutput` only.
    shards : path or URL, optional
        Where the workers leave what they have done: a folder that they and this process see, or a URL that
        fsspec knows. By default ``OUT.parts``, beside the output.

    Raises
    ------
    FormatError
        If the output cannot be written.
    KeyboardInterrupt
        If ``stop`` said so.
    """
    ended = threading.Event()
    report = Report()
    with closing(output):
        place = None if client is None else shards
        if isinstance(output, HlocOutput):
            output.collect(place)
        elif client is not None:
            raise OptionError("a Dask cluster writes one HDF5 file only: choose the format h5")
        elif settings.rotations != (0,):
            raise OptionError("only HDF5 keeps the rotations of keypoints: choose the format h5")
        failures = Failures(output.failed_list, retry=retry_failed)

        def fail(entry: Entry, reason: str) -> None:
            failures.add(entry, reason.removeprefix(f"{entry.path}: "))
            report.failed.append((entry, _reason(entry, reason)))

        lacking, refused = not_held(entries, output)
        known = {entry: reason for entry in lacking if (reason := failures.known(entry))}
        waiting = [entry for entry in lacking if entry not in known]
        report.skipped = len(entries) - len(lacking) - len(refused)
        report.failed_before = len(known)
        if waiting:
            if isinstance(output, HlocOutput) and output.dimensions and output.projection is None:
                size = output.dimensions
                output.fix(learnt(net, waiting, settings, size, threads=threads, stop=stop))
            output.start()
        failures.begin(known)
        report.failed = [(entry, _reason(entry, reason)) for entry, reason in known.items()]
        for entry, reason in refused:
            fail(entry, reason)
        if progress is not None and report.failed:
            progress.update(len(report.failed))
        limits = {"threads": threads, "stop": ended}
        left = len(waiting)
        watched = failures.watched(waiting)
        with closing(_outcomes(client, net, output, settings, limits, place, watched, left)) as results:
            for entry, outcome in results:
                left -= 1
                if isinstance(outcome, str):
                    fail(entry, outcome)
                else:
                    report.done += 1
                    report.keypoints += outcome
                failures.done(entry)
                if progress is not None:
                    progress.update()
                if stop is not None and stop():
                    ended.set()
                    if client is not None:
                        break
        if left:
            raise KeyboardInterrupt
        output.finish()
    return report


def not_held(entries: Sequence[Entry], output: Output) -> tuple[list[Entry], list[tuple[Entry, str]]]:
    """Return the images that an output does not hold yet, and those that it cannot hold, with the reasons.

    An image of the name of a folder would be lost, or the images in it: what lies in the folder is refused.
    """
    names = {entry.name for entry in entries}
    lacking, refused = [], []
    for entry in entries:
        try:
            check(entry.name)
            if output.holds(entry):
                continue
            if above := next((folder for folder in folders_of(entry.name) if folder in names), None):
                raise ImageError(f"{entry.name}: {above} is an image too, and no folder: rename one of them")
            lacking.append(entry)
        except ImageError as error:
            refused.append((entry, str(error)))
    return lacking, refused


def _outcomes(
    client: Client | None,
    net: Net,
    output: Output,
    settings: Settings,
    limits: dict[str, Any],
    place: str | os.PathLike[str] | None,
    entries: Iterator[Entry],
    count: int,
) -> Generator[tuple[Entry, int | str]]:
    """Have images worked on, here or by a cluster; yield how many keypoints each has, or why it failed."""
    if not count:
        return
    if not isinstance(output, HlocOutput):
        put = partial(_put, output, threading.Lock())
        yield from extracted(net, settings, put, limits, entries, count, in_blocks=False)
        return
    # To find similar images by, which no other format has a place for.
    settings = replace(settings, global_descriptor=True)
    archives = output.archives(place)
    with ExitStack() as stack:
        do: cluster.Do[Task, int | str] = partial(extracted, net, settings, archives.put, limits)
        if client is not None:
            network = stack.enter_context(cluster.delivered(net, archives.store))
            threads = limits["threads"] or cluster.threads_each(client)
            do = partial(_extracted_by_worker, network, settings, archives, threads, Path.cwd())
        results = cluster.results(client, do, map(output.task, entries), count, IMAGES)
        for task, outcome in stack.enter_context(closing(results)):
            if isinstance(outcome, int):
                archive = archives.store.archive_of(task.name)
                output.parts.take(task.name, task.stamp, archive, archives.store)
            yield Entry(task.path, task.name, task.mask), outcome
    output.collect(place)


def _put(
    output: Output, lock: threading.Lock, entry: Entry, blocks: Iterable[Features], uncertainty: float
) -> int:
    (features,) = blocks
    with lock:
        output.put(entry, features, uncertainty)
    return len(features)


def extracted(
    net: Net,
    settings: Settings,
    put: Put,
    limits: dict[str, Any],
    entries: Iterable[AnEntry],
    count: int,
    *,
    in_blocks: bool = True,
) -> Generator[tuple[AnEntry, int | str]]:
    """Extract features from so many images and store them: here, or in a worker of a cluster.

    Parameters
    ----------
    net : Net
    settings : Settings
    put : callable
        Called in several threads.
    limits : dict
        Options of :func:`~d2np.dataset.pipeline.worked_on`.
    entries : iterable of Entry
    count : int
    in_blocks : bool
        Store the features of large images as they are found, if they are found in their order. They are at
        one scale, without ``max_keypoints``, and with the detector ``"d2"``.

    Yields
    ------
    Entry
    int or str
        How many keypoints it has, which are stored; or why it failed.
    """
    in_order = settings.detector == "d2" and len(settings.scales) == 1 and settings.max_keypoints is None

    def work(entry: AnEntry, image: Any, threads: int) -> int:
        is_large = isinstance(image, Source) and image.shape[0] * image.shape[1] >= _LARGE_PIXELS
        if in_blocks and in_order and is_large:
            return _put_as_found(net, entry, image, settings, threads, put)
        features = net(image, threads=threads, **options_of(entry, settings))
        return put(entry, [features], _uncertainty(features.image_size, settings))

    with closing(worked_on(net, entries, settings, work, count=count, **limits)) as results:
        for entry, outcome in results:
            yield entry, outcome if isinstance(outcome, int) else str(outcome) or "not enough memory"


def _put_as_found(net: Net, entry: Entry, image: Source, settings: Settings, threads: int, put: Put) -> int:
    height, width = image.given
    with closing(net.stream(image, threads=threads, **options_of(entry, settings))) as stream:
        blocks = in_blocks(stream, _KEYPOINTS_OF_A_BLOCK)
        return put(entry, blocks, _uncertainty((width, height), settings))


def _extracted_by_worker(
    network: cluster.Delivered,
    settings: Settings,
    archives: FeatureArchives,
    threads: int,
    folder: Path,
    batch: Iterable[Task],
    count: int,
) -> Generator[tuple[Task, int | str]]:
    """Do a batch in a worker, whose working folder is another one."""
    # A worker that has died may have left some.
    outcomes: dict[Task, Any] = {task: archives.left(task) for task in batch}
    waiting = [task for task in outcomes if outcomes[task] is None]
    there = [_seen_from(folder, task) for task in waiting]
    done = extracted(network.load(), settings, archives.put, {"threads": threads}, there, len(there))
    with closing(done) as results:
        for task, (seen, outcome) in zip(waiting, results, strict=True):
            if isinstance(outcome, str):
                for one, other in ((seen.path, task.path), (seen.mask, task.mask)):
                    outcome = outcome.replace(str(one), str(other))
            outcomes[task] = outcome
    yield from outcomes.items()


def _seen_from(folder: Path, task: Task) -> Task:
    """Return an image with its paths as they are from another working folder."""
    path = folder / task.path if isinstance(task.path, Path) else task.path
    return replace(task, path=path, mask=None if task.mask is None else folder / task.mask)


def _reason(entry: Entry, text: str) -> str:
    return text if str(entry.path) in text else f"{entry.path}: {text}"


def _uncertainty(size: tuple[int, int], settings: Settings) -> float:
    """Return pixels of the image for one that the network saw: the mean of both axes, as hloc has it."""
    seen = network_size(*size, settings)
    return (size[0] / seen[0] + size[1] / seen[1]) / 2
