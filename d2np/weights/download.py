"""Downloads a file over HTTP, by pooch.

pooch tries again and keeps only whole files; requests follows redirects. Here are the limits to what a server
may send and how long it may take, and sentences for what goes wrong.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import dataclass
from http.client import responses
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

from ..errors import WeightsError
from ..version import __version__
from .parameters import shortened

Progress = Callable[[int, "int | None"], None]
"""Called with the bytes received so far, and those of the whole file or None where that is unknown."""

# How much is read at once, and so how often the time is looked at: a server may send a byte now and then.
_CHUNK = 2**12
# Bytes that the server compresses could not be counted.
_HEADERS = {"User-Agent": f"d2np/{__version__}", "Accept-Encoding": "identity"}


@dataclass(frozen=True)
class Patience:
    """The limits of a download.

    Attributes
    ----------
    attempts : int
        How often a server is asked that breaks off or is busy. pooch waits some seconds in between.
    timeout : float
        Seconds without a sign of the server, which is not asked again then.
    total : float
        Seconds for all attempts together.
    largest : int
        Bytes. No checkpoint of this network comes near the default, optimiser included.
    """

    attempts: int = 3
    timeout: float = 20.0
    total: float = 3600.0
    largest: int = 2**29


class DownloadError(Exception):
    """A source does not give the file. No :class:`ValueError`, which pooch would try again."""


def download(
    url: str, folder: Path, patience: Patience, progress: Progress, note: Callable[[str], None]
) -> Path:
    """Download a file. Needs the package pooch.

    Parameters
    ----------
    url : str
        http or https.
    folder : Path
        Where the file is put, under any name.
    patience : Patience
    progress : callable
        See :data:`Progress`.
    note : callable
        Called with the reason when an attempt has failed and there is a further one.

    Raises
    ------
    DownloadError
        If the file cannot be downloaded.
    WeightsError
        If it cannot be written.
    """
    import pooch
    from requests.exceptions import RequestException

    over = threading.Event()
    failures: list[str] = []

    def attempt(_url: str, path: str, _pooch: object) -> None:
        if over.is_set():
            raise DownloadError("the time is over")
        if failures:
            note(f"{failures[-1]}: trying again")
        size = 0
        try:
            with open(path, "wb") as file:
                for block, expected in _blocks(url, patience, over):
                    size += len(block)
                    if max(size, expected or 0) > patience.largest:
                        raise DownloadError(f"the server sends more than {patience.largest:,} bytes")
                    progress(size, expected)
                    file.write(block)
        except RequestException as error:
            failures.append(str(error))
            raise

    keeper = pooch.create(
        folder, "", registry={"file": None}, urls={"file": url}, retry_if_failed=patience.attempts - 1
    )
    # It logs addresses with what may be a secret in them.
    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        return Path(_in_time(patience.total, lambda: keeper.fetch("file", downloader=attempt)))
    except futures.TimeoutError:
        raise DownloadError(f"it has not come within {patience.total:g} s") from None
    except RequestException as error:
        raise DownloadError(f"{error} ({patience.attempts} attempts)") from None
    except OSError as error:
        raise WeightsError(
            f"the download cannot be kept ({error.strerror or error}): set D2NP_CACHE to a folder with room"
        ) from None
    finally:
        over.set()
        logger.setLevel(level)


def _blocks(url: str, patience: Patience, over: threading.Event) -> Iterator[tuple[bytes, int | None]]:
    """Yield the bytes of a file, first none, each time with the size of the whole if that is known.

    Raises
    ------
    requests.RequestException
        If a further attempt may help.
    DownloadError
        If none will.
    """
    import requests
    from urllib3.exceptions import HTTPError

    def check(response: Any, **_: object) -> None:
        if response.is_redirect:
            # requests would read its body, however long that is.
            response.close()
            if over.is_set():
                raise DownloadError("the time is over")
            target = urljoin(response.url, response.headers["Location"])
            if response.url.startswith("https:") and target.lower().startswith("http:"):
                raise DownloadError("the server redirects from https to http, which is not secure")

    options: dict[str, Any] = {"timeout": patience.timeout, "headers": _HEADERS, "hooks": {"response": check}}
    try:
        with requests.get(url, stream=True, **options) as response:
            expected = _read_head(response)
            yield b"", expected
            # Not by requests: of a body in chunks, urllib3 then keeps lines of any length in memory.
            while block := response.raw.read(_CHUNK):
                if over.is_set():
                    raise DownloadError("the time is over")
                yield block, expected
    # ValueError and HTTPError: malformed answers that requests does not notice.
    except (OSError, ValueError, HTTPError) as error:
        raise _explained(error, patience) from None


def _read_head(response: Any) -> int | None:
    """Return the size that an answer announces, if there is a file in it."""
    import requests

    status = response.status_code
    if status != 200:
        told = f"the server answers {status} {responses.get(status, '')}".rstrip()
        raise requests.HTTPError(told) if status >= 500 or status in (408, 429) else DownloadError(told)
    encoding = response.headers.get("Content-Encoding", "identity")
    if encoding.lower() != "identity":
        raise DownloadError(
            f"the server sends it compressed ({shortened(encoding)}), though asked for it as it is"
        )
    length = response.headers.get("Content-Length")
    return None if length is None else int(length)


def _explained(error: Exception, patience: Patience) -> Exception:
    """Return what to raise: an error of requests if a further attempt may help, else a DownloadError."""
    import requests
    from urllib3.exceptions import ProtocolError

    if isinstance(error, requests.HTTPError):
        return error
    causes = list(_causes(error))
    if any(isinstance(cause, TimeoutError) for cause in causes):
        return DownloadError(f"no sign of the server for {patience.timeout:g} s")
    reason = shortened(getattr(causes[-1], "strerror", None) or str(causes[-1]))
    if isinstance(error, requests.exceptions.SSLError):
        return DownloadError(f"there is no secure connection: {reason}")
    if isinstance(error, requests.exceptions.ProxyError):
        return requests.ConnectionError(f"the proxy: {reason}")
    if isinstance(error, (requests.ConnectionError, ProtocolError)):
        return requests.ConnectionError(reason)
    return DownloadError(f"the download fails: {reason}")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what it came from: requests wraps what urllib3 wraps."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _in_time(seconds: float, work: Callable[[], str]) -> str:
    """Return what a function returns, unless it takes longer.

    Timeouts of requests begin anew with each byte, and those of the head of an answer with each line. So the
    work is done in a thread, which is left to itself when the time is over; it ends with the next bytes.

    Raises
    ------
    concurrent.futures.TimeoutError
        If the time is over.
    """
    result: futures.Future[str] = futures.Future()

    def run() -> None:
        try:
            result.set_result(work())
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return result.result(seconds)
