"""Index pages of web servers: the files below a folder, found by the links on its page and on those below it.

The pages may come from anyone, so what they can make d2np ask for and keep is limited.
"""

from __future__ import annotations

import html
import re
import time
from collections import deque
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from functools import lru_cache
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


def files(folder: str, read: Callable[[str, int], bytes], pattern: str = "**") -> list[str]:
    """Return the URLs of all files in and below a folder of a web server that a pattern fits.

    Parameters
    ----------
    folder : str
        Its URL, with the slash at its end.
    read : callable
        Returns the content of a page, given its URL and a number of bytes: if there is more, a little more
        than that number.
    pattern : str
        Of the paths inside the folder; a part ``**`` fits any number of folders. Without such a part, all
        files in folders that it fits are found too.

    Raises
    ------
    ImageError
        If the pages are without end, or seem so: more folders, files, text or time than they may take.
    """
    parts = tuple(pattern.replace("?", "[?]").split("/"))
    if "**" not in parts:
        parts = (*parts, "**")
    found: dict[str, None] = {}
    seen, waiting = {folder}, deque([folder])
    until, text = time.monotonic() + SECONDS, 0
    while waiting:
        page = waiting.popleft()
        try:
            content = read(page, LONGEST_PAGE)
        except FileNotFoundError:
            if page == folder:
                raise
            continue
        _check(folder, len(content), LONGEST_PAGE, "bytes on one page")
        _check(folder, time.monotonic(), until, f"pages than come in {SECONDS:.0f} s")
        for link in _links(content):
            inside = _inside(link, page)
            url = f"{page}{inside}"
            if not inside or url in found or url in seen or len(url) > _LONGEST_LINK:
                continue
            names = tuple(unquote(name) for name in url[len(folder) :].split("/"))
            if not inside.endswith("/"):
                if not _fits(names, parts):
                    continue
                found[url] = None
            elif _leads_on(names[:-1], parts):
                seen.add(url)
                waiting.append(url)
            text += len(url)
            _check(folder, len(names) - 1, DEEPEST, "folders inside each other")
            _check(folder, len(seen), MOST_FOLDERS, "folders")
            _check(folder, len(found), MOST_FILES, "files")
            _check(folder, text, MOST_TEXT, "characters of addresses")
    return list(found)


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


def _inside(link: str, page: str) -> str:
    """Return the path from a page to what it links to; the empty one if that is not below the page."""
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
    if not inside or not target.query:
        return inside
    # Of pages with parameters there is no end, and none of them is a folder.
    return "" if inside.endswith("/") else f"{inside}?{target.query}"


def _host(netloc: str) -> str:
    """Return the host and port, without user and password."""
    return netloc.rpartition("@")[2].lower()


@lru_cache(1024)
def _fits(names: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    """Return whether a pattern fits a path; a part ``**`` fits any number of its parts."""
    if not pattern or not names:
        return not names and all(part == "**" for part in pattern)
    if pattern[0] == "**":
        return _fits(names, pattern[1:]) or _fits(names[1:], pattern)
    return fnmatchcase(names[0], pattern[0]) and _fits(names[1:], pattern[1:])


def _leads_on(names: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    """Return whether what a pattern fits may be in a folder. Hidden ones are left out."""
    return not names[-1].startswith(".") and all(map(fnmatchcase, names, pattern[: pattern.index("**")]))
