"""What the workers of a Dask cluster do, and how that gets into the output.

A task is a batch of images, or of pairs. Its worker writes one shard for it into the store, and sends back
a receipt with no more than the shard's name and some numbers. The client takes the shard into ``OUT.parts``,
where it counts like those that a job without a cluster writes, and the output is assembled in the same way.
Features of an image are gathered before they are written, however large it is.

What makes a job safe from deaths: a shard has its name only once it is whole. Of a task that is done again,
since its worker died, the shard has the same name, so nothing is there twice. A worker that dies between
naming its shard and sending the receipt has not worked for nothing, as the next one finds the shard. And
where the client dies, the next job finds all shards that are whole.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import secrets
import threading
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar

from ..errors import Error, FormatError
from ..features import Features
from ..formats import hloc, hloc_matches
from ..images.messages import LOGGER, ONCE, collected
from ..machine import usable_cores
from . import extraction, hdf, pairs, shards
from .cluster import Killed, Work, crowd, slots
from .listing import Entry
from .pipeline import features_of
from .shards import EXTENSION, Record
from .store import Store

if TYPE_CHECKING:
    from distributed import Client

    from ..network.net import Net

Item = TypeVar("Item")

IMAGES = 16
"""Images in a batch, at most: about what is lost where a worker dies."""

PAIRS = 128
"""Pairs in a batch, at most."""


@dataclass(frozen=True)
class Receipt:
    """What a worker sends back.

    Attributes
    ----------
    shard : str
        The file in the store.
    outcomes : dict
        By the name of each item, how many keypoints or matches there are, or why it failed.
    messages : tuple of (str, bool)
        What was logged on the images, and whether once is enough for the job.
    """

    shard: str
    outcomes: dict[str, int | str]
    messages: tuple[tuple[str, bool], ...] = ()


@dataclass(frozen=True)
class Task(ABC, Generic[Item]):
    """Work on a batch of items; sent to the workers with each batch.

    Attributes
    ----------
    store : Store
    prefix : str
        What the names of the shards begin with.
    threads : int
        How many to use.
    """

    store: Store
    prefix: str
    threads: int

    counted: ClassVar[str]
    """The value of a record that is its outcome."""

    def __call__(self, number: int, batch: list[Item]) -> Receipt:
        shard = f"{self.prefix}-{number:08d}{EXTENSION}"
        outcomes = self._left_by_another(shard)
        if outcomes.keys() == {self.name(item) for item in batch}:
            return Receipt(shard, outcomes)
        outcomes = {}
        with (
            collected() as records,
            self.store.writing(shard) as stream,
            closing(self.results(batch)) as results,
        ):
            for name, result in results:
                if isinstance(result, Record):
                    shards.write(stream, result)
                    outcomes[name] = result.values[self.counted]
                else:
                    outcomes[name] = result
        messages = ((record.getMessage(), hasattr(record, "d2np_once")) for record in records)
        return Receipt(shard, outcomes, tuple(messages))

    @abstractmethod
    def name(self, item: Item) -> str:
        """What an item is filed under."""

    @abstractmethod
    def results(self, batch: list[Item]) -> Generator[tuple[str, Record | str]]:
        """A generator of the names of the items, in any order, with records, or texts that tell why not."""

    def _left_by_another(self, shard: str) -> dict[str, int | str]:
        with self.store.reading(shard) as stream:
            if stream is None:
                return {}
            return {place.name: place.values[self.counted] for place in shards.scan(stream, verify=True)}


@dataclass(frozen=True)
class Extraction(Task[tuple[Entry, "str | None"]]):
    """Features of images, which come with their stamps.

    Attributes
    ----------
    network, sha256 : str
        A file in the store, and its checksum.
    settings : Settings
    half : bool
    """

    network: str
    sha256: str
    settings: extraction.Settings
    half: bool

    counted: ClassVar[str] = "keypoints"

    def name(self, item: tuple[Entry, str | None]) -> str:
        return item[0].name

    def results(self, batch: list[tuple[Entry, str | None]]) -> Generator[tuple[str, Record | str]]:
        net = _network(self.store, self.network, self.sha256)
        stamps = {entry.name: stamp for entry, stamp in batch}
        entries = [entry for entry, _ in batch]

        def record(entry: Entry, features: Features, uncertainty: float) -> Record:
            return hdf.feature_record(entry, features, uncertainty, stamps[entry.name], half=self.half)

        found = features_of(net, entries, self.settings, threads=self.threads)
        with closing(extraction.outcomes(found, self.settings, record)) as outcomes:
            for entry, outcome in outcomes:
                yield entry.name, outcome


@dataclass(frozen=True)
class Matching(Task[tuple[str, str, "str | None"]]):
    """Matches of pairs, which come with their stamps.

    Attributes
    ----------
    features : str
        The path of hloc's feature file.
    settings : MatchSettings
    """

    features: str
    settings: pairs.MatchSettings

    counted: ClassVar[str] = "matches"

    def name(self, item: tuple[str, str, str | None]) -> str:
        return hloc_matches.pair_name(*item[:2])

    def results(self, batch: list[tuple[str, str, str | None]]) -> Generator[tuple[str, Record | str]]:
        stamps = {(a, b): stamp for a, b, stamp in batch}
        with hloc.opened(self.features) as file:
            found = pairs.matched(file, stamps, len(batch), self.settings, self.threads)
            for (a, b), counts, matches in found:
                yield (
                    hloc_matches.pair_name(a, b),
                    hdf.match_record(a, b, matches, counts, stamps[a, b]),
                )


def extracted(
    client: Client,
    net: Net,
    output: hdf.HlocOutput,
    settings: extraction.Settings,
    threads: int | None,
    store: Store,
    entries: Sequence[Entry],
) -> Generator[tuple[Entry, int | str]]:
    """Have the workers extract features from images into an output that was started.

    Yields
    ------
    Entry
    int or str
        How many keypoints it has, which are stored; or why it failed.
    """
    if not entries:
        return
    items = ((_absolute(entry), output.stamp(entry)) for entry in entries)
    by_name = {entry.name: entry for entry in entries}
    with _delivered(net, output, store) as (network, sha256):
        task = Extraction(
            *(store, _prefix(output), threads or _threads_each(client)),
            network=network,
            sha256=sha256,
            settings=settings,
            half=output.half,
        )
        for name, outcome in _done(client, task, items, len(entries), IMAGES, output):
            entry = by_name[name]
            if isinstance(outcome, str):
                outcome = outcome.replace(os.fspath(_absolute(entry).path), os.fspath(entry.path))
            yield entry, outcome


def matched(
    client: Client,
    features: str | os.PathLike[str],
    output: hdf.MatchOutput,
    settings: pairs.MatchSettings,
    threads: int | None,
    store: Store,
    waiting: Iterable[pairs.Pair],
    count: int,
) -> Generator[int]:
    """Have the workers match so many pairs into an output that was started.

    Yields
    ------
    int
        How many matches a pair has, which are stored.

    Raises
    ------
    Error
        In the end, if workers have died on a pair.
    """
    if not count:
        return
    items = ((a, b, output.stamp(a, b)) for a, b in waiting)
    task = Matching(
        *(store, _prefix(output), threads or _threads_each(client)),
        features=os.path.abspath(features),
        settings=settings,
    )
    failed = []
    for name, outcome in _done(client, task, items, count, PAIRS, output):
        if isinstance(outcome, str):
            failed.append(f"{name}: {outcome}")
        else:
            yield outcome
    if failed:
        more = f" (and {len(failed) - 1} more pairs)" if len(failed) > 1 else ""
        raise Error(f"{failed[0]}{more}; the others are done, and the same command tries again")


def store_for(output: hdf.HdfOutput, shards: str | os.PathLike[str] | None) -> Store:
    """Where the workers are to leave what they have done; takes what is there from a client that was ended.

    Parameters
    ----------
    output : HlocOutput or MatchOutput
    shards : path or URL, optional
        By default the parts' own folder.

    Raises
    ------
    FormatError
        If the store cannot be read or made.
    """
    if shards is None:
        return Store(str(output.parts.folder))
    store = Store(os.fspath(shards))
    store.make()
    _collect(output, store)
    return store


def _collect(output: hdf.HdfOutput, store: Store) -> None:
    """Take whole shards of a job that goes on, and remove what else it has left."""
    if output.parts.job is None:
        return
    for name in store.names():
        if _mark(output) in name and name.endswith(EXTENSION):
            store.take(name, output.parts.folder / name)
            output.parts.adopt(name)
        elif _mark(output) in name:
            store.remove(name)


def _done(
    client: Client, task: Task[Item], items: Iterable[Item], count: int, most: int, output: hdf.HdfOutput
) -> Generator[tuple[str, int | str]]:
    """The names of items with their outcomes, once they are in the output's parts."""
    elsewhere = task.store.where != os.path.abspath(output.parts.folder)
    size = max(1, min(most, count // (4 * slots(client))))
    source = iter(items)
    batches = iter(lambda: list(islice(source, size)), [])
    with closing(Work(client, task).through(batches)) as results:
        for batch, receipt in results:
            if isinstance(receipt, Killed):
                yield from ((task.name(item), receipt.reason) for item in batch)
                continue
            if elsewhere:
                task.store.take(receipt.shard, output.parts.folder / receipt.shard)
            stored = set(output.parts.adopt(receipt.shard))
            told = {name for name, outcome in receipt.outcomes.items() if isinstance(outcome, int)}
            if missing := sorted(told - stored):
                raise FormatError(
                    f"{receipt.shard} was changed by somebody else: it does not hold {missing[0]}"
                )
            for text, once in receipt.messages:
                LOGGER.warning("%s", text, extra=ONCE if once else None)
            yield from receipt.outcomes.items()
    if elsewhere:
        _collect(output, task.store)


@contextmanager
def _delivered(net: Net, output: hdf.HdfOutput, store: Store) -> Iterator[tuple[str, str]]:
    """The network as a file in the store, and the file's checksum.

    All workers see the store, and there it outlives any of them.
    """
    content = pickle.dumps(net)
    name = f"network{_mark(output)}"
    with store.writing(name) as stream:
        stream.write(content)
    try:
        yield name, hashlib.sha256(content).hexdigest()
    finally:
        store.remove(name)


_networks: dict[str, Net] = {}
_loading = threading.Lock()


def _network(store: Store, name: str, sha256: str) -> Net:
    """The network in a file, which a process reads once."""
    with _loading:
        if sha256 not in _networks:
            content = store.read(name, sha256)
            _networks.clear()
            # What it is was told by the client: nobody else can have put it there.
            _networks[sha256] = pickle.loads(content)
        return _networks[sha256]


def _prefix(output: hdf.HdfOutput) -> str:
    # Workers of an earlier client may still be busy: their shards must have other names.
    return f"{output.parts.next_number():06d}{_mark(output)}{secrets.token_hex(4)}"


def _mark(output: hdf.HdfOutput) -> str:
    """A part of the names of all files of a job."""
    job = output.parts.job
    assert job is not None
    return f"-{job.token}-"


def _threads_each(client: Client) -> int:
    return max(1, usable_cores() // crowd(client))


def _absolute(entry: Entry) -> Entry:
    """The same image for a process with another working folder."""
    return Entry(Path(os.path.abspath(entry.path)), entry.name) if isinstance(entry.path, Path) else entry
