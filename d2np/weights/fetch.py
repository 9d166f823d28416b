"""Published checkpoints over the network: downloaded, checked, converted and kept as HDF5."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import numpy as np
from numpy.typing import NDArray

from ..atomic import NO_LOCKS
from ..errors import OptionError, WeightsError, did_you_mean
from ..extras import require
from . import catalogue, load, read, save
from .download import DownloadError, Patience, Progress, download
from .parameters import Provenance, digest, shortened

PATIENCE = Patience()
"""The limits of :func:`fetch` unless it is given others."""

# The latter is its name in version 1.0.
_MIRRORS = ("D2NP_FETCH_MIRROR", "D2NP_MIRROR")

_Arrays = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Plan:
    """A download of :func:`fetch`, and where it is kept.

    Attributes
    ----------
    urls : tuple of str
        http or https; the first that works is taken.
    target : Path
        The HDF5 file.
    name : str or None
        The name that finds the weights once they are in the target, a place in the cache.
    sha256 : str or None
        What the SHA-256 of the download must be, 64 hexadecimal digits in lower case.
    chosen : bool
        Whether it must be from this address.
    """

    urls: tuple[str, ...]
    target: Path
    name: str | None
    sha256: str | None
    chosen: bool

    def present(self) -> Provenance | None:
        """Return where the target came from; None if it is not there, or not what is asked for.

        Raises
        ------
        WeightsError
            If there is something else in its place, that only the user can decide to replace.
        """
        if not self.target.exists():
            return None
        try:
            found = load(self.target)[1]
        except WeightsError:
            found = None
        urls = [recorded(url) for url in self.urls if not urlsplit(url).query]
        is_same = found is not None and found.url in urls
        # What is in the cache is d2np's own: it may be replaced.
        if self.name and (found is None or (self.chosen and not is_same)):
            return None
        if found is None or not (self.name or is_same):
            raise WeightsError(
                f"{self.target} is there already: choose another name, or replace it with --overwrite"
            )
        if self.sha256 not in (None, found.sha256):
            raise WeightsError(
                f"{self.target} is there already, but came from a file with the SHA-256 {found.sha256}, not "
                f"{self.sha256}: fetch it again with --overwrite"
            )
        return found


def plan(
    source: str = "tf",
    output: str | os.PathLike[str] | None = None,
    sha256: str | None = None,
    url: str | None = None,
) -> Plan:
    """Return what :func:`fetch` would do with these arguments.

    Raises
    ------
    OptionError
        If one of them makes no sense.
    """
    urls = _addresses(source, url)
    published = source in catalogue.SOURCES
    if output is not None:
        target = Path(os.fsdecode(output))
    elif published:
        target = catalogue.cached_file(source)
    else:
        target = Path(catalogue.file_name(source)).with_suffix(".h5")
    if target.suffix.lower() not in (".h5", ".hdf5"):
        raise OptionError(f"{target}: weights are written as HDF5: give it the extension .h5")
    if sha256 is not None:
        sha256 = sha256.strip().lower()
        if not re.fullmatch("[0-9a-f]{64}", sha256):
            raise OptionError(f"a SHA-256 is 64 hexadecimal digits, not {shortened(sha256)!r}")
    return Plan(urls, target, source if published and output is None else None, sha256, url is not None)


def fetch(
    source: str = "tf",
    output: str | os.PathLike[str] | None = None,
    *,
    url: str | None = None,
    sha256: str | None = None,
    force: bool = False,
    progress: Progress | None = None,
    note: Callable[[str], None] | None = None,
    patience: Patience | None = None,
) -> Path:
    """Download a checkpoint, check it, and keep it as HDF5. Needs the extra ``fetch``.

    The sources of a name are tried in order; one that cannot be reached, or sends something else, is passed
    over. The download is read with :func:`d2np.weights.load`, which runs no code in it. The file that is
    written records its name, address and SHA-256.

    Parameters
    ----------
    source : str
        ``"tf"``, ``"ots"`` or ``"tf_no_phototourism"``: the published checkpoints, from where they are known
        to be (:data:`d2np.weights.catalogue.SOURCES`), or only from the folder whose address the environment
        variable ``D2NP_FETCH_MIRROR`` holds. Or the address (http, https) of any checkpoint of a D2-Net.
    output : str or path, optional
        The HDF5 file to write. By default names go into the cache, where ``Net.load("tf")`` finds them, and
        other addresses into the working folder under the name that they end in.
    url : str, optional
        The address to take the weights of that name from, and from no other.
    sha256 : str, optional
        What the download's SHA-256 must be.
    force : bool
        Fetch it even if it is there, and replace what is there.
    progress : callable, optional
        Called with the bytes that have come, and those of the whole file or None where that is unknown.
    note : callable, optional
        Called with remarks for the user, such as which source fails and why.
    patience : Patience, optional
        Attempts, timeout, time in all and the largest size, for each source.

    Returns
    -------
    Path
        The HDF5 file.

    Raises
    ------
    OptionError
        If an argument makes no sense.
    WeightsError
        If no source sends a checkpoint of a D2-Net, or the one with that SHA-256; if `url` sends other arrays
        than those already kept under that name, and `force` is not set; or if it cannot be kept. Nothing is
        left under the final name, or what was there before.
    """
    task = plan(source, output, sha256, url)
    if not force and task.present():
        return task.target
    for package in ("filelock", "pooch"):
        require(package, "fetching weights needs", "fetch", WeightsError)
    _check_place(task)
    note = note or _ignore
    with _reserved(task, note) as folder:
        # Another process may have fetched it while this one waited.
        if force or not task.present():
            arrays, provenance = _first(task, folder, patience or PATIENCE, progress or _ignore, note)
            _compare(task, arrays, provenance, force, note)
            save(task.target, arrays, provenance)
    return task.target


def _ignore(*_: object) -> None:
    """Take progress and notes that nobody wants to see."""


def recorded(url: str) -> str:
    """Return an address without what may be a secret (user, password, query): to be kept or shown."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _addresses(source: str, url: str | None) -> tuple[str, ...]:
    published = catalogue.SOURCES.get(source)
    if published is None:
        if source in catalogue.NAMES:
            raise OptionError(f"the weights `{source}` are part of d2np: there is nothing to fetch")
        if url is not None:
            raise OptionError("--url is for weights that have a name: give one address only")
        return (
            _checked_address(f"{shortened(source)}: expected {', '.join(catalogue.SOURCES)}, or", source),
        )
    if url is not None:
        return (_checked_address("--url: expected", url),)
    for variable in _MIRRORS:
        if mirror := os.environ.get(variable, "").strip():
            names = dict.fromkeys(map(catalogue.file_name, published))
            _checked_address(f"{variable}: expected", mirror)
            return tuple(f"{mirror.rstrip('/')}/{name}" for name in names)
    return published


def _checked_address(expected: str, text: str) -> str:
    try:
        parts = urlsplit(text)
        if parts.scheme in ("http", "https") and parts.hostname and text.isprintable():
            return text
    except ValueError:
        pass
    hint = did_you_mean(text, catalogue.SOURCES)
    raise OptionError(f"{expected} an address that starts with http:// or https://{hint}")


def _check_place(task: Plan) -> None:
    """Find out before anything is downloaded whether it can be kept."""
    folder = task.target.parent
    if task.target.is_dir():
        raise WeightsError(f"{task.target}: cannot be written: it is a folder")
    if not task.name and not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise WeightsError(f"{task.target}: cannot be written: {folder} is no folder to write in")


@contextmanager
def _reserved(task: Plan, note: Callable[[str], None]) -> Iterator[Path]:
    """Yield a folder for the download, while no other process fetches the same.

    The lock is one of the operating system: it is gone when this process ends, however it ends. What a
    killed process has left is removed by the next one. Where there are no locks, two may download the same.
    """
    from filelock import FileLock, Timeout

    downloads = catalogue.cache_folder() / "downloads"
    name = hashlib.sha256(os.fsencode(task.target.absolute())).hexdigest()[:12]
    lock = FileLock(downloads / f"{name}.lock")
    with ExitStack() as undone:
        try:
            downloads.mkdir(parents=True, exist_ok=True)
            undone.callback(lock.release)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                note("another process is fetching it: waiting")
                lock.acquire()
            except (OSError, NotImplementedError) as error:
                # Older versions of filelock raise the latter where the system answers ENOSYS.
                if isinstance(error, OSError) and error.errno not in NO_LOCKS:
                    raise
            if lock.is_locked:
                for left in downloads.glob(f"{name}-*"):
                    shutil.rmtree(left, ignore_errors=True)
            folder = tempfile.mkdtemp(prefix=f"{name}-", dir=downloads)
        except OSError as error:
            raise WeightsError(
                f"{downloads}: downloads cannot be kept there ({error.strerror or error}): set D2NP_CACHE to "
                "a folder that can be written"
            ) from None
        undone.callback(shutil.rmtree, folder, ignore_errors=True)
        yield Path(folder)


def _first(
    task: Plan, folder: Path, patience: Patience, progress: Progress, note: Callable[[str], None]
) -> tuple[_Arrays, Provenance]:
    """Download from the first source that works."""
    failures: list[str] = []
    for number, url in enumerate(task.urls):
        if failures:
            note(f"{failures[-1]}; trying the next source")
        note(f"fetching {recorded(url)}")
        try:
            return _checked(task, url, download(url, folder / str(number), patience, progress, note))
        except DownloadError as error:
            failures.append(f"{recorded(url)}: {error}")
    raise WeightsError(
        f"{'; '.join(failures)}; by hand: get the file in another way, such as a browser, and run "
        f"`{catalogue.conversion(task.urls, task.target)}`"
    )


def _checked(task: Plan, url: str, file: Path) -> tuple[_Arrays, Provenance]:
    """Read a download, if it is what it should be."""
    name = catalogue.file_name(url)
    with open(file, "rb") as stream:
        for kind, expected in (("SHA-256", task.sha256), ("MD5", catalogue.MD5.get(name))):
            found = digest(stream, kind.replace("-", "")) if expected else None
            if found != expected:
                raise DownloadError(f"its {kind} is {found}, expected {expected}: it is another file")
        sha256 = digest(stream)
        stream.seek(0)
        try:
            arrays, provenance = read(stream, Path(name))
        except WeightsError as error:
            raise DownloadError(str(error)) from None
    return arrays, replace(provenance, name=name, sha256=sha256, url=recorded(url))


def _compare(
    task: Plan, arrays: _Arrays, provenance: Provenance, force: bool, note: Callable[[str], None]
) -> None:
    """Tell of sources of one name that hold different arrays; what was there first stays unless forced."""
    if task.name is None:
        return
    source = f"{provenance.url} (SHA-256 {provenance.sha256})"
    try:
        before, earlier = load(task.target)
    except WeightsError:  # there is nothing, or it is damaged
        before, earlier = dict(arrays), provenance
    if difference := _difference(arrays, provenance, before, earlier):
        told = (
            f"{source} holds another network than {task.target}, which came from "
            f"{earlier.url or earlier.name} (SHA-256 {earlier.sha256}): {difference}"
        )
        if not force:
            raise WeightsError(f"{told}; {task.target} is kept: replace it with --overwrite")
        note(f"{told}; replacing it")
    found = Provenance.of_arrays(arrays).sha256
    if catalogue.ARRAYS.get(task.name, found) != found:
        note(
            f"{source} holds arrays with the SHA-256 {found}, not those of {catalogue.SOURCES[task.name][-1]}"
        )


def _difference(arrays: _Arrays, provenance: Provenance, before: _Arrays, earlier: Provenance) -> str:
    """Say what differs, if anything does."""
    if provenance.preprocessing != earlier.preprocessing:
        return f"it takes {provenance.preprocessing} preprocessing, not {earlier.preprocessing}"
    changes = [float(np.abs(array.astype("f8") - before[name]).max()) for name, array in arrays.items()]
    if not any(changes):
        return ""
    return f"{np.count_nonzero(changes)} of {len(arrays)} arrays differ, by up to {max(changes):.3g}"
