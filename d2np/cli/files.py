"""Weights and images that commands are given, and the files that they write."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import Error, ImageError, OptionError
from ..images.names import near
from .arguments import settings
from .console import note

if TYPE_CHECKING:
    import argparse

    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from ..features import Features
    from ..images.remote import RemoteFile
    from ..network.net import Net

DRAWINGS = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".pdf")
PAGES = (".html", ".htm")


# Outputs


def extension(path: str) -> str:
    """Return the extension of a path in lower case, with its dot."""
    return Path(path).suffix.lower()


def check_output(path: str, sources: Iterable[object] = (), kinds: Iterable[str] = DRAWINGS) -> None:
    """Find out before any work is done whether an output can be written.

    Parameters
    ----------
    path : str
    sources : list of str
        What it is made from.
    kinds : list of str
        Extensions that it may have.

    Raises
    ------
    OptionError
        If it has another one, or the file is one of the sources.
    Error
        If there is no such folder, or something that is no file.
    """
    if extension(path) not in kinds:
        raise OptionError(
            f"{path or repr(path)}: the extension tells what is written: use one of {', '.join(kinds)}"
        )
    check_place(path, sources)


def check_sources(path: str, sources: Iterable[object]) -> None:
    """Find out whether a file is one of those that it is made from.

    Raises
    ------
    OptionError
        If so.
    """
    from ..images.remote import local_path

    if not os.path.exists(path):
        return
    for source in map(str, sources):
        source = local_path(source) or source
        if os.path.exists(source) and os.path.samefile(source, path):
            raise OptionError(f"{path} would overwrite what it is made from: choose another output")


def check_place(path: str, sources: Iterable[object] = ()) -> None:
    """Like :func:`check_output`, for a file of any kind."""
    check_sources(path, sources)
    target, folder = Path(path), Path(path).parent
    for fails, reason in (
        (target.is_dir(), "it is a folder"),
        (target.exists() and not target.is_file(), "there is something that is no file"),
        (not folder.is_dir(), f"there is no folder {folder}{near(folder)}"),
        (not os.access(folder, os.W_OK), f"no permission to write in {folder}"),
    ):
        if fails:
            raise Error(f"{path} cannot be written: {reason}")


def write(content: Image.Image | str, path: str) -> None:
    """Write a drawing or a web page, all of it or nothing; the extension tells the format.

    Raises
    ------
    Error
        If it cannot be written.
    """
    from ..atomic import replacing

    try:
        with replacing(path) as stream:
            if isinstance(content, str):
                stream.write(content.encode())
            else:
                from PIL import Image

                # Of use for JPEG and WebP; the other formats do not look at it.
                format = Image.registered_extensions()[extension(path)]
                content.save(stream, format, quality=92, subsampling=0)
    # Images too large for a format, for one.
    except (OSError, ValueError, KeyError, SystemError) as error:
        reason = getattr(error, "strerror", None) or error
        raise Error(f"{path} cannot be written: {reason}") from None


# Images


def check_there(*paths: str) -> None:
    """Find out before any work is done whether there are files or folders of these names.

    Raises
    ------
    Error
        If one is missing; it proposes what may have been meant.
    """
    for path in paths:
        if not os.path.lexists(path):
            raise Error(f"no such file or folder: {path}{near(path)}")


def opened(path: str, options: argparse.Namespace) -> str | RemoteFile:
    """Return what the network takes for a path or URL, of which the content has been read.

    Raises
    ------
    ImageError
        If it is no image; of a file only the head is read.
    Error
        If there is no such file, or no mask for it.
    """
    from ..images import remote
    from ..images.open import most_bytes, open_file

    max_pixels = settings(options).max_pixels  # options that make no sense are told before any work
    if not remote.is_url(path):
        check_there(path)
    image: str | RemoteFile = remote.local_path(path) or path
    if remote.is_url(str(image)):
        image = replace(remote.RemoteFile(path), content=remote.RemoteFile(path).read(most_bytes(max_pixels)))
    mask(image, options)
    with open_file(image, max_pixels):
        return image


def mask(image: str | RemoteFile, options: argparse.Namespace) -> Path | None:
    """Return the mask of an image, which is named as its file; None if ``--masks`` is not given.

    Raises
    ------
    Error
        If there is no such mask.
    """
    if options.masks is None:
        return None
    from ..dataset.masks import Masks

    found = Masks(options.masks).of(Path(image).name if isinstance(image, str) else image.name)
    check_there(str(found))
    return found


def shown(image: str | RemoteFile, options: argparse.Namespace) -> NDArray[np.uint8]:
    """Return what goes to :mod:`d2np.draw`: the image as the network was given it, before it was shrunk."""
    from ..images.open import open_rgb

    with named(image):
        return open_rgb(image, settings(options))


@contextmanager
def named(image: str | RemoteFile) -> Iterator[None]:
    """Have complaints about this image tell its name."""
    try:
        yield
    except ImageError as error:
        if str(image) in str(error):
            raise
        raise ImageError(f"{image}: {error}") from None


# Weights


def weights_or_default(given: str | None, *, quiet: bool = False) -> str:
    """Return the weights asked for, or the default ones; of these say which they are, unless ``quiet``."""
    if given is not None:
        return given
    from ..weights import catalogue

    name = catalogue.default()
    packaged = "packaged, trained by d2np; `d2np fetch` downloads those of the paper"
    if not quiet:
        note(f"weights: {name} ({'published, from the cache' if name == 'tf' else packaged})")
    return name


def load(given: str | None, threads: int | None = None) -> Net:
    """Return the network, ready to work: its kernels are compiled or loaded."""
    import numpy as np

    from ..network.net import Net

    tell_of_compiling()
    net = Net.load(weights_or_default(given))
    net.strength(np.zeros((32, 32, 3), np.uint8), threads=threads)
    return net


def tell_of_compiling() -> None:
    """Say on a terminal why it takes so long, if it will: kernels are compiled on the first run."""
    if sys.stderr.isatty():
        from ..kernels.compile import before_compiling

        before_compiling(lambda: note("on the first run, kernels are compiled ..."))


def features(net: Net, image: str | RemoteFile, options: argparse.Namespace) -> Features:
    """Return the features of an image, and those alone that ``--min-score`` leaves.

    Progress is shown of an image that takes more than a second.
    """
    from ..images.open import open_source
    from .progress import Bar

    how = settings(options)
    chosen = {**how.options(), "mask": mask(image, options)}
    with named(image):
        source = open_source(image, how)
        turns = [degrees // 90 for degrees in how.rotations]
        rows = sum(source.shape[turn % 2] for turn in turns) * len(how.scales)
        with Bar(desc=str(image), unit="row", total=rows, delay=1, leave=False) as bar:
            # Levels of a pyramid read some rows twice.
            source.on_read = lambda read: bar.update(min(read, rows - bar.n))
            found = net(source, threads=options.threads, **chosen)
    return found if options.min_score is None else found.select(found.scores >= options.min_score)
