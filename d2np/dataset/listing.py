"""Images, folders, patterns and lists as a user gives them: which images are meant, and their names."""

from __future__ import annotations

import fnmatch
import glob
import os
import re
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path, PurePath

from .. import streams
from ..errors import ImageError, OptionError
from ..images import names, raw, remote
from ..images.remote import RemoteFile
from .masks import Masks

EXTENSIONS = (
    *(".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm"),
    *(".ppm", ".tga", ".tif", ".tiff", ".webp"),
)
"""Extensions of images in a folder. A file that is named itself may have any extension."""

_BY_EXTRA = {
    **dict.fromkeys((".heic", ".heif", ".hif"), ("heif", "pillow_heif")),
    **dict.fromkeys(raw.EXTENSIONS, ("raw", "rawpy")),
}
"""The extra that reads images with an extension, and its module."""

_NOT_READ = (".avifs", ".dds", ".exr", ".hdr", ".jxl", ".jxr", ".psd", ".svg", ".xcf")
"""Other images that are left out in a folder."""

_NO_IMAGES = f"holds no images ({', '.join(EXTENSIONS)})"
_LONGEST_LIST = 1 << 27


@dataclass(frozen=True)
class Entry:
    """An image to work on.

    Attributes
    ----------
    path : Path or RemoteFile
        Where it is; it may turn out not to exist.
    name : str
        What it is filed under, with forward slashes.
    mask : Path, optional
        Its mask, which may turn out not to exist either.
    """

    path: Path | RemoteFile
    name: str
    mask: Path | None = None


def listing(
    sources: Iterable[str | os.PathLike[str]],
    *,
    beside: bool = False,
    masks: str | os.PathLike[str] | None = None,
    tell: Callable[[str], object] = lambda _: None,
) -> list[Entry]:
    """All images that are meant, each once, in the order given; those of a folder in alphabetical order.

    Parameters
    ----------
    sources : list of str or path
        * a folder: all images in it and below it, named by their path inside it; hidden ones are left out,
          and a folder that links lead to counts once
        * ``@list.txt``: a path a line, relative to the list's folder or else to the working folder, which is
          also the image's name (of absolute paths only the file's name); blank lines and lines that start
          with ``#`` do not count; ``@-`` reads such a list from standard input
        * a pattern with ``*``, ``?``, ``[...]`` or ``**``: all it fits, named by their path inside the folder
          before its first such character
        * anything else: an image, named as its file; one that is missing must have the extension of an image

        An image, a list and its lines may be URLs that fsspec knows, and so may a folder where the file
        system can list what is there (of a web server's index pages, those whose URL ends with a slash).
    beside : bool
        The features go beside the images, as with ``NpzOutput()``: a file is named by its path from the root
        of the file system on, so that files of different folders never have the same name.
    masks : path, optional
        A folder of masks or one mask for all images, see :class:`~d2np.dataset.masks.Masks`; they are no
        images. An image without a mask fails when its turn comes, as with COLMAP.
    tell : callable, optional
        Called with a sentence on images in folders that are left out, as d2np does not read them, if there
        are any.

    Raises
    ------
    ImageError
        If a list cannot be read, a folder is missing, or a folder, pattern or list has no images.
    OptionError
        If two different images would have the same name, or no image has a mask in the folder.
    """
    known = None if masks is None else Masks(masks)
    found: dict[tuple[str, str], Entry] = {}
    left_out: dict[str, str] = {}
    for source in sources:
        for entry in _entries(os.fspath(source), left_out):
            if known is not None:
                if known.hold(entry.path):
                    continue
                entry = replace(entry, mask=known.of(entry.name))
            if beside and isinstance(entry.path, Path):
                entry = replace(entry, name=_whole_path(entry.path))
            # Of names that the job will refuse, each is named.
            place = "" if names.is_valid(entry.name) else str(entry.path)
            other = found.setdefault((entry.name, place), entry)
            if other is not entry and not _same(other.path, entry.path):
                raise OptionError(
                    f"{other.path} and {entry.path} would both be filed under {entry.name}: "
                    "extract them into different outputs, or name the folder above them"
                )
    if known is not None and not any(entry.mask and entry.mask.is_file() for entry in found.values()):
        raise OptionError(
            f"{known.place}: none of the images has a mask there; that of a/b.jpg is a/b.jpg.png or a/b.png"
        )
    if left_out:
        tell(_told_of(left_out))
    return list(found.values())


def _check_there(path: str, what: str = "file or folder") -> None:
    if not os.path.lexists(path):
        raise ImageError(f"no such {what}: {path}{names.near(path)}")


def _told_of(left_out: dict[str, str]) -> str:
    """Say how many files of which kinds were left out."""
    kinds = ", ".join(f"{number:,} {kind}" for kind, number in Counter(left_out.values()).most_common())
    extras = sorted({_BY_EXTRA[kind][0] for kind in left_out.values() if kind in _BY_EXTRA})
    or_else = f", or pip install 'd2np[{','.join(extras)}]'" if extras else ""
    return f"files left out, which d2np does not read: {kinds}: convert them to JPEG or TIFF{or_else}"


def _entries(source: str, left_out: dict[str, str]) -> list[Entry]:
    source = remote.local_path(source) or source
    if source.startswith("@"):
        entries, what = list(_listed(source[1:])), "names no images"
    elif remote.is_url(source):
        entries, what = _at_url(source, left_out), _NO_IMAGES
    elif os.path.isdir(source):
        folder = Path(source)
        entries = [Entry(path, _name(path, folder)) for path in _files(folder, (), left_out)]
        what = _NO_IMAGES
    elif glob.has_magic(source) and not os.path.lexists(source):
        entries, what = _fitting(source, left_out), "fits no image"
    else:
        # An image that is missing is told at the end, and the others are done; a mistake is told at once.
        if PurePath(source).suffix.lower() not in EXTENSIONS or source.endswith(os.sep):
            _check_there(source)
        return [Entry(Path(source), os.path.basename(source) or source)]
    if not entries:
        raise ImageError(f"{source} {what}" + (f": {_told_of(left_out)}" if left_out else ""))
    return entries


def _at_url(url: str, left_out: dict[str, str]) -> list[Entry]:
    if "*" in url.partition("?")[0]:
        raise ImageError(
            f"{url}: patterns are for files of this machine: name the folder, or list the images"
        )
    found = remote.below(url)
    if found is None:
        return [Entry(RemoteFile(url), RemoteFile(url).name)]
    return [Entry(file, name) for file, name in found if _is_taken(file, name, left_out)]


def _listed(path: str) -> Iterator[Entry]:
    path = remote.local_path(path) or path
    # Names may hold other characters at which Python would split lines.
    for line in re.split(r"\r\n|\r|\n", _text(path)):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        if remote.is_url(line):
            local = remote.local_path(line)
            image = RemoteFile(line) if local is None else Path(local)
            yield Entry(image, image.name)
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
        if remote.is_url(path):
            content = RemoteFile(path).read(_LONGEST_LIST)
        else:
            if path != "-":
                _check_there(path, "list")
            content = streams.read(path)
    except OSError as error:
        raise ImageError(f"{path}: the list cannot be read: {error.strerror or error}") from None
    # File names may hold bytes that are not text; some editors begin a file with a mark.
    text = content.decode("utf-8-sig", "surrogateescape")
    if "\0" in text:
        raise ImageError(f"{path}: not a list of images: a text with one path a line is expected")
    return text


def _plain_name(line: str) -> str:
    """The path itself, unless it leads out of the folder it starts from."""
    path = PurePath(os.path.normpath(line))
    return path.name if path.is_absolute() or ".." in path.parts else path.as_posix()


def _whole_path(path: Path) -> str:
    """The path of a file from the root on, without links to folders and without the root."""
    whole = PurePath(os.path.realpath(path.parent), path.name)
    # Windows has drives C: and \\server\share.
    return PurePath(whole.drive.strip("\\:"), *whole.parts[1:]).as_posix()


def _is_taken(file: Path | RemoteFile, name: str, left_out: dict[str, str]) -> bool:
    """Whether a file in a folder is taken for an image; one that d2np does not read is remembered."""
    extension = PurePath(name).suffix.lower()
    if extension in _BY_EXTRA and find_spec(_BY_EXTRA[extension][1]):
        return True
    if extension in _BY_EXTRA or extension in _NOT_READ:
        left_out[str(file)] = extension
    return extension in EXTENSIONS


def _fitting(pattern: str, left_out: dict[str, str]) -> list[Entry]:
    parts = Path(pattern).parts
    fixed = next(k for k, part in enumerate(parts) if glob.has_magic(part))
    folder = Path(*parts[:fixed])
    _check_there(str(folder), "folder")
    return [Entry(path, _name(path, folder)) for path in _files(folder, parts[fixed:], left_out)]


def _files(folder: Path, pattern: tuple[str, ...], left_out: dict[str, str]) -> list[Path]:
    """Return the files that a pattern fits, and the images in folders that it fits if it has no ``**``.

    They come in alphabetical order. The empty pattern fits the folder itself. Each real folder is looked into
    once for each part of the pattern, and where it is rather than where links lead to it: few links can make
    more ways than anyone can go.
    """
    found = []
    seen: set[tuple[str, int]] = set()
    folders, links = [(folder, 0)], deque[tuple[Path, int]]()
    while folders or links:
        place, k = folders.pop() if folders else links.popleft()
        if (state := (os.path.realpath(place), k)) in seen:
            continue
        seen.add(state)
        whole, last = k == len(pattern), k >= len(pattern) - 1
        part = "**" if whole else pattern[k]
        if part == "**" and not last:
            folders.append((place, k + 1))
        for child in _children(place, part):
            if not child.is_dir():
                if last and (not whole or _is_taken(child, child.name, left_out)):
                    found.append(child)
            elif part == "**" or not last or "**" not in pattern:
                following = (child, k if part == "**" else k + 1)
                (links if child.is_symlink() else folders).append(following)
    return sorted(found)


def _children(folder: Path, part: str) -> list[Path]:
    """Return what one part of a pattern fits; hidden ones only if the part names them with their point."""
    if not glob.has_magic(part):
        return [folder / part] if os.path.lexists(folder / part) else []
    if not folder.is_dir():
        return []
    try:
        children = sorted(folder.iterdir())
    except OSError as error:
        raise ImageError(f"{folder}: the folder cannot be read: {error.strerror or error}") from None
    shown = [child for child in children if part.startswith(".") or not child.name.startswith(".")]
    return [child for child in shown if fnmatch.fnmatch(child.name, part)]


def _name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def _same(a: Path | RemoteFile, b: Path | RemoteFile) -> bool:
    if isinstance(a, RemoteFile) or isinstance(b, RemoteFile):
        return a == b
    return os.path.realpath(a) == os.path.realpath(b)
