"""Matching many pairs of images whose features are in a file."""

from __future__ import annotations

import logging
import os
import sys
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import TYPE_CHECKING, Any

from ..errors import FormatError, several
from ..features import Features, Matches
from ..formats import hloc, hloc_matches
from ..machine import free_memory
from ..matching import match
from ..threads import Team
from .extraction import ATTEMPTS, Progress, damaged_again
from .hdf import MatchOutput, recorded_settings

if TYPE_CHECKING:
    from distributed import Client

Pair = tuple[str, str]

CACHED = 16
"""Images whose features are held at once, beside those that are being matched."""

# Of the memory that is free, features that are held take a quarter at most, and those that are being matched
# a half: those of an image within the published limits take so many bytes, about.
_HELD_SHARE, _MATCHED_SHARE = 4, 2
_FEATURE_BYTES = 50 << 20


@dataclass(frozen=True)
class MatchSettings:
    """What the matches depend on beside the features: options of :func:`d2np.match`."""

    mutual: bool = True
    ratio: float | None = None
    min_similarity: float | None = None

    def recorded(self, features: str | os.PathLike[str]) -> dict[str, Any]:
        """These, and what the features were extracted with if the file tells, as texts and plain numbers.

        Raises
        ------
        FormatError
            If the feature file cannot be read.
        """
        with hloc.opened(features) as file:
            of_features = recorded_settings(file) or {}
        return {**self.options(), **{f"features' {name}": value for name, value in of_features.items()}}

    def options(self) -> dict[str, Any]:
        """As keyword arguments of the matcher."""
        return dict(vars(self))


@dataclass
class MatchReport:
    """What became of the pairs.

    Attributes
    ----------
    done : int
        Pairs matched now.
    skipped : int
        Pairs whose matches were there already.
    matches : int
        Of all that were matched now.
    unmatched : int
        Pairs among them without any match.
    """

    done: int = 0
    skipped: int = 0
    matches: int = 0
    unmatched: int = 0


class AllPairs(Collection[Pair]):
    """Every one of some images with every other; none of the pairs is kept.

    Parameters
    ----------
    names : list of str
        In the order in which the pairs are wanted.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names

    def __len__(self) -> int:
        return len(self.names) * (len(self.names) - 1) // 2

    def __iter__(self) -> Iterator[Pair]:
        return combinations(self.names, 2)

    def __contains__(self, pair: object) -> bool:
        return any(pair == each for each in self)

    def in_order_of_reuse(self, cached: int = CACHED) -> Iterator[Pair]:
        """As :func:`in_order_of_reuse`."""
        names = sorted(self.names)
        run = _run(cached)
        for first in range(0, len(names), run):
            for high in range(first + 1, len(names)):
                for low in range(first, min(first + run, high)):
                    yield names[low], names[high]


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
    pairs = unique(hloc_matches.read_pair_list(path, held))
    if not pairs:
        raise FormatError(f"{os.fspath(path)}: the list names no pairs")
    if missing := sorted({name for pair in pairs for name in pair} - held):
        raise FormatError(
            f"{os.fspath(path)} names images that {os.fspath(features)} does not hold: {several(missing)}"
        )
    return pairs


def unique(pairs: Iterable[Pair]) -> list[Pair]:
    """Each pair as it comes first, in whichever order, without images paired with themselves."""
    found: dict[frozenset[str], Pair] = {}
    for pair in pairs:
        found.setdefault(frozenset(pair), pair)
    return [pair for key, pair in found.items() if len(key) == 2]


def in_order_of_reuse(pairs: Sequence[Pair], cached: int = CACHED) -> list[Pair]:
    """The pairs in an order in which features are read seldom, if those of so many images are held.

    Images are numbered by their names. A run of them stays while each later image comes once, to be
    matched with the whole run; then it is the next run's turn.
    """
    number = {name: k for k, name in enumerate(sorted({name for pair in pairs for name in pair}))}
    run = _run(cached)

    def key(pair: Pair) -> tuple[int, int, int]:
        low, high = sorted((number[pair[0]], number[pair[1]]))
        return low // run, high, low

    return sorted(pairs, key=key)


def _run(cached: int) -> int:
    # The later image, and the one before it: the oldest there is when the next one comes.
    return max(1, cached - 2)


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
    try:
        done = _where(features, output, settings, threads, client, shards)
        hloc_matches.by_flat_name(_names(pairs))
        waiting = sum(not output.holds(*pair) for pair in pairs)
        report.skipped = len(pairs) - waiting
        for _ in range(ATTEMPTS):
            if waiting:
                output.start()
            with closing(done(_left(pairs, output), waiting)) as results:
                for count in results:
                    report.done += 1
                    report.matches += count
                    report.unmatched += not count
                    waiting -= 1
                    if progress is not None:
                        progress.update()
                    if stop is not None and waiting and stop():
                        raise KeyboardInterrupt
            if output.finish():
                break
            waiting = sum(not output.holds(*pair) for pair in pairs)
        else:
            raise damaged_again()
    finally:
        output.close()
    return report


def _where(
    features: str | os.PathLike[str],
    output: MatchOutput,
    settings: MatchSettings,
    threads: int | None,
    client: Client | None,
    shards: str | os.PathLike[str] | None,
) -> Callable[[Iterator[Pair], int], Generator[int]]:
    """What does the work: this process or a cluster."""
    if client is None:
        return partial(_done_here, features, output, settings, threads)
    from . import workers

    store = workers.store_for(output, shards)
    return partial(workers.matched, client, features, output, settings, threads, store)


def _done_here(
    features: str | os.PathLike[str],
    output: MatchOutput,
    settings: MatchSettings,
    threads: int | None,
    pairs: Iterator[Pair],
    count: int,
) -> Generator[int]:
    """Of each pair the number of its matches, which are stored."""
    with hloc.opened(features) as file:
        for (a, b), counts, matches in matched(file, pairs, count, settings, threads):
            output.put(a, b, matches, counts)
            yield len(matches)


def _names(pairs: Collection[Pair]) -> list[str]:
    if isinstance(pairs, AllPairs):
        return sorted(pairs.names)
    return sorted({name for pair in pairs for name in pair})


def _left(pairs: Collection[Pair], output: MatchOutput) -> Iterator[Pair]:
    """The pairs that the output does not hold yet, in order of reuse, each as the output has it."""
    ordered: Iterable[Pair]
    if isinstance(pairs, AllPairs):
        ordered = (pair for pair in pairs.in_order_of_reuse() if not output.holds(*pair))
    else:
        ordered = in_order_of_reuse([pair for pair in pairs if not output.holds(*pair)])
    return (output.in_its_order(*pair) for pair in ordered)


def matched(
    file: Any, pairs: Iterable[Pair], count: int, settings: MatchSettings, threads: int | None
) -> Iterator[tuple[Pair, tuple[int, int], Matches]]:
    """Matches of so many pairs, in their order, with the numbers of keypoints."""
    with Team(threads) as team:
        cores = team.size
    free = free_memory()
    free = sys.maxsize if free is None else free
    # Where there are fewer pairs than cores, several work on one pair.
    wanted = max(1, min(cores, count))
    workers = max(1, min(wanted, free // _MATCHED_SHARE // (2 * _FEATURE_BYTES)))
    if workers < wanted:
        fewer = "1 pair" if workers == 1 else f"{workers} pairs"
        logging.getLogger("d2np").warning("%s at a time instead of %d: little memory is free", fewer, wanted)
    options = {**settings.options(), "threads": cores // workers}
    held = _Held(file, max(1, min(CACHED, free // _HELD_SHARE // _FEATURE_BYTES)))
    under_way: deque[tuple[Pair, tuple[int, int], Future[Matches]]] = deque()

    def next_one() -> tuple[Pair, tuple[int, int], Matches]:
        pair, counts, future = under_way.popleft()
        return pair, counts, future.result()

    pool = ThreadPoolExecutor(workers)
    try:
        for pair in pairs:
            a, b = held[pair[0]], held[pair[1]]
            under_way.append((pair, (len(a), len(b)), pool.submit(match, a, b, **options)))
            if len(under_way) > workers:
                yield next_one()
        while under_way:
            yield next_one()
    finally:
        pool.shutdown(cancel_futures=True)


class _Held:
    """The features of the images that were asked for last."""

    def __init__(self, file: Any, most: int) -> None:
        self._file = file
        self._most = most
        self._features: OrderedDict[str, Features] = OrderedDict()

    def __getitem__(self, name: str) -> Features:
        features = self._features.pop(name, None)
        if features is None:
            # Make room first, so that there is never one more.
            while len(self._features) >= self._most:
                self._features.popitem(last=False)
            features = hloc.read(self._file, name)
        self._features[name] = features
        return features
