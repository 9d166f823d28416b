"""hloc's feature file: one HDF5 file with a group for each image.

The group has the image's name, in which slashes make sub-groups, and holds ``keypoints`` (N, 2),
``scores`` (N,), ``descriptors`` (512, N) and ``image_size`` (2,) with width and height, as hloc's
``extract_features.py`` writes them; beside those ``scales`` (N,), and ``rotations`` (N,) in degrees where the
image was also looked at turned. Keypoints carry hloc's attribute ``uncertainty``: pixels of the image as
given for one pixel that the network saw. ``global_descriptor`` (512,) is one vector of the whole image, under
the name that hloc gives to those of its retrieval.

Everything is float32, or all but ``image_size`` and ``rotations`` float16 as with hloc's ``as_half``. float16
has 11 bits: positions beyond 1024 px are then rounded to whole pixels, and beyond 2048 px to even ones.

Descriptors may be projected to fewer dimensions, all those of a file with one projection: its components
(D, 512) float32 are the attribute ``d2np_projection`` of the file. hloc, which takes every array for one of
an image, does not see it there.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from math import prod
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .. import streams
from ..atomic import NO_LOCKS
from ..errors import FormatError, ImageError, several
from ..features import DESCRIPTOR_SIZE, Features, Projection
from ..hdf5 import find, read_array, read_numbers, read_text, write_text
from ..images.names import check

ARRAYS = ("keypoints", "scores", "descriptors", "image_size")
"""The arrays in every image's group; ``scales`` may be missing, as it is in files that hloc wrote."""

KEYPOINT_AXES = {"keypoints": 0, "scores": 0, "descriptors": 1, "scales": 0, "rotations": 0}
"""Along which axis of an array its keypoints lie; other arrays are about the whole image."""

GLOBAL = "global_descriptor"
"""The array with the vector of the whole image, which may be missing."""

PROJECTION = "d2np_projection"
"""The attribute of a file that has the components with which its descriptors are projected."""

STAMP = "d2np_stamp"
"""The attribute of a group that tells, as a text, what it was made from, as far as d2np wrote it."""

UNFINISHED = ".unfinished"
"""The name of a group that is being written: one that still has it is no image and no pair."""

_LOCKED_ON_WINDOWS = "GetLastError() = 33"

H5_ERRORS = (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError)
"""The errors that h5py raises where a file is damaged, cannot be written, or holds something else."""


def write(file: Any, name: str, features: Features, *, half: bool = False, uncertainty: float = 1.0) -> None:
    """Write the features of one image into an open file; its group is whole once it has its name.

    Parameters
    ----------
    file : h5py.File or h5py.Group
        Open for writing.
    name : str
        The image's name. A group that has it already is replaced.
    features : Features
    half : bool
        Store float16.
    uncertainty : float
        Pixels of the image for one pixel that the network saw.

    Raises
    ------
    ImageError
        If the file cannot hold an image of that name.
    FormatError
        If it cannot be written, or has a folder of that name; or if the descriptors are projected, and the
        file has another projection or none: see :func:`write_projection`.
    """
    check_name(name)
    if features.projection is not None:
        there = read_projection(file)
        if there is None or there.id != features.projection.id:
            raise FormatError(f"{name} cannot be written: the file has not the projection of its descriptors")
    put(file, name, arrays_of(features, half=half), attributes_of(uncertainty))


def check_name(name: str) -> None:
    """Find out whether HDF5 can hold an image of this name.

    Raises
    ------
    ImageError
        If not.
    """
    check(name)
    try:
        name.encode()
    except UnicodeEncodeError:
        raise ImageError(f"{name!r}: the name is not UTF-8, which HDF5 needs: rename the image") from None
    if name.split("/")[0] == UNFINISHED:
        raise ImageError(f"{name}: {UNFINISHED} is the name of what is being written: rename the image")


def arrays_of(features: Features, *, half: bool = False) -> dict[str, NDArray[Any]]:
    """Return what an image's group holds: see :func:`write`."""
    arrays: dict[str, NDArray[Any]] = {
        "keypoints": features.keypoints[:, :2],
        "scores": features.scores,
        "descriptors": features.descriptors.T,
        "scales": features.keypoints[:, 2],
    }
    if features.global_descriptor is not None:
        arrays[GLOBAL] = features.global_descriptor
    if half:
        # An infinite score would end all comparisons.
        most = np.finfo(np.float16).max
        arrays = {key: np.clip(values, -most, most).astype(np.float16) for key, values in arrays.items()}
    if features.rotations is not None:
        arrays["rotations"] = features.rotations
    return {**arrays, "image_size": np.array(features.image_size, np.int64)}


def attributes_of(uncertainty: float) -> dict[str, dict[str, float]]:
    """Return the attributes of the arrays of an image's group: see :func:`write`."""
    return {"keypoints": {"uncertainty": uncertainty}}


def put(
    file: Any,
    name: str,
    arrays: Mapping[str, NDArray[Any]],
    attributes: Mapping[str, Mapping[str, Any]] | None = None,
    stamp: str | None = None,
    *,
    count: int | None = None,
    pieces: Iterable[Mapping[str, NDArray[Any]]] = (),
) -> None:
    """Write a group of arrays into an open file; it is whole once it has its name.

    Parameters
    ----------
    file : h5py.File or h5py.Group
        Open for writing.
    name : str
        A group that has it already is replaced.
    arrays : mapping
    attributes : mapping, optional
        Of some arrays, by their names.
    stamp : str, optional
        What the group was made from.
    count : int, optional
        How many keypoints come in pieces. ``arrays`` are then those of the image without any keypoint.
    pieces : iterable of mappings, optional
        Arrays of some keypoints at a time, in their order. No more than one of these is held.

    Raises
    ------
    FormatError
        If the file cannot hold a group of that name, or cannot be written.
    """
    try:
        if UNFINISHED in file:
            del file[UNFINISHED]
        group = file.create_group(UNFINISHED)
        for key, values in arrays.items():
            shape = list(values.shape)
            if count is not None and key in KEYPOINT_AXES:
                shape[KEYPOINT_AXES[key]] = count
            data = values if values.shape == tuple(shape) else None
            group.create_dataset(key, shape, values.dtype, data)
        if count is not None:
            _fill(group, count, pieces)
        for key, named in (attributes or {}).items():
            group[key].attrs.update(named)
        if stamp is not None:
            write_text(group, STAMP, stamp)
        if (there := find(file, name)) is not None:
            if any(hasattr(find(there, key), "keys") for key in there):
                raise ValueError("it is a folder of others, which would be lost")
            del file[name]
        file.move(UNFINISHED, name)
    except H5_ERRORS as error:
        raise FormatError(f"{name} cannot be written: {one_line(error)}") from None


def stamp_of(file: Any, name: str) -> str | None:
    """Return what the group of that name in an open file was made from, if it is told."""
    try:
        return read_text(find(file, name), STAMP)
    except H5_ERRORS:
        return None


def read(source: Any, name: str) -> Features:
    """Read the features of one image.

    Parameters
    ----------
    source : path, or h5py.File or h5py.Group
        Written by d2np or by hloc. Keypoints without scales get the scale 1. Descriptors that are stored as
        float16 are normalised again, since rounding took some of their length.
    name : str
        The image's name.

    Raises
    ------
    FormatError
        If the file cannot be read or has no such image.
    """
    with reading(source, f"features of {name} cannot be read") as file:
        group = _image(file, name)
        keypoints, scores, descriptors, size = (read_array(group, key) for key in ARRAYS)
        scales = read_array(group, "scales") if "scales" in group else np.ones(len(keypoints))
        rotations = read_array(group, "rotations") if "rotations" in group else None
        rows = np.ascontiguousarray(descriptors.T)
        if rows.dtype == np.float16:
            rows = rows.astype(np.float32)
            # Values that are not finite stay what they are, without a warning.
            with np.errstate(invalid="ignore"):
                rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
        projection = None if rows.shape[1] == DESCRIPTOR_SIZE else read_projection(group)
        places = np.column_stack([keypoints, scales])
        return Features(places, scores, rows, tuple(size), rotations, projection=projection)


def write_projection(file: Any, projection: Projection) -> None:
    """Write the projection of all descriptors of a file, before any of them.

    Parameters
    ----------
    file : h5py.File
        Open for writing, and made with ``libver=("v108", "latest")``: older forms of HDF5 have no place for
        so large an attribute.
    projection : Projection

    Raises
    ------
    FormatError
        If it cannot be written.
    """
    try:
        file.attrs[PROJECTION] = projection.components
    except H5_ERRORS as error:
        raise FormatError(f"the projection cannot be written: {one_line(error)}") from None


def read_projection(source: Any) -> Projection | None:
    """Read the projection of all descriptors of a file; None if they are not projected.

    Parameters
    ----------
    source : path, or h5py.File or h5py.Group

    Raises
    ------
    FormatError
        If the file cannot be read, or holds something else under that name.
    """
    with reading(source, "the projection cannot be read") as file:
        root = file.file
        if PROJECTION not in root.attrs:
            return None
        dimensions = _dimensions(root)
        components = read_numbers(root, PROJECTION, (dimensions, DESCRIPTOR_SIZE)) if dimensions else None
        if components is None:
            raise FormatError(f"{PROJECTION} is no projection of descriptors")
        return Projection(components.astype(np.float32))


def _dimensions(file: Any) -> int | None:
    """Return how many numbers the descriptors of a file have, if that is not :data:`DESCRIPTOR_SIZE`."""
    if PROJECTION not in file.attrs:
        return None
    shape: tuple[int, ...] = file.attrs.get_id(PROJECTION).shape or ()
    return int(shape[0]) if len(shape) == 2 and shape[0] < DESCRIPTOR_SIZE == shape[1] else None


def read_keypoints(file: Any, name: str) -> tuple[NDArray[np.float32], tuple[int, int]]:
    """Read where the keypoints of one image are, without their descriptors.

    Parameters
    ----------
    file : h5py.File or h5py.Group
    name : str
        The image's name.

    Returns
    -------
    (N, 2) float32, (int, int)
        x and y in pixels, (0, 0) being the centre of the top-left one; width and height of the image.

    Raises
    ------
    FormatError
        If the file cannot be read or has no such image.
    """
    with reading(file, f"features of {name} cannot be read"):
        group = _image(file, name)
        width, height = read_array(group, "image_size")
        with np.errstate(over="ignore"):
            return read_array(group, "keypoints").astype(np.float32), (int(width), int(height))


def read_uncertainty(file: Any, name: str) -> float:
    """Return pixels of the image for one pixel that the network saw; 1 where the file does not tell.

    Parameters
    ----------
    file : h5py.File or h5py.Group
    name : str
        The image's name.

    Raises
    ------
    FormatError
        If the file cannot be read or has no such image.
    """
    with reading(file, f"features of {name} cannot be read"):
        told = read_numbers(find(_image(file, name), "keypoints"), "uncertainty", ())
        return 1.0 if told is None or told <= 0 else float(told)


def read_global_descriptors(source: Any, names: Sequence[str]) -> NDArray[np.float32]:
    """Read the vectors of whole images, which :func:`read` leaves where they are.

    Parameters
    ----------
    source : path, or h5py.File or h5py.Group
        Written by d2np or by hloc.
    names : sequence of N str
        Of the images.

    Returns
    -------
    (N, D) float32
        L2-normalised, but for vectors of zeros; D is 512 for those of d2np.

    Raises
    ------
    FormatError
        If the file cannot be read, or lacks the vector of an image.
    """
    vectors: list[NDArray[np.float32]] = []
    lacking = []
    with reading(source, "global descriptors cannot be read") as file:
        for name in names:
            group = find(file, name)
            if group is None or find(group, GLOBAL) is None:
                lacking.append(name)
                continue
            with np.errstate(over="ignore", invalid="ignore"):
                vector = read_array(group, GLOBAL, vectors[0].shape if vectors else None).astype(np.float32)
            if vector.ndim != 1 or not np.isfinite(vector).all():
                raise FormatError(f"{name}/{GLOBAL}: expected a list of finite numbers")
            length = max(float(np.linalg.norm(vector.astype(np.float64))), 1e-12)
            vectors.append((vector / length).astype(np.float32))
    if lacking:
        raise FormatError(
            f"no global descriptor of {several(lacking)}: d2np 1.0 and hloc write none beside features: "
            "extract the images again with --overwrite"
        )
    return np.array(vectors)


def names(source: Any) -> list[str]:
    """Return the names of all images whose features are in the file, in alphabetical order.

    Parameters
    ----------
    source : path, or h5py.File or h5py.Group

    Raises
    ------
    FormatError
        If the file cannot be read, or holds links.
    """
    with reading(source, "a damaged feature file") as file:
        return sorted(_names(file, "", set()))


@contextmanager
def reading(source: Any, failure: str) -> Iterator[Any]:
    """Open a file to read from, if it is not open; what h5py raises in the block becomes an error of ours.

    Parameters
    ----------
    source : path, or h5py.File or h5py.Group
    failure : str
        How the error begins, unless it is one of ours already.

    Raises
    ------
    FormatError
        If the file cannot be opened, or the block raises.
    """
    is_path = isinstance(source, (str, os.PathLike))
    with opened(source) if is_path else nullcontext(source) as file:
        try:
            yield file
        except FormatError:
            raise
        except H5_ERRORS as error:
            raise FormatError(f"{failure}: {one_line(error)}") from None


def opened(path: str | os.PathLike[str], mode: Literal["r", "a"] = "r", *, roomy: bool = False) -> Any:
    """Open an HDF5 file: to read, or to write even if there is none yet.

    A new one that is ``roomy`` has the form of HDF5 1.8, which has a place for large attributes.

    Raises
    ------
    FormatError
        If there is none, or another process is writing to it.
    """
    if streams.is_pipe(path):
        raise FormatError(f"{os.fspath(path)}: {streams.IS_A_PIPE}")
    try:
        try:
            return _opened(path, mode, roomy)
        except OSError as error:
            if errno_of(error) not in NO_LOCKS:
                raise
            return _opened(path, mode, roomy, locking=False)
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        if isinstance(error, BlockingIOError) or _LOCKED_ON_WINDOWS in str(error):
            raise FormatError(f"{os.fspath(path)}: another process is writing to it") from None
        # HDF5's own messages go on about its internals; only those of the system have a number.
        number = getattr(error, "errno", None)
        reason = os.strerror(number) if number else "not an HDF5 file, or a damaged one"
        raise FormatError(f"{os.fspath(path)}: {reason}") from None


def is_complete(group: Any) -> bool:
    """Return whether an HDF5 group holds the features of an image, in arrays that fit each other.

    Raises
    ------
    FormatError
        If one of the arrays is a link, or is kept in another file.
    """
    if not hasattr(group, "keys"):
        return False
    shapes = {key: getattr(find(group, key), "shape", None) for key in ARRAYS}
    count = prod(shapes["scores"] or ())
    size, *_ = shapes["descriptors"] or (None,)
    return shapes == {
        "keypoints": (count, 2),
        "scores": (count,),
        "descriptors": (size, count),
        "image_size": (2,),
    } and (size == DESCRIPTOR_SIZE or size == _dimensions(group.file))


def _image(file: Any, name: str) -> Any:
    """Return the group of an image."""
    group = find(file, name)
    if not is_complete(group):
        raise FormatError(f"no features of an image {name!r}")
    return group


def _fill(group: Any, count: int, pieces: Iterable[Mapping[str, NDArray[Any]]]) -> None:
    first = 0
    for piece in pieces:
        last = first + len(piece["scores"])
        for key in KEYPOINT_AXES.keys() & piece.keys():
            where = (*[slice(None)] * KEYPOINT_AXES[key], slice(first, last))
            group[key][where] = piece[key]
        # It is made of the whole image, and so comes with its last keypoints.
        if GLOBAL in piece and GLOBAL not in group:
            group.create_dataset(GLOBAL, data=piece[GLOBAL])
        first = last
    if first != count:
        raise ValueError(f"{count} keypoints were to come, and {first} came")


def _opened(path: str | os.PathLike[str], mode: str, roomy: bool, locking: bool | None = None) -> Any:
    """Open a file as :func:`opened` does; with ``locking=False`` unless HDF5's variable says otherwise.

    To write, HDF5's sieve buffer is switched off. It keeps small arrays back until their dataset is closed.
    If the disk is full then, nobody is told, and the next call into HDF5 ends the process.
    """
    import h5py
    from h5py import h5f, h5p

    if mode == "r":
        return h5py.File(path, locking=locking)
    access = h5p.create(h5p.FILE_ACCESS)
    access.set_fclose_degree(h5f.CLOSE_STRONG)
    access.set_libver_bounds(h5f.LIBVER_V18 if roomy else h5f.LIBVER_EARLIEST, h5f.LIBVER_LATEST)
    access.set_sieve_buf_size(0)
    if locking is not None:
        access.set_file_locking(locking, True)
    name = os.fsencode(path)
    # An empty file is what HDF5 leaves where it cannot lock a new one.
    if mode == "a" and not (os.path.exists(path) and os.path.getsize(path)):
        return h5py.File(h5f.create(name, h5f.ACC_TRUNC, fapl=access))
    return h5py.File(h5f.open(name, h5f.ACC_RDWR, fapl=access))


def _names(group: Any, prefix: str, seen: set[int]) -> Iterator[str]:
    if prefix and is_complete(group):
        yield prefix.rstrip("/")
    # A folder that hangs in several places is looked into once: few links can make more ways than anyone
    # can go.
    if hash(group) in seen:
        return
    seen.add(hash(group))
    for key in group:
        if f"{prefix}{key}" != UNFINISHED and hasattr(child := find(group, key), "keys"):
            yield from _names(child, f"{prefix}{key}/", seen)


def errno_of(error: BaseException | None) -> int | None:
    """Return the number of the system's error that this is, or that HDF5 tells of."""
    if isinstance(error, OSError) and error.errno:
        return error.errno
    told = re.search(r"\berrno = (\d+)", str(error))
    return int(told.group(1)) if told else None


def one_line(error: Exception) -> str:
    """Return what went wrong in one line, in the system's words where it is the system, else in HDF5's."""
    if number := errno_of(error):
        return os.strerror(number)
    return " ".join(str(error).split())
