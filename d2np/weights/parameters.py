"""The network's arrays as they go in and out: what they must be, and where they came from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import Error, WeightsError
from ..layers import PARAMETER_SHAPES
from ..options import Preprocessing

_NAMED_AT_MOST = 4


@dataclass(frozen=True)
class Provenance:
    """Where weights came from.

    Attributes
    ----------
    name : str
        Name of the source file, without its folder.
    sha256 : str
        SHA-256 of that file, in hexadecimal. Weights converted to HDF5 keep name and sum of the file
        they were converted from.
    format : str
        What was read, such as ``"PyTorch checkpoint (zip)"`` or ``"HDF5"``.
    url : str
        Where the source was downloaded from, as far as d2np did it; else empty.
    preprocessing : {"caffe", "torch"}
        What the weights were trained with.
    """

    name: str
    sha256: str
    format: str
    url: str = ""
    preprocessing: Preprocessing = "caffe"

    @classmethod
    def of_file(
        cls, stream: BinaryIO, path: Path, format: str, preprocessing: Preprocessing = "caffe"
    ) -> Provenance:
        """Return the provenance of weights that are read from a file, open as a stream."""
        return cls(path.name, digest(stream), format, preprocessing=preprocessing)

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, NDArray[np.float32]]) -> Provenance:
        """Return the provenance of arrays from no file: the sum is taken over their contents, in order.

        Parameters
        ----------
        arrays : mapping of str to float32 arrays
            As :func:`check` returns them.
        """
        sums = hashlib.sha256()
        for name, array in arrays.items():
            sums.update(name.encode())
            sums.update(np.ascontiguousarray(array, dtype="<f4").data)
        return cls("arrays", sums.hexdigest(), "arrays")


def digest(stream: BinaryIO, algorithm: str = "sha256") -> str:
    """Return the checksum of a whole file, in hexadecimal."""
    # MD5 may be locked otherwise, and is compared with a published sum only.
    sums = hashlib.new(algorithm, usedforsecurity=False)
    stream.seek(0)
    while block := stream.read(2**20):
        sums.update(block)
    return sums.hexdigest()


def known_preprocessing(text: str) -> Preprocessing:
    """Return the preprocessing that a file names."""
    for known in get_args(Preprocessing):
        if text == known:
            return known
    raise WeightsError(f"expected weights trained with caffe or torch preprocessing, found {shortened(text)}")


def check(arrays: Mapping[str, ArrayLike]) -> dict[str, NDArray[np.float32]]:
    """Return the arrays of a D2-Net, checked, in the network's order.

    Parameters
    ----------
    arrays : mapping of str to array_like
        ``"conv1_1/weight"`` -> (out, in, 3, 3), ``"conv1_1/bias"`` -> (out,), ... up to ``conv4_3``: exactly
        the names and shapes of :data:`d2np.layers.PARAMETER_SHAPES`, real floating-point, finite.

    Returns
    -------
    dict of str to float32 arrays
        C-contiguous, in network order. Arrays that are so already are not copied.

    Raises
    ------
    WeightsError
        If names, a shape or a type are not those of the network, or a value is infinite or not a number.
    """
    if not isinstance(arrays, Mapping):
        raise WeightsError(
            f"weights must be a mapping from names such as 'conv1_1/weight' to arrays; "
            f"got {type(arrays).__name__}"
        )
    check_names(arrays, PARAMETER_SHAPES)
    return {name: _checked(name, arrays[name], shape) for name, shape in PARAMETER_SHAPES.items()}


@dataclass(frozen=True)
class StoredArray:
    """An array in a file.

    Attributes
    ----------
    name : str
        Its name there.
    shape : tuple of int
        As the file tells it.
    read : callable
        Returns the array, or raises a :class:`WeightsError` without its name.
    """

    name: str
    shape: tuple[int, ...]
    read: Callable[[], NDArray[Any]]


def read_arrays(stored: Mapping[str, StoredArray]) -> dict[str, NDArray[Any]]:
    """Read the network's arrays; the shape of each is checked before it is read.

    Parameters
    ----------
    stored : mapping of str to StoredArray
        By the names of :data:`d2np.layers.PARAMETER_SHAPES`.

    Raises
    ------
    WeightsError
        If one has another shape or cannot be read; it is named in our words and those of the file.
    """
    arrays = {}
    for name, one in stored.items():
        label = name if one.name == name else f"{name} ({shortened(one.name)})"
        expected = PARAMETER_SHAPES[name]
        if one.shape != expected:
            found = shortened(str(one.shape[:9]))
            raise WeightsError(f"{label}: expected shape {expected}, found {found}")
        try:
            arrays[name] = one.read()
        except Exception as error:
            raise WeightsError(f"{label}: {reason(error)}") from None
    return arrays


def reason(error: Exception) -> str:
    """Say why a file cannot be read: damaged ones make h5py, protobuf and NumPy raise almost anything."""
    if isinstance(error, Error):
        return str(error)
    return f"damaged or truncated ({type(error).__name__}: {shortened(str(error))})"


def from_bfloat16(bits: NDArray[Any]) -> NDArray[np.float32]:
    """Return the numbers of which these are the bits, as uint16."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def check_names(found: Iterable[object], expected: Iterable[str]) -> None:
    """Raise WeightsError unless both hold the same names; the message lists a few of those that differ."""
    found, expected = list(found), list(expected)
    # What is no text may take forever to compare.
    given = {name for name in found if isinstance(name, str)}
    missing = [name for name in expected if name not in given]
    unexpected = [name for name in found if not isinstance(name, str) or name not in expected]
    if missing or unexpected:
        raise WeightsError(
            f"not the {len(expected)} arrays of a D2-Net ({expected[0]} ... {expected[-1]}): "
            f"missing {listed(missing) or 'none'}; unexpected {listed(unexpected) or 'none'}"
        )


def listed(names: Iterable[object]) -> str:
    """Return the first few names and the number of the others, for an error message."""
    names = list(names)
    shown = ", ".join(shortened(name) for name in names[:_NAMED_AT_MOST])
    more = len(names) - _NAMED_AT_MOST
    return f"{shown} and {more} more" if more > 0 else shown


def shortened(name: object) -> str:
    """Return a name from a file that cannot be trusted, fit for one line of an error message."""
    # Only plain scalars are printed by value: containers from a hostile file may be exponentially large.
    text = str(name) if isinstance(name, (str, int, float)) else f"<{type(name).__name__}>"
    text = "".join(character if character.isprintable() else "?" for character in text[:100])
    return text if len(text) <= 80 else text[:77] + "..."


def _checked(name: str, values: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.float32]:
    try:
        array = np.asarray(values)
    except (TypeError, ValueError):
        raise WeightsError(f"{name}: expected an array of shape {shape}, found no array") from None
    if array.shape != shape:
        raise WeightsError(f"{name}: expected shape {shape}, found {array.shape}")
    if not np.issubdtype(array.dtype, np.floating):
        raise WeightsError(f"{name}: expected real floating-point values, found {array.dtype}")
    with np.errstate(over="ignore"):  # what float32 cannot hold is reported as infinite below
        array = np.ascontiguousarray(array, dtype=np.float32)
    bad = array.size - int(np.count_nonzero(np.isfinite(array)))
    if bad:
        raise WeightsError(
            f"{name}: expected finite float32 values, found {bad} of {array.size} infinite or not a number"
        )
    return array
