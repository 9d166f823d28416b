"""Keep what an unfinished job has done: NumPy archives in the folder ``OUT.parts`` beside the output.

::

    job.json               what the archives depend on, and which job this is
    TOKEN-DIGEST.npz       an archive: the features of an image, or the matches of some pairs
    lock                   held by the process that works on the job

An archive is a ZIP file without compression, which ``numpy.load`` reads, with the members::

    about.npy              JSON: the names of the other members, and each :class:`Group`
    0/0/keypoints.npy      an array of the first group, and of its first block
    0/1/keypoints.npy      of the next block: features of a large image are written as they are found

It has its name once it is whole. ZIP has a checksum for each member, and a file that was cut off is no ZIP
file, so a group is whole and as it was written, or it is done again.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shutil
import zipfile
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from .. import streams
from ..atomic import Lock, replacing, sync_folder
from ..errors import FormatError
from ..features import DESCRIPTOR_SIZE
from ..images.remote import file_system, is_url, local_path, reason_of

FORMAT = 2
"""The version of ``OUT.parts``; version 1 are the jobs of d2np 1.0, which kept shards there."""

ASSEMBLED = "assembled.h5"
"""The output, while it is being assembled."""

Arrays = Mapping[str, NDArray[Any]]

_ABOUT, _JOB, _LOCK, _EXTENSION = "about", "job.json", "lock", ".npz"
_UNFINISHED = ".unfinished"
_OURS = re.compile(
    rf"\.?[0-9a-f]{{16}}-.*|\.?{re.escape(_JOB)}.*|{re.escape(ASSEMBLED)}.*|.*\.shard.*|network-.*"
)
# A block of 8 MB has some 270 bytes in it: enough for a hundred gigabytes of features of one image.
_LARGEST_DIRECTORY = 4 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Damaged(Exception):
    """An archive is missing, or is not as it was written."""


@dataclass(frozen=True)
class Group:
    """Features of an image or matches of a pair, as an archive holds them under one name.

    Attributes
    ----------
    name : str
        Of an image or a pair.
    stamp : str or None
        What tells whether that has changed since; see :mod:`d2np.dataset.changes`.
    count : int
        How many keypoints or matches there are.
    blocks : int
        In how many blocks they are.
    attributes : dict
        By names of arrays, what HDF5 is told of them.
    """

    name: str
    stamp: str | None
    count: int = 0
    blocks: int = 1
    attributes: dict[str, Any] = field(default_factory=dict)


@contextmanager
def telling(what: str) -> Iterator[None]:
    """Tell an error of the system in one sentence that begins like this.

    Raises
    ------
    FormatError
    """
    try:
        yield
    except OSError as error:
        full = error.errno in _FULL
        more = ": what is done is kept; make room, and the same command goes on" * full
        raise FormatError(f"{what}: {error.strerror or reason_of(error)}{more}") from None


GroupInBlocks = tuple[Group, Iterable[tuple[int, Arrays]]]
"""A group with its blocks: the number of keypoints or matches in each, and its arrays."""


def write(stream: BinaryIO, groups: Iterable[GroupInBlocks]) -> list[Group]:
    """Write an archive, and return what it holds.

    Parameters
    ----------
    stream : binary stream
    groups : iterable
        No more than one block is held.
    """
    written = []
    with zipfile.ZipFile(stream, "w") as archive:

        def add(name: str, array: NDArray[Any]) -> None:
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)

        for number, (group, blocks) in enumerate(groups):
            count = block = 0
            for block, (size, arrays) in enumerate(blocks, 1):
                count += size
                for key, array in arrays.items():
                    add(f"{number}/{block - 1}/{key}", array)
            written.append(Group(group.name, group.stamp, count, block, group.attributes))
        about = {"members": archive.namelist(), "groups": [asdict(group) for group in written]}
        add(_ABOUT, np.array(json.dumps(about).encode()))
    return written


class Archive:
    """An archive to be read, which may come from anyone.

    Parameters
    ----------
    stream : binary stream
        In which can be sought.

    Attributes
    ----------
    groups : dict of str to Group

    Raises
    ------
    Damaged
        If it is no archive, or claims more than the file has.
    """

    def __init__(self, stream: BinaryIO) -> None:
        with _checked():
            size = stream.seek(0, os.SEEK_END)
            self._zip = streams.archive(stream, _LARGEST_DIRECTORY)
            members = self._zip.infolist()
            if any(member.compress_type != zipfile.ZIP_STORED for member in members):
                raise ValueError("a member is compressed")
            if sum(max(member.file_size, member.compress_size) for member in members) > size:
                raise ValueError("the members are larger than the file")
            self._members: dict[str, list[str]] = {}
            for member in members:
                self._members.setdefault(member.filename.rpartition("/")[0], []).append(member.filename)
            about = json.loads(streams.read_array(self._zip, f"{_ABOUT}.npy", "S").item())
            # The table of contents has no checksum.
            if about["members"] != self._zip.namelist()[:-1]:
                raise ValueError("a member is missing")
            groups = [_group(**each) for each in about["groups"]]
            self._numbers = {group.name: number for number, group in enumerate(groups)}
            self.groups = {group.name: group for group in groups}

    def blocks(self, name: str) -> Iterator[dict[str, NDArray[Any]]]:
        """Yield the arrays of each block of a group; they are not to be written to.

        Raises
        ------
        Damaged
        """
        for block in range(self.groups[name].blocks):
            with _checked():
                members = self._members[f"{self._numbers[name]}/{block}"]
                arrays = {_key(member): streams.read_array(self._zip, member, "biuf") for member in members}
            yield arrays


def _as_text(array: NDArray[np.float32] | None) -> str | None:
    return None if array is None else b64encode(array.astype("<f4").tobytes()).decode()


def _as_array(text: str | None) -> NDArray[np.float32] | None:
    if text is None:
        return None
    return np.frombuffer(b64decode(text), "<f4").reshape(-1, DESCRIPTOR_SIZE).astype(np.float32)


def _key(member: str) -> str:
    return member.rpartition("/")[2].removesuffix(".npy")


def _group(name: str, stamp: str | None, count: int, blocks: int, attributes: Mapping[str, Any]) -> Group:
    # Python converts no further than is sensible.
    group = Group(str(name), None if stamp is None else str(stamp), int(count), int(blocks), dict(attributes))
    if group.count < 0 or group.blocks < 1:
        raise ValueError("there must be at least one block")
    return group


@contextmanager
def _checked() -> Iterator[None]:
    try:
        yield
    except MemoryError:
        raise
    # A damaged archive raises almost anything.
    except Exception as error:
        raise Damaged(str(error)) from None


@dataclass(frozen=True)
class Store:
    """Where the archives of a job are left: a folder, or a URL that fsspec knows.

    Attributes
    ----------
    where : str
        An absolute path, or a URL.
    token : str
        Of the job: what the names of its files begin with.
    told : str
        What is said to be unwritable where it is; by default the place itself.

    Raises
    ------
    FormatError
        By all methods, if something cannot be done.
    """

    where: str
    token: str = ""
    told: str = ""

    def archive_of(self, name: str) -> str:
        """Return the name of the archive that begins with the group of this name."""
        digest = blake2b(name.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
        return f"{self.token}-{digest}{_EXTENSION}"

    def write(self, groups: Iterable[GroupInBlocks], first: str) -> list[Group]:
        """Write the archive that begins with the group of the name ``first``, and return its groups."""
        with self.writing(self.archive_of(first)) as stream:
            return write(stream, groups)

    @contextmanager
    def writing(self, name: str) -> Iterator[BinaryIO]:
        """Yield a stream whose content gets the name, in place of what has it, when the block ends well."""
        with telling(f"{self.told or self.where}: cannot be written"):
            if not is_url(self.where):
                with replacing(os.path.join(self.where, name), follow=False) as stream:
                    yield stream
                return
            system, folder = self._system()
            # Two workers may do the same work at once, when one of them was thought to be dead.
            temporary = f"{folder}/{name}.{secrets.token_hex(4)}{_UNFINISHED}"
            try:
                with system.open(temporary, "wb") as stream:
                    yield stream
                system.mv(temporary, f"{folder}/{name}")
            except BaseException:
                with suppress(Exception):
                    system.rm_file(temporary)
                raise

    def opened(self, name: str) -> BinaryIO:
        """Open a file to be read; in it can be sought."""
        with telling(f"{self.where}: {name}"):
            if not is_url(self.where):
                return streams.opened(os.path.join(self.where, name))
            system, folder = self._system()
            stream: BinaryIO = system.open(f"{folder}/{name}", "rb")
            return stream

    def names(self) -> list[str]:
        """List the files of the job; make the place, if it is not there."""
        try:
            with telling(self.where):
                system, folder = self._system()
                system.makedirs(folder, exist_ok=True)
                system.invalidate_cache(folder)
                names = [path.rstrip("/").rpartition("/")[2] for path in system.ls(folder, detail=False)]
        except FormatError:
            raise
        except (ImportError, ValueError) as error:
            raise FormatError(f"{self.where}: {reason_of(error)}") from None
        return [name for name in names if name.lstrip(".").startswith(self.token)]

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        with telling(self.where), suppress(FileNotFoundError):
            system, folder = self._system()
            system.rm_file(f"{folder}/{name}")

    def _system(self) -> tuple[Any, str]:
        system, folder = file_system(self.where, FormatError)
        return system, folder.rstrip("/")


def place_of(where: str | os.PathLike[str]) -> str:
    """Return the absolute path of a folder, or the URL that is none."""
    text = os.fspath(where)
    path = local_path(text) or text
    return path if is_url(path) else os.path.abspath(path)


@dataclass(frozen=True)
class JobFile:
    """The job to which the archives of a folder belong.

    Attributes
    ----------
    settings : dict
        What they depend on.
    anew : bool
        Whether they are to replace an output that was there before, rather than to join it.
    token : str
        Tells this job from all others; the names of its files begin with it.
    projection : (D, 512) float32, optional
        What descriptors are projected with: a job learns it once.
    """

    settings: dict[str, Any]
    anew: bool
    token: str
    projection: NDArray[np.float32] | None = None


class JobFolder:
    """The folder ``OUT.parts``, with an index of what its archives hold.

    Parameters
    ----------
    folder : Path
        It need not exist.

    Attributes
    ----------
    job : JobFile or None
        Set by :meth:`resume` and :meth:`begin`.
    index : dict of str to (str, str or None)
        By the name of each group, its archive and its stamp.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.job: JobFile | None = None
        self.index: dict[str, tuple[str, str | None]] = {}
        self._lock = Lock(folder / _LOCK)
        self._moved: set[str] = set()

    def resume(self) -> JobFile | None:
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
                self._scan(self.job)
        return self.job

    def begin(
        self, settings: Mapping[str, Any], *, anew: bool, projection: NDArray[np.float32] | None = None
    ) -> None:
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
        self.index.clear()
        job = JobFile(dict(settings), anew, secrets.token_hex(8), projection)
        self._delete_files()
        with replacing(self.folder / _JOB) as stream:
            told = {"format": FORMAT, **vars(job), "projection": _as_text(projection)}
            stream.write(json.dumps(told, indent=1).encode())
        sync_folder(self.folder.parent)
        self.job = job

    def adopt(self, archive: str) -> None:
        """Add what an archive holds to the index; nothing if it is damaged."""
        with suppress(Damaged), self.opened(archive) as found:
            for group in found.groups.values():
                self.index[group.name] = archive, group.stamp

    def collect(self, store: Store) -> None:
        """Take from a store what workers have left there for this job, and remove what else it has left."""
        for name in [] if self._owns(store) else store.names():
            if name.endswith(_EXTENSION):
                self._move(name, store)
                self.adopt(name)
            else:
                store.remove(name)

    def take(self, name: str, stamp: str | None, archive: str, store: Store) -> None:
        """Add a group to the index, and its archive to the folder, if it is still in another store."""
        if archive not in self._moved and not self._owns(store):
            self._move(archive, store)
        self.index[name] = archive, stamp

    def _owns(self, store: Store) -> bool:
        return os.path.realpath(store.where) == os.path.realpath(self.folder)

    def _move(self, archive: str, store: Store) -> None:
        with store.opened(archive) as source, replacing(self.folder / archive) as target:
            shutil.copyfileobj(source, target, 1 << 20)
        store.remove(archive)
        self._moved.add(archive)

    def archives(self) -> list[tuple[str, list[str]]]:
        """List all archives with the names of their groups, in alphabetical order of these."""
        names: dict[str, list[str]] = {}
        for name in sorted(self.index):
            names.setdefault(self.index[name][0], []).append(name)
        return list(names.items())

    @contextmanager
    def opened(self, archive: str) -> Iterator[Archive]:
        """Open an archive.

        Raises
        ------
        Damaged
        """
        with _checked():
            stream = streams.opened(self.folder / archive)
        with stream:
            yield Archive(stream)

    def forget(self, archive: str) -> None:
        """Delete an archive that is damaged."""
        (self.folder / archive).unlink(missing_ok=True)
        self._moved.discard(archive)
        for name in [name for name, (its_archive, _) in self.index.items() if its_archive == archive]:
            del self.index[name]

    def remove(self) -> None:
        """Delete the folder; what tells which job it is goes last, so that this can be gone on with too."""
        self.index.clear()
        self.job = None
        self._delete_files()
        self._lock.release(remove=True)
        with suppress(OSError):
            self.folder.rmdir()

    def close(self) -> None:
        """Let go of the folder, which stays."""
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

    def _read_job(self) -> JobFile | None:
        try:
            told = json.loads(streams.read(self.folder / _JOB))
            version = told.pop("format")
            if version == FORMAT:
                token = re.fullmatch("[0-9a-f]{16}", told["token"])[0]  # type: ignore[index]
                projection = _as_array(told.get("projection"))
                return JobFile(dict(told["settings"]), bool(told["anew"]), token, projection)
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise FormatError(f"{self.folder / _JOB} is damaged: begin anew with --overwrite") from None
        which = "d2np 1.0" if version == 1 else f"another version of d2np (format {version}, not {FORMAT})"
        raise FormatError(
            f"{self.folder} was begun by {which}: finish it with that one, or begin anew with --overwrite"
        )

    def _scan(self, job: JobFile) -> None:
        found = []
        for path in self.folder.iterdir():
            if path.name.startswith(f".{job.token}"):
                # What was not finished takes no room.
                path.unlink(missing_ok=True)
            elif path.name.startswith(f"{job.token}-") and path.name.endswith(_EXTENSION):
                found.append(path)
        # Of several groups of one name the last one counts.
        for path in sorted(found, key=lambda path: (path.lstat().st_mtime_ns, path.name)):
            self.adopt(path.name)

    def _delete_files(self) -> None:
        # The folder may have been somebody's before: only what is ours.
        names = sorted(os.listdir(self.folder), key=lambda name: name == _JOB)
        for name in names:
            if _OURS.fullmatch(name):
                (self.folder / name).unlink(missing_ok=True)
