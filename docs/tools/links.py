"""Are all links of the built site good? Of pages as they were written, not of their sources.

    python docs/tools/links.py build/site

Links to other hosts are not followed. What a page loads of itself (images, styles, scripts) must be in the
site: nothing may be asked of another host while it is read.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADING = {
    "img": ("src", "srcset"),
    "script": ("src",),
    "source": ("src", "srcset"),
    "iframe": ("src",),
    "video": ("src", "poster"),
    "audio": ("src",),
    "object": ("data",),
}
"""Elements that a browser fetches without being asked; of links in the head, LOADED_RELATIONS alone."""
LOADED_RELATIONS = {
    "stylesheet",
    "icon",
    "preload",
    "modulepreload",
    "preconnect",
    "dns-prefetch",
    "manifest",
}


class Page(HTMLParser):
    """The anchors of a page, where its links lead, and what it loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.leads: list[str] = []
        self.loads: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors.update(given[name] for name in ("id", "name") if given.get(name))
        if tag == "a" and "href" in given:
            self.leads.append(given["href"])
        if tag == "link" and LOADED_RELATIONS & set(given.get("rel", "").split()):
            self.loads.append(given.get("href", ""))
        for name in LOADING.get(tag, ()):
            if name in given:
                entries = given[name].split(",") if name == "srcset" else [given[name]]
                self.loads.extend(entry.split()[0] for entry in entries if entry.strip())


def complaints(site: Path) -> Iterator[str]:
    """One sentence for each link that leads nowhere, and for each thing that would come from elsewhere."""
    pages = {path.resolve(): Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    if not pages:
        yield f"there are no pages in {site}"
    for path, page in pages.items():
        name = path.relative_to(site.resolve()).as_posix()
        if name == "404.html":
            continue  # served for any address: its links begin at the server's root
        for target in page.loads:
            if _elsewhere(target):
                yield f"{name} loads {target} from another host"
        for target in [*page.leads, *page.loads]:
            if target and not _elsewhere(target) and (reason := _missing(target, path, pages)):
                yield f"{name} links to {target}, {reason}"


def _elsewhere(target: str) -> bool:
    parts = urlsplit(target)
    return bool(parts.netloc) or parts.scheme in ("http", "https")


def _missing(target: str, path: Path, pages: dict[Path, Page]) -> str:
    parts = urlsplit(target)
    if parts.scheme:
        return "" if parts.scheme in ("mailto", "data") else "whose kind is not known"
    there = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if there.is_dir():
        there = there / "index.html"
    if not there.exists():
        return "which does not exist"
    anchor = unquote(parts.fragment)
    if anchor and there in pages and anchor not in pages[there].anchors:
        return "where there is no such anchor"
    return ""


if __name__ == "__main__":
    found = list(complaints(Path(sys.argv[1] if len(sys.argv) > 1 else "build/site")))
    print("\n".join(found) or "all links are good")
    sys.exit(bool(found))
