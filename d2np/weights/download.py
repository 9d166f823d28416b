"""Downloads a file over HTTP, by pooch.

pooch and the package requests below it follow redirects, write the file and try again. Here are the limits to
what a server may send and how long it may take, and sentences for what goes wrong.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urljoin

from ..errors import WeightsError
from ..version import __version__
from .parameters import shortened

Progress = Callable[[int, "int | None"], None]
"""Called with the bytes received so far, and those of the whole file or None where that is unknown."""

_T = TypeVar("_T")
# How much is read at once, and so how often the time is looked at: a server may send a byte now and then.
_CHUNK = 2**12
_BUSY = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)


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
    url: str,
    folder: Path,
    *,
    patience: Patience,
    progress: Progress | None = None,
    note: Callable[[str], None] | None = None,
) -> Path:
    """Download a file. Needs the package pooch.

    Parameters
    ----------
    url : str
        http or https.
    folder : Path
        Where the file is put, under any name.
    patience : Patience
    progress : callable, optional
        See :data:`Progress`.
    note : callable, optional
        Called with the reason when an attempt fails and a further one may help.

    Raises
    ------
    DownloadError
        If the file cannot be downloaded.
    WeightsError
        If it cannot be written.
    """
    import pooch
    from requests.exceptions import RequestException

    downloader = _Downloader(patience, progress, note)
    keeper = pooch.create(
        folder, "", registry={"file": None}, urls={"file": url}, retry_if_failed=patience.attempts - 1
    )
    # It logs addresses with what may be a secret in them.
    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        return Path(_in_time(patience.total, lambda: keeper.fetch("file", downloader=downloader)))
    except futures.TimeoutError:
        raise DownloadError(f"it has not come within {patience.total:g} s") from None
    except RequestException as error:
        raise DownloadError(f"{error} ({patience.attempts} attempts)") from None
    except OSError as error:
        raise WeightsError(
            f"the download cannot be kept ({error.strerror or error}): set D2NP_CACHE to a folder with room"
        ) from None
    finally:
        downloader.is_over = True
        logger.setLevel(level)


class _Downloader:
    """Downloads for pooch, to a file that takes no more than it may.

    Parameters
    ----------
    patience, progress, note
        See :func:`download`.
    """

    def __init__(
        self, patience: Patience, progress: Progress | None, note: Callable[[str], None] | None
    ) -> None:
        self.is_over = False
        self._patience = patience
        self._progress = progress
        self._note = note
        self._attempts_left = patience.attempts

    def __call__(self, url: str, path: str, _: object) -> None:
        """Download a file to a path.

        Raises
        ------
        requests.RequestException
            If a further attempt may help.
        DownloadError
            If none will.
        OSError
            If the file cannot be written.
        """
        from pooch import HTTPDownloader
        from requests.exceptions import RequestException
        from urllib3.exceptions import HTTPError

        self._attempts_left -= 1
        self._response: Any = None
        self._disk_error: OSError | None = None
        self._size = 0
        self._expected: int | None = None
        get = HTTPDownloader(
            chunk_size=_CHUNK,
            timeout=self._patience.timeout,
            # Bytes that the server compresses could not be counted.
            headers={"User-Agent": f"d2np/{__version__}", "Accept-Encoding": "identity"},
            hooks={"response": self._begin},
        )
        try:
            with open(path, "wb") as self._stream:
                get(url, self, None)
        # ValueError and HTTPError: malformed answers that requests does not notice.
        except (OSError, ValueError, HTTPError) as error:
            explained = self._disk_error or _explained(error, self._patience)
            if self._note and self._attempts_left and isinstance(explained, RequestException):
                self._note(f"{explained}: trying again")
            raise explained from None
        finally:
            if self._response is not None:
                self._response.close()

    def _begin(self, response: Any, **_: object) -> None:
        """Check the head of an answer before any of its body is read."""
        import requests

        self._response = response
        self._check_time()
        if response.is_redirect:
            # requests would read its body, however long that is.
            response.close()
            target = urljoin(response.url, response.headers["Location"])
            if response.url.startswith("https:") and target.lower().startswith("http:"):
                raise DownloadError("the server redirects from https to http, which is not secure")
            return
        status = response.status_code
        if status != HTTPStatus.OK:
            known = {one.value: f" {one.phrase}" for one in HTTPStatus}
            told = f"the server answers {status}{known.get(status, '')}"
            raise requests.HTTPError(told) if status >= 500 or status in _BUSY else DownloadError(told)
        if response.headers.get("Content-Type", "").lower().startswith("text/html"):
            raise DownloadError(
                "the server sends a web page (HTML), not a checkpoint; it may be an error or log-in page"
            )
        encoding = response.headers.get("Content-Encoding", "identity")
        if encoding.lower() != "identity":
            raise DownloadError(
                f"the server sends it compressed ({shortened(encoding)}), though asked for it as it is"
            )
        length = response.headers.get("Content-Length")
        self._expected = None if length is None else int(length)
        self._tell(self._expected or 0)
        # Of a body in chunks, older versions of urllib3 keep lines of any length in memory; Python does not.
        response.raw.chunked = False

    def write(self, data: bytes) -> None:
        """Write the next bytes."""
        self._check_time()
        self._size += len(data)
        self._tell(self._size)
        try:
            self._stream.write(data)
            self._stream.flush()
        except OSError as error:
            self._disk_error = error
            raise

    def flush(self) -> None:
        """Do nothing: each write has been flushed."""

    def _check_time(self) -> None:
        if self.is_over:
            raise DownloadError("the time is over")

    def _tell(self, size: int) -> None:
        if size > self._patience.largest:
            raise DownloadError(
                f"the server sends more than {self._patience.largest:,} bytes, too much for a checkpoint"
            )
        if self._progress:
            self._progress(self._size, self._expected)


def _explained(error: Exception, patience: Patience) -> Exception:
    """Return what to raise: an error of requests if a further attempt may help, else a DownloadError."""
    import requests

    causes = list(_causes(error))
    reason = shortened(getattr(causes[-1], "strerror", None) or str(causes[-1]))
    if isinstance(error, requests.HTTPError):
        return error
    if isinstance(error, requests.TooManyRedirects):
        return DownloadError("the server redirects without end")
    if isinstance(error, requests.exceptions.SSLError):
        return DownloadError(f"there is no secure connection: {reason}")
    if any(isinstance(cause, TimeoutError) for cause in causes):
        return DownloadError(f"no sign of the server for {patience.timeout:g} s")
    if isinstance(error, requests.exceptions.ProxyError):
        return requests.ConnectionError(f"the proxy: {reason}")
    if isinstance(error, (requests.ConnectionError, requests.exceptions.ChunkedEncodingError)):
        return requests.ConnectionError(reason)
    return DownloadError(f"the download fails: {reason}")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what it came from: requests wraps what urllib3 wraps."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _in_time(seconds: float, work: Callable[[], _T]) -> _T:
    """Return what a function returns, unless it takes longer.

    Timeouts of requests begin anew with each byte, and those of the head of an answer with each line. So the
    work is done in a thread, which is left to itself when the time is over; it ends with the next bytes.

    Raises
    ------
    concurrent.futures.TimeoutError
        If the time is over.
    """
    result: futures.Future[_T] = futures.Future()

    def run() -> None:
        try:
            result.set_result(work())
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return result.result(seconds)
