"""Published checkpoints over the network: downloaded by pooch, checked, converted and kept as HDF5.

pooch tries again and keeps only whole files; requests follows redirects. Here are the sources, and the limits
to what a server may send and how long it may take.
"""

from __future__ import annotations

import os
import re
import tempfile
import threading
from collections.abc import Callable, Mapping
from concurrent import futures
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit, urlunsplit

import numpy as np
from numpy.typing import NDArray

from .. import options
from ..errors import OptionError, WeightsError
from ..extras import require
from ..options import PublishedWeights
from ..version import __version__
from . import catalogue
from .files import load, read, save
from .parameters import Provenance, digest, shortened

ATTEMPTS = 3
"""How often a server is asked that breaks off or is busy. pooch waits some seconds in between."""

TIMEOUT = 20.0
"""Seconds without a sign of the server."""

TOTAL = 3600.0
"""Seconds for all attempts together."""

LARGEST = 2**29
"""Bytes of a download. No checkpoint of this network comes near, optimiser included."""

# How much is read at once, and so how often the time is looked at: a server may send a byte now and then.
_CHUNK = 2**12
# Bytes that the server compresses could not be counted.
_HEADERS = {"User-Agent": f"d2np/{__version__}", "Accept-Encoding": "identity"}

_Weights = tuple[Mapping[str, NDArray[np.float32]], Provenance]


class DownloadError(Exception):
    """A source does not give the file. No :class:`ValueError`, which pooch would try again."""


def fetch(
    name: str = "tf",
    *,
    url: str | None = None,
    sha256: str | None = None,
    force: bool = False,
    progress: Callable[[int, int | None], object] = lambda *_: None,
    note: Callable[[str], object] = lambda _: None,
) -> Path:
    """Download a checkpoint, check it, and keep it as HDF5. Needs the extra ``fetch``.

    The sources of a name are tried in order; one that cannot be reached, or sends something else, is passed
    over. The download is read with :func:`d2np.weights.load`, which runs no code in it. The file that is
    written records its name, address and SHA-256.

    Parameters
    ----------
    name : {"tf", "ots", "tf_no_phototourism"}
        The published checkpoint, from where it is known to be (:data:`d2np.weights.catalogue.SOURCES`), or
        only from the folder whose address the environment variable ``D2NP_FETCH_MIRROR`` holds.
    url : str, optional
        The address (http, https) to take it from, and from no other.
    sha256 : str, optional
        What the download's SHA-256 must be.
    force : bool
        Fetch it even if it is there, and replace what is there.
    progress : callable, optional
        Called with the bytes that have come, and those of the whole file or None where that is unknown.
    note : callable, optional
        Called with remarks for the user, such as which source fails and why.

    Returns
    -------
    Path
        The HDF5 file in the cache, where ``Net.load(name)`` finds it.

    Raises
    ------
    OptionError
        If an argument makes no sense.
    WeightsError
        If no source sends a checkpoint of a D2-Net, or the one with that SHA-256; if there are other weights
        of that name already, and `force` is not set; or if it cannot be kept. What was there stays then.
    """
    urls = _addresses(name, url)
    target = catalogue.cached_file(name)
    try:
        kept = load(target)
    except WeightsError:  # there is nothing, or it is damaged
        kept = None
    if kept and not force and url in (None, kept[1].url):
        if sha256 not in (None, kept[1].sha256):
            raise WeightsError(f"{target} has another SHA-256, {kept[1].sha256}: replace it with --overwrite")
        return target
    require("pooch", "fetching weights needs", "fetch", WeightsError)
    found = _first(urls, sha256, progress, note)
    if kept and not _are_same(found, kept):
        difference = f"{_told(found[1])} holds other weights than {target}, which came from {_told(kept[1])}"
        if not force:
            raise WeightsError(f"{difference}; these are kept: replace them with --overwrite")
        note(f"{difference}; replacing them")
    save(target, *found)
    return target


def _addresses(name: str, url: str | None) -> tuple[str, ...]:
    """Return where the weights of that name are looked for."""
    options.check("the name of the weights", name, PublishedWeights)
    urls = catalogue.SOURCES[name]
    if url is not None:
        urls = (url,)
    elif mirror := os.environ.get("D2NP_FETCH_MIRROR"):
        urls = tuple(f"{mirror.rstrip('/')}/{file}" for file in dict.fromkeys(map(_file_name, urls)))
    for address in urls:
        if not re.fullmatch(r"https?://[\w.~@%:-]+(/[!-Z_a-~]*)?", address):
            raise OptionError(
                f"{shortened(address)}: expected an address that starts with http:// or https://"
            )
    return urls


def _file_name(url: str) -> str:
    return urlsplit(url).path.rpartition("/")[2]


def _recorded(url: str) -> str:
    """Return an address without what may be a secret (user, password, query): to be kept or shown."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _told(provenance: Provenance) -> str:
    return f"{provenance.url or provenance.name} (SHA-256 {provenance.sha256})"


def _are_same(found: _Weights, kept: _Weights) -> bool:
    sums = [Provenance.of_arrays(arrays).sha256 for arrays, _ in (found, kept)]
    return sums[0] == sums[1] and found[1].preprocessing == kept[1].preprocessing


def _first(
    urls: tuple[str, ...],
    sha256: str | None,
    progress: Callable[[int, int | None], object],
    note: Callable[[str], object],
) -> _Weights:
    """Return the weights of the first source that works."""
    failures: list[str] = []
    for url in urls:
        note(f"fetching {_recorded(url)}")
        with tempfile.TemporaryDirectory(prefix="d2np-", ignore_cleanup_errors=True) as folder:
            try:
                return _checked(url, _download(url, folder, progress), sha256)
            except DownloadError as error:
                failures.append(f"{_recorded(url)}: {error}")
                note(failures[-1])
    raise WeightsError(
        f"{'; '.join(failures)}; by hand: get the file in another way, such as a browser, and run "
        "`d2np convert`"
    )


def _checked(url: str, file: str, sha256: str | None) -> _Weights:
    """Read a download, if it is what it should be."""
    name = _file_name(url)
    with open(file, "rb") as stream:
        found = digest(stream)
        for sum, expected in (
            (found, sha256 and sha256.lower()),
            (digest(stream, "md5"), catalogue.MD5.get(name)),
        ):
            if expected not in (None, sum):
                raise DownloadError(f"it is another file: its checksum is {sum}, expected {expected}")
        stream.seek(0)
        try:
            arrays, provenance = read(stream, Path(name))
        except WeightsError as error:
            raise DownloadError(str(error)) from None
    return arrays, replace(provenance, name=name, sha256=found, url=_recorded(url))


def _download(url: str, folder: str, progress: Callable[[int, int | None], object]) -> str:
    """Return the path of a file in that folder, once it has been downloaded."""
    import pooch
    import requests
    from urllib3.exceptions import HTTPError

    over = threading.Event()

    def attempt(_url: str, path: str, _pooch: object) -> None:
        try:
            with (
                requests.get(
                    url, stream=True, timeout=TIMEOUT, headers=_HEADERS, hooks={"response": _check_redirect}
                ) as response,
                open(path, "wb") as file,
            ):
                _check(response)
                size = 0
                total = int(response.headers.get("Content-Length", 0)) or None
                # Not by requests: of a body in chunks, urllib3 then keeps lines of any length in memory.
                while block := response.raw.read(_CHUNK):
                    size += len(block)
                    if over.is_set() or size > LARGEST:
                        raise DownloadError(f"the server sends more than {LARGEST:,} bytes")
                    file.write(block)
                    progress(size, total)
        except HTTPError as error:
            raise requests.ConnectionError(str(error)) from error

    def work() -> None:
        try:
            result.set_result(keeper.fetch("file", downloader=attempt))
        except BaseException as error:
            result.set_exception(error)

    keeper = pooch.create(
        folder, "", registry={"file": None}, urls={"file": url}, retry_if_failed=ATTEMPTS - 1
    )
    # It logs addresses with what may be a secret in them.
    pooch.get_logger().setLevel("WARNING")
    # Timeouts of requests begin anew with each byte, and those of the head of an answer with each line. So a
    # thread does the work, which is left to itself when the time is over; it ends with the next bytes.
    result: futures.Future[str] = futures.Future()
    threading.Thread(target=work, daemon=True).start()
    try:
        return result.result(TOTAL)
    except futures.TimeoutError:
        raise DownloadError(f"it has not come within {TOTAL:g} s") from None
    # ValueError: malformed answers that requests does not notice. OSError: the disk is full, for one.
    except (OSError, ValueError) as error:
        raise DownloadError(f"it cannot be downloaded: {_reason(error)}") from None
    finally:
        over.set()


def _check_redirect(response: Any, **_: object) -> None:
    if response.is_redirect:
        # requests would read its body, however long that is.
        response.close()
        target = urljoin(response.url, response.headers["Location"])
        if response.url.startswith("https:") and not target.lower().startswith("https:"):
            raise DownloadError("the server redirects from https to http, which is not secure")


def _check(response: Any) -> None:
    """Refuse an answer that holds no file, before it is read."""
    import requests

    status = response.status_code
    if status != 200:
        told = f"the server answers {status} {shortened(response.reason)}".rstrip()
        raise requests.HTTPError(told) if status >= 500 or status in (408, 429) else DownloadError(told)
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise DownloadError("the server sends it compressed, though asked for it as it is")


def _reason(error: BaseException) -> str:
    """Return what the innermost error says: requests wraps what urllib3 wraps."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return shortened(getattr(error, "strerror", None) or str(error))
