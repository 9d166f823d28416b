"""What a job has done before its output is written: a folder ``OUT.parts`` of shards beside the output.

::

    job.json            what the records depend on, and which job this is
    000001.shard        records, see :mod:`d2np.dataset.shards`; each start of the job begins a new shard, and
    000002.shard        one that has grown large is followed by another, so that damage costs little
    lock                held by the process that works on it

The headers of the records are the job's journal: there is no second list that could say something else. Any
file that ends in ``.shard`` counts, whoever wrote it. Of several records of one name the last counts, shards
being taken in the order of their names. Pieces of something large are in one shard, and are taken as one
record; where they have no end, as after a kill, they do not count, and their room is taken back.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from .. import streams
from ..atomic import replacing, sync_folder
from ..errors import FormatError
from .lock import Lock
from .shards import EXTENSION, PIECE, Place, Record, ShardWriter, Whole, read, read_between, scan, wholes

FORMAT = 1

LARGEST = 256 << 20
"""A shard that has so many bytes is followed by another one."""

STAMP = "stamp"
"""The value of a record that tells what it was made from: a text."""

ASSEMBLED = "assembled.h5"
"""The output, while it is being assembled."""

_JOB, _LOCK = "job.json", "lock"
_OURS = (f"*{EXTENSION}*", "network-*", f"{ASSEMBLED}*", f".{_JOB}.*", _JOB)


@dataclass(frozen=True)
class Job:
    """What the records of a folder belong to.

    Attributes
    ----------
    settings : dict
        What they depend on.
    anew : bool
        Whether they are to replace an output that was there before, rather than to join it.
    token : str
        Tells this job from all others.
    """

    settings: dict[str, Any]
    anew: bool
    token: str


class Damaged(Exception):
    """A record cannot be read as it was written."""


class _Where(NamedTuple):
    shard: str
    offset: int
    """Of the first record."""
    last: int
    """Of the last one; the same where there is one only."""
    stamp: str | None


class Parts:
    """The folder, with an index of its records.

    Parameters
    ----------
    folder : Path
        It need not exist.
    sync_every : float
        See :class:`~d2np.dataset.shards.ShardWriter`.

    Attributes
    ----------
    job : Job or None
        Set by :meth:`resume` and :meth:`begin`.
    """

    def __init__(self, folder: Path, *, sync_every: float = 0.0) -> None:
        self.folder = folder
        self.job: Job | None = None
        self._sync_every = sync_every
        self._lock = Lock(folder / _LOCK)
        self._index: dict[str, _Where] = {}
        self._writer: ShardWriter | None = None

    def __len__(self) -> int:
        return len(self._index)

    def __contains__(self, name: str) -> bool:
        return name in self._index

    def __iter__(self) -> Iterator[str]:
        return iter(self._index)

    def stamp(self, name: str) -> str | None:
        """The stamp of the record of this name."""
        return self._index[name].stamp

    def resume(self) -> Job | None:
        """Take the folder, if there is one, and read what job it belongs to; None if there is none.

        Raises
        ------
        FormatError
            If another process is at it, or it is of a kind that this version does not know.
        OSError
            If it cannot be read.
        """
        if self.folder.is_dir() and self._take():
            self.job = self._read_job()
            if self.job is None:
                # All that is left where a job was ended while it put its folder away, or before it began.
                self.remove()
            else:
                self._scan()
        return self.job

    def begin(self, settings: Mapping[str, Any], *, anew: bool) -> None:
        """Take the folder for a new job, throwing away what may be in it.

        Raises
        ------
        FormatError
            If another process is at it.
        OSError
            If it cannot be written.
        """
        while not self._lock.held:
            self.folder.mkdir(exist_ok=True)
            self._take()
        self._index.clear()
        job = Job(dict(settings), anew, secrets.token_hex(8))
        try:
            self._delete_files()
            with replacing(self.folder / _JOB) as stream:
                stream.write(json.dumps({"format": FORMAT, **vars(job)}, indent=1).encode())
        except BaseException:
            with suppress(OSError):
                self.remove()
            raise
        sync_folder(self.folder.parent)
        self.job = job

    def append(self, record: Record) -> None:
        """Add a record, which is safe once this returns.

        Raises
        ------
        OSError
            If it cannot be written.
        """
        writer = self._with_room()
        place = writer.append(record)
        self._add(writer.path.name, Whole(place.offset, place))

    def pieces(self) -> AbstractContextManager[Callable[[Record], None]]:
        """A function that adds pieces and, at last, the record that ends them.

        They count, and are safe, once the block has ended well; otherwise they are cut off again. Nothing
        else may be added meanwhile.

        Raises
        ------
        OSError
            If they cannot be written: here or by the function.
        """
        return self._pieces(self._with_room())

    @contextmanager
    def _pieces(self, writer: ShardWriter) -> Iterator[Callable[[Record], None]]:
        places: list[Place] = []

        def append(record: Record) -> None:
            places.append(writer.append(record))

        with writer.all_or_none():
            yield append
        self._add_all(writer.path.name, places)

    def adopt(self, shard: str) -> list[str]:
        """Take a whole shard that somebody else has put into the folder; returns the names of its records.

        Raises
        ------
        OSError
            If it cannot be read.
        """
        return [whole.place.name for whole in self._add_all(shard, self._places(shard))]

    def next_number(self) -> int:
        """What the name of the next shard begins with."""
        numbers = [path.name[:6] for path in self.folder.glob(f"*{EXTENSION}")]
        return 1 + max((int(number) for number in numbers if number.isdecimal()), default=0)

    def records(self) -> Iterator[tuple[str, Iterator[Record]]]:
        """All that is kept, by names, in the order in which it lies on the disk.

        Of what is in pieces, the record that ends them comes first, since it tells what they belong to, and
        then the pieces from the first to the last. These iterators raise Damaged; each is to be gone through
        before the next one.

        Raises
        ------
        OSError
            If a shard cannot be read.
        """
        by_shard: dict[str, list[tuple[int, int, str]]] = {}
        for name, where in self._index.items():
            by_shard.setdefault(where.shard, []).append((where.offset, where.last, name))
        for shard, places in sorted(by_shard.items()):
            with streams.opened(self.folder / shard) as stream:
                for offset, last, name in sorted(places):
                    yield name, _read_all(stream, offset, last)

    def forget(self, name: str) -> None:
        """Take a record off the index."""
        del self._index[name]

    def remove(self) -> None:
        """Delete the folder; what tells which job it is goes last, so that this can be gone on with too."""
        self._close_shard()
        self._index.clear()
        self.job = None
        self._delete_files()
        self._lock.release(remove=True)
        with suppress(OSError):
            self.folder.rmdir()

    def close(self) -> None:
        """Let go of the folder, which stays.

        Raises
        ------
        OSError
            If what was held back cannot be written.
        """
        try:
            self._close_shard()
        finally:
            self._lock.release()

    def _take(self) -> bool:
        """Hold the folder's lock; False if the folder is gone."""
        try:
            if self._lock.held or self._lock.take():
                return True
        except FileNotFoundError:
            return False
        except FormatError:
            with suppress(OSError):
                self.folder.rmdir()
            raise
        raise FormatError(f"{self.folder}: another process is working on it: wait until it has ended")

    def _read_job(self) -> Job | None:
        try:
            told = json.loads(streams.read(self.folder / _JOB))
            version = told.pop("format")
            if version != FORMAT:
                raise FormatError(
                    f"{self.folder} was begun by another version of d2np (format {version}, not {FORMAT}): "
                    "go on with that one, or begin anew with --overwrite"
                )
            return Job(dict(told["settings"]), bool(told["anew"]), str(told["token"]))
        except FileNotFoundError:
            return None
        except FormatError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise FormatError(f"{self.folder / _JOB} is damaged: begin anew with --overwrite") from None

    def _scan(self) -> None:
        for path in sorted(self.folder.glob(f"*{EXTENSION}")):
            places = self._places(path.name)
            found = self._add_all(path.name, places)
            if places and PIECE in places[-1].values:
                # Nothing ends these pieces any more, and they may be most of a large image.
                with suppress(OSError):
                    os.truncate(path, found[-1].end if found else 0)

    def _places(self, shard: str) -> list[Place]:
        with streams.opened(self.folder / shard) as stream:
            return list(scan(stream))

    def _add_all(self, shard: str, places: list[Place]) -> list[Whole]:
        found = list(wholes(places))
        for whole in found:
            self._add(shard, whole)
        return found

    def _add(self, shard: str, whole: Whole) -> None:
        place = whole.place
        stamp = place.values.get(STAMP)
        # Later records lie further back in the index too.
        self._index.pop(place.name, None)
        self._index[place.name] = _Where(
            shard, whole.offset, place.offset, None if stamp is None else str(stamp)
        )

    def _with_room(self) -> ShardWriter:
        """The shard that is written to, or the next one if it has grown large."""
        if self._writer is None or self._writer.size >= LARGEST:
            self._close_shard()
            self._writer = self._next_shard()
        return self._writer

    def _next_shard(self) -> ShardWriter:
        return ShardWriter(self.folder / f"{self.next_number():06d}{EXTENSION}", sync_every=self._sync_every)

    def _close_shard(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def _delete_files(self) -> None:
        # The folder may have been somebody's before: only what is ours.
        for pattern in _OURS:
            for path in self.folder.glob(pattern):
                path.unlink(missing_ok=True)


def _read_all(stream: BinaryIO, offset: int, last: int) -> Iterator[Record]:
    """The record at ``last``, and the pieces from ``offset`` on that it ends."""
    try:
        yield read(stream, last)
        yield from read_between(stream, offset, last)
    except FormatError:
        raise Damaged from None
