"""Files given by URL, through fsspec, which knows S3, HTTP and many others. Needs the extra ``cloud``."""

from __future__ import annotations

import glob
import hashlib
import io
import os
import re
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import Any
from urllib.parse import unquote, urlsplit

from ..errors import Error, ImageError
from ..extras import require
from . import index_pages

# A single letter is a drive of Windows.
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+(::[A-Za-z][A-Za-z0-9+.-]+)*://")
_WEB = ("http", "https")
# What file systems call that which changes when a file's content does; the first one there is taken.
_VERSIONS = (
    *("ETag", "etag", "md5Hash", "Content-MD5", "mtime", "LastModified", "last_modified"),
    *("Last-Modified", "updated", "modified", "created"),
)
_PIECE = 1 << 20
_SECONDS = 600.0
"""For one request, and for reading one file."""
_MOST_AT_ONCE = 1 << 27
"""Bytes that fsspec may read in one go from a web server, which may send more than it was asked for."""

NO_FILE = "there is no such file"
"""How the message ends where that is what a server says."""


def is_url(text: str) -> bool:
    """Return whether this is a URL, such as ``s3://bucket/a.jpg``, or several chained as fsspec does it."""
    return _URL.match(text) is not None


def local_path(url: str, *, windows: bool = os.name == "nt") -> str | None:
    """Return the path that a URL ``file://`` means; None for all other URLs.

    Raises
    ------
    ImageError
        If it names another machine; on Windows that is one that shares folders.
    """
    if not url.lower().startswith("file://"):
        return None
    host, slash, path = url[7:].partition("/")
    path = unquote(slash + path)
    if windows:
        path = re.sub(r"^/([A-Za-z])[:|]", r"\1:", path)
    if host in ("", "localhost"):
        return path
    if windows:
        return f"//{host}{path}"
    raise ImageError(f"{url}: a file on another machine cannot be read: write file:///path")


@dataclass(frozen=True)
class RemoteFile:
    """A file at a URL. Wherever it is shown or asked for its path, it gives the URL.

    Attributes
    ----------
    url : str
    told : mapping, optional
        What the file system told of the file when it was listed, so that it need not be asked again.
    content : bytes, optional
        What :meth:`read` has read, where it is to be read no more.
    """

    url: str
    told: Mapping[str, Any] | None = field(default=None, compare=False, repr=False)
    content: bytes | None = field(default=None, compare=False, repr=False)

    def __fspath__(self) -> str:
        return self.url

    def __str__(self) -> str:
        return self.url

    @property
    def name(self) -> str:
        """The last part of the URL."""
        first = self.url.partition("::")[0]
        path = unquote(urlsplit(first).path) if _is_web(first) else first
        return path.rstrip("/").rpartition("/")[2] or first

    def version(self) -> dict[str, int | str]:
        """Return what shows that the content is still the same: its size, and a tag or a time.

        Raises
        ------
        ImageError
            If it cannot be asked.
        """
        info = self.told
        if info is None:
            with _told_in_one_line(self.url):
                system, path = file_system(self.url, ImageError)
                info = system.info(path)
        found: dict[str, int | str] = {}
        if info.get("size") is not None:
            found["size"] = int(info["size"])
        if versions := [info[key] for key in _VERSIONS if info.get(key)]:
            found["version"] = _as_text(versions[0])
        return found

    def read(self, most: float) -> bytes:
        """Return the content, unless it is longer than ``most`` bytes.

        Raises
        ------
        ImageError
            If it cannot be read, or is longer.
        """
        if self.content is not None:
            return self.content
        with _told_in_one_line(self.url):
            content = _read_up_to(self.url, most)
        if len(content) > most:
            raise ImageError(f"{self.url} is too large: it has more than {most:.0f} bytes")
        return content

    def sha256(self) -> str:
        """Return the checksum of the content, of which no more is held than is hashed at once.

        Raises
        ------
        ImageError
            If it cannot be read.
        """
        digest = hashlib.sha256()
        with _told_in_one_line(self.url):
            for piece in _pieces(self.url) if self.content is None else [self.content]:
                digest.update(piece)
        return digest.hexdigest()


def below(url: str) -> list[tuple[RemoteFile, str]] | None:
    """Return all files in a folder and below it, with their paths inside it; None if this is no folder.

    Hidden ones are left out.

    Raises
    ------
    ImageError
        If the file system cannot be reached.
    """
    with _told_in_one_line(url):
        system, path = file_system(url, ImageError)
        if _is_web(url):
            # Only an index page can be a folder, and to ask is to read it.
            is_folder = url.endswith("/") and "?" not in url
            return _entries(system, url, _on_pages(path), path) if is_folder else None
        if not system.isdir(path):
            return None
        system.ls(path)  # tells what is wrong, which the next call passes over
        return _entries(system, url, system.find(path, detail=True), path)


def fitting(url: str) -> list[tuple[RemoteFile, str]] | None:
    """Return all files that a pattern fits, and those in folders that it fits; None if this is no pattern.

    Their paths are those inside the folder before the first ``*``, ``?`` or ``[``. Hidden ones are left out.

    Raises
    ------
    ImageError
        If the file system cannot be reached.
    """
    with _told_in_one_line(url):
        system, path = file_system(url, ImageError)
        parts = path.split("/")
        # In the address of a page, a question mark stands before its parameters.
        special = [part.replace("?", "") for part in parts] if _is_web(url) else parts
        fixed = next((k for k, part in enumerate(special) if glob.has_magic(part)), None)
        if fixed is None or system.exists(path):
            return None
        folder = "/".join(parts[:fixed])
        if _is_web(url):
            return _entries(system, url, _on_pages(f"{folder}/", "/".join(parts[fixed:])), folder)
        found: dict[str, Any] = {}
        for name, info in system.glob(path, detail=True).items():
            if info.get("type") != "directory":
                found[name] = info
            elif "**" not in parts:
                found.update(system.find(name, detail=True))
        return _entries(system, url, found, folder)


def _on_pages(folder: str, pattern: str = "**") -> dict[str, dict[str, Any]]:
    """Return the files of a web server's folder; an index page tells no more than names."""
    return {file: {} for file in index_pages.files(folder, _read_up_to, pattern)}


def beside(url: str, line: str) -> str:
    """Return the URL of a path that is relative to the folder of a file at a URL."""
    first, chained, rest = url.partition("::")
    return first.rpartition("/")[0] + "/" + line + chained + rest


def _entries(system: Any, url: str, found: Mapping[str, Any], folder: str) -> list[tuple[RemoteFile, str]]:
    entries = []
    for path, info in sorted(found.items()):
        name = path[len(folder.rstrip("/")) :].removeprefix("/")
        if _is_web(url):
            name = unquote(name)
        # What is no name at all is not hidden: the job refuses it.
        if not any(part.startswith(".") and part not in (".", "..") for part in name.split("/")):
            whole = f"{system.unstrip_protocol(path)}{''.join(url.partition('::')[1:])}"
            entries.append((RemoteFile(whole, info if info.get("size") is not None else None), name))
    return entries


def _as_text(version: Any) -> str:
    # One file system may tell a time in two ways.
    return repr(version.timestamp() if isinstance(version, datetime) else version).strip("'")


def _is_web(url: str) -> bool:
    return url.partition("://")[0].lower() in _WEB


def file_system(url: str, error: type[Error]) -> tuple[Any, str]:
    """Return the file system of a URL, and the path there.

    Raises
    ------
    Error
        Of the type given, if fsspec is missing.
    """
    fsspec = require("fsspec", f"{url}: URLs need", "cloud", error)
    protocols = {part.partition("://")[0] for part in url.split("::")}
    system, path = fsspec.core.url_to_fs(url, **{web: _web_options(web) for web in _WEB if web in protocols})
    return system, str(path)


def _web_options(protocol: str) -> dict[str, Any]:
    """Return what keeps a web server in bounds, together with what the user has set for fsspec."""
    from aiohttp import ClientTimeout
    from fsspec.config import conf

    given = conf.get(protocol, {}).get("client_kwargs", {})
    ours = {
        # A few bytes that unpack to gigabytes are never unpacked.
        "headers": {**given.get("headers", {}), "Accept-Encoding": "identity"},
        "auto_decompress": False,
        "response_class": _response_class(),
    }
    return {"client_kwargs": {"timeout": ClientTimeout(total=_SECONDS, sock_connect=30), **given, **ours}}


@cache
def _response_class() -> type:
    from aiohttp import ClientPayloadError, ClientResponse

    class Response(ClientResponse):
        async def start(self, *given: Any) -> ClientResponse:
            await super().start(*given)
            encoding = self.headers.get("Content-Encoding", "identity")
            if self.status < 300 and encoding.lower() != "identity":
                self.close()
                raise ClientPayloadError(f"it comes compressed ({encoding!r}), though asked for as it is")
            return self

        async def read(self) -> bytes:
            if self._body is None:
                content = bytearray()
                async for piece in self.content.iter_any():
                    content += piece
                    if len(content) > _MOST_AT_ONCE:
                        self.close()
                        raise ClientPayloadError(f"more than {_MOST_AT_ONCE:,} bytes come in one answer")
                self._body = bytes(content)
            return self._body

    return Response


def _read_up_to(url: str, most: float) -> bytes:
    """Return the content, or a little more than ``most`` bytes of it."""
    content = io.BytesIO()
    with closing(_pieces(url)) as pieces:
        for piece in pieces:
            content.write(piece)
            if content.tell() > most:
                break
    return content.getvalue()


def _pieces(url: str) -> Generator[bytes]:
    """Yield the content, piece by piece, in limited time."""
    system, path = file_system(url, ImageError)
    # What a web server says of the size may be wrong, and no stream needs it: any keeps fsspec from asking.
    options = {"block_size": 0, "size": 1} if _is_web(url) else {}
    until = time.monotonic() + _SECONDS
    with system.open(path, "rb", **options) as stream:
        while piece := stream.read(_PIECE):
            yield piece
            if time.monotonic() > until:
                raise TimeoutError


@contextmanager
def _told_in_one_line(url: str) -> Iterator[None]:
    """Turn whatever goes wrong with a URL into an ImageError: fsspec's file systems raise almost anything."""
    try:
        yield
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(f"{url}: {reason_of(error)}") from error


def reason_of(error: BaseException) -> str:
    """Return what a file system means by an exception, in a few words."""
    # Where fsspec says that there is no such file, the server may just not have answered.
    while isinstance(error, FileNotFoundError) and error.__cause__ is not None:
        error = error.__cause__
    status = getattr(error, "status", None)
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, ImportError):
        return f"a package for this kind of URL is missing: {text}"
    if isinstance(error, FileNotFoundError) or status in (404, 410):
        return NO_FILE
    if isinstance(error, PermissionError) or status in (401, 403):
        return "no permission"
    if status is not None:
        return f"the server answers {status} {getattr(error, 'message', '')}".rstrip()
    if isinstance(error, TimeoutError) or "Timeout" in type(error).__name__:
        return "no answer in time"
    if isinstance(error, OSError) and (error.errno or 0) > 0:
        return " ".join((error.strerror or text).split())
    return f"cannot be used: {text}"
