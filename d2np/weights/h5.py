"""d2np's own weights file: HDF5 with a group per convolution. Files of Keras, HDF5 too, are read.

``conv1_1/weight``, ``conv1_1/bias``, ... ``conv4_3/bias`` are float32, or float16 in packaged weights; the
root's attributes say what they are and where they came from: ``format_version``, ``architecture``,
``preprocessing``, ``source_name``, ``source_sha256``, and ``source_url`` if d2np downloaded it. Version 1 of
the format lacks ``preprocessing``, which is ``caffe`` there. With the attribute ``base``, the name of
packaged weights that are whole, the arrays that the file lacks are theirs: the package has them once.
The same content gives the same bytes, so files can be compared by their sums.

Files of Keras 1 and 2, weights alone or whole models, have groups named ``block1_conv1`` and so on, with an
array of four dimensions (the kernel: height, width, in, out) and one of one dimension (the bias) in them.
Files of Keras 3 number the convolutions, ``layers/conv2d/vars/0`` and ``1``, ``layers/conv2d_1/vars/0``
..., in the order of the network. Either may lie in groups of models around it. Keras' VGG16 takes blue
first, and was trained with the ``caffe`` preprocessing.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ..atomic import writing
from ..errors import WeightsError
from ..hdf5 import find, read_array, read_attribute, read_text, write_text
from ..layers import PARAMETER_SHAPES
from . import catalogue
from .parameters import Provenance, check_names, known_preprocessing, listed, shortened

FORMAT_VERSION = 2
ARCHITECTURE = "D2-Net"

# Numbers of block and layer in Keras 1 and 2, of the layer in Keras 3.
_CONVOLUTION = re.compile(r"(?:.*/)?(?:block(\d)_conv(\d)/(?:.*/)?[^/]+|conv2d(?:_(\d{1,4}))?/vars/[01])")

_CHANNELS_IN_A_CHUNK = 16
_MOST_OBJECTS, _DEEPEST = 2000, 10


def read(
    stream: BinaryIO, path: Path, names: Collection[str] = tuple(PARAMETER_SHAPES)
) -> tuple[dict[str, NDArray[Any]], Provenance]:
    """Read a weights file of d2np, or one of Keras with a VGG16 in it.

    Parameters
    ----------
    stream : seekable binary file
    path : Path
        Where it is.
    names : collection of str
        The arrays to read from a file of d2np; by default all.

    Returns
    -------
    arrays : dict of str to arrays
        ``"conv1_1/weight"`` ... in network order, of the shapes of the network.
    provenance : Provenance
        The recorded source: the file that the weights were converted from; or a file of Keras itself.

    Raises
    ------
    WeightsError, FormatError
        If the file is of a newer format, not a weights file, or keeps its data somewhere else.
    Exception
        Of almost any kind, if the file is damaged.
    """
    import h5py

    # Every chunk is read once: nothing is gained by keeping any.
    with h5py.File(stream, "r", rdcc_nbytes=0) as file:
        shapes = _shapes(file)
        if not _is_ours(file) and (found := _find_vgg16(shapes)):
            arrays = {}
            for name, shape in PARAMETER_SHAPES.items():
                # (out, in, height, width) is (height, width, in, out) there.
                array = read_array(file, found[name], (*shape[2:], *shape[1::-1]))
                arrays[name] = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array
            return arrays, Provenance.of_file(stream, path, "Keras HDF5")
        provenance = _read_provenance(file)
        base = _read_base(file, [name for name in names if name not in shapes])
        check_names([*base, *shapes], PARAMETER_SHAPES)
        own = {name: read_array(file, name, PARAMETER_SHAPES[name]) for name in names if name not in base}
        return {**base, **own}, provenance


def write(
    path: str | os.PathLike[str],
    arrays: Mapping[str, NDArray[np.float32]],
    provenance: Provenance,
    *,
    half: bool = False,
    base: str = "",
) -> None:
    """Write a weights file; all of it or nothing.

    Parameters
    ----------
    path : str or path
        A file that is there already is replaced once the new one is complete.
    arrays : mapping of str to float32 arrays
        As :func:`d2np.weights.check` returns them.
    provenance : Provenance
        Its name, sum and address, and the preprocessing, are recorded.
    half : bool
        Store float16, which rounds the weights to 11 bits.
    base : str
        Name of packaged weights: arrays that equal theirs are left out.

    Raises
    ------
    WeightsError
        If the file cannot be written there.
    """
    content = _content(arrays, provenance, "<f2" if half else "<f4", base)
    with writing(path, error=WeightsError) as stream:
        stream.write(content)


def _content(
    arrays: Mapping[str, NDArray[np.float32]], provenance: Provenance, dtype: str, base: str
) -> bytes:
    """Return the file's bytes, made in memory: what fails while HDF5 writes never reaches the disk."""
    import h5py

    same = _packaged(base, PARAMETER_SHAPES) if base else {}
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", libver="earliest") as file:
        file.attrs["format_version"] = np.int64(FORMAT_VERSION)
        write_text(file, "architecture", ARCHITECTURE)
        write_text(file, "preprocessing", provenance.preprocessing)
        write_text(file, "source_name", provenance.name)
        write_text(file, "source_sha256", provenance.sha256)
        if provenance.url:
            write_text(file, "source_url", provenance.url)
        if base:
            write_text(file, "base", base)
        for name, shape in PARAMETER_SHAPES.items():
            if name in same and np.array_equal(arrays[name], same[name]):
                continue
            # Small chunks, so that a reader needs little beside the array itself; no modification times, so
            # that equal content gives equal bytes.
            file.create_dataset(
                name,
                data=arrays[name],
                shape=shape,
                dtype=dtype,
                chunks=(min(shape[0], _CHANNELS_IN_A_CHUNK), *shape[1:]),
                compression="gzip",
                shuffle=True,
                track_times=False,
            )
    return buffer.getvalue()


def _is_ours(file: Any) -> bool:
    return "format_version" in file.attrs and "architecture" in file.attrs


def _read_provenance(file: Any) -> Provenance:
    if not _is_ours(file):
        raise WeightsError(
            f"is an HDF5 file but not weights written by d2np: it lacks the attributes format_version and "
            f"architecture, and holds {listed(file.keys()) or 'nothing'}"
        )
    version = read_attribute(file, "format_version")
    if not isinstance(version, int) or not 1 <= version <= FORMAT_VERSION:
        raise WeightsError(
            f"expected format version 1 to {FORMAT_VERSION}, found {shortened(version)}; "
            "newer ones need a newer d2np"
        )
    architecture = _text(file, "architecture")
    if architecture != ARCHITECTURE:
        raise WeightsError(f"expected the architecture {ARCHITECTURE}, found {shortened(architecture)}")
    preprocessing = known_preprocessing(_text(file, "preprocessing") if version > 1 else "caffe")
    url = _text(file, "source_url") if "source_url" in file.attrs else ""
    name, sha256 = _text(file, "source_name"), _text(file, "source_sha256")
    return Provenance(name, sha256, "HDF5", url, preprocessing=preprocessing)


def _read_base(file: Any, missing: Collection[str]) -> dict[str, NDArray[Any]]:
    """Return the arrays that the file lacks from the packaged weights that it names, if it names any."""
    if not missing or "base" not in file.attrs:
        return {}
    name = _text(file, "base")
    if name not in catalogue.PACKAGED:
        raise WeightsError(f"expected packaged weights as its base, found {shortened(name)}")
    return _packaged(name, missing)


def _packaged(name: str, names: Collection[str]) -> dict[str, NDArray[Any]]:
    path = catalogue.resolve(name)
    with open(path, "rb") as stream:
        return read(stream, path, names)[0]


def _text(file: Any, name: str) -> str:
    found = read_text(file, name)
    if found is None:
        raise WeightsError(f"expected the attribute {name}, a text of fixed length")
    return found


def _shapes(file: Any) -> dict[str, tuple[int, ...] | None]:
    """Return the shapes of the arrays in the file's groups by their full names."""
    found: dict[str, tuple[int, ...] | None] = {}
    groups = [("", file)]
    for prefix, group in groups:
        # A group may hold itself.
        if len(found) + len(groups) > _MOST_OBJECTS or prefix.count("/") > _DEEPEST:
            raise WeightsError(
                f"holds more than {_MOST_OBJECTS} arrays and groups, or too many inside each other"
            )
        for name in group:
            item = find(group, name)
            if hasattr(item, "keys"):
                groups.append((f"{prefix}{name}/", item))
            else:
                found[prefix + name] = getattr(item, "shape", None)
    return found


def _find_vgg16(shapes: Mapping[str, tuple[int, ...] | None]) -> dict[str, str]:
    """Return the names of the first ten convolutions' arrays in a file of Keras; nothing if it has none.

    Their shapes are not looked at, beyond what is a kernel.

    Raises
    ------
    WeightsError
        If there are fewer convolutions, or normalisation between them.
    """
    found = []
    for name, shape in shapes.items():
        if match := _CONVOLUTION.fullmatch(name):
            numbers = [int(number or 0) for number in match.groups()]
            found.append((numbers, -len(shape or ()), name))  # a kernel before its bias
    if not found:
        return {}
    if len(found) < len(PARAMETER_SHAPES) or any("batch_normalization" in name for name in shapes):
        raise WeightsError(
            f"not a VGG16: expected ten convolutions without batch normalisation, found {listed(shapes)}"
        )
    return dict(zip(PARAMETER_SHAPES, (name for *_, name in sorted(found)), strict=False))
