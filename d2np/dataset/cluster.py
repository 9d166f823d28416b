"""Work on a Dask cluster: batches go out, archives and small receipts come back. Needs the extra ``dask``.

A task is a batch of images, or of pairs. Its worker writes archives into a store, a folder or URL that it and
the client see, and sends back some numbers for each item. The client takes the archives into ``OUT.parts``,
where they count like those that a job without a cluster writes, and the output is assembled in the same way.

What makes a job safe from deaths: an archive has its name only once it is whole. Where a task is done again,
since its worker died, its archives have the same names, so nothing is there twice. And where the client dies,
the next job finds all archives that are whole.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import pickle
import re
import signal
import threading
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from queue import Empty, Queue
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ..errors import Error, FormatError, OptionError
from ..extras import require
from ..images.messages import LOGGER, ONCE, collected
from ..machine import usable_cores
from .archives import Store

if TYPE_CHECKING:
    from distributed import Client

    from ..network.net import Net

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")
Do = Callable[[Iterable[Item], int], Generator[tuple[Item, Outcome]]]

QUEUED = 2
"""Batches under way for each thread of the workers: one that is worked on, and the next one."""

ATTEMPTS = 2
"""How often Dask may give up on a single item, each time after several deaths of workers."""

_TIMEOUT = "20s"
_RECOUNT = 5.0
_MOST_DROPS = 5
_PATIENCE = 300.0


KILLED = "workers of the cluster died while they worked on it: too little memory, perhaps"
"""The outcome of an item on which workers die again and again."""


@contextmanager
def connected(where: str) -> Iterator[Client]:
    """A client of a cluster, and where asked for the cluster as well.

    Parameters
    ----------
    where : str
        The address of a scheduler, such as ``tcp://host:8786``, or ``local:N`` for N processes on this
        machine, which end with the block.

    Raises
    ------
    OptionError
        If it is neither.
    Error
        If there is no such scheduler, or a package is missing.
    """
    processes = local_processes(where)
    distributed = _library()
    with _quiet(), ExitStack() as stack:
        if processes is None:
            yield stack.enter_context(_reached(where, distributed))
        else:
            cluster = stack.enter_context(_local(processes, distributed))
            yield stack.enter_context(distributed.Client(cluster, set_as_default=False))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Dask's loggers silent: the job tells what becomes of workers that die."""
    names = ("distributed", "distributed.scheduler", "distributed.nanny", "distributed.worker")
    before = {logger: logger.level for logger in map(logging.getLogger, names)}
    for logger in before:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in before.items():
            logger.setLevel(level)


def dask_setup(worker: object) -> None:
    """Prepare a worker process on this machine, for which Dask preloads this module.

    Ctrl-C goes to all processes of a terminal; what becomes of the job is for the client to decide.
    """
    with suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _local(processes: int, distributed: Any) -> Any:
    """Start a cluster of processes on this machine, which listens to nobody but itself."""
    import dask

    # Without TLS every user of the machine could have the workers run any code.
    require("cryptography", "a cluster on this machine needs", "dask", Error)
    # A batch that was taken apart costs little here, and each death the start of a process.
    with dask.config.set({"distributed.scheduler.allowed-failures": 1}):
        try:
            return distributed.LocalCluster(
                n_workers=processes,
                threads_per_worker=1,
                processes=True,
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",
                security=True,
                silence_logs=logging.CRITICAL,
                preload=["d2np.dataset.cluster"],
            )
        # Dask lets through whatever a worker dies of.
        except Exception as error:
            raise Error(
                f"the workers of local:{processes} did not start ({_reason(error)}): start the same command "
                "again, with fewer of them if memory is short"
            ) from None


@contextmanager
def _reached(address: str, distributed: Any) -> Iterator[Client]:
    try:
        # A client that cannot be made is closed when it is collected, and tells of its own troubles then.
        asyncio.run(_try(address, distributed))
        client = distributed.Client(address, timeout=_TIMEOUT, set_as_default=False)
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        raise Error(f"no Dask scheduler can be reached at {address}: {_reason(error)}") from None
    with client:
        yield client


async def _try(address: str, distributed: Any) -> None:
    security = distributed.Security().get_connection_args("client")
    comm = await distributed.connect(address, timeout=_TIMEOUT, **security)
    await comm.close()


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def local_processes(where: str) -> int | None:
    """N of ``local:N``; None if this is the address of a scheduler.

    Raises
    ------
    OptionError
        If it is neither.
    """
    if where == "local" or where.startswith("local:"):
        count = where.partition(":")[2]
        if not re.fullmatch("0*[1-9][0-9]{0,3}", count):
            raise OptionError(
                f"a cluster on this machine is local:N with N from 1 to 9999, not {where[:80]!r}"
            )
        return int(count)
    if ":" not in where or not where.isprintable():
        raise OptionError(
            f"a Dask cluster is a scheduler's address, such as tcp://host:8786, or local:N; got {where!r}"
        )
    return None


def _threads(client: Client) -> dict[str, int]:
    """Return how many tasks each worker does at once, by its address."""
    threads: dict[str, int] = client.nthreads()  # type: ignore[no-untyped-call]
    return threads


def _slots(client: Client) -> int:
    """Return how many tasks the workers do at once; 1 while there are none."""
    return max(1, sum(_threads(client).values()))


def threads_each(client: Client) -> int:
    """Return the share of this machine's cores that each task gets where most are done at once."""
    hosts: Counter[str] = Counter()
    for address, threads in _threads(client).items():
        hosts[address.rpartition(":")[0]] += threads
    return max(1, usable_cores() // max(hosts.values(), default=1))


@dataclass(frozen=True)
class Delivered:
    """A network as a file in a store, which all workers see, and which outlives any of them."""

    store: Store
    name: str
    sha256: str

    def load(self) -> Net:
        """Return the network, which a process reads once.

        Raises
        ------
        FormatError
            If the file cannot be read, or is another one.
        """
        with _loading:
            if self.sha256 not in _networks:
                with self.store.opened(self.name) as stream:
                    content = stream.read()
                if hashlib.sha256(content).hexdigest() != self.sha256:
                    raise FormatError(f"{self.store.where}: {self.name} was changed by somebody else")
                _networks.clear()
                # What it is was told by the client: nobody else can have put it there.
                _networks[self.sha256] = pickle.loads(content)
            return _networks[self.sha256]


_networks: dict[str, Net] = {}
_loading = threading.Lock()


@contextmanager
def delivered(net: Net, store: Store) -> Iterator[Delivered]:
    """Yield a network for the workers."""
    content = pickle.dumps(net)
    name = f"{store.token}-network"
    with store.writing(name) as stream:
        stream.write(content)
    try:
        yield Delivered(store, name, hashlib.sha256(content).hexdigest())
    finally:
        store.remove(name)


@dataclass
class _Batch(Generic[Item]):
    """Items, and how often they were done in vain."""

    items: list[Item]
    kills: int = 0
    drops: int = 0


@dataclass(frozen=True)
class Receipt(Generic[Outcome]):
    """The answer of a worker.

    Attributes
    ----------
    outcomes : list
        For each item of the batch.
    messages : list of (str, bool)
        What was logged on the images, and whether once is enough for the job.
    """

    outcomes: list[Outcome]
    messages: list[tuple[str, bool]]


def _done(do: Do[Item, Outcome], batch: list[Item]) -> Receipt[Outcome]:
    """Do a batch in a worker."""
    with collected() as records, closing(do(batch, len(batch))) as results:
        outcomes = [outcome for _, outcome in results]
    return Receipt(outcomes, [(record.getMessage(), hasattr(record, "d2np_once")) for record in records])


def results(
    client: Client | None, do: Do[Item, Outcome], items: Iterable[Item], count: int, most: int
) -> Generator[tuple[Item, Outcome | str]]:
    """Have a function done on items, here or by a cluster in batches, and yield the items with the outcomes.

    Parameters
    ----------
    client : distributed.Client or None
    do : callable
        Called in a worker with each batch, or here with all items, and their number; yields each item with
        its outcome, in their order.
    items : iterable
    count : int
        How many they are.
    most : int
        How many are in a batch, at most.

    Yields
    ------
    object
        An item, in the order in which they are done.
    object or str
        Its outcome, or KILLED.

    Raises
    ------
    Error
        What a worker has raised, if it is one of ours; or if the cluster is gone, or anything else went wrong
        there.
    """
    if client is None:
        yield from do(items, count)
        return
    size = max(1, min(most, count // (4 * _slots(client))))
    source = iter(items)
    batches = iter(lambda: list(islice(source, size)), [])
    with closing(Work(client, partial(_done, do)).through(batches)) as done:
        for batch, receipt in done:
            for text, once in receipt.messages:
                LOGGER.warning("%s", text, extra=ONCE if once else None)
            yield from zip(batch, receipt.outcomes, strict=True)


class Work(Generic[Item, Outcome]):
    """Has a cluster do a function on batches, of which only so many are under way at a time.

    Dask gives the batches of a worker that has died to others. A batch on which workers die again and again
    is taken apart, and its items are done one by one when all else is, to find out on which they die.

    Parameters
    ----------
    client : distributed.Client
    do : callable
        Called in a worker with a batch; returns what comes back.
    """

    def __init__(self, client: Client, do: Callable[[list[Item]], Receipt[Outcome]]) -> None:
        self._client = client
        self._do = do
        self._suspects: deque[_Batch[Item]] = deque()
        self._dropped: deque[_Batch[Item]] = deque()
        self._under_way: dict[Any, _Batch[Item]] = {}
        self._finished: Queue[Any] = Queue()
        self._slots = 0
        self._counted = -_RECOUNT

    def through(self, batches: Iterable[list[Item]]) -> Generator[tuple[list[Item], Receipt[Any]]]:
        """Yield batches with what came back for them, in the order in which they are done."""
        waiting = map(_Batch, batches)
        try:
            self._fill(waiting)
            while self._under_way:
                future = self._next()
                batch = self._under_way.pop(future)
                receipt = self._receipt(future, batch)
                future.release()
                self._fill(waiting)
                if receipt is not None:
                    yield batch.items, receipt
        finally:
            with suppress(Exception):
                self._client.cancel(list(self._under_way), force=True)  # type: ignore[no-untyped-call]

    def _next(self) -> Any:
        since = time.monotonic()
        while True:
            with suppress(Empty):
                return self._finished.get(timeout=_RECOUNT)
            if _threads(self._client):
                since = time.monotonic()
            elif time.monotonic() - since > _PATIENCE:
                raise Error(f"the cluster has had no workers for {_PATIENCE:.0f} s")

    def _fill(self, waiting: Iterator[_Batch[Item]]) -> None:
        if time.monotonic() - self._counted >= _RECOUNT:
            # Clusters grow and shrink.
            self._slots, self._counted = _slots(self._client), time.monotonic()
        while len(self._under_way) < QUEUED * self._slots:
            batch = self._dropped.popleft() if self._dropped else next(waiting, None) or self._suspect()
            if batch is None:
                return
            key = f"d2np-{uuid.uuid4().hex}"
            future = self._client.submit(self._do, batch.items, key=key, pure=False)
            self._under_way[future] = batch
            future.add_done_callback(self._finished.put)  # type: ignore[no-untyped-call]

    def _suspect(self) -> _Batch[Item] | None:
        """Return what is now to be done of that on which workers may die, if anything.

        What waits in a worker that dies looks as guilty as what it worked on, so nothing waits; and before an
        item is given up, it is done all alone.
        """
        busy = len(self._under_way)
        if not self._suspects or busy >= self._slots or any(one.kills for one in self._under_way.values()):
            return None
        return self._suspects.popleft() if not (self._suspects[0].kills and busy) else None

    def _receipt(self, future: Any, batch: _Batch[Item]) -> Receipt[Any] | None:
        """Return the receipt, or None if the batch is to be done again."""
        try:
            if future.status == "finished":
                receipt: Receipt[Any] = future.result()
                return receipt
            error = future.exception()
        except (CancelledError, asyncio.CancelledError):
            error = None
        if error is None:
            # The result may have been in a worker that has died.
            batch.drops += 1
            if batch.drops > _MOST_DROPS or self._client.status != "running":
                raise Error("the cluster has dropped the work: its scheduler has ended or was restarted")
            self._dropped.append(batch)
        elif isinstance(error, _library().scheduler.KilledWorker):
            batch.kills += 1
            if len(batch.items) > 1:
                self._suspects.extend(_Batch([item]) for item in batch.items)
            elif batch.kills < ATTEMPTS:
                self._suspects.append(batch)
            else:
                return Receipt([KILLED], [])
        elif isinstance(error, Error):
            raise error
        else:
            text = " ".join(str(error).split())
            raise Error(f"a worker of the cluster could not go on: {type(error).__name__}: {text}") from error
        return None


def _library() -> Any:
    return require("distributed", "a Dask cluster needs", "dask", Error)
