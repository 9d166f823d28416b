"""Published checkpoints over the network: downloaded, checked, converted and kept as HDF5."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from ..atomic import NO_LOCKS
from ..errors import OptionError, WeightsError, did_you_mean
from ..extras import require
from . import _read, _sha256, load, save, store
from .download import DownloadError, Part, Patience, Progress, download
from .parameters import Provenance, shortened

PATIENCE = Patience()
"""What :func:`fetch` puts up with unless told otherwise."""

_MIRROR = "D2NP_MIRROR"


@dataclass(frozen=True)
class Job:
    """What is to be fetched, and where it goes.

    Attributes
    ----------
    url : str
        http or https.
    target : Path
        The HDF5 file.
    cached : bool
        Whether that is the place in the cache where a name is looked up.
    sha256 : str or None
        What the SHA-256 of the download must be, 64 hexadecimal digits in lower case.
    """

    url: str
    target: Path
    cached: bool
    sha256: str | None

    @property
    def name(self) -> str:
        """The file's name on the server."""
        return _file_name(self.url)

    def present(self) -> Provenance | None:
        """Where the target came from, if it is there and what is asked for; None if it must be fetched.

        Raises
        ------
        WeightsError
            If there is something else in its place, that only the user can decide to replace.
        """
        if not self.target.exists():
            return None
        found = self._provenance()
        if found is None:
            return None
        if not self.cached and (not found.url or found.url != recorded(self.url) or urlsplit(self.url).query):
            raise WeightsError(
                f"{self.target} is there already: choose another name, or replace it with --overwrite"
            )
        if self.sha256 not in (None, found.sha256):
            raise WeightsError(
                f"{self.target} is there already, but came from a file with the SHA-256 {found.sha256}, not "
                f"{self.sha256}: fetch it again with --overwrite"
            )
        return found

    def _provenance(self) -> Provenance | None:
        try:
            return load(self.target)[1]
        except WeightsError:
            # What is in the cache is d2np's own: it may be replaced if it is damaged.
            if self.cached and self.target.is_file():
                return None
            raise WeightsError(
                f"{self.target} is there already and holds no weights: choose another name"
            ) from None


def job(source: str = "tf", output: str | os.PathLike[str] | None = None, sha256: str | None = None) -> Job:
    """What :func:`fetch` would do with these arguments.

    Raises
    ------
    OptionError
        If one of them makes no sense.
    """
    url = _address(source)
    if output is not None:
        target = Path(os.fsdecode(output))
    elif source in store.URLS:
        target = store.cached_file(source)
    else:
        target = Path(_file_name(url)).with_suffix(".h5")
    if target.suffix.lower() not in (".h5", ".hdf5"):
        raise OptionError(f"{target}: weights are written as HDF5: give it the extension .h5")
    if sha256 is not None:
        sha256 = sha256.strip().lower()
        if not re.fullmatch("[0-9a-f]{64}", sha256):
            raise OptionError(f"a SHA-256 is 64 hexadecimal digits, not {shortened(sha256)!r}")
    return Job(url, target, output is None and source in store.URLS, sha256)


def fetch(
    source: str = "tf",
    output: str | os.PathLike[str] | None = None,
    *,
    sha256: str | None = None,
    force: bool = False,
    progress: Progress | None = None,
    note: Callable[[str], None] | None = None,
    patience: Patience | None = None,
) -> Path:
    """Download a checkpoint, check it, and keep it as HDF5. Needs the extra ``fetch``.

    The download is read with :func:`d2np.weights.load`, which runs no code in it. The file that is written
    records its name, address and SHA-256. A download that is broken off is kept in the cache folder, and gone
    on with the next time.

    Parameters
    ----------
    source : str
        ``"tf"``, ``"ots"`` or ``"tf_no_phototourism"``: the published checkpoints, from where their authors
        keep them (:data:`d2np.weights.store.URLS`), or from the folder whose address the environment variable
        ``D2NP_MIRROR`` holds. Or the address (http, https) of any checkpoint of a D2-Net.
    output : str or path, optional
        The HDF5 file to write. By default names go into the cache, where ``Net.load("tf")`` finds them, and
        other addresses into the working folder under the name that they end in.
    sha256 : str, optional
        What the download's SHA-256 must be.
    force : bool
        Fetch it even if it is there, and replace what is there.
    progress : callable, optional
        Called with the bytes that have come, and those of the whole file or None where that is unknown.
    note : callable, optional
        Called with remarks for the user, such as why there is a further attempt.
    patience : Patience, optional
        Attempts, pauses, timeout and the largest size.

    Returns
    -------
    Path
        The HDF5 file.

    Raises
    ------
    OptionError
        If an argument makes no sense.
    WeightsError
        If the file cannot be fetched, is not a checkpoint of a D2-Net or not the one with that SHA-256, or
        cannot be kept. Nothing is left under the final name, or what was there before.
    """
    task = job(source, output, sha256)
    if not force and task.present():
        return task.target
    _check_extra()
    _check_place(task)
    with _reserved(task, note) as part:
        # Another process may have fetched it while this one waited.
        if force or not task.present():
            _download(task, part, patience or PATIENCE, progress, note)
            try:
                _convert(task, part.path)
            finally:
                part.discard()
    return task.target


def recorded(url: str) -> str:
    """An address as it may be kept in a file: without what may be a secret (user, password, query)."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def shown(url: str) -> str:
    """An address as it may be shown to who typed it: without user and password."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _address(source: str) -> str:
    if source in store.URLS:
        published = store.URLS[source]
        mirror = os.environ.get(_MIRROR, "").strip()
        if not mirror:
            return published
        if not _is_address(mirror):
            raise OptionError(f"{_MIRROR}: an address that starts with http:// or https:// is expected")
        return f"{mirror.rstrip('/')}/{_file_name(published)}"
    if source in store.NAMES:
        raise OptionError(f"the weights `{source}` are part of d2np: there is nothing to fetch")
    if not _is_address(source):
        raise OptionError(
            f"{shortened(source)}: expected one of {', '.join(store.URLS)}, or an address that starts with "
            f"http:// or https://{did_you_mean(source, store.URLS)}"
        )
    return source


def _is_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme.lower() in ("http", "https") and bool(parts.hostname) and text.isprintable()
    except ValueError:
        return False


def _file_name(url: str) -> str:
    """The name an address ends in, fit for a file system."""
    name = unquote(urlsplit(url).path).rpartition("/")[2]
    return re.sub(r"[^\w.+-]+", "_", name)[-80:].lstrip(".") or "download"


def _check_extra() -> None:
    for package in ("filelock", "requests"):
        require(package, "fetching weights needs", "fetch", WeightsError)


def _check_place(task: Job) -> None:
    """Find out before anything is downloaded whether it can be kept."""
    folder = task.target.parent
    if task.target.is_dir():
        raise WeightsError(f"{task.target}: cannot be written: it is a folder")
    if task.cached:
        return
    if not folder.is_dir():
        raise WeightsError(f"{task.target}: cannot be written: there is no folder {folder}")
    if not os.access(folder, os.W_OK):
        raise WeightsError(f"{task.target}: cannot be written: no permission to write in {folder}")


@contextmanager
def _reserved(task: Job, note: Callable[[str], None] | None) -> Iterator[Part]:
    """The place for a download, which no other process uses meanwhile.

    It is a lock of the operating system: it is free again when this process ends, however it ends.
    """
    from filelock import FileLock, Timeout

    folder = store.cache_folder() / "downloads"
    place = folder / f"{hashlib.sha256(task.url.encode()).hexdigest()[:12]}-{task.name}"
    lock = FileLock(f"{place}.lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if note:
                note("another process is fetching it: waiting")
            lock.acquire()
    except (OSError, NotImplementedError) as error:
        # Older versions of filelock raise the latter where the system answers ENOSYS.
        if isinstance(error, OSError) and error.errno not in NO_LOCKS:
            raise WeightsError(
                f"{folder}: downloads cannot be kept there ({error.strerror or error}): set D2NP_CACHE to a "
                "folder that can be written"
            ) from None
        if note:
            note(f"{folder}: file locks do not work there: two processes must not fetch at a time")
    try:
        yield Part(place)
    finally:
        lock.release()


def _download(
    task: Job,
    part: Part,
    patience: Patience,
    progress: Progress | None,
    note: Callable[[str], None] | None,
) -> None:
    try:
        download(task.url, part, patience=patience, progress=progress, note=note)
    except DownloadError as error:
        raise WeightsError(
            f"{shown(task.url)} cannot be fetched: {error}; by hand: download it in a "
            f"browser, from there or elsewhere, then run `{store.conversion(task.name, task.target)}`"
        ) from None


def _convert(task: Job, path: Path) -> None:
    try:
        with open(path, "rb") as stream:
            sha256 = _sha256(stream)
            if task.sha256 not in (None, sha256):
                raise WeightsError(
                    f"its SHA-256 is {sha256}, expected {task.sha256}: it is another file, and was not kept"
                )
            stream.seek(0)
            arrays, provenance = _read(stream, Path(task.name))
    except WeightsError as error:
        raise WeightsError(f"{shown(task.url)}: {error}") from None
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror or error}") from None
    save(task.target, arrays, replace(provenance, name=task.name, sha256=sha256, url=recorded(task.url)))
