"""hloc's match file, and its list of pairs.

The match file is one HDF5 file with a group for each pair of images. The group is named after both, with
slashes in their names replaced by hyphens: ``db-day-1.jpg/query-2.jpg`` (``names_to_pair`` in hloc's
``utils/parsers.py``). As ``match_features.py`` writes them, it holds for the N keypoints of the first image

- ``matches0`` (N,): index of the keypoint in the second image, -1 where there is none; int16, or int32 if
  the second image has more keypoints than int16 can count (hloc would store wrong indices then; its readers
  take both)
- ``matching_scores0`` (N,): (1 + cosine) / 2, as hloc's nearest-neighbour matcher has it, and 0 where there
  is no match; float32, since float16 could not tell many of the best matches apart

Where images were looked at turned as well, ``matches0`` has the attribute ``rotation``: by how many degrees
the second image is to be turned anticlockwise to look like the first one.

A pair is in the file once, in either order.

Where matches are verified, ``matches0`` has inliers only, and as an attribute the model that they agree with:
``fundamental`` or ``homography``, (3, 3), from x, y, 1 of the first image to the second; of zeros where too
few agree with any, and there are no matches.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import options, streams
from ..errors import FormatError
from ..features import Matches, check_indices
from ..hdf5 import find, read_array, read_attribute, read_numbers
from ..options import GeometricModel
from .hloc import UNFINISHED, put, reading

_ARRAYS = ("matches0", "matching_scores0")
_SPACE = re.compile(r"[ \t]+")
_INT16_COUNT = np.iinfo(np.int16).max + 1


def pair_name(a: str, b: str) -> str:
    """Return the name of the group of two images, as hloc's ``names_to_pair``."""
    return f"{flat_name(a)}/{flat_name(b)}"


def flat_name(name: str) -> str:
    """Return an image's name within the name of a pair."""
    return name.replace("/", "-")


def by_flat_name(names: Iterable[str]) -> Mapping[str, str]:
    """Return images by their name within the name of a pair.

    Raises
    ------
    FormatError
        If two of them are not told apart there.
    """
    found: dict[str, str] = {}
    for name in names:
        other = found.setdefault(flat_name(name), name)
        if other != name:
            raise FormatError(
                f"{other} and {name} are both called {flat_name(name)} in hloc's match file: rename one"
            )
    return found


def write(file: Any, a: str, b: str, matches: Matches, counts: tuple[int, int]) -> None:
    """Write the matches of a pair into an open file; its group is whole once it has its name.

    Parameters
    ----------
    file : h5py.File
        Open for writing.
    a, b : str
        The names of the two images.
    matches : Matches
        At most one for each keypoint of ``a``, as :func:`d2np.match` gives them.
    counts : (int, int)
        How many keypoints the images have.

    Raises
    ------
    FormatError
        If the matches are others than that, or the file cannot be written.
    """
    put(file, pair_name(a, b), arrays_of(a, b, matches, counts), attributes_of(matches))


def arrays_of(a: str, b: str, matches: Matches, counts: tuple[int, int]) -> dict[str, NDArray[Any]]:
    """Return what a pair's group holds: see :func:`write`.

    Raises
    ------
    FormatError
        If these are no matches of images with so many keypoints.
    """
    check_indices(matches, *counts)
    here, there = matches.indices.T
    if len(np.unique(here)) != len(here):
        raise FormatError(f"matches of {a} and {b}: hloc's match file holds one at most for each keypoint")
    partner = np.full(counts[0], -1, np.int16 if counts[1] <= _INT16_COUNT else np.int32)
    partner[here] = there
    scores = np.zeros(counts[0], np.float32)
    scores[here] = (1 + matches.similarities) / 2
    return dict(zip(_ARRAYS, (partner, scores), strict=True))


def attributes_of(matches: Matches, verified: GeometricModel | None = None) -> dict[str, dict[str, Any]]:
    """Return the attributes of the arrays of a pair's group, whose matches are verified by such a model."""
    told: dict[str, Any] = {} if matches.rotation is None else {"rotation": matches.rotation}
    if verified is not None:
        matrix = matches.model if matches.model is not None and len(matches) else np.zeros((3, 3))
        told[verified] = matrix.tolist()
    return {_ARRAYS[0]: told} if told else {}


def read_model(file: Any, name: str) -> tuple[GeometricModel, NDArray[np.float64]] | None:
    """Return the model that the matches of a pair were verified with, by the name of its group.

    Parameters
    ----------
    file : h5py.File
    name : str

    Returns
    -------
    (str, (3, 3) float64), or None
        The model's kind and the model, of zeros where none was found; None if they were not verified.

    Raises
    ------
    FormatError
        If the file cannot be read or has no such pair.
    """
    with reading(file, f"matches of {name} cannot be read"):
        group = _pair(file, name)
        for kind in options.names(GeometricModel):
            if (matrix := read_numbers(find(group, _ARRAYS[0]), kind, (3, 3))) is not None:
                return kind, matrix  # type: ignore[return-value]
    return None


def read(source: Any, a: str, b: str) -> Matches:
    """Read the matches of a pair, which may be in the file in the other order.

    Parameters
    ----------
    source : path, or h5py.File
        Written by d2np or by hloc. Scores are taken to be those of a nearest-neighbour matcher; what other
        matchers wrote comes out as 2 * score - 1 as well, and is no cosine.
    a, b : str
        The names of the two images.

    Returns
    -------
    Matches
        From ``a`` to ``b``, in the order of the image that is first in the file.

    Raises
    ------
    FormatError
        If the file cannot be read or has no such pair.
    """
    with reading(source, f"matches of {a} and {b} cannot be read") as file:
        for name, columns, sign in ((pair_name(a, b), [0, 1], 1), (pair_name(b, a), [1, 0], -1)):
            if find(file, name) is not None:
                matches = read_pair(file, name)
                rotation = None if matches.rotation is None else sign * matches.rotation % 360
                return replace(matches, indices=matches.indices[:, columns], rotation=rotation)
    raise FormatError(f"no matches of {a} and {b}")


def read_pair(file: Any, name: str) -> Matches:
    """Read the matches of a pair by the name of its group; see :func:`read`."""
    failure = f"matches of {name} cannot be read"
    with reading(file, failure):
        group = _pair(file, name)
        partner, scores = (read_array(group, key) for key in _ARRAYS)
        rotation = read_attribute(group["matches0"], "rotation")
    if partner.dtype.kind not in "iu":
        raise FormatError(f"{failure}: indices are expected, not {partner.dtype}")
    (here,) = np.nonzero(partner != -1)
    indices = np.stack([here, partner[here].astype(np.int64)], axis=1)
    with np.errstate(over="ignore", invalid="ignore"):
        similarities = 2 * scores[here].astype(np.float32) - 1
    return Matches(indices, similarities, rotation=rotation if isinstance(rotation, int) else None)


def _pair(file: Any, name: str) -> Any:
    group = find(file, name)
    if not is_complete(group):
        raise FormatError(f"no matches in {name}")
    return group


def pair_names(source: Any) -> list[str]:
    """Return the names of the groups of all pairs in the file, in alphabetical order.

    Parameters
    ----------
    source : path, or h5py.File

    Raises
    ------
    FormatError
        If the file cannot be read, or holds links.
    """
    with reading(source, "a damaged match file") as file:
        return sorted(
            f"{first}/{second}"
            for first in file
            if first != UNFINISHED and hasattr(group := find(file, first), "keys")
            for second in group
            if is_complete(find(group, second))
        )


def is_complete(group: Any) -> bool:
    """Return whether an HDF5 group holds the matches of a pair, in arrays that fit each other.

    Raises
    ------
    FormatError
        If one of the arrays is a link, or is kept in another file.
    """
    if not hasattr(group, "keys"):
        return False
    first, second = (getattr(find(group, key), "shape", None) for key in _ARRAYS)
    return first is not None and len(first) == 1 and first == second


def read_pair_list(path: str | os.PathLike[str], names: Collection[str] = ()) -> list[tuple[str, str]]:
    """Read hloc's list of pairs: two names a line, separated by a space or a tab; blank lines do not count.

    Parameters
    ----------
    path : path
        ``"-"`` for standard input. A name that holds spaces is separated from the other one by a tab, or
        stands in double quotes, or is told by ``names``.
    names : collection of str
        Of the images, as far as they are known: ``a b.jpg c.jpg`` is a pair where ``a b.jpg`` and ``c.jpg``
        are among them.

    Raises
    ------
    FormatError
        If it cannot be read, or is no such list, or a line can be read as several pairs.
    """
    shown = os.fspath(path)
    try:
        # File names may hold bytes that are not text; some editors begin a file with a mark.
        content = streams.read(shown)
        text = content.decode("utf-8-sig", "surrogateescape")
    except OSError as error:
        raise FormatError(f"{shown}: the list of pairs cannot be read: {error.strerror or error}") from None
    known = frozenset(names)
    lengths = frozenset(map(len, known))
    pairs: list[tuple[str, str]] = []
    for number, line in enumerate(re.split(r"\r\n|\r|\n", text), 1):
        if not (line := line.strip()):
            continue
        # Of a long line nothing is copied in vain.
        spaces = [space for space in _SPACE.finditer(line) if space.start() in lengths]
        splits = [(line[: space.start()], line[space.end() :]) for space in spaces]
        found = [split for split in splits if known.issuperset(split)] or _separated(line)
        if len(found) != 1 or "\0" in line:
            what = "can be read as several pairs" if len(found) > 1 else "is no pair"
            raise FormatError(
                f"{shown}, line {number}: two names of images with a space between them are expected, or "
                f"with a tab where names hold spaces: {line[:60]!r} {what}"
            )
        pairs += found
    return pairs


def _separated(line: str) -> list[tuple[str, str]]:
    """Return the two names of a line, if they are separated by a tab or spaces, in quotes or not."""
    try:
        (fields,) = csv.reader([line], delimiter="\t" if "\t" in line else " ", skipinitialspace=True)
    except (csv.Error, ValueError):
        return []
    names = [field.strip() for field in fields if field]
    return [(names[0], names[1])] if len(names) == 2 else []
