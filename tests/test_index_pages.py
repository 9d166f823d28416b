"""Index pages of web servers: which files they lead to, and where the search for them ends."""

from __future__ import annotations

import pytest

from d2np.errors import ImageError
from d2np.images import index_pages

TOP = "http://host/photos/"


def found(pages, top=TOP):
    """The files below a folder, and the pages that were asked for; both relative to it."""
    asked = []

    def read(url, most):
        asked.append(url.removeprefix(top))
        page = pages.get(asked[-1]) if isinstance(pages, dict) else pages(url)
        if page is None:
            raise FileNotFoundError(url)
        return page.encode()[: most + 1]

    return [url.removeprefix(top) for url in index_pages.files(top, read)], asked


def linking(*links):
    return "".join(f'<a href="{link}">x</a>\n' for link in links)


@pytest.mark.parametrize(
    ("link", "inside"),
    [
        ('<a href="a.png">', ["a.png"]),
        ("<A class=x HREF = 'a.png' >", ["a.png"]),
        ("<a href=a.png>", ["a.png"]),
        ('<a\nhref="/photos/a.png">', ["a.png"]),
        ('<a href="http://host/photos/a.png">', ["a.png"]),
        ('<a href="https://HOST/photos/a.png#top">', ["a.png"]),
        ('<a href="/%70hotos/b%20c.png?size=1&amp;x=2">', ["b%20c.png?size=1&x=2"]),
        ('<a href="sub/deep/a.png">', ["sub/deep/a.png"]),
        ('<a href="a.png"><a href="a.png">', ["a.png"]),
        *(
            (f'<a href="{link}">', [])
            for link in (
                *("", "?C=N;O=D", "#a", "../", "..", "/", "/photos", "/photos/", "/photos2/a.png"),
                *("//other/a.png", "../a.png", "/a.png", "http://other/photos/a.png"),
                *("http://host:81/photos/a.png",),
                *("javascript:x()", "file:///photos/a.png", "http://[::1/", "%00/../../a.png"),
                *("a/?dir=b/", "x" * 5000, "&#" + "9" * 4096),
            )
        ),
        ('<abbr href="a.png"><a data-href="a.png"> href="a.png"', []),
    ],
)
def test_what_is_a_link(link, inside):
    assert found({"": link})[0] == inside


def test_folders_are_entered_once():
    pages = {
        "": linking("sub/", "/photos/sub/", "none/", ".hidden/", "a.png"),
        "sub/": linking("../", "../sub/", "b%20c.png", "/photos/a.png"),
    }
    files, asked = found(pages)
    assert files == ["a.png", "sub/b%20c.png"]
    assert asked == ["", "sub/", "none/"]
    with pytest.raises(FileNotFoundError):
        found({})


def endless_tree(url):
    return linking("a/", "b/")


@pytest.mark.parametrize(
    ("limit", "value", "page", "message"),
    [
        ("MOST_FOLDERS", 20, endless_tree, "more than 20 folders: name a folder below it, or list"),
        ("DEEPEST", 4, lambda url: linking("a/"), "more than 4 folders inside each other"),
        ("MOST_FILES", 5, lambda url: linking(*range(6)), "more than 5 files"),
        (
            "MOST_TEXT",
            1000,
            lambda url: linking("x" * 500, "y" * 500),
            "more than 1,000 characters of addresses",
        ),
        ("SECONDS", -1.0, lambda url: "", r"more than pages than come in -1 s"),
    ],
)
def test_limits(monkeypatch, limit, value, page, message):
    monkeypatch.setattr(index_pages, limit, value)
    with pytest.raises(ImageError, match=f"^{TOP}: its index pages have {message}"):
        found(page)


def test_limits_as_they_are():
    """Folders with two folders each, for ever: a reader of pages that counts none of them would not end."""
    asked = []

    def read(url, most):
        asked.append(url)
        return endless_tree(url).encode()

    with pytest.raises(ImageError, match="more than 10,000 folders"):
        index_pages.files(TOP, read)
    assert len(asked) <= 10_000


@pytest.mark.parametrize("beginning", ["<a ", "<a href ", '<a href="', "<a href=x", " "])
def test_pages_that_are_slow_to_search(beginning):
    """Searched with an expression that tries every beginning with every end, each would take hours."""
    assert found({"": "<a" + beginning * 50_000})[0] in ([], ["x"])
