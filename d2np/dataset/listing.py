"""Pictures, folders, patterns and lists as a user gives them: which pictures are meant, and their names."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath

from ..errors import ImageError, OptionError

EXTENSIONS = (
    *(".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm"),
    *(".ppm", ".tga", ".tif", ".tiff", ".webp"),
)
"""What is taken for a picture in a folder. A file that is named itself may have any extension."""


@dataclass(frozen=True)
class Entry:
    """A picture to work on.

    Attributes
    ----------
    path : Path
        Where it is; it may turn out not to exist.
    name : str
        What it is filed under, with forward slashes.
    """

    path: Path
    name: str


def listing(sources: Iterable[str | os.PathLike[str]]) -> list[Entry]:
    """All pictures that are meant, each once, in the order given; those of a folder in alphabetical order.

    Parameters
    ----------
    sources : list of str or path
        * a folder: all pictures in it and below it, named by their path inside it; hidden ones are left out
        * ``@list.txt``: a path a line, relative to the list's folder or else to the working folder, which is
          also the picture's name (of absolute paths only the file's name); blank lines and lines that start
          with ``#`` do not count
        * a pattern with ``*``, ``?``, ``[...]`` or ``**``: all it fits, named by their path inside the folder
          before its first such character
        * anything else: a picture, named as its file

    Raises
    ------
    ImageError
        If a list cannot be read, or a folder, pattern or list has no pictures.
    OptionError
        If two different pictures would have the same name.
    """
    found: dict[str, Entry] = {}
    for source in sources:
        for entry in _entries(os.fspath(source)):
            other = found.setdefault(entry.name, entry)
            if other is not entry and not _same(other.path, entry.path):
                raise OptionError(
                    f"{other.path} and {entry.path} would both be filed under {entry.name}: "
                    "extract them into different outputs, or name the folder above them"
                )
    return list(found.values())


def _entries(source: str) -> list[Entry]:
    if source.startswith("@"):
        entries = list(_listed(Path(source[1:])))
        what = "names no pictures"
    elif os.path.isdir(source):
        entries = [Entry(path, _name(path, Path(source))) for path in _pictures_below(Path(source))]
        what = f"holds no pictures ({', '.join(EXTENSIONS)})"
    elif glob.has_magic(source) and not os.path.lexists(source):
        entries = list(_fitting(source))
        what = "fits no picture"
    else:
        return [Entry(Path(source), os.path.basename(source) or source)]
    if not entries:
        raise ImageError(f"{source} {what}")
    return entries


def _listed(path: Path) -> Iterator[Entry]:
    try:
        # File names may hold bytes that are not text; some editors begin a file with a mark.
        text = path.read_text("utf-8-sig", "surrogateescape")
    except OSError as error:
        raise ImageError(f"{path}: the list cannot be read: {error.strerror or error}") from None
    if "\0" in text:
        raise ImageError(f"{path}: not a list of pictures: a text with one path a line is expected")
    for line in text.splitlines():
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        beside = path.parent / line
        # Unlike Path.exists, this takes names that are too long for the system.
        here = beside if os.path.exists(beside) or not os.path.exists(line) else Path(line)
        yield Entry(here, _plain_name(line))


def _plain_name(line: str) -> str:
    """The path itself, unless it leads out of the folder it starts from."""
    path = PurePath(os.path.normpath(line))
    return path.name if path.is_absolute() or ".." in path.parts else path.as_posix()


def _fitting(pattern: str) -> Iterator[Entry]:
    parts = Path(pattern).parts
    fixed = next(k for k, part in enumerate(parts) if glob.has_magic(part))
    folder = Path(*parts[:fixed])
    for match in sorted(glob.glob(pattern, recursive=True)):
        path = Path(match)
        for picture in _pictures_below(path) if path.is_dir() and "**" not in parts else [path]:
            if not picture.is_dir():
                yield Entry(picture, _name(picture, folder))


def _name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def _pictures_below(folder: Path, above: frozenset[str] = frozenset()) -> Iterator[Path]:
    # A link to a folder further up would go round for ever.
    real = os.path.realpath(folder)
    if real in above:
        return
    try:
        children = sorted(folder.iterdir())
    except OSError as error:
        raise ImageError(f"{folder}: the folder cannot be read: {error.strerror or error}") from None
    for child in children:
        if child.name.startswith("."):
            continue
        if child.is_dir():
            yield from _pictures_below(child, above | {real})
        elif child.suffix.lower() in EXTENSIONS:
            yield child


def _same(a: Path, b: Path) -> bool:
    return os.path.realpath(a) == os.path.realpath(b)
