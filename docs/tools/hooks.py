"""Hooks of MkDocs: pages from the repository's root, and a look at the finished links.

``README.md``, ``SECURITY.md`` and a few more files stay where people look for them in a repository. Here they
become pages of the site, and links between them and ``docs/`` are turned into links between pages.
"""

from __future__ import annotations

import logging
import posixpath
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

sys.path.insert(0, str(Path(__file__).parent))
import links

ROOT = Path(__file__).parents[2]

PAGES = {
    "README.md": "index.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "LICENSE": "licence.md",
    "benchmarks/NOTES.md": "notes.md",
    "d2np/data/README.md": "demo-image.md",
    "fuzz/README.md": "fuzzing.md",
    "weights/README.md": "weight-files.md",
}
"""Files outside ``docs/`` that are pages of the site, and where they stand in it."""

_SOURCES = {page: source for source, page in PAGES.items()}
_FENCE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]+)\)")
_SAYS_NOTHING = re.compile(r"–\s*<div class=\"doc-md-description\">\s*</div>")

log = logging.getLogger("mkdocs.hooks.d2np")


def on_files(files: Any, config: Any) -> Any:
    for source, page in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        if source == "LICENSE":
            text = f"# Licence\n\n```text\n{text}```\n"
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    if page.file.src_uri == "index.md":
        page.meta["hide"] = ["navigation"]  # there would be nothing but itself
    return rewritten(markdown, page.file.src_uri, titles(config.nav))


def on_page_content(html: str, **_: Any) -> str:
    # mkdocstrings puts a dash behind a parameter's type even where nothing is said of it.
    return _SAYS_NOTHING.sub("", html)


def on_post_build(config: Any) -> None:
    for complaint in links.complaints(Path(config.site_dir)):
        log.warning(complaint)


def titles(nav: list[dict[str, Any]]) -> dict[str, str]:
    """The pages' titles by where they stand, from the configuration's ``nav``."""
    found: dict[str, str] = {}
    for entry in nav:
        for title, inside in entry.items():
            found.update({inside: title} if isinstance(inside, str) else titles(inside))
    return found


def rewritten(markdown: str, page: str, titles: dict[str, str]) -> str:
    """The text of a page of the site, its links to files of the repository turned into links to pages.

    A link whose text is a file's name, as one writes it in a repository, gets the page's title for a text.

    Parameters
    ----------
    markdown : str
    page : str
        Where it stands in the site, such as ``"index.md"``. Links are as seen from the file that it comes
        from, ``README.md``.
    titles : dict of str to str
        Of the pages, by where they stand.
    """
    folder = posixpath.dirname(_SOURCES.get(page, f"docs/{page}"))

    def link(match: re.Match[str]) -> str:
        text, target = match.groups()
        path, hash_sign, anchor = target.partition("#")
        if not path or re.match(r"\w+:", path):
            return match.group()
        named = posixpath.normpath(posixpath.join(folder, path))
        if named in PAGES:
            there = PAGES[named]
        elif named.startswith("docs/"):
            there = named.removeprefix("docs/")
        else:
            log.warning("%s links to %s, which is no page of the site", page, named)
            return match.group()
        if text == path:
            text = titles.get(there, text)
        seen = posixpath.relpath(there, posixpath.dirname(page) or ".")
        return f"[{text}]({seen}{hash_sign}{anchor})"

    # Code between fences is the reader's, and stays as it is.
    parts = _FENCE.split(markdown)
    return "".join(part if k % 2 else _LINK.sub(link, part) for k, part in enumerate(parts))
