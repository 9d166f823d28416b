"""Files given by URL, through fsspec, which knows S3, HTTP and many others. Needs the extra ``cloud``."""

from __future__ import annotations

import hashlib
import math
import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

from ..errors import Error, ImageError
from ..extras import require
from . import index_pages

# A single letter is a drive of Windows.
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+(::[A-Za-z][A-Za-z0-9+.-]+)*://")
_ON_WEB = re.compile(r"https?://", re.IGNORECASE)
# What file systems call that which changes when a file's content does; the first one there is taken.
_VERSIONS = ("ETag", "etag", "mtime", "LastModified", "last_modified", "Last-Modified", "updated", "created")
_PIECE = 1 << 20
_SECONDS = 600.0
"""For one request, and for reading one file."""

NO_FILE = "there is no such file"
"""How the message ends where that is what a server says."""


def is_url(text: str) -> bool:
    """Return whether this is a URL, such as ``s3://bucket/a.jpg``, or several chained as fsspec does it."""
    return _URL.match(text) is not None


def local_path(url: str, *, windows: bool = os.name == "nt") -> str | None:
    """Return the path that a URL ``file:///`` means; None for all other URLs.

    Raises
    ------
    ImageError
        If it names another machine.
    """
    if not url.lower().startswith("file://"):
        return None
    host, slash, path = url[7:].partition("/")
    if host not in ("", "localhost"):
        raise ImageError(f"{url}: a file on another machine cannot be read: write file:///path")
    path = unquote(slash + path)
    return re.sub(r"^/([A-Za-z]:)", r"\1", path) if windows else path


@dataclass(frozen=True)
class RemoteFile:
    """A file at a URL. Wherever it is shown or asked for its path, it gives the URL.

    Attributes
    ----------
    url : str
    content : bytes, optional
        What :meth:`read` has read, where it is to be read no more.
    """

    url: str
    content: bytes | None = field(default=None, compare=False, repr=False)

    def __fspath__(self) -> str:
        return self.url

    def __str__(self) -> str:
        return self.url

    @property
    def name(self) -> str:
        """The last part of the URL."""
        first = self.url.partition("::")[0]
        path = unquote(urlsplit(first).path) if _ON_WEB.match(first) else first
        return path.rstrip("/").rpartition("/")[2] or first

    def version(self) -> dict[str, int | str]:
        """Return what shows that the content is still the same: its size, and a tag or a time.

        Raises
        ------
        ImageError
            If it cannot be asked.
        """
        with _told_in_one_line(self.url):
            system, path = file_system(self.url, ImageError)
            info = system.info(path)
        version = next((str(info[key]) for key in _VERSIONS if info.get(key)), None)
        found = {"size": info.get("size"), "version": version}
        return {key: value for key, value in found.items() if value is not None}

    def read(self, most: float) -> bytes:
        """Return the content, unless it is longer than ``most`` bytes.

        Raises
        ------
        ImageError
            If it cannot be read, or is longer.
        """
        return b"".join(self._pieces(most)) if self.content is None else self.content

    def sha256(self) -> str:
        """Return the checksum of the content, of which no more is held than is hashed at once.

        Raises
        ------
        ImageError
            If it cannot be read.
        """
        digest = hashlib.sha256()
        for piece in self._pieces(math.inf):
            digest.update(piece)
        return digest.hexdigest()

    def _pieces(self, most: float) -> Iterator[bytes]:
        """Yield the content, piece by piece, in limited time."""
        with _told_in_one_line(self.url):
            system, path = file_system(self.url, ImageError)
            # What a web server says of the size may be wrong, and no stream needs it: any keeps fsspec from
            # asking.
            options = {"block_size": 0, "size": 1} if _ON_WEB.match(self.url) else {}
            until, count = time.monotonic() + _SECONDS, 0
            with system.open(path, "rb", **options) as stream:
                while piece := stream.read(_PIECE):
                    count += len(piece)
                    if count > most:
                        raise ImageError(f"{self.url} is too large: it has more than {most:.0f} bytes")
                    if time.monotonic() > until:
                        raise TimeoutError
                    yield piece


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
        if _ON_WEB.match(url):
            # Only an index page can be a folder, and to ask is to read it.
            is_folder = url.endswith("/") and "?" not in url
            return _entries(system, url, index_pages.files(path, _page), path) if is_folder else None
        if not system.isdir(path):
            return None
        system.ls(path)  # tells what is wrong, which the next call passes over
        return _entries(system, url, system.find(path), path)


def _page(url: str, most: int) -> bytes:
    try:
        return RemoteFile(url).read(most)
    except ImageError as error:
        if str(error).endswith(NO_FILE):
            raise FileNotFoundError(url) from None
        raise


def beside(url: str, line: str) -> str:
    """Return the URL of a path that is relative to the folder of a file at a URL."""
    first, chained, rest = url.partition("::")
    return first.rpartition("/")[0] + "/" + line + chained + rest


def _entries(system: Any, url: str, found: Iterable[str], folder: str) -> list[tuple[RemoteFile, str]]:
    entries = []
    for path in sorted(found):
        name = path[len(folder.rstrip("/")) :].removeprefix("/")
        if _ON_WEB.match(url):
            name = unquote(name)
        # What is no name at all is not hidden: the job refuses it.
        if not any(part.startswith(".") and part not in (".", "..") for part in name.split("/")):
            whole = f"{system.unstrip_protocol(path)}{''.join(url.partition('::')[1:])}"
            entries.append((RemoteFile(whole), name))
    return entries


def file_system(url: str, error: type[Error]) -> tuple[Any, str]:
    """Return the file system of a URL, and the path there.

    Raises
    ------
    Error
        Of the type given, if fsspec is missing, or the URL means a part of what a web server has: those who
        read parts may be sent more than they have asked for.
    """
    fsspec = require("fsspec", f"{url}: URLs need", "cloud", error)
    options = {}
    if _ON_WEB.match(url):
        options = _web_options(url.partition("://")[0].lower())
    elif any(map(_ON_WEB.match, url.split("::"))):
        raise error(f"{url}: cannot be read in parts from a web server: download the archive")
    system, path = fsspec.core.url_to_fs(url, **options)
    return system, str(path)


def _web_options(protocol: str) -> dict[str, Any]:
    """Return what keeps a web server in bounds, together with what the user has set for fsspec."""
    from aiohttp import ClientTimeout
    from fsspec.config import conf

    given = conf.get(protocol, {}).get("client_kwargs", {})
    # A few bytes that unpack to gigabytes are neither asked for nor unpacked.
    headers = {**given.get("headers", {}), "Accept-Encoding": "identity"}
    timeout = ClientTimeout(total=_SECONDS, sock_connect=30)
    return {"client_kwargs": {"timeout": timeout, **given, "headers": headers, "auto_decompress": False}}


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
    if isinstance(error, FileNotFoundError) or status in (404, 410):
        return NO_FILE
    if isinstance(error, PermissionError) or status in (401, 403):
        return "no permission"
    if "Timeout" in type(error).__name__:
        return "no answer in time"
    return " ".join(f"cannot be used: {str(error) or type(error).__name__}".split())
