"""Extraction from many pictures, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import FormatError, ImageError
from ..features import Features
from ..image import network_size
from .failures import Failures
from .listing import Entry
from .outputs import Output

if TYPE_CHECKING:
    from ..net import Net

ATTEMPTS = 3
"""How often what turns out to be damaged is done again."""


@dataclass(frozen=True)
class Settings:
    """What the features of a picture depend on beside the weights: options of :class:`d2np.Net`'s call."""

    detector: str = "d2"
    scales: tuple[float, ...] = (1.0,)
    max_keypoints: int | None = None
    preprocessing: str = "caffe"
    relu: bool = True
    max_edge: int | None = 1600
    max_sum_edges: int | None = 2800
    orient: bool = False
    max_pixels: int | None = None

    def recorded(self, net: Net) -> dict[str, Any]:
        """These and the weights, as texts and plain numbers."""
        weights = net.provenance.sha256 if net.provenance else None
        # What is opened at all changes no features.
        features = {name: value for name, value in self.options().items() if name != "max_pixels"}
        return {**features, "scales": list(self.scales), "weights": weights}

    def options(self) -> dict[str, Any]:
        """As keyword arguments of the network's call."""
        return dict(vars(self))


@dataclass
class Report:
    """What became of the pictures.

    Attributes
    ----------
    done : int
        Pictures extracted now.
    skipped : int
        Pictures whose features were there already.
    keypoints : int
        Of all that were extracted now.
    failed : list of (Entry, str)
        Pictures that could not be done, and why; their names are in the reasons.
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
        """So many more pictures are done."""


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
) -> Report:
    """Extract features from pictures into an output, leaving out those that it holds already.

    A picture that cannot be read is reported and the others are done. What is done is safe at once, whatever
    ends the job. The output is finished at the end, and closed whatever happens.

    Parameters
    ----------
    net : Net
    entries : list of Entry
    output : Output
    settings : Settings
    threads : int, optional
        Of the network, for each picture.
    retry_failed : bool
        Try pictures again that failed before and have not changed since. By default they are reported only.
    progress : Progress, optional
        Updated after each picture that was not skipped.
    stop : callable, optional
        Asked after each picture; once it says True, the job ends as if interrupted.

    Raises
    ------
    FormatError
        If the output cannot be written.
    KeyboardInterrupt
        If ``stop`` said so.
    """
    report = Report()
    try:
        failures = Failures(output.failed_list, retry=retry_failed)
        waiting = []
        for entry in entries:
            if output.holds(entry):
                report.skipped += 1
            elif reason := failures.known(entry):
                report.failed.append((entry, reason))
            else:
                waiting.append(entry)
        report.failed_before = len(report.failed)
        if waiting:
            output.start()
        failures.begin(report.failed)
        report.failed = [(entry, _reason(entry, reason)) for entry, reason in report.failed]
        if progress is not None and report.failed:
            progress.update(report.failed_before)
        for _ in range(ATTEMPTS):
            with closing(_features_of(net, waiting, settings, threads)) as results:
                for number, (entry, found) in enumerate(results, 1):
                    _store(entry, found, output, settings, report, failures)
                    if progress is not None:
                        progress.update()
                    if stop is not None and number < len(waiting) and stop():
                        raise KeyboardInterrupt
            if output.finish():
                break
            failed = {entry.name for entry, _ in report.failed}
            waiting = [entry for entry in entries if not (entry.name in failed or output.holds(entry))]
        else:
            raise damaged_again()
    finally:
        output.close()
    return report


def damaged_again() -> FormatError:
    """The error when doing again does not help."""
    return FormatError("what was stored turns out to be damaged again and again: check the disk")


def _features_of(
    net: Net, entries: Sequence[Entry], settings: Settings, threads: int | None
) -> Generator[tuple[Entry, Features | Exception]]:
    """The features of the pictures, or why there are none."""
    options = settings.options()
    for entry in entries:
        found: Features | Exception
        try:
            found = net(entry.path, threads=threads, **options)
        except (ImageError, MemoryError) as error:
            found = error
        yield entry, found


def _store(
    entry: Entry,
    found: Features | Exception,
    output: Output,
    settings: Settings,
    report: Report,
    failures: Failures,
) -> None:
    """Put the features of a picture into the output, or the picture on the list of those that failed."""
    try:
        if isinstance(found, Exception):
            raise found
        output.put(entry, found, _uncertainty(found.image_size, settings))
    except (ImageError, MemoryError) as error:
        reason = _reason(entry, error)
        failures.add(entry, reason.removeprefix(f"{entry.path}: "))
        report.failed.append((entry, reason))
    else:
        report.done += 1
        report.keypoints += len(found)


def _reason(entry: Entry, error: Exception | str) -> str:
    reason = str(error) or "not enough memory"
    return reason if str(entry.path) in reason else f"{entry.path}: {reason}"


def _uncertainty(size: tuple[int, int], settings: Settings) -> float:
    """Pixels of the picture for one pixel that the network saw: what hloc records, the mean of both axes."""
    seen = network_size(*size, max_edge=settings.max_edge, max_sum_edges=settings.max_sum_edges)
    return (size[0] / seen[0] + size[1] / seen[1]) / 2
