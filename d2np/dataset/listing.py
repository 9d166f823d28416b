"""Pictures, folders, patterns and lists as a user gives them: which pictures are meant, and their names."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath

from .. import remote
from ..errors import ImageError, OptionError
from ..remote import RemoteFile

EXTENSIONS = (
    *(".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm"),
    *(".ppm", ".tga", ".tif", ".tiff", ".webp"),
)
"""What is taken for a picture in a folder. A file that is named itself may have any extension."""

_NO_PICTURES = f"holds no pictures ({', '.join(EXTENSIONS)})"
_LONGEST_LIST = 1 << 27


@dataclass(frozen=True)
class Entry:
    """A picture to work on.

    Attributes
    ----------
    path : Path or RemoteFile
        Where it is; it may turn out not to exist.
    name : str
        What it is filed under, with forward slashes.
    """

    path: Path | RemoteFile
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

        Each may be a URL that fsspec knows, as may a list and its lines: folders and patterns where the file
        system can list what is there (of a web server's index pages, those whose URL ends with a slash).

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
    source = remote.local_path(source) or source
    if source.startswith("@"):
        entries, what = list(_listed(source[1:])), "names no pictures"
    elif remote.is_url(source):
        entries, what = _at_url(source)
    elif os.path.isdir(source):
        entries = [Entry(path, _name(path, Path(source))) for path in _pictures_below(Path(source))]
        what = _NO_PICTURES
    elif glob.has_magic(source) and not os.path.lexists(source):
        entries, what = list(_fitting(source)), "fits no picture"
    else:
        return [Entry(Path(source), os.path.basename(source) or source)]
    if not entries:
        raise ImageError(f"{source} {what}")
    return entries


def _at_url(url: str) -> tuple[list[Entry], str]:
    """The pictures that a URL means, and what to say if there are none."""
    found = remote.fitting(url)
    if found is not None:
        return [Entry(file, name) for file, name in found], "fits no picture"
    found = remote.below(url)
    if found is not None:
        pictures = [(file, name) for file, name in found if PurePath(name).suffix.lower() in EXTENSIONS]
        return [Entry(file, name) for file, name in pictures], _NO_PICTURES
    file = RemoteFile(url)
    return [Entry(file, file.name)], ""


def _listed(path: str) -> Iterator[Entry]:
    path = remote.local_path(path) or path
    for line in _text(path).splitlines():
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        if remote.is_url(line):
            local = remote.local_path(line)
            picture = RemoteFile(line) if local is None else Path(local)
            yield Entry(picture, picture.name)
        elif remote.is_url(path):
            yield Entry(RemoteFile(remote.beside(path, line)), _plain_name(line))
        else:
            beside = Path(path).parent / line
            # Unlike Path.exists, this takes names that are too long for the system.
            here = beside if os.path.exists(beside) or not os.path.exists(line) else Path(line)
            yield Entry(here, _plain_name(line))


def _text(path: str) -> str:
    """The text of a list."""
    try:
        local = not remote.is_url(path)
        content = Path(path).read_bytes() if local else RemoteFile(path).read(_LONGEST_LIST)
    except OSError as error:
        raise ImageError(f"{path}: the list cannot be read: {error.strerror or error}") from None
    # File names may hold bytes that are not text; some editors begin a file with a mark.
    text = content.decode("utf-8-sig", "surrogateescape")
    if "\0" in text:
        raise ImageError(f"{path}: not a list of pictures: a text with one path a line is expected")
    return text


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


def _same(a: Path | RemoteFile, b: Path | RemoteFile) -> bool:
    if isinstance(a, RemoteFile) or isinstance(b, RemoteFile):
        return a == b
    return os.path.realpath(a) == os.path.realpath(b)
