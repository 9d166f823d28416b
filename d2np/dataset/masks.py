"""Masks of images: files that tell where keypoints are wanted, found by the images' names as COLMAP does."""

from __future__ import annotations

import os
from pathlib import Path, PurePath

from ..errors import ImageError, OptionError
from ..images import names, remote


class Masks:
    """A folder of masks, or one mask for all images.

    The mask of ``a/b.jpg`` is ``a/b.jpg.png`` in the folder or, if there is no such file, ``a/b.png``.

    Parameters
    ----------
    place : path
        The folder, or a file.

    Raises
    ------
    ImageError
        If there is none.
    OptionError
        If it is at a URL.
    """

    def __init__(self, place: str | os.PathLike[str]) -> None:
        text = os.fspath(place)
        local = remote.local_path(text) or text
        self.place = Path(local)
        if remote.is_url(local):
            raise OptionError(f"{text}: masks are files of this machine: download them")
        if not self.place.exists():
            raise ImageError(f"no such file or folder: {self.place}{names.near(self.place)}")

    def of(self, name: str) -> Path:
        """Return the mask of an image, which may turn out not to exist.

        Parameters
        ----------
        name : str
            What the image is filed under.
        """
        if not self.place.is_dir() or not names.is_valid(name):  # the job refuses the name
            return self.place
        first, second = self.place / f"{name}.png", self.place / PurePath(name).with_suffix(".png")
        return second if second.is_file() and not first.is_file() else first

    def hold(self, path: object) -> bool:
        """Return whether a file is one of the masks, and so no image."""
        return isinstance(path, Path) and not names.leads_out(path, self.place)
