"""Names of images: paths inside a folder, with forward slashes."""

from __future__ import annotations

from collections.abc import Iterator


def folders_of(name: str) -> Iterator[str]:
    """Yield the folders that a name lies in: of ``a/b/c.jpg`` these are ``a`` and ``a/b``."""
    end = name.find("/")
    while end >= 0:
        yield name[:end]
        end = name.find("/", end + 1)
