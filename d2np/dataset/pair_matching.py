"""Matching many pairs of images whose features are in a file."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache, partial
from hashlib import blake2b
from itertools import chain, repeat
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from .. import verification
from ..errors import Error, FormatError, several
from ..features import Features, Matches
from ..formats import hloc, hloc_matches
from ..machine import free_memory
from ..matching import match
from ..options import GeometricModel, whole_number
from ..threads import thread_count
from . import cluster
from .archives import Group, GroupInBlocks, Store
from .assembly import HdfOutput, recorded_settings
from .changes import is_same
from .extraction import Progress

if TYPE_CHECKING:
    from distributed import Client

Pair = tuple[str, str]

CACHED = 16
"""Images whose features are held at once, beside those that are being matched."""

MIN_INLIERS = 15
"""With fewer matches that agree, images are taken to show different things; as in COLMAP."""

PAIRS = 128
"""Pairs in an archive, and in a batch for a worker of a cluster, at most."""

# The later image, and the one before it, are held as well: the oldest there is when the next one comes.
_RUN = CACHED - 2
# Of the memory that is free, features that are held take a quarter at most, and those that are being matched
# a half: those of an image within the published limits take so many bytes, about.
_HELD_SHARE, _MATCHED_SHARE = 4, 2
_FEATURE_BYTES = 50 << 20
# Matching two images may take less time than the disk does to write: a second's work is no loss.
_SECONDS = 1.0


@dataclass(frozen=True)
class MatchSettings:
    """Settings that matches depend on, beside the features.

    Parameters
    ----------
    mutual, ratio, min_similarity
        See :func:`d2np.match`.
    verify : {"homography", "fundamental"}, optional
        Keep only the matches that agree with one such model: see :func:`d2np.verification.verify`.
    threshold : float, optional
        How far, in pixels of the images as given, a match may be off and still agree. By default 3 px of
        what the network saw, in the image that was shrunk more.
    min_inliers : int
        Of a pair with fewer such matches none is kept.

    Raises
    ------
    OptionError
        If ``verify``, ``threshold`` or ``min_inliers`` make no sense.
    Error
        If matches are to be verified, and OpenCV is missing.
    """

    mutual: bool = True
    ratio: float | None = None
    min_similarity: float | None = None
    verify: GeometricModel | None = None
    threshold: float | None = None
    min_inliers: int = MIN_INLIERS

    def __post_init__(self) -> None:
        if self.verify is not None:
            threshold = verification.THRESHOLD if self.threshold is None else self.threshold
            verification.check(self.verify, threshold)
            whole_number("min_inliers", self.min_inliers)

    def recorded(self, features: str | os.PathLike[str]) -> dict[str, Any]:
        """These, and what the features were extracted with if the file tells, as texts and plain numbers.

        Raises
        ------
        FormatError
            If the feature file cannot be read.
        """
        with hloc.opened(features) as file:
            of_features = recorded_settings(file) or {}
        found: dict[str, Any] = {**self.options(), "verify": self.verify}
        if self.verify is not None:
            found |= {"threshold": self.threshold, "min_inliers": self.min_inliers}
        return {**found, **{f"features' {name}": value for name, value in of_features.items()}}

    def options(self) -> dict[str, Any]:
        """As keyword arguments of the matcher, which verifies nothing."""
        return {"mutual": self.mutual, "ratio": self.ratio, "min_similarity": self.min_similarity}


@dataclass
class MatchReport:
    """Tells what became of the pairs.

    Attributes
    ----------
    done : int
        Pairs matched now.
    skipped : int
        Pairs whose matches were there already.
    matches : int
        Of all that were matched now.
    unmatched : int
        Pairs among them without any match, or with too few that agree where they are verified.
    turned : int
        Pairs of which the second image matches best in another rotation than it is given.
    """

    done: int = 0
    skipped: int = 0
    matches: int = 0
    unmatched: int = 0
    turned: int = 0


class AllPairs(Collection[Pair]):
    """Every one of some images with every other; none of the pairs is kept.

    They are in the order of :func:`in_order_of_reuse`.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.names = sorted(names)

    def __len__(self) -> int:
        return len(self.names) * (len(self.names) - 1) // 2

    def __iter__(self) -> Iterator[Pair]:
        for first in range(0, len(self.names), _RUN):
            for high in range(first + 1, len(self.names)):
                for low in range(first, min(first + _RUN, high)):
                    yield self.names[low], self.names[high]

    def __contains__(self, pair: object) -> bool:
        return any(pair == each for each in self)


def all_pairs(features: str | os.PathLike[str]) -> AllPairs:
    """Every image of a feature file with every other.

    Raises
    ------
    FormatError
        If the file cannot be read, or has fewer than two images.
    """
    names = hloc.names(features)
    if len(names) < 2:
        what = f"only those of {names[0]}" if names else "no features of D2-Net"
        raise FormatError(f"{os.fspath(features)} holds {what}: there is nothing to match")
    return AllPairs(names)


def listed_pairs(path: str | os.PathLike[str], features: str | os.PathLike[str]) -> list[Pair]:
    """The pairs of a list in hloc's format, each once; an image with itself is no pair.

    Parameters
    ----------
    path : path
        Two names a line, separated by a space or a tab; see
        :func:`~d2np.formats.hloc_matches.read_pair_list`.
    features : path
        The feature file that must hold them.

    Raises
    ------
    FormatError
        If the list or the file cannot be read, the list has no pairs, or names images that the file does
        not hold.
    """
    held = set(hloc.names(features))
    # Each as it comes first, in whichever order.
    found: dict[frozenset[str], Pair] = {}
    for pair in hloc_matches.read_pair_list(path, held):
        found.setdefault(frozenset(pair), pair)
    pairs = [pair for both, pair in found.items() if len(both) == 2]
    if not pairs:
        raise FormatError(f"{os.fspath(path)}: the list names no pairs")
    if missing := sorted({name for pair in pairs for name in pair} - held):
        raise FormatError(
            f"{os.fspath(path)} names images that {os.fspath(features)} does not hold: {several(missing)}"
        )
    return pairs


def in_order_of_reuse(pairs: Iterable[Pair]) -> list[Pair]:
    """Return the pairs in an order in which features are read seldom, if those of some images are held.

    Images are numbered by their names. A run of them stays while each later image comes once, to be
    matched with the whole run; then it is the next run's turn.
    """
    pairs = list(pairs)
    number = {name: k for k, name in enumerate(sorted({name for pair in pairs for name in pair}))}

    def key(pair: Pair) -> tuple[int, int, int]:
        low, high = sorted((number[pair[0]], number[pair[1]]))
        return low // _RUN, high, low

    return sorted(pairs, key=key)


class MatchOutput(HdfOutput):
    """hloc's match file; see :class:`HdfOutput`.

    Parameters
    ----------
    path : Path
    settings : mapping
        What the matches depend on.
    features : path, optional
        The feature file: pairs of which an image has other features now are held no longer.
    restart : bool
        Begin anew.

    Raises
    ------
    FormatError
        If the feature file cannot be read, or for what :class:`HdfOutput` says.
    """

    def __init__(
        self,
        path: Path,
        settings: Mapping[str, object],
        *,
        features: str | os.PathLike[str] | None = None,
        restart: bool = False,
    ) -> None:
        self._stamps: dict[str, str] = {}
        if features is not None:
            with hloc.opened(features) as file:
                for name in hloc.names(file):
                    self._stamps[name] = hloc.stamp_of(file, name) or ""
        super().__init__(
            path,
            settings,
            listed=hloc_matches.pair_names,
            is_complete=hloc_matches.is_complete,
            command="d2np pairs",
            restart=restart,
        )

    def holds(self, a: str, b: str) -> bool:
        """Return whether the matches of these two images are there already, in either order."""
        first, second = self.in_its_order(a, b)
        name = hloc_matches.pair_name(first, second)
        return self.has(name) and is_same(self.made_from(name), self.stamp(first, second))

    def in_its_order(self, a: str, b: str) -> Pair:
        """Return the pair as the file has it, if it does, so that it comes to be there once."""
        turned = self.has(hloc_matches.pair_name(b, a)) and not self.has(hloc_matches.pair_name(a, b))
        return (b, a) if turned else (a, b)

    def stamp(self, a: str, b: str) -> str | None:
        """Return what tells whether the features of two images are still the same."""
        if a not in self._stamps or b not in self._stamps:
            return None
        both = "\n".join((self._stamps[a], self._stamps[b]))
        return json.dumps({"features": blake2b(both.encode(), digest_size=8).hexdigest()})


def match_pairs(
    features: str | os.PathLike[str],
    pairs: Collection[Pair],
    output: MatchOutput,
    settings: MatchSettings,
    *,
    threads: int | None = None,
    progress: Progress | None = None,
    stop: Callable[[], bool] | None = None,
    client: Client | None = None,
    shards: str | os.PathLike[str] | None = None,
) -> MatchReport:
    """Match pairs of images into an output, leaving out those that it holds already.

    Pairs are matched side by side, a thread each. What is done is kept, whatever ends the job. The output is
    finished at the end, and closed whatever happens.

    Parameters
    ----------
    features : path
        hloc's feature file.
    pairs : list of (str, str), or AllPairs
        Names of images that the file holds.
    output : MatchOutput
    settings : MatchSettings
    threads : int, optional
        How many to use; by default every core this process may use. The result does not depend on it.
    progress : Progress, optional
        Updated after each pair that was not skipped.
    stop : callable, optional
        Asked after each pair; once it says True, the job ends as if interrupted.
    client : distributed.Client, optional
        Has the workers of this Dask cluster do the work. They must see the features under the same path.
    shards : path or URL, optional
        See :func:`~d2np.dataset.extract`.

    Raises
    ------
    FormatError
        If the features cannot be read or the output cannot be written, or if two images have one name in
        hloc's match file.
    KeyboardInterrupt
        If ``stop`` said so.
    """
    report = MatchReport()
    failed = []
    with closing(output):
        place = None if client is None else shards
        if client is not None:
            features, threads = os.path.abspath(features), threads or cluster.threads_each(client)
        output.collect(place)
        names = pairs.names if isinstance(pairs, AllPairs) else {name for pair in pairs for name in pair}
        hloc_matches.by_flat_name(sorted(names))
        left = sum(not output.holds(*pair) for pair in pairs)
        report.skipped = len(pairs) - left
        if left:
            ordered = pairs if isinstance(pairs, AllPairs) else in_order_of_reuse(pairs)
            waiting = (output.in_its_order(*pair) for pair in ordered if not output.holds(*pair))
            items = ((pair, output.stamp(*pair)) for pair in waiting)
            store = output.store(place)
            do = partial(matched, features, settings, threads, store)
            with closing(cluster.results(client, do, items, left, PAIRS)) as results:
                for (pair, _), outcome in results:
                    left -= 1
                    if isinstance(outcome, str):
                        failed.append(f"{hloc_matches.pair_name(*pair)}: {outcome}")
                        continue
                    group, archive = outcome
                    output.parts.take(group.name, group.stamp, archive, store)
                    report.done += 1
                    report.matches += group.count
                    report.unmatched += not group.count
                    rotation = group.attributes.get("matches0", {}).get("rotation")
                    report.turned += bool(rotation and group.count)
                    if progress is not None:
                        progress.update()
                    if stop is not None and left and stop():
                        raise KeyboardInterrupt
            output.collect(place)
        if failed:
            more = f" (and {len(failed) - 1} more pairs)" if len(failed) > 1 else ""
            raise Error(f"{failed[0]}{more}; the others are done, and the same command tries again")
        output.finish()
    return report


Item = tuple[Pair, "str | None"]
"""A pair with its stamp."""


def matched(
    features: str | os.PathLike[str],
    settings: MatchSettings,
    threads: int | None,
    store: Store,
    items: Iterable[Item],
    count: int,
) -> Generator[tuple[Item, tuple[Group, str]]]:
    """Match so many pairs, and store them: here, or in a worker of a cluster.

    Yields
    ------
    (str, str), str or None
        A pair with its stamp, in their order, once it is stored.
    Group, str
        What is stored, and the name of its archive.
    """
    waiting: list[tuple[Item, GroupInBlocks]] = []

    def stored() -> list[tuple[Item, tuple[Group, str]]]:
        done = waiting[:]
        waiting.clear()
        first = done[0][1][0].name
        groups = store.write((group for _, group in done), first)
        archive = store.archive_of(first)
        return [(item, (group, archive)) for (item, _), group in zip(done, groups, strict=True)]

    since = monotonic()
    try:
        with hloc.opened(features) as file:
            for item, counts, matches in _in_order(file, items, count, settings, threads):
                (a, b), stamp = item
                arrays = hloc_matches.arrays_of(a, b, matches, counts)
                told = hloc_matches.attributes_of(matches, settings.verify)
                group = Group(hloc_matches.pair_name(a, b), stamp, attributes=told)
                waiting.append((item, (group, [(len(matches), arrays)])))
                if len(waiting) == PAIRS or monotonic() - since >= _SECONDS:
                    yield from stored()
                    since = monotonic()
    except BaseException:
        # What is done is kept.
        if waiting:
            stored()
        raise
    if waiting:
        yield from stored()


def _in_order(
    file: Any, items: Iterable[Item], count: int, settings: MatchSettings, threads: int | None
) -> Iterator[tuple[Item, tuple[int, int], Matches]]:
    """Yield the matches of so many pairs, in their order, with the numbers of keypoints."""
    cores = thread_count(threads)
    free = free_memory()
    free = sys.maxsize if free is None else free
    # Where there are fewer pairs than cores, several work on one pair.
    wanted = max(1, min(cores, count))
    workers = max(1, min(wanted, free // _MATCHED_SHARE // (2 * _FEATURE_BYTES)))
    if workers < wanted:
        fewer = "1 pair" if workers == 1 else f"{workers} pairs"
        logging.getLogger("d2np").warning("%s at a time instead of %d: little memory is free", fewer, wanted)
    do = partial(_matches_of, settings=settings, threads=cores // workers)
    most = max(1, min(CACHED, free // _HELD_SHARE // _FEATURE_BYTES))
    scaled = settings.verify is not None and settings.threshold is None
    features = lru_cache(most)(partial(_read, file, scaled=scaled))
    under_way: deque[tuple[Item, tuple[int, int], Future[Matches]]] = deque()
    pool = ThreadPoolExecutor(workers)
    try:
        for item in chain(items, repeat(None, workers)):
            if item is not None:
                a, b = map(features, item[0])
                under_way.append((item, (len(a[0]), len(b[0])), pool.submit(do, a, b)))
            if under_way and (item is None or len(under_way) > workers):
                done, counts, future = under_way.popleft()
                yield done, counts, future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _read(file: Any, name: str, *, scaled: bool) -> tuple[Features, float]:
    """Return the features of an image, and the pixels of it for one that the network saw, if ``scaled``."""
    return hloc.read(file, name), hloc.read_uncertainty(file, name) if scaled else 1.0


def _matches_of(
    a: tuple[Features, float], b: tuple[Features, float], settings: MatchSettings, threads: int
) -> Matches:
    """Return the matches of two images that are to be stored."""
    if settings.verify is None:
        return match(a[0], b[0], **settings.options(), threads=threads)
    threshold = verification.THRESHOLD * max(a[1], b[1]) if settings.threshold is None else settings.threshold
    options: dict[str, Any] = {**settings.options(), "verify": settings.verify, "threshold": threshold}
    found = match(a[0], b[0], **options, threads=threads)
    assert found.inliers is not None
    agreeing = found.select(found.inliers)
    return agreeing if len(agreeing) >= settings.min_inliers else agreeing.select([])
