"""Where the features of many images go: one HDF5 file, or folders of files."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from ..atomic import Lock, replacing
from ..errors import FormatError, ImageError
from ..features import Features, Projection
from ..formats import hloc, kapture, mat, npz
from ..images.names import folders_of, inside, make_room
from ..images.open import most_bytes
from ..images.remote import RemoteFile
from ..matching import project
from ..streams import opened
from .archives import Archive, Damaged, Group, Store, telling
from .assembly import HdfOutput
from .changes import has_checksum, is_same, stamp_of, with_checksum
from .listing import Entry

_LOCK = ".d2np.lock"


class Output(Protocol):
    """A place that features go to, as far as extraction needs to know it."""

    @property
    def failed_list(self) -> Path | None:
        """Where the images that could not be done are listed, if anywhere."""

    def holds(self, entry: Entry) -> bool:
        """Whether the features of this image, as it is now, are there already.

        Raises
        ------
        ImageError
            If the output has no place for an image of this name.
        """

    def start(self) -> None:
        """Find out whether anything can be written, before the first features are computed."""

    def put(self, entry: Entry, features: Features, uncertainty: float) -> None:
        """Store the features of one image; once this returns they are safe.

        Threads of their own call it, one at a time.

        Raises
        ------
        ImageError
            If this image cannot be stored, though others can.
        """

    def finish(self) -> None:
        """All images are done.

        Raises
        ------
        FormatError
            If some turn out to be damaged: they are held no longer.
        """

    def close(self) -> None:
        """Let go of everything, whether finished or not."""


@dataclass(frozen=True)
class Task(Entry):
    """An image to work on, with its stamp; see :mod:`d2np.dataset.changes`."""

    stamp: str | None = None


@dataclass(frozen=True)
class FeatureArchives:
    """Stores the features of each image in an archive: here, or in a worker of a cluster.

    Attributes
    ----------
    store : Store
    half : bool
        Store float16.
    projection : Projection or None
        Store descriptors of fewer dimensions.
    """

    store: Store
    half: bool
    projection: Projection | None = None

    def put(self, task: Task, blocks: Iterable[Features], uncertainty: float) -> int:
        """Store the features of an image, and return how many there are.

        Parameters
        ----------
        task : Task
        blocks : iterable of Features
            No more than one of them is held. If they end with an error, nothing is stored.
        uncertainty : float
            Pixels of the image for one pixel that the network saw.

        Raises
        ------
        ImageError
            If HDF5 has no place for an image of this name; or what the blocks end with.
        FormatError
            If the archive cannot be written.
        """
        hloc.check_name(task.name)

        def arrays() -> Iterator[tuple[int, Mapping[str, Any]]]:
            for number, block in enumerate(blocks):
                if self.projection is not None:
                    block = project(block, self.projection, threads=1)
                named = hloc.arrays_of(block, half=self.half)
                later = {*hloc.KEYPOINT_AXES, hloc.GLOBAL}
                yield len(block), {key: named[key] for key in named if not number or key in later}

        group = Group(task.name, task.stamp, attributes=hloc.attributes_of(uncertainty))
        (written,) = self.store.write([(group, arrays())], task.name)
        return written.count

    def left(self, task: Task) -> int | None:
        """Return how many features of an image are stored already; None if they are not."""
        try:
            with self.store.opened(self.store.archive_of(task.name)) as stream:
                group = Archive(stream).groups[task.name]
        except (FormatError, Damaged, KeyError):
            return None
        return group.count if task.stamp is not None and group.stamp == task.stamp else None


class HlocOutput(HdfOutput):
    """hloc's feature file; see :class:`HdfOutput`.

    Parameters
    ----------
    path : Path
    settings : mapping
        What the features depend on.
    half : bool
        Store float16.
    dimensions : int, optional
        Store descriptors of so many dimensions: :func:`extract` learns the projection, once for all jobs on
        one file.
    projection : Projection, optional
        Take this one instead.
    checksum : bool
        Tell whether an image has changed by the SHA-256 of its content, where that is recorded, rather than
        by its size and the time of its last change. It is recorded from then on.
    restart : bool
        Begin anew.

    Attributes
    ----------
    projection : Projection or None
        The one of the file, once it is known.
    """

    def __init__(
        self,
        path: Path,
        settings: Mapping[str, object],
        *,
        half: bool = False,
        dimensions: int | None = None,
        projection: Projection | None = None,
        checksum: bool = False,
        restart: bool = False,
    ) -> None:
        self.dimensions = dimensions if projection is None else projection.dimensions
        recorded = {**settings, "half": half, "dimensions": self.dimensions}
        if projection is not None:
            recorded["projection"] = projection.id
        super().__init__(
            path,
            recorded,
            listed=hloc.names,
            is_complete=hloc.is_complete,
            command="d2np extract",
            restart=restart,
        )
        self._half = half
        if projection is not None:
            self.fix(projection)
        self._checksum = checksum
        self._folders = {folder for name in self._there for folder in folders_of(name)}
        # Archives that somebody else has made may hold names that have no place in the file.
        for name in [name for name in self.parts.index if name in self._folders or self._refusal(name)]:
            del self.parts.index[name]
        self._folders.update(folder for name in self.parts.index for folder in folders_of(name))
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
        self.put_blocks(entry, [features], uncertainty)

    def put_blocks(self, entry: Entry, blocks: Iterable[Features], uncertainty: float) -> int:
        """Store the features of one image, and return how many there are; see :class:`FeatureArchives`."""
        archives, task = self.archives(), self.task(entry)
        count = archives.put(task, blocks, uncertainty)
        self.parts.take(task.name, task.stamp, archives.store.archive_of(task.name), archives.store)
        return count

    def fix(self, projection: Projection) -> None:
        """Have all descriptors projected with this; to be called before anything is stored."""
        self.projection = projection
        self._settings["projection"] = projection.id

    def _look(self) -> None:
        super()._look()
        if self.dimensions is None:
            return
        found: Projection | None = None
        if self.parts.job is not None:
            found = Projection(np.asarray(self.parts.job.projection))
        elif self.path.exists():
            found = hloc.read_projection(self.path)
        if found is not None:
            self.fix(found)

    def archives(self, place: str | os.PathLike[str] | None = None) -> FeatureArchives:
        """Return what stores features: in the job's own folder, or another place."""
        return FeatureArchives(self.store(place), self._half, self.projection)

    def task(self, entry: Entry) -> Task:
        """Return an image with its stamp."""
        return Task(entry.path, entry.name, entry.mask, self.stamp(entry))

    def stamp(self, entry: Entry) -> str | None:
        """Return what the image was like when it was first asked for, with its checksum if that is wanted."""
        stamp = self._seen_as(entry)
        if self._checksum and not has_checksum(stamp):
            stamp = self._stamps[entry.name] = with_checksum(stamp, entry)
        return stamp

    def _refusal(self, name: str) -> ImageError | None:
        """Return why an image of this name has no place beside what is there."""
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


class NpzOutput:
    """NumPy archives, one for each image: beside it or, under its name, in a folder.

    Parameters
    ----------
    folder : Path, optional
        Where to; by default beside the images.
    restart : bool
        Do images again whose files are there.

    Raises
    ------
    FormatError
        If the folder is none.
    """

    _format: ClassVar[Any] = npz
    """A module of :mod:`d2np.formats`."""

    def __init__(self, folder: Path | None = None, *, restart: bool = False) -> None:
        self._folder = folder
        self._restart = restart
        _check_folder(folder)

    @property
    def failed_list(self) -> Path | None:
        return None if self._folder is None else _beside(self._folder)

    def file_of(self, entry: Entry) -> Path:
        """The feature file of an image."""
        if self._folder is not None:
            beside = inside(self._folder, entry.name)
        elif isinstance(entry.path, Path):
            beside = entry.path
        else:
            raise FormatError(
                f"{entry.path}: nothing is written beside an image at a URL: name a folder with -o"
            )
        return beside.parent / (beside.name + self._format.EXTENSION)

    def holds(self, entry: Entry) -> bool:
        if self._restart:
            return False
        path = self.file_of(entry)
        return self._format.is_complete(path) or self._is_of_another_format(path)

    def start(self) -> None:
        if self._folder is not None:
            _make_folder(self._folder)

    def put(self, entry: Entry, features: Features, uncertainty: float) -> None:
        path = self.file_of(entry)
        make_room(path, self._folder)
        self._format.write(path, features)

    def finish(self) -> None:
        """Every file was finished as it was written."""

    def close(self) -> None:
        """No file is open."""

    def _is_of_another_format(self, path: Path) -> bool:
        """False, or an error: the published script gives its two formats one extension."""
        for other, magic in (("npz", npz.MAGIC), ("mat", mat.MAGIC)):
            if magic != self._format.MAGIC and _begins_with(path, magic):
                raise FormatError(
                    f"{path} is there in the format {other}: choose another folder with -o, or replace it "
                    "with --overwrite"
                )
        return False


class MatOutput(NpzOutput):
    """MATLAB files, one for each image; needs scipy. For parameters and errors see :class:`NpzOutput`."""

    _format: ClassVar[Any] = mat

    def __init__(self, folder: Path | None = None, *, restart: bool = False) -> None:
        mat.library()
        super().__init__(folder, restart=restart)


class KaptureOutput:
    """A kapture folder, new or there already, in which images are linked to and features added.

    Parameters
    ----------
    folder : Path
        Its root.
    weights : str, optional
        Name of the weights' file, which the features are filed under.
    restart : bool
        Do images again whose features are there. Cameras and records stay.

    Attributes
    ----------
    kind : str
        What kapture calls the type of these keypoints and descriptors.

    Raises
    ------
    FormatError
        If it is no folder, or what is there is of another version of kapture or about other features.
    """

    def __init__(self, folder: Path, weights: str | None = None, *, restart: bool = False) -> None:
        _check_folder(folder)
        self._folder = folder
        self.kind = kapture.type_of(weights)
        self._restart = restart
        self._records = kapture.Records(folder)
        self._lock = Lock(folder / _LOCK)

    def types(self) -> list[str]:
        """Return the names of all weights whose features the folder holds."""
        return kapture.types(self._folder)

    @property
    def failed_list(self) -> Path:
        return _beside(self._folder)

    def holds(self, entry: Entry) -> bool:
        kapture.check_name(entry.name)
        if self._restart or entry.name not in self._records:
            return False
        return kapture.is_complete(self._folder, self.kind, entry.name)

    def start(self) -> None:
        if not self._lock.held:
            self._take()
        kapture.configure(self._folder, self.kind)
        self._records.start()

    def put(self, entry: Entry, features: Features, uncertainty: float) -> None:
        kapture.check_name(entry.name)
        place = kapture.image_of(self._folder, entry.name)
        _link(entry.path, place, self._folder, most_bytes(math.prod(features.image_size)))
        kapture.write(self._folder, self.kind, entry.name, features)
        # An image is held once it is recorded.
        if entry.name not in self._records:
            self._records.add(entry.name, features.image_size)

    def finish(self) -> None:
        """Every file was finished as it was written."""

    def close(self) -> None:
        """Let go of the folder."""
        self._lock.release(remove=True)

    def _take(self) -> None:
        """Keep other jobs out of the folder, and see what they have recorded meanwhile."""
        _make_folder(self._folder)
        with telling(f"{self._lock.path}: cannot be written"):
            taken = self._lock.take()
        if not taken:
            raise FormatError(f"{self._folder}: another process is working on it: wait until it has ended")
        self._records = kapture.Records(self._folder)


def _beside(folder: Path) -> Path:
    """The list of failures, which is no part of the folder."""
    place = Path(os.path.realpath(folder))
    return place.with_name(f"{place.name}.failed.txt")


def _check_folder(folder: Path | None) -> None:
    if folder is not None and folder.exists() and not folder.is_dir():
        raise FormatError(f"{folder}: is no folder to write feature files into")


def _begins_with(path: Path, magic: bytes) -> bool:
    try:
        with opened(path) as stream:
            return stream.read(len(magic)) == magic
    except OSError:
        return False


def _link(source: Path | RemoteFile, place: Path, root: Path, most: float) -> None:
    """Make a link to the image, or a copy where links cannot be made or lead nowhere.

    Of a file at a URL, which a server may have exchanged since, at most so many bytes are read.
    """
    # The folder of images may be a link to where they are.
    if os.path.lexists(place) and not place.is_dir():
        return
    make_room(place, root)
    with telling(f"{place}: cannot be written"):
        if isinstance(source, RemoteFile):
            content = source.read(most)
            with replacing(place, follow=False) as stream:
                stream.write(content)
            return
        try:
            os.symlink(source.absolute(), place)
        except OSError:
            shutil.copyfile(source, place)


def _make_folder(folder: Path) -> None:
    with telling(f"{folder}: the folder cannot be made"):
        folder.mkdir(parents=True, exist_ok=True)
