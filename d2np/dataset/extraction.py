"""Extraction from many pictures."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import ImageError
from ..image import network_size
from .listing import Entry
from .outputs import Output
from .pipeline import features_of

if TYPE_CHECKING:
    from ..net import Net


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
        Pictures that could not be read, and why; their names are in the reasons.
    """

    done: int = 0
    skipped: int = 0
    keypoints: int = 0
    failed: list[tuple[Entry, str]] = field(default_factory=list)


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
    workers: int | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Report:
    """Extract features from pictures into an output, leaving out those that it holds already.

    A picture that cannot be read is reported and the others are done. The output is finished at the end, and
    closed whatever happens.

    Parameters
    ----------
    net : Net
    entries : list of Entry
    output : Output
    settings : Settings
    workers, threads : int, optional
        Pictures side by side, and threads in all; see :func:`features_of`. Nothing depends on them.
    progress : Progress, optional
        Updated after each picture that was not skipped.

    Raises
    ------
    FormatError
        If the output cannot be written.
    """
    report = Report()
    try:
        waiting = [entry for entry in entries if not output.holds(entry)]
        report.skipped = len(entries) - len(waiting)
        if waiting:
            output.start()
        with closing(features_of(net, waiting, settings, workers=workers, threads=threads)) as found:
            for entry, features in found:
                try:
                    if isinstance(features, Exception):
                        raise features
                    output.put(entry, features, _uncertainty(features.image_size, settings))
                except (ImageError, MemoryError) as error:
                    report.failed.append((entry, _reason(entry, error)))
                else:
                    report.done += 1
                    report.keypoints += len(features)
                if progress is not None:
                    progress.update()
        output.finish()
    finally:
        output.close()
    return report


def _reason(entry: Entry, error: Exception) -> str:
    reason = str(error) or "not enough memory"
    return reason if str(entry.path) in reason else f"{entry.path}: {reason}"


def _uncertainty(size: tuple[int, int], settings: Settings) -> float:
    """Pixels of the picture for one pixel that the network saw: what hloc records, the mean of both axes."""
    seen = network_size(*size, max_edge=settings.max_edge, max_sum_edges=settings.max_sum_edges)
    return (size[0] / seen[0] + size[1] / seen[1]) / 2
