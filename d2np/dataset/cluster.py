"""Work on a Dask cluster: batches go out, small receipts come back. Needs the extra ``dask``."""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ..errors import Error, OptionError

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
    # What becomes of workers that die is told by the job.
    for name in ("distributed", "distributed.scheduler", "distributed.nanny", "distributed.worker"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if processes is None:
        with _reached(where, distributed) as client:
            yield client
        return
    cluster = distributed.LocalCluster(
        n_workers=processes,
        threads_per_worker=1,
        processes=True,
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        silence_logs=logging.CRITICAL,
    )
    try:
        with distributed.Client(cluster, set_as_default=False) as client:
            yield client
    finally:
        cluster.close()


@contextmanager
def _reached(address: str, distributed: Any) -> Iterator[Client]:
    try:
        client = distributed.Client(address, timeout=_TIMEOUT, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise Error(f"no Dask scheduler can be reached at {address}: {reason}") from None
    with client:
        yield client


def local_processes(where: str) -> int | None:
    """N of ``local:N``; None if this is the address of a scheduler.

    Raises
    ------
    OptionError
        If it is neither.
    """
    if where.startswith("local"):
        count = where.partition(":")[2]
        if where != f"local:{count}" or not (count.isascii() and count.isdigit()) or int(count) < 1:
            raise OptionError(f"a cluster on this machine is local:N with N from 1 up, not {where!r}")
        return int(count)
    if ":" not in where:
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


class Work(Generic[Item, Receipt]):
    """Has a cluster do a function on batches, of which only so many are under way at a time.

    Dask gives the batches of a worker that has died to others. A batch on which workers die again and again
    is taken apart, and its items are done one by one when all else is, to find out on which they die.

    Parameters
    ----------
    client : distributed.Client
    do : callable
        Called in a worker with a number of its own for each batch, and the batch; returns what comes back.
    """

    def __init__(self, client: Client, do: Callable[[int, list[Item]], Receipt]) -> None:
        self._client = client
        self._do = do
        self._number = 0
        self._suspects: deque[tuple[list[Item], int]] = deque()
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
        waiting = iter(batches)
        under_way: dict[Any, tuple[list[Item], int]] = {}
        done = distributed.as_completed(loop=self._client.loop, raise_errors=False)
        try:
            self._fill(waiting, under_way, done)
            while under_way:
                future = next(done)
                batch, attempts = under_way.pop(future)
                outcome = self._outcome(future, batch, attempts, distributed)
                future.release()
                self._fill(waiting, under_way, done)
                if outcome is not None:
                    yield batch, outcome
        finally:
            with suppress(Exception):
                self._client.cancel(list(under_way), force=True)  # type: ignore[no-untyped-call]

    def _fill(self, waiting: Iterator[list[Item]], under_way: dict[Any, Any], done: Any) -> None:
        if time.monotonic() - self._counted >= _RECOUNT:
            # Clusters grow and shrink.
            self._slots, self._counted = slots(self._client), time.monotonic()
        while len(under_way) < QUEUED * self._slots:
            attempts = 0
            batch = next(waiting, None)
            if batch is None:
                # What waits in a worker that dies looks as guilty as what it worked on: nothing is to wait.
                if not self._suspects or len(under_way) >= self._slots:
                    return
                batch, attempts = self._suspects.popleft()
            self._number += 1
            future = self._client.submit(self._do, self._number, batch, pure=False)
            under_way[future] = batch, attempts
            done.add(future)

    def _outcome(self, future: Any, batch: list[Item], attempts: int, distributed: Any) -> Any:
        """The receipt, or Killed, or None if the batch is to be done again."""
        if future.status == "finished":
            return future.result()
        if future.status in ("cancelled", "lost"):
            raise _gone()
        error = future.exception()
        if isinstance(error, distributed.scheduler.KilledWorker):
            if len(batch) == 1 and attempts + 1 >= ATTEMPTS:
                return Killed()
            self._suspects.extend(([item], attempts + 1 if len(batch) == 1 else 0) for item in batch)
            return None
        if isinstance(error, Error):
            raise error
        text = " ".join(str(error).split())
        raise Error(f"a worker of the cluster could not go on: {type(error).__name__}: {text}") from error


def _gone() -> Error:
    return Error("the cluster has dropped the work: its scheduler has ended or was restarted")


def _library() -> Any:
    try:
        import distributed
    except ImportError:
        raise Error("a Dask cluster needs the package distributed: pip install 'd2np[dask]'") from None
    return distributed
