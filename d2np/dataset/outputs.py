"""Where the features of many images go: what a job asks of such a place, and folders of files."""

from __future__ import annotations

import math
import os
import shutil
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

from ..atomic import replacing
from ..errors import FormatError
from ..features import Features
from ..formats import hloc, kapture, mat, npz
from ..images.names import inside, make_room
from ..images.open import most_bytes
from ..images.remote import RemoteFile
from ..streams import opened
from .listing import Entry
from .lock import Lock
from .pieces import Pieces

_LOCK = ".d2np.lock"


class Output(Protocol):
    """What extraction needs to know of the place that features go to."""

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

        Raises
        ------
        ImageError
            If this image cannot be stored, though others can.
        """

    def finish(self) -> bool:
        """All images are done. False if some turn out to be damaged: they are held no longer."""

    def close(self) -> None:
        """Let go of everything, whether finished or not."""


@runtime_checkable
class OutputOfPieces(Output, Protocol):
    """An output that takes the features of a large image as they come, so that nobody holds them all.

    Others are given them as a whole.
    """

    def put_pieces(self, entry: Entry, pieces: Pieces, uncertainty: float) -> None:
        """Store the features of one image; once this returns they are safe.

        If the pieces end with an error, nothing of this image is kept.

        Raises
        ------
        ImageError
            If this image cannot be stored, though others can; or what the pieces end with.
        """


class _FileOutput:
    """One file for each image, beside it or, under its name, in a folder.

    Parameters
    ----------
    folder : Path, optional
        Where to; by default beside the images.
    restart : bool
        Do images again whose files are there.

    Raises
    ------
    FormatError
        If the folder is none, or the format needs a package that is missing.
    """

    _format: ClassVar[Any]
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

    def finish(self) -> bool:
        """Every file was finished as it was written."""
        return True

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


class NpzOutput(_FileOutput):
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


class MatOutput(_FileOutput):
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

    def finish(self) -> bool:
        """Every file was finished as it was written."""
        return True

    def close(self) -> None:
        """Let go of the folder."""
        self._lock.release(remove=True)

    def _take(self) -> None:
        """Keep other jobs out of the folder, and see what they have recorded meanwhile."""
        _make_folder(self._folder)
        try:
            taken = self._lock.take()
        except OSError as error:
            raise FormatError(f"{self._lock.path}: cannot be written: {hloc.one_line(error)}") from None
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
    try:
        if isinstance(source, RemoteFile):
            content = source.read(most)
            with replacing(place, follow=False) as stream:
                stream.write(content)
        else:
            _link_or_copy(source, place)
    except OSError as error:
        raise FormatError(f"{place}: cannot be written: {hloc.one_line(error)}") from None


def _link_or_copy(source: Path, place: Path) -> None:
    try:
        os.symlink(source.absolute(), place)
    except OSError:
        shutil.copyfile(source, place)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FormatError(f"{folder}: the folder cannot be made: {hloc.one_line(error)}") from None
