"""Work on a Dask cluster: batches go out, small receipts come back. Needs the extra ``dask``."""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from queue import Empty, Queue
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ..errors import Error, OptionError
from ..extras import require

if TYPE_CHECKING:
    from distributed import Client

Item = TypeVar("Item")
Receipt = TypeVar("Receipt")

QUEUED = 2
"""Batches under way for each thread of the workers: one that is worked on, and the next one."""

ATTEMPTS = 2
"""How often Dask may give up on a single item, each time after several deaths of workers."""

_TIMEOUT = "20s"
_RECOUNT = 5.0
_MOST_DROPS = 5
_PATIENCE = 300.0


@dataclass(frozen=True)
class Killed:
    """What comes back in place of a receipt where workers die again and again on an item."""

    reason: str = "workers of the cluster died while they worked on it: too little memory, perhaps"


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
    with _quiet():
        yield from _clients(where, processes, distributed)


@contextmanager
def _quiet() -> Iterator[None]:
    """What becomes of workers that die is told by the job, and not by Dask's loggers."""
    names = ("distributed", "distributed.scheduler", "distributed.nanny", "distributed.worker")
    loggers = [logging.getLogger(name) for name in names]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def _clients(where: str, processes: int | None, distributed: Any) -> Iterator[Client]:
    """The one client of :func:`connected`."""
    if processes is None:
        with _reached(where, distributed) as client:
            yield client
        return
    cluster = _local(processes, distributed)
    try:
        with distributed.Client(cluster, set_as_default=False) as client:
            yield client
    finally:
        cluster.close()


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
                preload=["d2np.dataset.worker_setup"],
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
    """How many tasks each worker does at once, by its address."""
    threads: dict[str, int] = client.nthreads()  # type: ignore[no-untyped-call]
    return threads


def slots(client: Client) -> int:
    """How many tasks the workers do at once; 1 while there are none."""
    return max(1, sum(_threads(client).values()))


def crowd(client: Client) -> int:
    """How many tasks are done at once on one machine; of several machines, where they are most."""
    hosts: Counter[str] = Counter()
    for address, threads in _threads(client).items():
        hosts[address.rpartition(":")[0]] += threads
    return max(hosts.values(), default=1)


@dataclass
class _Batch(Generic[Item]):
    """Items, and how often they were done in vain."""

    number: int
    items: list[Item]
    kills: int = 0
    drops: int = 0


class Work(Generic[Item, Receipt]):
    """Has a cluster do a function on batches, of which only so many are under way at a time.

    Dask gives the batches of a worker that has died to others. A batch on which workers die again and again
    is taken apart, and its items are done one by one when all else is, to find out on which they die.

    Parameters
    ----------
    client : distributed.Client
    do : callable
        Called in a worker with a number of its own for each batch, and the batch; returns what comes back.
        Of a batch that is done again the number is the same.
    """

    def __init__(self, client: Client, do: Callable[[int, list[Item]], Receipt]) -> None:
        self._client = client
        self._do = do
        self._numbers = itertools.count(1)
        self._suspects: deque[_Batch[Item]] = deque()
        self._dropped: deque[_Batch[Item]] = deque()
        self._slots = 0
        self._counted = -_RECOUNT

    def through(self, batches: Iterable[list[Item]]) -> Generator[tuple[list[Item], Receipt | Killed]]:
        """Batches with what came back for them, in the order in which they are done.

        Raises
        ------
        Error
            What a worker has raised, if it is one of ours; or if the cluster is gone, or anything else went
            wrong there.
        """
        distributed = _library()
        waiting = (_Batch(next(self._numbers), items) for items in batches)
        under_way: dict[Any, _Batch[Item]] = {}
        done: Queue[Any] = Queue()
        try:
            self._fill(waiting, under_way, done)
            while under_way:
                future = self._next(done)
                batch = under_way.pop(future)
                outcome = self._outcome(future, batch, distributed)
                future.release()
                self._fill(waiting, under_way, done)
                if outcome is not None:
                    yield batch.items, outcome
        finally:
            with suppress(Exception):
                self._client.cancel(list(under_way), force=True)  # type: ignore[no-untyped-call]

    def _next(self, done: Queue[Any]) -> Any:
        since = time.monotonic()
        while True:
            with suppress(Empty):
                return done.get(timeout=_RECOUNT)
            if _threads(self._client):
                since = time.monotonic()
            elif time.monotonic() - since > _PATIENCE:
                raise Error(f"the cluster has had no workers for {_PATIENCE:.0f} s")

    def _fill(
        self, waiting: Iterator[_Batch[Item]], under_way: dict[Any, _Batch[Item]], done: Queue[Any]
    ) -> None:
        if time.monotonic() - self._counted >= _RECOUNT:
            # Clusters grow and shrink.
            self._slots, self._counted = slots(self._client), time.monotonic()
        while len(under_way) < QUEUED * self._slots:
            batch = self._dropped.popleft() if self._dropped else next(waiting, None)
            if batch is None:
                batch = self._suspect(under_way)
                if batch is None:
                    return
            key = f"d2np-{uuid.uuid4().hex}"
            future = self._client.submit(self._do, batch.number, batch.items, key=key, pure=False)
            under_way[future] = batch
            future.add_done_callback(done.put)  # type: ignore[no-untyped-call]

    def _suspect(self, under_way: dict[Any, _Batch[Item]]) -> _Batch[Item] | None:
        """What is now to be done of that on which workers may die, if anything.

        What waits in a worker that dies looks as guilty as what it worked on, so nothing waits; and before an
        item is given up, it is done all alone.
        """
        if any(batch.kills for batch in under_way.values()) or len(under_way) >= self._slots:
            return None
        if self._suspects and not self._suspects[0].kills:
            return self._suspects.popleft()
        return self._suspects.popleft() if self._suspects and not under_way else None

    def _outcome(self, future: Any, batch: _Batch[Item], distributed: Any) -> Any:
        """The receipt, or Killed, or None if the batch is to be done again."""
        try:
            if future.status == "finished":
                return future.result()
            error = future.exception()
        except (CancelledError, asyncio.CancelledError):
            error = None
        if error is None:
            # The result may have been in a worker that has died.
            batch.drops += 1
            if batch.drops > _MOST_DROPS or self._client.status != "running":
                raise Error("the cluster has dropped the work: its scheduler has ended or was restarted")
            self._dropped.append(batch)
            return None
        if isinstance(error, distributed.scheduler.KilledWorker):
            batch.kills += 1
            if len(batch.items) == 1 and batch.kills >= ATTEMPTS:
                return Killed()
            if len(batch.items) == 1:
                self._suspects.append(batch)
            else:
                self._suspects.extend(_Batch(next(self._numbers), [item]) for item in batch.items)
            return None
        if isinstance(error, Error):
            raise error
        text = " ".join(str(error).split())
        raise Error(f"a worker of the cluster could not go on: {type(error).__name__}: {text}") from error


def _library() -> Any:
    return require("distributed", "a Dask cluster needs", "dask", Error)
