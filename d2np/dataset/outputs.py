"""Where the features of many pictures go, such that a job can go on where it was stopped."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol

from ..errors import FormatError, ImageError
from ..features import Features, Matches
from ..formats import hloc, hloc_matches, kapture, mat, npz
from .listing import Entry

SETTINGS = "d2np_settings"
"""The attribute of an HDF5 file that tells, as JSON, what its content was made with."""


class Output(Protocol):
    """What extraction needs to know of the place that features go to."""

    def holds(self, entry: Entry) -> bool:
        """Whether the features of this picture are there already."""

    def start(self) -> None:
        """Find out whether anything can be written, before the first features are computed."""

    def put(self, entry: Entry, features: Features, uncertainty: float) -> None:
        """Store the features of one picture; once this returns they are safe.

        Raises
        ------
        ImageError
            If this picture cannot be stored, though others can.
        """

    def finish(self) -> None:
        """All pictures are done."""

    def close(self) -> None:
        """Let go of everything, whether finished or not."""


class HdfOutput:
    """An HDF5 file of many groups. During a job it is ``OUT.partial``, and gets its name at the end.

    A job goes on with ``OUT.partial`` where there is one, else with what ``OUT`` holds. A partial file that
    is damaged is begun anew.

    Parameters
    ----------
    path : Path
    settings : mapping
        What the groups depend on, as plain numbers and texts. It is kept in the file, and a file that was
        made with another one is not gone on with.
    listed : callable
        The names of all whole groups in an open file.
    command : str
        The command that writes such files.
    overwrite : bool
        Begin anew whatever is there.

    Attributes
    ----------
    damaged : bool
        Whether a damaged partial file was found and thrown away.

    Raises
    ------
    FormatError
        If what is there is no such file of ours, or was made with other settings; or if the file cannot be
        written.
    """

    def __init__(
        self,
        path: Path,
        settings: Mapping[str, object],
        *,
        listed: Callable[[Any], list[str]],
        command: str,
        overwrite: bool = False,
    ) -> None:
        self.path = Path(os.path.realpath(path))
        self.partial = self.path.with_name(f"{self.path.name}.partial")
        self.damaged = False
        self._shown = path
        self._settings = dict(settings)
        self._listed = listed
        self._command = command
        self._finished: set[str] = set()
        self._file: Any = None
        if not self.path.parent.is_dir():
            raise FormatError(f"{path}: cannot be written: there is no folder {path.parent}")
        for there in (self.path, self.partial):
            if there.exists() and not there.is_file():
                raise FormatError(f"{there}: cannot be written: there is something that is no file")
        if overwrite:
            self._delete_partial()
        elif self.path.exists():
            with hloc.opened(self.path) as file:
                self._check_settings(file, path)
                self._finished = set(self._listed(file))
        if self.partial.exists():
            self._go_on()

    def start(self) -> None:
        if self._file is None:
            self._begin()

    def store(self, name: str, write: Callable[[Any], None]) -> None:
        """Let ``write`` put the group of that name into the open file; once this returns it is safe."""
        self.start()
        try:
            write(self._file)
        except FormatError:
            self._drop()
            raise
        self._flush()
        self._finished.add(name)

    def finish(self) -> None:
        if self._file is None:
            return
        self.close()
        if not self._finished:
            return self._delete_partial()
        try:
            os.replace(self.partial, self.path)
        except OSError as error:
            raise FormatError(f"{self._shown}: cannot be written: {_one_line(error)}") from None

    def close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            try:
                file.close()
            except (OSError, RuntimeError) as error:
                raise FormatError(f"{self._shown}: cannot be written: {_one_line(error)}") from None

    def _begin(self) -> None:
        """A partial file with what the complete one holds."""
        self._delete_partial()
        try:
            if self._finished:
                shutil.copyfile(self.path, self.partial)
            self._file = hloc.opened(self.partial, "a")
            self._file.attrs[SETTINGS] = json.dumps(self._settings, sort_keys=True)
        except FormatError as error:
            raise FormatError(f"{self._shown}: cannot be written: {error}") from None
        except (OSError, RuntimeError) as error:
            raise FormatError(f"{self._shown}: cannot be written: {_one_line(error)}") from None
        self._flush()

    def _delete_partial(self) -> None:
        try:
            self.partial.unlink(missing_ok=True)
        except OSError as error:
            raise FormatError(f"{self.partial}: cannot be replaced: {_one_line(error)}") from None

    def _go_on(self) -> None:
        try:
            self._file = hloc.opened(self.partial, "r+")
        except FormatError:
            if _is_locked(self.partial):
                raise
            self.damaged = True
            return
        # What HDF5 makes of a damaged file is hard to foresee.
        try:
            held = set(self._listed(self._file))
        except Exception:
            self.damaged = True
            return self._drop()
        if not held:
            return self._drop()
        try:
            self._check_settings(self._file, self.partial)
        except FormatError:
            self.close()
            raise
        if missing := self._finished - held:
            with hloc.opened(self.path) as complete:
                for name in sorted(missing):
                    complete.copy(name, self._file, name)
        self._finished |= held

    def _drop(self) -> None:
        file, self._file = self._file, None
        try:
            file.close()
        except (OSError, RuntimeError):
            return

    def _flush(self) -> None:
        try:
            self._file.flush()
        except (OSError, RuntimeError) as error:
            # Closing it will fail as well, and would hide why.
            self._drop()
            raise FormatError(f"{self._shown}: cannot be written: {_one_line(error)}") from None

    def _check_settings(self, file: Any, path: Path) -> None:
        try:
            recorded = json.loads(file.attrs[SETTINGS])
            differing = [
                f"{name} {recorded.get(name)!r} there, {value!r} now"
                for name, value in self._settings.items()
                if recorded.get(name) != value
            ]
        except (KeyError, ValueError, TypeError, AttributeError):
            raise FormatError(
                f"{path} is there but was not written by {self._command}: choose another output, or replace "
                "it with --overwrite"
            ) from None
        if differing:
            raise FormatError(
                f"{path} was made with other options ({'; '.join(differing)}): use the same ones, choose "
                "another output, or replace it with --overwrite"
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
    overwrite : bool
        Begin anew whatever is there.
    """

    def __init__(
        self, path: Path, settings: Mapping[str, object], *, half: bool = False, overwrite: bool = False
    ) -> None:
        super().__init__(
            path,
            {**settings, "half": half},
            listed=hloc.names,
            command="d2np extract",
            overwrite=overwrite,
        )
        self._half = half

    def holds(self, entry: Entry) -> bool:
        return entry.name in self._finished

    def put(self, entry: Entry, features: Features, uncertainty: float) -> None:
        try:
            entry.name.encode()
        except UnicodeEncodeError:
            raise ImageError(f"{entry.path}: its name is not UTF-8, which HDF5 needs: rename it") from None
        self.store(
            entry.name,
            lambda file: hloc.write(file, entry.name, features, half=self._half, uncertainty=uncertainty),
        )


class MatchOutput(HdfOutput):
    """hloc's match file; see :class:`HdfOutput`.

    Parameters
    ----------
    path : Path
    settings : mapping
        What the matches depend on.
    overwrite : bool
        Begin anew whatever is there.
    """

    def __init__(self, path: Path, settings: Mapping[str, object], *, overwrite: bool = False) -> None:
        super().__init__(
            path, settings, listed=hloc_matches.pair_names, command="d2np pairs", overwrite=overwrite
        )

    def holds(self, a: str, b: str) -> bool:
        """Whether the matches of these two pictures are there already, in either order."""
        return not self._finished.isdisjoint((hloc_matches.pair_name(a, b), hloc_matches.pair_name(b, a)))

    def put(self, a: str, b: str, matches: Matches, counts: tuple[int, int]) -> None:
        """Store the matches of two pictures with so many keypoints."""
        self.store(
            hloc_matches.pair_name(a, b),
            lambda file: hloc_matches.write(file, a, b, matches, counts),
        )


class _FileOutput:
    """One file for each picture, beside it or, under its name, in a folder.

    Parameters
    ----------
    folder : Path, optional
        Where to; by default beside the pictures.
    overwrite : bool
        Do pictures again whose files are there.

    Raises
    ------
    FormatError
        If the folder is none, or the format needs a package that is missing.
    """

    _format: ClassVar[Any]
    """A module of :mod:`d2np.formats`."""

    def __init__(self, folder: Path | None = None, *, overwrite: bool = False) -> None:
        self._folder = folder
        self._overwrite = overwrite
        _check_folder(folder)

    def file_of(self, entry: Entry) -> Path:
        """The feature file of a picture."""
        beside = entry.path if self._folder is None else self._folder / entry.name
        return beside.with_name(beside.name + self._format.EXTENSION)

    def holds(self, entry: Entry) -> bool:
        if self._overwrite:
            return False
        path = self.file_of(entry)
        return self._format.is_complete(path) or self._is_of_another_format(path)

    def start(self) -> None:
        if self._folder is not None:
            _make_folder(self._folder)

    def put(self, entry: Entry, features: Features, uncertainty: float) -> None:
        path = self.file_of(entry)
        _make_folder(path.parent)
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


class NpzOutput(_FileOutput):
    """NumPy archives; see :class:`_FileOutput`."""

    _format: ClassVar[Any] = npz


class MatOutput(_FileOutput):
    """MATLAB files; see :class:`_FileOutput`."""

    _format: ClassVar[Any] = mat

    def __init__(self, folder: Path | None = None, *, overwrite: bool = False) -> None:
        mat.library()
        super().__init__(folder, overwrite=overwrite)


class KaptureOutput:
    """A kapture folder, new or there already, in which pictures are linked to and features added.

    Parameters
    ----------
    folder : Path
        Its root.
    weights : str, optional
        Name of the weights' file, which the features are filed under.
    overwrite : bool
        Do pictures again whose features are there. Cameras and records stay.

    Raises
    ------
    FormatError
        If it is no folder, or what is there is of another version of kapture or about other features.
    """

    def __init__(self, folder: Path, weights: str | None = None, *, overwrite: bool = False) -> None:
        _check_folder(folder)
        self._folder = folder
        self._kind = kapture.type_of(weights)
        self._overwrite = overwrite
        self._records = kapture.Records(folder)

    def holds(self, entry: Entry) -> bool:
        if self._overwrite or entry.name not in self._records:
            return False
        return kapture.is_complete(self._folder, self._kind, entry.name)

    def start(self) -> None:
        _make_folder(self._folder)
        kapture.configure(self._folder, self._kind)
        self._records.start()

    def put(self, entry: Entry, features: Features, uncertainty: float) -> None:
        kapture.check_name(entry.name)
        kapture.write(self._folder, self._kind, entry.name, features)
        _link(entry.path, kapture.picture_of(self._folder, entry.name))
        # A picture is held once it is recorded.
        if entry.name not in self._records:
            self._records.add(entry.name, features.image_size)

    def finish(self) -> None:
        """Every file was finished as it was written."""

    def close(self) -> None:
        """No file is open."""


def _check_folder(folder: Path | None) -> None:
    if folder is not None and folder.exists() and not folder.is_dir():
        raise FormatError(f"{folder}: is no folder to write feature files into")


def _begins_with(path: Path, magic: bytes) -> bool:
    try:
        with open(path, "rb") as stream:
            return stream.read(len(magic)) == magic
    except OSError:
        return False


def _link(picture: Path, place: Path) -> None:
    """A link to the picture, or a copy where links cannot be made."""
    if os.path.lexists(place):
        return
    _make_folder(place.parent)
    try:
        os.symlink(picture.absolute(), place)
    except OSError:
        try:
            shutil.copyfile(picture, place)
        except OSError as error:
            raise FormatError(f"{place}: cannot be written: {_one_line(error)}") from None


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FormatError(f"{folder}: the folder cannot be made: {_one_line(error)}") from None


def _is_locked(path: Path) -> bool:
    import h5py

    try:
        h5py.File(path, "r").close()
    except BlockingIOError:
        return True
    except Exception:
        return False
    return False


def _one_line(error: Exception) -> str:
    return hloc.one_line(error)
