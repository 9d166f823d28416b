"""HDF5 files that a job fills: features of many images, matches of many pairs."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any

from ..atomic import sync_folder
from ..errors import FormatError, count
from ..features import Projection
from ..formats import hloc
from ..hdf5 import read_text, write_text
from ..images.names import near
from .archives import ASSEMBLED, Archive, Damaged, JobFile, JobFolder, Store, place_of, telling

SETTINGS = "d2np_settings"
"""The attribute of an HDF5 file that tells, as JSON, what its content was made with."""

JOB = "d2np_job"
"""The attribute that tells which job's archives were the last to be put into an HDF5 file."""

# What files were made with that were written before there were these options.
_ADDED: dict[str, Any] = {
    "centered": False,
    "stretch": False,
    "spread": False,
    "rotations": [0],
    "dimensions": None,
    "verify": None,
}


class HdfOutput:
    """An HDF5 file of many groups, which is there as a whole or not at all.

    During a job its groups are in archives in the folder ``OUT.parts``, where each is safe at once. At the
    end the file is assembled from them, and from what ``OUT`` held before, and takes its name in one step. A
    job that was ended before continues with ``OUT.parts`` and ``OUT``.

    Parameters
    ----------
    path : Path
    settings : mapping
        What the groups depend on, as plain numbers and texts. It is kept with them, and what was made with
        another one is not continued.
    listed, is_complete : callable
        The names of all whole groups in an open file; whether a group is whole.
    command : str
        The command that writes such files.
    restart : bool
        Begin anew. What there is already stays until the new file takes its place.

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
    ) -> None:
        self.path = Path(os.path.realpath(path))
        self.parts = JobFolder(self.path.with_name(f"{self.path.name}.parts"))
        self._shown = path
        self._settings = dict(settings)
        self._listed = listed
        self._is_complete = is_complete
        self._command = command
        self._restart = restart
        self.projection: Projection | None = None
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
            if not restart:
                self._look()
        except BaseException:
            self.parts.close()
            raise

    @property
    def failed_list(self) -> Path:
        return self.path.with_name(f"{self.path.name}.failed.txt")

    def has(self, name: str) -> bool:
        """Return whether a group of this name is there already, whatever it was made from."""
        return name in self.parts.index or name in self._there

    def made_from(self, name: str) -> str | None:
        """Return the stamp of a group that is there already."""
        return self.parts.index[name][1] if name in self.parts.index else self._there[name]

    def start(self) -> None:
        if self.parts.job is not None:
            return
        with self._writing():
            components = None if self.projection is None else self.projection.components
            self.parts.begin(self._settings, anew=self._restart, projection=components)
        # Nobody else can change it from here on.
        if not self._restart and self._state() != self._seen:
            self.parts.remove()
            raise FormatError(f"{self._shown} was changed by another process just now: start again")

    def store(self, place: str | os.PathLike[str] | None = None) -> Store:
        """Start the job; return where its archives are left: by default in its own folder."""
        self.start()
        assert self.parts.job is not None
        if place is None:
            return Store(str(self.parts.folder), self.parts.job.token, os.fspath(self._shown))
        return Store(place_of(place), self.parts.job.token)

    def collect(self, place: str | os.PathLike[str] | None) -> None:
        """Take the archives that workers have left elsewhere, also for a client that was ended.

        Raises
        ------
        FormatError
            If the place cannot be used.
        """
        if place is not None:
            Store(place_of(place), "no job").names()
            if self.parts.job is not None:
                self.parts.collect(self.store(place))

    def finish(self) -> None:
        if self.parts.job is None:
            return
        if not self.parts.index:
            self._put_away()
            return
        try:
            with self._writing():
                self._assemble(self.parts.job)
        finally:
            with suppress(OSError):
                self._assembled.unlink(missing_ok=True)

    def close(self) -> None:
        self.parts.close()

    def _look(self) -> None:
        """Find out what there is already."""
        with self._writing():
            job = self.parts.resume()
        self._seen = self._state()
        is_there = self.path.exists()
        if is_there and not (job and job.anew and not self._is_of(job)):
            with hloc.opened(self.path) as file:
                self._check_settings(recorded_settings(file), self._shown)
                self._there = {name: hloc.stamp_of(file, name) for name in self._listed(file)}
        if job is None:
            return
        if is_there and self._is_of(job):
            # Assembled, but ended before the archives were gone.
            self._put_away()
        else:
            self._check_settings(job.settings, self.parts.folder)

    def _is_of(self, job: JobFile) -> bool:
        """Return whether the file has been assembled by this job."""
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

    def _assemble(self, job: JobFile) -> None:
        """Write the file, of what it held and what the job has done, unless some of that is damaged."""
        self._assembled.unlink(missing_ok=True)
        if self._there:
            shutil.copyfile(self.path, self._assembled)
        damaged: list[str] = []
        with _written(self._assembled, roomy=self.projection is not None) as file:
            if self.projection is not None and not self._there:
                hloc.write_projection(file, self.projection)
            write_text(file, SETTINGS, json.dumps(self._settings, sort_keys=True))
            write_text(file, JOB, job.token)
            for archive, names in self.parts.archives():
                try:
                    with self.parts.opened(archive) as opened:
                        for name in names:
                            self._put(file, name, opened)
                except Damaged:
                    damaged.append(archive)
        for archive in damaged:
            self.parts.forget(archive)
        if damaged:
            raise FormatError(
                f"{self.parts.folder}: what was stored there is damaged: start the same command again, which "
                f"does again what was in {count(len(damaged), 'archive')}"
            )
        _sync(self._assembled)
        os.replace(self._assembled, self.path)
        sync_folder(self.path.parent)
        self._put_away()

    def _put(self, file: Any, name: str, archive: Archive) -> None:
        """Put a group of an archive into the file.

        Raises
        ------
        Damaged
            If it makes no whole group: nor would it the next time, and others would wait for it.
        """
        group = archive.groups.get(name)
        if group is None or group.stamp != self.parts.index[name][1]:
            raise Damaged
        if name in self._there:
            # First, so that its room is used again.
            del file[name]
        blocks = archive.blocks(name)
        first = next(blocks)
        try:
            hloc.put(
                *(file, name, first, group.attributes, group.stamp),
                count=group.count if group.blocks > 1 else None,
                pieces=chain([first], blocks),
            )
        except FormatError as error:
            # Without even a beginning of the group it is the file that is at fault.
            if hloc.errno_of(error.__context__) or hloc.UNFINISHED not in file:
                raise
            raise Damaged from None
        if not self._is_complete(file[name]):
            raise Damaged

    def _put_away(self) -> None:
        # The next job tries again.
        with suppress(OSError):
            self.parts.remove()

    def _writing(self) -> Any:
        """Return a context in which it is told in one sentence what cannot be written."""
        return telling(f"{self._shown}: cannot be written")

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


def recorded_settings(file: Any) -> dict[str, Any] | None:
    """Return what the content of a file was made with, or None if it is not told."""
    try:
        return dict(json.loads(read_text(file, SETTINGS) or ""))
    except hloc.H5_ERRORS:
        return None


@contextmanager
def _written(path: Path, *, roomy: bool) -> Iterator[Any]:
    """Yield an HDF5 file to write to.

    Raises
    ------
    OSError
        If the system does not let it.
    FormatError
        If HDF5 does not.
    """
    try:
        with hloc.opened(path, "a", roomy=roomy) as file:
            yield file
    except (OSError, RuntimeError, FormatError) as error:
        # Closing it may fail as well, and would hide why.
        number = hloc.errno_of(error) or hloc.errno_of(error.__context__)
        if number:
            raise OSError(number, os.strerror(number)) from None
        raise FormatError(hloc.one_line(error)) from None


def _sync(path: Path) -> None:
    with open(path, "rb+") as stream:
        os.fsync(stream.fileno())
