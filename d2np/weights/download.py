"""Downloads a file over HTTP.

requests asks the server, follows its redirects and reads what it sends. What requests lacks is here: limits
to the size and to the time in all, the check of the length, and retries that say what went wrong.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, BinaryIO
from urllib.parse import urljoin

from ..errors import WeightsError
from .parameters import shortened

Progress = Callable[[int, "int | None"], None]
"""Called with the bytes that have come, and the bytes of the whole file or None where that is unknown."""

_CHUNK = 2**16


@dataclass(frozen=True)
class Patience:
    """How much is put up with.

    Attributes
    ----------
    attempts : int
        How often a server may fail before it is given up.
    pause : float
        Seconds before the second attempt; doubled for each further one.
    timeout : float
        Seconds without a sign of the server, which then is given up.
    total : float
        Seconds for all attempts together.
    largest : int
        Bytes. No checkpoint of this network comes near the default, optimiser included.
    """

    attempts: int = 3
    pause: float = 0.5
    timeout: float = 20.0
    total: float = 3600.0
    largest: int = 2**29


class DownloadError(Exception):
    """The server, or the way to it, is to blame. ``again`` says whether a further attempt might help."""

    def __init__(self, reason: str, *, again: bool = False) -> None:
        super().__init__(reason)
        self.again = again


def download(
    url: str,
    stream: BinaryIO,
    *,
    patience: Patience,
    progress: Progress | None = None,
    note: Callable[[str], None] | None = None,
) -> None:
    """Download a file. Needs the package requests.

    Parameters
    ----------
    url : str
        http or https.
    stream : binary file
        What is in it is replaced.
    patience : Patience
    progress : callable, optional
        See :data:`Progress`.
    note : callable, optional
        Is told in words why there is a further attempt.

    Raises
    ------
    DownloadError
        If the file does not come.
    WeightsError
        If the stream cannot be written.
    """
    until = time.monotonic() + patience.total
    for attempt in range(1, patience.attempts + 1):
        try:
            _attempt(url, stream, patience, until, progress)
            return
        except DownloadError as error:
            if not error.again:
                raise
            if time.monotonic() >= until:
                raise DownloadError(f"it has not come within {patience.total:g} s") from None
            if attempt == patience.attempts:
                raise DownloadError(f"{error} ({attempt} attempts)") from None
            pause = patience.pause * 2 ** (attempt - 1)
            if note:
                note(f"{error}: trying again in {pause:g} s")
            time.sleep(pause)


def _attempt(url: str, stream: BinaryIO, patience: Patience, until: float, progress: Progress | None) -> None:
    from urllib3.exceptions import HTTPError

    from .. import __version__

    # Compressed by the server, bytes could not be counted.
    headers = {"User-Agent": f"d2np/{__version__}", "Accept-Encoding": "identity"}
    receiver = _Receiver(stream, patience.largest, progress)
    try:
        with _Deadline(until) as deadline, deadline.session() as session:
            response = session.get(
                url,
                headers=headers,
                timeout=patience.timeout,
                stream=True,
                hooks={"response": receiver.begin},
            )
            # Not iter_content: of a body in chunks, it keeps lines of any length in memory.
            while data := response.raw.read(_CHUNK):
                receiver.write(data)
            receiver.finish()
            deadline.check()
    except (DownloadError, WeightsError):
        raise
    # ValueError and HTTPError: what requests lets through of malformed answers.
    except (OSError, ValueError, HTTPError) as error:
        raise _explained(error, receiver, patience) from None
    finally:
        receiver.close()


class _Deadline:
    """Shuts connections down when the time is over: timeouts of requests begin anew with each byte.

    Parameters
    ----------
    until : float
        As of ``time.monotonic``.
    """

    def __init__(self, until: float) -> None:
        self._over = False
        self._sockets: list[socket.socket] = []
        self._timer = threading.Timer(max(until - time.monotonic(), 0), self._end)
        self._timer.daemon = True

    def __enter__(self) -> _Deadline:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def session(self) -> Any:
        """Create a session of requests whose connections end in time."""
        import requests

        watched = self._watched

        class Adapter(requests.adapters.HTTPAdapter):
            def init_poolmanager(self, *given: Any, **named: Any) -> None:
                super().init_poolmanager(*given, **named)
                watched(self.poolmanager)

            def proxy_manager_for(self, *given: Any, **named: Any) -> Any:
                return watched(super().proxy_manager_for(*given, **named))

        session = requests.Session()
        for scheme in ("http://", "https://"):
            session.mount(scheme, Adapter())
        return session

    def check(self) -> None:
        """Complain if the time is over: the end of a connection may look like that of a file."""
        if self._over:
            raise DownloadError("the time is over", again=True)

    def _watched(self, manager: Any) -> Any:
        """Have a manager of urllib3 make connections that are known here."""
        add = self._add

        def known(pool: Any) -> Any:
            class Connection(pool.ConnectionCls):  # type: ignore[misc]
                def connect(self) -> None:
                    super().connect()
                    add(self.sock)

            return type(pool.__name__, (pool,), {"ConnectionCls": Connection})

        pools = manager.pool_classes_by_scheme
        manager.pool_classes_by_scheme = {scheme: known(pool) for scheme, pool in pools.items()}
        return manager

    def _add(self, connected: socket.socket) -> None:
        self._sockets.append(connected)
        if self._over:
            self._end()

    def _end(self) -> None:
        self._over = True
        for connected in list(self._sockets):
            with suppress(OSError):
                connected.shutdown(socket.SHUT_RDWR)


class _Receiver:
    """Takes what the server sends."""

    def __init__(self, stream: BinaryIO, largest: int, progress: Progress | None) -> None:
        self._stream = stream
        self._largest = largest
        self._progress = progress
        self._response: Any = None
        self._size = 0
        self._expected: int | None = None

    def begin(self, response: Any, **_: object) -> None:
        """Judge an answer by its head, before any of its body is read."""
        self._response = response
        if response.is_redirect:
            # requests would read its body, however long that is.
            response.close()
            target = urljoin(response.url, response.headers["Location"])
            if response.url.startswith("https:") and target.lower().startswith("http:"):
                raise DownloadError("the server redirects from https to http, which is not secure")
            return
        status = response.status_code
        if status != HTTPStatus.OK:
            again = status >= 500 or status in (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)
            raise DownloadError(f"the server answers {_status(status)}", again=again)
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
        self._check_size(self._expected or 0)
        self._stream.seek(0)
        self._stream.truncate()
        self._tell()

    def write(self, data: bytes) -> None:
        """Take the next bytes of the body."""
        self._size += len(data)
        self._check_size(self._size)
        try:
            self._stream.write(data)
            self._stream.flush()
        except OSError as error:
            raise WeightsError(
                f"the download cannot be kept ({error.strerror or error}): set D2NP_CACHE to a folder with "
                "room"
            ) from None
        self._tell()

    def finish(self) -> None:
        """Check that all has come. Older urllib3 does not notice a connection that is closed early."""
        if self._expected is not None and self._size != self._expected:
            raise DownloadError(f"the connection was closed {self.standing()}", again=True)

    def close(self) -> None:
        """Let go of the connection."""
        if self._response is not None:
            self._response.close()

    def standing(self) -> str:
        """How far it got, in words."""
        if not self._size and self._expected is None:
            return "before the server answered"
        whole = "" if self._expected is None else f" of {self._expected:,}"
        return f"after {self._size:,}{whole} bytes"

    def _tell(self) -> None:
        if self._progress:
            self._progress(self._size, self._expected)

    def _check_size(self, size: int) -> None:
        if size > self._largest:
            raise DownloadError(
                f"the server sends more than {self._largest:,} bytes, too much for a checkpoint"
            )


def _status(code: int) -> str:
    try:
        return f"{code} {HTTPStatus(code).phrase}"
    except ValueError:
        return str(code)


def _explained(error: Exception, receiver: _Receiver, patience: Patience) -> DownloadError:
    import requests
    from urllib3.exceptions import ProtocolError

    causes = list(_causes(error))
    if isinstance(error, requests.TooManyRedirects):
        return DownloadError("the server redirects without end")
    if isinstance(error, requests.exceptions.SSLError):
        reason = getattr(causes[-1], "verify_message", None) or causes[-1]
        return DownloadError(f"there is no secure connection: {shortened(str(reason))}")
    if any(isinstance(cause, TimeoutError) for cause in causes):
        return DownloadError(f"no sign of the server for {patience.timeout:g} s")
    if isinstance(error, (requests.ConnectionError, ProtocolError)):
        # http.client tells what a proxy refuses in an OSError that has text only.
        reasons = [
            cause.strerror or str(cause)
            for cause in causes
            if isinstance(cause, OSError) and (cause.strerror or type(cause) is OSError)
        ]
        reason = shortened(reasons[-1]) if reasons else f"the connection was closed {receiver.standing()}"
        if isinstance(error, requests.exceptions.ProxyError):
            reason = f"the proxy: {reason}"
        return DownloadError(reason, again=True)
    # So requests tells of socks5:// where the package for it is missing.
    if isinstance(error, requests.exceptions.InvalidSchema) and "SOCKS" in str(error):
        return DownloadError(f"the proxy: {error} Install requests[socks], or use one of http://")
    if isinstance(error, requests.exceptions.InvalidSchema):
        return DownloadError("the server redirects to an address that is neither http nor https")
    # OSError: of requests itself, and of a file with certificates that is not there.
    if isinstance(error, OSError):
        return DownloadError(shortened(str(error)))
    return DownloadError(f"the server's answer makes no sense: {shortened(str(error))}")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it came from: requests wraps what urllib3 wraps."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
