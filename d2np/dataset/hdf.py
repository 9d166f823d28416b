"""HDF5 files that a job fills: features of many images, matches of many pairs."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any

from ..atomic import sync_folder
from ..errors import FormatError, ImageError
from ..features import Features, Matches
from ..formats import hloc, hloc_matches
from ..hdf5 import read_text, write_text
from ..images.names import folders_of, near
from ..network.scan import Gathering
from .listing import Entry
from .parts import ASSEMBLED, STAMP, Damaged, Job, Parts
from .pieces import Pieces
from .shards import PIECE, PIECES, Record
from .stamps import has_checksum, is_same, stamp_of, with_checksum

SETTINGS = "d2np_settings"
"""The attribute of an HDF5 file that tells, as JSON, what its content was made with."""

# What files were made with that were written before there were these options.
_ADDED = {"centered": False, "stretch": False}


JOB = "d2np_job"
"""The attribute that tells which job's records were the last to be put into an HDF5 file."""


_ATTRIBUTES = "attributes"
"""The value of a record that holds the attributes of its arrays."""

_KEYPOINTS = "keypoints"
"""The value of a record that tells how many there are."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class HdfOutput:
    """An HDF5 file of many groups, which is there as a whole or not at all.

    During a job its groups are records in the folder ``OUT.parts``, where each is safe at once. At the end
    the file is assembled from them, and from what ``OUT`` held before, and takes its name in one step. A job
    that was ended before goes on with ``OUT.parts`` and ``OUT``. See :class:`~d2np.dataset.parts.Parts`. A
    group may come in pieces, and is assembled from them, without ever being held as a whole.

    Parameters
    ----------
    path : Path
    settings : mapping
        What the groups depend on, as plain numbers and texts. It is kept with them, and what was made with
        another one is not gone on with.
    listed, is_complete : callable
        The names of all whole groups in an open file; whether a group is whole.
    command : str
        The command that writes such files.
    restart : bool
        Begin anew. What there is already stays until the new file takes its place.
    sync_every : float
        See :class:`~d2np.dataset.shards.ShardWriter`.

    Raises
    ------
    FormatError
        If what is there is no such file of ours, or was made with other settings; if another process is
        working on it; or if the file cannot be written.
    """

    def __init__(
        self,
        path: Path,
        settings: Mapping[str, object],
        *,
        listed: Callable[[Any], list[str]],
        is_complete: Callable[[Any], bool],
        command: str,
        restart: bool = False,
        sync_every: float = 0.0,
    ) -> None:
        self.path = Path(os.path.realpath(path))
        self.parts = Parts(self.path.with_name(f"{self.path.name}.parts"), sync_every=sync_every)
        self._shown = path
        self._settings = dict(settings)
        self._listed = listed
        self._is_complete = is_complete
        self._command = command
        self._restart = restart
        # Names and stamps of what the file holds that is there already.
        self._there: dict[str, str | None] = {}
        self._seen: object = None
        if not self.path.parent.is_dir():
            raise FormatError(
                f"{path}: cannot be written: there is no folder {path.parent}{near(path.parent)}"
            )
        if self.path.exists() and not self.path.is_file():
            raise FormatError(f"{path}: cannot be written: there is something that is no file")
        if self.parts.folder.exists() and not self.parts.folder.is_dir():
            raise FormatError(f"{self.parts.folder}: cannot be written: there is something that is no folder")
        try:
            self._look()
        except BaseException:
            self.parts.close()
            raise

    @property
    def failed_list(self) -> Path:
        return self.path.with_name(f"{self.path.name}.failed.txt")

    def has(self, name: str) -> bool:
        """Whether a group of this name is there already, whatever it was made from."""
        return name in self.parts or name in self._there

    def made_from(self, name: str) -> str | None:
        """The stamp of a group that is there already."""
        return self.parts.stamp(name) if name in self.parts else self._there[name]

    def start(self) -> None:
        if self.parts.job is not None:
            return
        with self._writing():
            self.parts.begin(self._settings, anew=self._restart)
        # Nobody else can change it from here on.
        if not self._restart and self._state() != self._seen:
            self.parts.remove()
            raise FormatError(f"{self._shown} was changed by another process just now: start again")

    def store(self, record: Record) -> None:
        """Keep a group; once this returns it is safe."""
        self.start()
        with self._writing():
            self.parts.append(record)

    def store_pieces(self, records: Iterable[Record]) -> None:
        """Keep a group that comes in pieces, at last with the record that ends them; see :class:`Parts`.

        Once this returns it is safe. If the records end with an error, nothing of the group is kept.
        """
        self.start()
        with self._writing():
            pieces = self.parts.pieces()
        with pieces as append:
            # What is wrong with a record that has not come has nothing to do with the disk.
            for record in records:
                with self._writing():
                    append(record)

    def finish(self) -> bool:
        if self.parts.job is None:
            return True
        if not len(self.parts):
            self._put_away()
            return True
        try:
            with self._writing():
                return self._assemble()
        finally:
            with suppress(OSError):
                self._assembled.unlink(missing_ok=True)

    def close(self) -> None:
        with self._writing():
            self.parts.close()

    def _look(self) -> None:
        """Find out what there is already."""
        if self._restart:
            return
        with self._writing():
            job = self.parts.resume()
        self._seen = self._state()
        if self.path.exists() and not (job and job.anew and not self._is_of(job)):
            with hloc.opened(self.path) as file:
                self._check_settings(recorded_settings(file), self._shown)
                self._there = {name: hloc.stamp_of(file, name) for name in self._listed(file)}
        if job is None:
            return
        if self.path.exists() and self._is_of(job):
            # Assembled, but ended before the parts were gone.
            self._put_away()
        else:
            self._check_settings(job.settings, self.parts.folder)

    def _is_of(self, job: Job) -> bool:
        """Whether the file has been assembled by this job."""
        try:
            with hloc.opened(self.path) as file:
                return read_text(file, JOB) == job.token
        except (FormatError, *hloc.H5_ERRORS):
            return False

    def _state(self) -> object:
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns

    @property
    def _assembled(self) -> Path:
        return self.parts.folder / ASSEMBLED

    def _assemble(self) -> bool:
        """The file, from what it held and what the job has done. False if some of that is damaged."""
        job = self.parts.job
        assert job is not None
        self._assembled.unlink(missing_ok=True)
        if self._there:
            shutil.copyfile(self.path, self._assembled)
        damaged: list[str] = []
        with _written(self._assembled) as file:
            write_text(file, SETTINGS, json.dumps(self._settings, sort_keys=True))
            write_text(file, JOB, job.token)
            for name, records in self.parts.records():
                try:
                    self._put(file, name, records)
                except Damaged:
                    damaged.append(name)
        for name in damaged:
            self.parts.forget(name)
        if damaged:
            return False
        _sync(self._assembled)
        os.replace(self._assembled, self.path)
        sync_folder(self.path.parent)
        self._put_away()
        return True

    def _put(self, file: Any, name: str, records: Iterator[Record]) -> None:
        """A group, from the record that tells about it and the pieces that follow.

        Raises
        ------
        Damaged
            If they make no whole group: nor would they the next time, and others would wait for them.
        """
        record = next(records)
        values = record.values
        if name in self._there:
            # First, so that its room is used again.
            del file[name]
        try:
            hloc.put(
                *(file, name, record.arrays, values.get(_ATTRIBUTES), values.get(STAMP)),
                count=values.get(_KEYPOINTS, -1) if PIECES in values else None,
                pieces=(piece.arrays for piece in records),
            )
        except FormatError as error:
            # Without even a beginning of the group it is the file that is at fault.
            if _of_the_system(error.__context__) or hloc.UNFINISHED not in file:
                raise
            raise Damaged from None
        if not self._is_complete(file[name]):
            raise Damaged

    def _put_away(self) -> None:
        # The next job tries again.
        with suppress(OSError):
            self.parts.remove()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """What cannot be written is told in one sentence."""
        try:
            yield
        except OSError as error:
            more = ""
            if self.parts.job is not None and error.errno in _FULL:
                more = ": what is done is kept; make room, and the same command goes on"
            raise FormatError(f"{self._shown}: cannot be written: {hloc.one_line(error)}{more}") from None

    def _check_settings(self, recorded: Mapping[str, Any] | None, path: Path) -> None:
        if recorded is None:
            raise FormatError(
                f"{path} is there but was not written by {self._command}: choose another output, or replace "
                "it with --overwrite"
            )
        recorded = {**_ADDED, **{f"features' {name}": value for name, value in _ADDED.items()}, **recorded}
        differing = [
            f"{name} {recorded.get(name)!r} there, {value!r} now"
            for name, value in self._settings.items()
            if recorded.get(name) != value
        ]
        if differing:
            raise FormatError(
                f"{path} was made with other options ({'; '.join(differing)}): use the same ones, choose "
                "another output, or begin anew with --overwrite"
            )


class HlocOutput(HdfOutput):
    """hloc's feature file; see :class:`HdfOutput`.

    Parameters
    ----------
    path : Path
    settings : mapping
        What the features depend on.
    half : bool
        Store float16.
    checksum : bool
        Tell whether an image has changed by the SHA-256 of its content, where that is recorded, rather than
        by its size and the time of its last change. It is recorded from then on.
    restart : bool
        Begin anew.
    """

    def __init__(
        self,
        path: Path,
        settings: Mapping[str, object],
        *,
        half: bool = False,
        checksum: bool = False,
        restart: bool = False,
    ) -> None:
        super().__init__(
            path,
            {**settings, "half": half},
            listed=hloc.names,
            is_complete=hloc.is_complete,
            command="d2np extract",
            restart=restart,
        )
        self.half = half
        self._checksum = checksum
        # Names that an earlier version let into the parts, where they have no place.
        self._folders = {folder for name in self._there for folder in folders_of(name)}
        for name in list(self.parts):
            if name in self._folders or self._refusal(name):
                self.parts.forget(name)
        self._folders.update(folder for name in self.parts for folder in folders_of(name))
        # Of the images before they are opened: one that changes afterwards is then done again.
        self._stamps: dict[str, str | None] = {}

    def holds(self, entry: Entry) -> bool:
        now = self._seen_as(entry)
        if self.has(entry.name):
            recorded = self.made_from(entry.name)
            if is_same(recorded, self.stamp(entry) if has_checksum(recorded) else now):
                return True
        if refusal := self._refusal(entry.name):
            raise refusal
        if entry.name in self._folders:
            raise ImageError(f"{entry.name}: {self._shown} has a folder of this name: rename one of them")
        return False

    def put(self, entry: Entry, features: Features, uncertainty: float) -> None:
        self.store(feature_record(entry, features, uncertainty, self.stamp(entry), half=self.half))

    def put_pieces(self, entry: Entry, pieces: Pieces, uncertainty: float) -> None:
        self.store_pieces(piece_records(entry, pieces, uncertainty, self.stamp(entry), half=self.half))

    def stamp(self, entry: Entry) -> str | None:
        """What the image was like when it was first asked for, with its checksum if that is wanted."""
        stamp = self._seen_as(entry)
        if self._checksum and not has_checksum(stamp):
            stamp = self._stamps[entry.name] = with_checksum(stamp, entry)
        return stamp

    def _refusal(self, name: str) -> ImageError | None:
        """Why an image of this name has no place beside what is there."""
        try:
            hloc.check_name(name)
        except ImageError as error:
            return error
        above = next(filter(self.has, folders_of(name)), None)
        if above is None:
            return None
        return ImageError(
            f"{name}: {self._shown} has an image {above}, which is no folder: rename one of them"
        )

    def _seen_as(self, entry: Entry) -> str | None:
        if entry.name not in self._stamps:
            self._stamps[entry.name] = stamp_of(entry)
        return self._stamps[entry.name]


def feature_record(
    entry: Entry, features: Features, uncertainty: float, stamp: str | None, *, half: bool = False
) -> Record:
    """What is kept of an image.

    Raises
    ------
    ImageError
        If HDF5 has no place for an image of this name.
    """
    hloc.check_name(entry.name)
    values = {STAMP: stamp, _KEYPOINTS: len(features), _ATTRIBUTES: hloc.attributes_of(uncertainty)}
    return Record(entry.name, values, hloc.arrays_of(features, half=half))


def piece_records(
    entry: Entry, pieces: Pieces, uncertainty: float, stamp: str | None, *, half: bool = False
) -> Iterator[Record]:
    """What is kept of an image whose features come in pieces: a record for each, and one that ends them.

    Raises
    ------
    ImageError
        If HDF5 has no place for an image of this name.
    """
    whole = feature_record(entry, Gathering(pieces.image_size).features(), uncertainty, stamp, half=half)
    number = count = 0
    for piece in pieces:
        number += 1
        count += len(piece)
        arrays = hloc.arrays_of(piece, half=half)
        of_keypoints = {key: arrays[key] for key in hloc.KEYPOINT_AXES}
        yield Record(entry.name, {PIECE: number, _KEYPOINTS: len(piece)}, of_keypoints)
    yield Record(entry.name, {**whole.values, PIECES: number, _KEYPOINTS: count}, whole.arrays)


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
        # Matching two images may take less time than the disk does to write: a second's work is no loss.
        super().__init__(
            path,
            settings,
            listed=hloc_matches.pair_names,
            is_complete=hloc_matches.is_complete,
            command="d2np pairs",
            restart=restart,
            sync_every=1.0,
        )

    def holds(self, a: str, b: str) -> bool:
        """Whether the matches of these two images are there already, in either order."""
        first, second = self.in_its_order(a, b)
        name = hloc_matches.pair_name(first, second)
        return self.has(name) and is_same(self.made_from(name), self.stamp(first, second))

    def in_its_order(self, a: str, b: str) -> tuple[str, str]:
        """The pair as the file has it, if it does, so that it comes to be there once."""
        turned = self.has(hloc_matches.pair_name(b, a)) and not self.has(hloc_matches.pair_name(a, b))
        return (b, a) if turned else (a, b)

    def put(self, a: str, b: str, matches: Matches, counts: tuple[int, int]) -> None:
        """Store the matches of two images with so many keypoints."""
        self.store(match_record(a, b, matches, counts, self.stamp(a, b)))

    def stamp(self, a: str, b: str) -> str | None:
        """What tells whether the features of two images are still the same."""
        if a not in self._stamps or b not in self._stamps:
            return None
        both = "\n".join((self._stamps[a], self._stamps[b]))
        return json.dumps({"features": blake2b(both.encode(), digest_size=8).hexdigest()})


def match_record(a: str, b: str, matches: Matches, counts: tuple[int, int], stamp: str | None) -> Record:
    """What is kept of two images with so many keypoints."""
    values = {STAMP: stamp, "matches": len(matches)}
    return Record(hloc_matches.pair_name(a, b), values, hloc_matches.arrays_of(a, b, matches, counts))


@contextmanager
def _written(path: Path) -> Iterator[Any]:
    """An HDF5 file to write to.

    Raises
    ------
    OSError
        If the system does not let it.
    FormatError
        If HDF5 does not.
    """
    file = hloc.opened(path, "a")
    try:
        yield file
    except FormatError as error:
        _drop(file)
        raise _of_the_system(error.__context__) or error from None
    except (OSError, RuntimeError) as error:
        _drop(file)
        raise _of_the_system(error) or error from None
    except BaseException:
        _drop(file)
        raise
    try:
        file.close()
    except (OSError, RuntimeError) as error:
        raise _of_the_system(error) or FormatError(hloc.one_line(error)) from None


def _drop(file: Any) -> None:
    """Close a file that cannot be written; closing it may fail as well, and would hide why."""
    with suppress(OSError, RuntimeError):
        file.close()


def _of_the_system(error: BaseException | None) -> OSError | None:
    """The system's error that HDF5's is about, if there is one."""
    number = hloc.errno_of(error)
    return OSError(number, os.strerror(number)) if number else None


def recorded_settings(file: Any) -> dict[str, Any] | None:
    """What the content of a file was made with, or None if it is not told."""
    try:
        return dict(json.loads(read_text(file, SETTINGS) or ""))
    except hloc.H5_ERRORS:
        return None


def _sync(path: Path) -> None:
    with open(path, "rb+") as stream:
        os.fsync(stream.fileno())
