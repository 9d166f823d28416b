"""Extraction from many images."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from ..errors import FormatError, ImageError, OptionError
from ..features import Features
from ..images.names import check, folders_of
from ..images.pixels import network_size
from ..options import Options
from .failures import Failures
from .listing import Entry
from .outputs import Output, OutputOfPieces
from .pieces import Pieces
from .pipeline import features_of, features_or_pieces_of

if TYPE_CHECKING:
    from distributed import Client

    from ..network.net import Net

Found = TypeVar("Found", bound=Features | Pieces)
Outcome = TypeVar("Outcome")

ATTEMPTS = 3
"""How often what turns out to be damaged is done again."""


class Settings(Options):
    """What the features of an image depend on beside the weights: :class:`d2np.Options`, without a mask."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mask is not None:
            raise OptionError("a job has no mask: masks belong to single images")

    def recorded(self, net: Net) -> dict[str, Any]:
        """These and the weights, as texts and plain numbers."""
        weights = net.provenance.sha256 if net.provenance else None
        # What is opened at all changes no features.
        features = {name: value for name, value in self.options().items() if name != "max_pixels"}
        preprocessing = self.preprocessing or net.preprocessing
        return {**features, "scales": list(self.scales), "preprocessing": preprocessing, "weights": weights}

    def options(self) -> dict[str, Any]:
        """As keyword arguments of the network's call."""
        return {name: value for name, value in vars(self).items() if name != "mask"}


@dataclass
class Report:
    """What became of the images.

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
    """What shows how far the job is: the part of :class:`tqdm.tqdm` that is used."""

    def update(self, n: int = 1) -> object:
        """So many more images are done."""


def extract(
    net: Net,
    entries: Sequence[Entry],
    output: Output,
    settings: Settings,
    *,
    workers: int | None = None,
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
    workers, threads : int, optional
        Images side by side, and threads in all; see :func:`features_of`. Nothing depends on them.
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
    try:
        done = _where(net, output, settings, workers, threads, client, shards, ended)
        failures = Failures(output.failed_list, retry=retry_failed)
        lacking, refused = not_held(entries, output)
        report = Report(skipped=len(entries) - len(lacking) - len(refused))
        waiting = []
        for entry in lacking:
            if reason := failures.known(entry):
                report.failed.append((entry, reason))
            else:
                waiting.append(entry)
        report.failed_before = len(report.failed)
        if waiting:
            output.start()
        failures.begin(entry for entry, _ in report.failed)
        report.failed = [(entry, _reason(entry, reason)) for entry, reason in report.failed]
        for entry, reason in refused:
            failures.add(entry, reason)
            report.failed.append((entry, _reason(entry, reason)))
        if progress is not None and report.failed:
            progress.update(len(report.failed))
        for _ in range(ATTEMPTS):
            left = len(waiting)
            with closing(done(failures.watched(waiting))) as results:
                for entry, outcome in results:
                    left -= 1
                    if isinstance(outcome, str):
                        reason = _reason(entry, outcome)
                        failures.add(entry, reason.removeprefix(f"{entry.path}: "))
                        report.failed.append((entry, reason))
                    else:
                        report.done += 1
                        report.keypoints += outcome
                    failures.done(entry)
                    if progress is not None:
                        progress.update()
                    if stop is not None and stop():
                        ended.set()
            if left:
                raise KeyboardInterrupt
            if output.finish():
                break
            failed = {entry for entry, _ in report.failed}
            waiting = [entry for entry in entries if not (entry in failed or output.holds(entry))]
        else:
            raise damaged_again()
    finally:
        output.close()
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


def _where(
    net: Net,
    output: Output,
    settings: Settings,
    workers: int | None,
    threads: int | None,
    client: Client | None,
    shards: str | os.PathLike[str] | None,
    ended: threading.Event,
) -> Callable[[list[Entry]], Generator[tuple[Entry, int | str]]]:
    """What does the work: this process or a cluster."""
    if client is None:
        return partial(_done_here, net, output, settings, workers, threads, ended)
    from . import workers as cluster
    from .hdf import HlocOutput

    if not isinstance(output, HlocOutput):
        raise OptionError("a Dask cluster writes one HDF5 file only: choose the format h5")
    store = cluster.store_for(output, shards)

    def done_there(entries: list[Entry]) -> Generator[tuple[Entry, int | str]]:
        with closing(cluster.extracted(client, net, output, settings, threads, store, entries)) as results:
            for result in results:
                yield result
                if ended.is_set():
                    return

    return done_there


def _done_here(
    net: Net,
    output: Output,
    settings: Settings,
    workers: int | None,
    threads: int | None,
    ended: threading.Event,
    entries: Sequence[Entry],
) -> Generator[tuple[Entry, int | str]]:
    """The images, each with the number of its keypoints, which are stored, or the reason why it failed."""

    def store(entry: Entry, found: Features | Pieces, uncertainty: float) -> int:
        if isinstance(found, Features):
            output.put(entry, found, uncertainty)
            return len(found)
        assert isinstance(output, OutputOfPieces)
        output.put_pieces(entry, found, uncertainty)
        return found.count

    work = features_or_pieces_of if isinstance(output, OutputOfPieces) else features_of
    yield from outcomes(
        work(net, entries, settings, workers=workers, threads=threads, stop=ended), settings, store
    )


def outcomes(
    results: Generator[tuple[Entry, Found | Exception]],
    settings: Settings,
    use: Callable[[Entry, Found, float], Outcome],
) -> Generator[tuple[Entry, Outcome | str]]:
    """What becomes of the results of :func:`features_of`, which are closed in the end.

    Parameters
    ----------
    results : generator
        Or that of :func:`features_or_pieces_of`.
    settings : Settings
    use : callable
        Is given each image's features, or their pieces, with their uncertainty.

    Yields
    ------
    Entry
    object or str
        What ``use`` has returned; or the reason why this image has failed, there or before.
    """
    with closing(results):
        for entry, found in results:
            try:
                if isinstance(found, Exception):
                    raise found
                outcome = use(entry, found, _uncertainty(found.image_size, settings))
            except (ImageError, MemoryError) as error:
                yield entry, str(error) or "not enough memory"
            else:
                yield entry, outcome


def damaged_again() -> FormatError:
    """The error when doing again does not help."""
    return FormatError("what was stored turns out to be damaged again and again: check the disk")


def _reason(entry: Entry, text: str) -> str:
    return text if str(entry.path) in text else f"{entry.path}: {text}"


def _uncertainty(size: tuple[int, int], settings: Settings) -> float:
    """Pixels of the image for one pixel that the network saw: what hloc records, the mean of both axes."""
    seen = network_size(*size, settings)
    return (size[0] / seen[0] + size[1] / seen[1]) / 2
