"""Index pages of web servers: the files below a folder, found by the links on its page and on those below it.

The pages may come from anyone, so what they can make d2np ask for and keep is limited.
"""

from __future__ import annotations

import html
import re
import time
from collections.abc import Callable, Iterator
from urllib.parse import unquote, urljoin, urlsplit

from ..errors import ImageError

MOST_FOLDERS = 10_000
MOST_FILES = 1_000_000
DEEPEST = 32
LONGEST_PAGE = 1 << 26
"""Bytes."""
MOST_TEXT = 1 << 28
"""Characters of all addresses together."""
SECONDS = 1800.0
"""For all pages together."""

_LONGEST_LINK = 4096
# Both take time that grows with the page only, whatever is in it.
_ANCHOR = re.compile(rb"<a\s([^<>]*)", re.IGNORECASE)
_HREF = re.compile(rb"""(?:^|\s)href\s*=\s*("[^"]*"|'[^']*'|[^\s"']+)""", re.IGNORECASE)


def files(folder: str, read: Callable[[str, int], bytes]) -> list[str]:
    """Return the URLs of all files in and below a folder of a web server. Hidden folders are left out.

    Parameters
    ----------
    folder : str
        Its URL, with the slash at its end.
    read : callable
        Returns the content of a page, given its URL and the most bytes that it may have.

    Raises
    ------
    ImageError
        If the pages are without end, or seem so: more folders, files, text or time than they may take.
    """
    found = {folder: None}
    pages = [folder]
    until, text = time.monotonic() + SECONDS, 0
    for page in pages:  # to which others are added meanwhile
        try:
            content = read(page, LONGEST_PAGE)
        except FileNotFoundError:
            if page == folder:
                raise
            continue
        _check(folder, time.monotonic(), until, f"pages than come in {SECONDS:.0f} s")
        for link in _links(content):
            url = _below(link, page)
            if not url or url in found or len(url) > _LONGEST_LINK:
                continue
            if url.endswith("/"):
                if unquote(url.split("/")[-2]).startswith("."):
                    continue
                pages.append(url)
            found[url] = None
            text += len(url)
            _check(folder, url[len(folder) :].count("/"), DEEPEST, "folders inside each other")
            _check(folder, len(pages), MOST_FOLDERS, "folders")
            _check(folder, len(found), MOST_FILES, "files")
            _check(folder, text, MOST_TEXT, "characters of addresses")
    return [url for url in found if not url.endswith("/")]


def _check(folder: str, number: float, most: float, what: str) -> None:
    if number > most:
        count = f"{most:,} " if isinstance(most, int) else ""
        raise ImageError(
            f"{folder}: its index pages have more than {count}{what}: name a folder below it, or list the "
            "images in a file and give @FILE"
        )


def _links(page: bytes) -> Iterator[str]:
    for anchor in _ANCHOR.finditer(page):
        if href := _HREF.search(anchor[1]):
            value = href[1].strip(b"\"'")
            # Longer ones are no addresses, and may hold numbers that Python does not read.
            if len(value) <= _LONGEST_LINK:
                yield html.unescape(value.decode("utf-8", "replace")).strip()


def _below(link: str, page: str) -> str:
    """Return the URL of what a page links to; the empty text if that is not below the page."""
    try:
        target, base = urlsplit(urljoin(page, link)), urlsplit(page)
    except ValueError:
        return ""
    if target.scheme not in ("http", "https") or _host(target.netloc) != _host(base.netloc):
        return ""
    above, path = base.path.split("/")[:-1], target.path.split("/")
    # Servers and users escape differently.
    if [unquote(part) for part in path[: len(above)]] != [unquote(part) for part in above]:
        return ""
    inside = "/".join(path[len(above) :])
    # Of pages with parameters there is no end, and none of them is a folder.
    if not inside or (target.query and inside.endswith("/")):
        return ""
    return f"{page}{inside}?{target.query}" if target.query else f"{page}{inside}"


def _host(netloc: str) -> str:
    """Return the host and port, without user and password."""
    return netloc.rpartition("@")[2].lower()
