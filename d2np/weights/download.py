"""Downloads a file over HTTP, and goes on where an earlier download stopped.

requests asks the server, follows its redirects and reads what it sends. What requests lacks is here: going on
with a part (RFC 9110, sections 13.1.5 and 14), limits to the size and to the time in all, the check of the
length, and retries that say what went wrong.
"""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urljoin

from ..errors import WeightsError
from .parameters import shortened

Progress = Callable[[int, "int | None"], None]
"""Called with the bytes that have come, and the bytes of the whole file or None where that is unknown."""

_CHUNK = 2**16
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


@dataclass(frozen=True)
class Patience:
    """How much is put up with.

    Attributes
    ----------
    attempts : int
        How often in a row a server may fail before it is given up. An attempt that got further than all
        before it begins a new row.
    pause : float
        Seconds before the second attempt; doubled for each further one.
    timeout : float
        Seconds without a sign of the server.
    total : float
        Seconds for all attempts together.
    largest : int
        Bytes. No checkpoint of this network comes near the default, optimiser included.
    """

    attempts: int = 4
    pause: float = 0.5
    timeout: float = 20.0
    total: float = 3600.0
    largest: int = 2**29


class DownloadError(Exception):
    """The server, or the way to it, is to blame. ``again`` says whether a further attempt might help."""

    def __init__(self, reason: str, *, again: bool = False) -> None:
        super().__init__(reason)
        self.again = again


@dataclass(frozen=True)
class _Version:
    """Which version of a file a part belongs to.

    Attributes
    ----------
    validator : str
        The server's ETag, or else its Last-Modified.
    size : int or None
        Bytes of the whole file.
    """

    validator: str
    size: int | None


class Part:
    """What there is of a file so far. Beside it a record says of which version of the file it is a part.

    Parameters
    ----------
    path : Path
        In a folder that exists.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._record = path.with_name(f"{path.name}.json")

    @property
    def size(self) -> int:
        """Bytes."""
        return self.path.stat().st_size if self.path.exists() else 0

    def version(self) -> _Version | None:
        """None where nothing can be gone on with."""
        try:
            match json.loads(self._record.read_text("utf-8")):
                case {"validator": str(validator), "size": int() | None as size} if self.size:
                    return _Version(validator, size)
        except (OSError, ValueError):
            return None
        return None

    def begin(self, version: _Version | None) -> BinaryIO:
        """An empty part. A record left from before must never describe what is written now."""
        self.discard()
        if version is not None:
            self._record.write_text(json.dumps(vars(version)), "utf-8")
        return open(self.path, "xb")

    def go_on(self) -> BinaryIO:
        """The part, to be written on."""
        return open(self.path, "ab")

    def discard(self) -> None:
        """Leave nothing."""
        self._record.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)


def download(
    url: str,
    part: Part,
    *,
    patience: Patience,
    progress: Progress | None = None,
    note: Callable[[str], None] | None = None,
) -> None:
    """Complete a part. Needs the package requests.

    Parameters
    ----------
    url : str
        http or https.
    part : Part
        Nobody else may write it. What is there of it is not asked for again if the server still has the same
        version of the file and can send the rest of it.
    patience : Patience
    progress : callable, optional
        See :data:`Progress`.
    note : callable, optional
        Is told in words why there is a further attempt.

    Raises
    ------
    DownloadError
        If the file does not come. The part is kept where a later call may go on with it.
    WeightsError
        If the part cannot be written. It is discarded.
    """
    failures, reached = 0, part.size
    until = time.monotonic() + patience.total
    while True:
        try:
            _attempt(url, part, patience, until, progress)
            return
        except WeightsError:
            part.discard()
            raise
        except DownloadError as error:
            failures = 1 if part.size > reached else failures + 1
            reached = max(reached, part.size)
            if not error.again or part.version() is None:
                part.discard()
            if not error.again:
                raise
            if time.monotonic() >= until:
                raise DownloadError(f"it has not come within {patience.total:g} s", again=True) from None
            if failures >= patience.attempts:
                raise DownloadError(f"{error} ({failures} attempts)", again=True) from None
            pause = patience.pause * 2 ** (failures - 1)
            if note:
                note(f"{error}: trying again in {pause:g} s")
            time.sleep(pause)


def _attempt(url: str, part: Part, patience: Patience, until: float, progress: Progress | None) -> None:
    from urllib3.exceptions import HTTPError

    from .. import __version__

    # Compressed by the server, bytes could not be counted.
    headers = {"User-Agent": f"d2np/{__version__}", "Accept-Encoding": "identity"}
    if version := part.version():
        headers |= {"Range": f"bytes={part.size}-", "If-Range": version.validator}
    receiver = _Receiver(part, version, patience.largest, progress)
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

    def __init__(self, part: Part, version: _Version | None, largest: int, progress: Progress | None) -> None:
        self._part = part
        self._version = version
        self._largest = largest
        self._progress = progress
        self._response: Any = None
        self._stream: BinaryIO | None = None
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
        if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and self._version:
            self._part.discard()
            raise DownloadError("what was fetched before is of no use any more", again=True)
        if status not in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
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
        try:
            if status == HTTPStatus.PARTIAL_CONTENT:
                self._go_on(response.headers)
            else:
                self._begin_anew(response.headers)
        except OSError as error:
            raise self._unwritable(error) from None

    def write(self, data: bytes) -> None:
        """Take the next bytes of the body."""
        assert self._stream is not None
        self._size += len(data)
        self._check_size(self._size)
        try:
            self._stream.write(data)
            self._stream.flush()
        except OSError as error:
            raise self._unwritable(error) from None
        self._tell()

    def finish(self) -> None:
        """Check that all has come. Older urllib3 does not notice a connection that is closed early."""
        if self._expected is not None and self._size != self._expected:
            raise DownloadError(f"the connection was closed {self.standing()}", again=True)

    def close(self) -> None:
        """Let go of the connection and of the file."""
        if self._response is not None:
            self._response.close()
        if self._stream is not None:
            self._stream.close()

    def standing(self) -> str:
        """How far it got, in words."""
        if self._stream is None:
            return "before the server answered"
        whole = "" if self._expected is None else f" of {self._expected:,}"
        return f"after {self._size:,}{whole} bytes"

    def _begin_anew(self, headers: Any) -> None:
        length = headers.get("Content-Length")
        self._expected = None if length is None else int(length)
        if self._expected is not None:
            self._check_size(self._expected)
        etag = headers.get("ETag", "")
        # A weak tag says that two versions mean the same, not that they are the same bytes.
        validator = etag if etag.startswith('"') else headers.get("Last-Modified")
        self._stream = self._part.begin(_Version(validator, self._expected) if validator else None)
        self._tell()

    def _go_on(self, headers: Any) -> None:
        size = self._part.size
        found = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
        version = self._version
        if version is None or not found or not _continues(version, size, found, headers):
            self._part.discard()
            raise DownloadError("the server sends another part than was asked for", again=True)
        self._expected = version.size if found[2] == "*" else int(found[2])
        if self._expected is not None:
            self._check_size(self._expected)
        self._size = size
        self._stream = self._part.go_on()
        self._tell()

    def _tell(self) -> None:
        if self._progress:
            self._progress(self._size, self._expected)

    def _check_size(self, size: int) -> None:
        if size > self._largest:
            raise DownloadError(
                f"the server sends more than {self._largest:,} bytes, too much for a checkpoint"
            )

    def _unwritable(self, error: OSError) -> WeightsError:
        return WeightsError(f"{self._part.path}: cannot be written: {error.strerror or error}")


def _continues(version: _Version, size: int, found: re.Match[str], headers: Any) -> bool:
    """Whether the rest that the server sends belongs to the part that is there."""
    header = "ETag" if version.validator.startswith('"') else "Last-Modified"
    return (
        int(found[1]) == size
        and headers.get(header, version.validator) == version.validator
        and (found[2] == "*" or version.size in (None, int(found[2])))
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
        return DownloadError(f"no sign of the server for {patience.timeout:g} s", again=True)
    if isinstance(error, (requests.ConnectionError, ProtocolError)):
        reasons = [cause.strerror for cause in causes if isinstance(cause, OSError) and cause.strerror]
        reason = shortened(reasons[-1]) if reasons else f"the connection was closed {receiver.standing()}"
        if isinstance(error, requests.exceptions.ProxyError):
            reason = f"the proxy: {reason}"
        return DownloadError(reason, again=True)
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
