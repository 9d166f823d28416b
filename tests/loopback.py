"""A web server on 127.0.0.1 that misbehaves as it is told to."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = Callable[[BaseHTTPRequestHandler], None]


class Server(ThreadingHTTPServer):
    """Gives every request to ``answers[path]``; remembers the headers of each in ``requests``.

    As a proxy it is asked for whole addresses; with ``tunnel`` it also connects to any port of this machine.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: dict[str, Answer] = {}
        self.requests: list[dict[str, str]] = []
        self.over = threading.Event()
        self.tunnel = False
        self.address = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        """That clients hang up is part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.requests.append(dict(self.headers))
        self.server.answers.get(self.path, status(404))(self)

    do_HEAD = do_GET

    def do_CONNECT(self) -> None:
        host, port = self.path.rsplit(":", 1)
        # Other packages in the process, such as ONNX Runtime, use the proxy for what they report.
        if not self.server.tunnel or host != "127.0.0.1":
            status(403)(self)
            return
        self.server.requests.append(dict(self.headers))
        with socket.create_connection((host, int(port))) as behind:
            self.send_response_only(200)
            self.end_headers()
            back = threading.Thread(target=_pass_on, args=(behind, self.connection), daemon=True)
            back.start()
            _pass_on(self.connection, behind)

    def log_message(self, format: str, *arguments: object) -> None:
        """Silence."""


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(2**16):
            target.sendall(data)
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


@contextmanager
def serving() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.over.set()
            server.shutdown()
            thread.join()


@dataclass
class File:
    """Answers with a file; ``cuts``: for each request, after how many bytes the connection is closed."""

    content: bytes
    etag: str | None = None
    cuts: list[int] = field(default_factory=list)

    def __call__(self, request: BaseHTTPRequestHandler) -> None:
        cut = self.cuts.pop(0) if self.cuts else len(self.content)
        reply(request, 200, self.content[:cut], {"Content-Length": str(len(self.content)), "ETag": self.etag})


def reply(
    request: BaseHTTPRequestHandler, code: int, body: bytes, headers: dict[str, str | None] | None = None
) -> None:
    request.send_response_only(code)
    for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
        if value is not None:
            request.send_header(name, value)
    request.end_headers()
    request.wfile.write(body)


def status(code: int, body: bytes = b"", **headers: str) -> Answer:
    """Answers with that status; ``Content_Type`` and so on are headers."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda request: reply(request, code, body, dict(named))


def redirect(to: str) -> Answer:
    return status(302, Location=to)


def in_turn(*answers: Answer) -> Answer:
    """One for each request; the last for all that follow."""
    waiting = list(answers)
    return lambda request: (waiting.pop(0) if len(waiting) > 1 else waiting[0])(request)


def reset(request: BaseHTTPRequestHandler) -> None:
    """Hangs up without a word."""
    request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    request.connection.close()


def silence(request: BaseHTTPRequestHandler) -> None:
    """Never answers."""
    request.server.over.wait()  # type: ignore[attr-defined]


def stalled(content: bytes, after: int, **headers: str) -> Answer:
    """Sends the beginning of a file, then nothing."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}

    def answer(request: BaseHTTPRequestHandler) -> None:
        reply(request, 200, content[:after], {"Content-Length": str(len(content)), **named})
        silence(request)

    return answer


def endless(request: BaseHTTPRequestHandler) -> None:
    """Sends until the other side has had enough."""
    request.send_response_only(200)
    request.end_headers()
    while not request.server.over.is_set():  # type: ignore[attr-defined]
        request.wfile.write(bytes(2**16))
