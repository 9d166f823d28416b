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
from typing import TYPE_CHECKING, Any, TypeVar

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

_TIMEOUT = "20s"
_RECOUNT = 5.0
_MOST_DROPS = 1000
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


Receipt = tuple[list[Outcome], list[tuple[str, bool]]]
"""The answer of a worker: the outcomes of a batch; what was logged, and whether once is enough for a job."""


def _done(do: Do[Item, Outcome], batch: list[Item]) -> Receipt[Outcome]:
    """Do a batch in a worker."""
    with collected() as records, closing(do(batch, len(batch))) as results:
        outcomes = [outcome for _, outcome in results]
    return outcomes, [(record.getMessage(), hasattr(record, "d2np_once")) for record in records]


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
    with closing(_through(client, partial(_done, do), batches)) as done:
        for batch, (outcomes, messages) in done:
            for text, once in messages:
                LOGGER.warning("%s", text, extra=ONCE if once else None)
            yield from zip(batch, outcomes, strict=True)


def _through(
    client: Client, do: Callable[[list[Item]], Receipt[Outcome]], batches: Iterator[list[Item]]
) -> Generator[tuple[list[Item], Receipt[Any]]]:
    """Yield batches with the receipts of a cluster, of which only so many are under way at a time.

    Dask gives the batches of a worker that has died to others, and gives up those on which workers die again
    and again. Their items are done one by one when all else is, each alone, to find out on which they die.
    """
    killed = _library().scheduler.KilledWorker
    suspects: deque[Item] = deque()
    under_way: dict[Any, list[Item]] = {}
    finished: Queue[Any] = Queue()
    is_alone, drops = False, 0

    def submit(batch: list[Item]) -> None:
        future = client.submit(do, batch, key=f"d2np-{uuid.uuid4().hex}", pure=False)
        under_way[future] = batch
        future.add_done_callback(finished.put)  # type: ignore[no-untyped-call]

    slots, counted = 0, -_RECOUNT
    try:
        while True:
            if time.monotonic() - counted >= _RECOUNT:
                # Clusters grow and shrink.
                slots, counted = _slots(client), time.monotonic()
            for batch in islice(batches, max(0, QUEUED * slots - len(under_way))):
                submit(batch)
            if not under_way:
                if not suspects:
                    return
                is_alone = True
                submit([suspects.popleft()])
            future = _next(client, finished)
            batch = under_way.pop(future)
            try:
                receipt = future.result()
            except (CancelledError, asyncio.CancelledError):
                # The result may have been in a worker that has died.
                drops += 1
                if drops > _MOST_DROPS or client.status != "running":
                    raise Error("the cluster has dropped the work: its scheduler has ended") from None
                submit(batch)
            except killed:
                if is_alone:
                    yield batch, ([KILLED], [])
                suspects.extend([] if is_alone else batch)
            except Error:
                raise
            except Exception as error:
                text = f"{type(error).__name__}: {_reason(error)}"
                raise Error(f"a worker of the cluster could not go on: {text}") from error
            else:
                drops = 0
                yield batch, receipt
            future.release()
    finally:
        with suppress(Exception):
            client.cancel(list(under_way), force=True)  # type: ignore[no-untyped-call]


def _next(client: Client, finished: Queue[Any]) -> Any:
    """Return the next batch that has ended, unless there are no workers for too long."""
    since = time.monotonic()
    while True:
        with suppress(Empty):
            return finished.get(timeout=_RECOUNT)
        if _threads(client):
            since = time.monotonic()
        elif time.monotonic() - since > _PATIENCE:
            raise Error(f"the cluster has had no workers for {_PATIENCE:.0f} s")


def _library() -> Any:
    return require("distributed", "a Dask cluster needs", "dask", Error)
