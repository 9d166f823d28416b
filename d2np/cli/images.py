"""Images that commands read and write."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import Error, ImageError, OptionError
from ..images.names import is_missing, near
from .report import file_size, say

if TYPE_CHECKING:
    import argparse

    from PIL import Image

    from ..features import Features
    from ..images.open import ImageLike
    from ..images.remote import RemoteFile

_FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
    ".pdf": "PDF",
}
_PAGES = (".html", ".htm")


def check_output(
    path: str, sources: Iterable[object] = (), *, pages: bool = False, tables: bool = False
) -> None:
    """Find out before any work is done whether an image can be written there, or with ``pages`` a web page,
    or with ``tables`` numbers.

    Raises
    ------
    OptionError
        If the extension is unknown, or the file is one of the sources.
    Error
        If there is no such folder, or something that is no file.
    """
    extension = Path(path).suffix.lower()
    if extension not in _FORMATS and not (pages and is_page(path)) and not (tables and is_table(path)):
        what = f"as {extension}" if extension else "without an extension"
        raise OptionError(
            f"{path or repr(path)}: no image can be written {what}: use one of {', '.join(_FORMATS)}"
            + (", or .html for a page to explore" if pages else "")
            + (f", or {', '.join(_tables())} for numbers" if tables else "")
        )
    check_place(path, sources)


def is_page(path: str) -> bool:
    """Whether the extension asks for a web page."""
    return Path(path).suffix.lower() in _PAGES


def is_table(path: str) -> bool:
    """Whether the extension asks for numbers."""
    return Path(path).suffix.lower() in _tables()


def _tables() -> tuple[str, ...]:
    from ..formats import tables

    return tables.EXTENSIONS


def check_place(path: str, sources: Iterable[object] = ()) -> None:
    """Like :func:`check_output`, for a file of any kind."""
    from ..images.remote import local_path

    target = Path(path)
    for source in map(str, sources):
        source = local_path(source) or source
        if os.path.exists(source) and target.exists() and os.path.samefile(source, target):
            raise OptionError(f"{path} would overwrite what it is made from: choose another output")
    if target.is_dir():
        raise Error(f"{path} cannot be written: it is a folder")
    if target.exists() and not target.is_file():
        raise Error(f"{path} cannot be written: there is something that is no file")
    if not target.parent.is_dir():
        raise Error(f"{path} cannot be written: there is no folder {target.parent}{near(target.parent)}")
    if not os.access(target.parent, os.W_OK):
        raise Error(f"{path} cannot be written: no permission to write in {target.parent}")


def check_there(*paths: str) -> None:
    """Find out before any work is done whether there are files or folders of these names.

    Raises
    ------
    Error
        If one is missing; it proposes what may have been meant.
    """
    for path in paths:
        if is_missing(path):
            raise Error(f"no such file or folder: {path}{near(path)}")


def opened(path: str, max_pixels: int | None = None) -> str | RemoteFile:
    """Return what the network takes for a path or URL, of which the content has been read.

    Raises
    ------
    ImageError
        If it is no image; of a file only the head is read.
    """
    from ..images import remote
    from ..images.open import most_bytes, open_file

    if not remote.is_url(path):
        check_there(path)
    image: str | RemoteFile = remote.local_path(path) or path
    if remote.is_url(str(image)):
        image = replace(remote.RemoteFile(path), content=remote.RemoteFile(path).read(most_bytes(max_pixels)))
    open_file(image, max_pixels).close()
    return image


def shown(image: str | RemoteFile, options: argparse.Namespace) -> ImageLike:
    """Return what goes to :mod:`d2np.draw`, which knows nothing of ``--max-pixels`` and ``--stretch``."""
    from ..images.open import open_rgb
    from .parser import settings

    if options.max_pixels is None and not options.stretch:
        return image
    return open_rgb(image, settings(options))


@contextmanager
def named(image: str | RemoteFile) -> Iterator[None]:
    """Have complaints about this image tell its name."""
    path = str(image)
    try:
        yield
    except ImageError as error:
        if path in str(error):
            raise
        raise ImageError(f"{path}: {error}") from None


def above_score(features: Features, least: float | None) -> Features:
    """Return the keypoints that ``--min-score`` leaves."""
    return features if least is None else features.select(features.scores >= least)


def save(image: Image.Image, path: str) -> None:
    """Write an image, all of it or nothing; the extension tells the format.

    Raises
    ------
    Error
        If it cannot be written.
    """
    from ..atomic import replacing

    format = _FORMATS[Path(path).suffix.lower()]
    options = {"JPEG": {"quality": 92, "subsampling": 0}, "WEBP": {"quality": 92}}.get(format, {})
    try:
        with replacing(path) as stream:
            image.save(stream, format, **options)
    except OSError as error:
        raise Error(f"{path} cannot be written: {error.strerror or error}") from None
    # Images too large for a format, for one.
    except (ValueError, KeyError, SystemError) as error:
        raise Error(f"{path} cannot be written as {format}: {error}") from None


def save_page(text: str, path: str) -> None:
    """Write a web page, all of it or nothing.

    Raises
    ------
    Error
        If it cannot be written.
    """
    from ..atomic import replacing

    try:
        with replacing(path) as stream:
            stream.write(text.encode())
    except OSError as error:
        raise Error(f"{path} cannot be written: {error.strerror or error}") from None


def say_written(path: str) -> None:
    """Tell that it is there; of a page also what to do with it."""
    if is_page(path):
        say(f"wrote {path} ({file_size(os.path.getsize(path))}): open it in a browser")
    else:
        say(f"wrote {path}")
