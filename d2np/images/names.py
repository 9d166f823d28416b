"""Names of images: paths inside a folder, with forward slashes.

A name may come from a list, a web server, a file of features or a program. So it is checked here, for every
image of a job and again wherever a path is made of it.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from pathlib import Path

from ..errors import FormatError, ImageError, closest

# Python's own functions for paths go to a depth of some hundreds.
_DEEPEST = 100
_LONGEST = 4096
_LOOKED_AT = 10_000
_SHOWN = 200
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
# Drives; devices, also with an extension; points and spaces at an end, which Windows leaves out.
_NOT_ON_WINDOWS = re.compile(
    rf"{_CONTROL.pattern}|[\\:]|[. ](/|$)|(^|/)(con|prn|aux|nul|(com|lpt)[0-9¹²³]) *([./]|$)", re.IGNORECASE
)
_MORE = ", drives, backslashes, devices such as NUL, parts that end with a point or a space"
# Also breaks of lines and paragraphs, and what turns the direction of writing.
_NOT_SHOWN = re.compile(rf"{_CONTROL.pattern}|[\u2028-\u202e\u2066-\u2069]")
# What the system says where a name does not fit beside what is there, or not into the file system.
_OF_A_NAME = (
    *(errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL, errno.ELOOP),
)


def is_valid(name: str, *, windows: bool = os.name == "nt") -> bool:
    """Return whether a name is that of a place inside any folder that it is put into."""
    parts = name.split("/")
    is_small = len(parts) <= _DEEPEST and len(name) <= _LONGEST
    forbidden = _NOT_ON_WINDOWS if windows else _CONTROL
    return is_small and {"", ".", ".."}.isdisjoint(parts) and not forbidden.search(name)


def check(name: str, *, windows: bool = os.name == "nt") -> None:
    """Raise an ImageError unless a name :func:`is_valid`."""
    if not is_valid(name, windows=windows):
        raise ImageError(
            f"{name[:_SHOWN]!r} cannot be the name of an image, a path of at most {_DEEPEST} parts and "
            f"{_LONGEST} characters without empty parts, '.', '..'{_MORE * windows} and control characters: "
            "rename the image"
        )


def inside(folder: Path, name: str) -> Path:
    """Return the path of a name inside a folder.

    Raises
    ------
    ImageError
        If the name would lead elsewhere.
    """
    check(name)
    return folder / name


def make_room(path: Path, root: Path | None = None) -> None:
    """Make the folder that a file of an output goes into.

    Parameters
    ----------
    path : Path
        The file, which may be there, as may be a link in its place.
    root : Path, optional
        The output's folder.

    Raises
    ------
    ImageError
        If what is there, or the file system, has no place for a file of this name, or a link leads out of the
        output.
    FormatError
        If the folder cannot be made for another reason.
    """
    if root is not None and leads_out(path.parent, root):
        raise ImageError(f"{path}: cannot be written: a link leads out of {root}: put a folder in its place")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if stat.S_IFMT(os.lstat(path).st_mode) not in (stat.S_IFREG, stat.S_IFLNK):
            raise FileExistsError(errno.EEXIST, "there is something that is no file")
    except FileNotFoundError:
        return
    except OSError as error:
        kind = ImageError if error.errno in _OF_A_NAME else FormatError
        raise kind(f"{path}: cannot be written: {error.strerror or error}") from None


def near(path: str | os.PathLike[str]) -> str:
    """Return the end of a message on a missing path, which proposes one like it that is there, if any is."""
    found = _nearest(Path(path))
    return f"; did you mean {found}?" if found else ""


def _nearest(path: Path) -> Path | None:
    if os.path.lexists(path):
        return path
    above = _nearest(path.parent)
    if above is None or not os.path.isdir(above) or not os.access(above, os.R_OK):
        return None
    name = closest(path.name, os.listdir(above)[:_LOOKED_AT])
    return above / name if name else None


def printable(text: str) -> str:
    """Return a text whose control characters are written as ``\\x1b``: a terminal would obey them."""
    return _NOT_SHOWN.sub(lambda found: ascii(found[0])[1:-1], text)


def leads_out(path: Path, root: Path) -> bool:
    """Return whether links make a path one that is not inside a folder."""
    return not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root))


def folders_of(name: str) -> list[str]:
    """Return the folders that a name lies in: of ``a/b/c.jpg`` these are ``a`` and ``a/b``."""
    return [name[: slash.start()] for slash in re.finditer("/", name)]
