"""Reads the network from ``.safetensors`` files: a length, JSON, and the bytes of the arrays.

The header is a 64-bit count, little-endian, and as many bytes of JSON: for each array its type, its shape,
and where its bytes begin and end behind the header. All of it is checked before an array is read.
"""

from __future__ import annotations

import json
import os
import struct
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ..errors import WeightsError
from .parameters import Provenance, StoredArray, from_bfloat16, shortened
from .state_dict import read_network

_LARGEST_HEADER = 4 << 20
_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


def read(stream: BinaryIO, path: Path) -> tuple[dict[str, NDArray[Any]], Provenance]:
    """Read the arrays of a D2-Net or a VGG16.

    Parameters
    ----------
    stream : seekable binary file
        At its beginning. Names are those of a state dict, see :mod:`d2np.weights.state_dict`.
    path : Path
        Where it is.

    Returns
    -------
    arrays : dict of str to arrays
        ``"conv1_1/weight"`` ... in network order, in the type that the file holds (bfloat16 as float32).
    provenance : Provenance
        The file.

    Raises
    ------
    WeightsError
        If the file does not hold such a network.
    Exception
        Of almost any kind, if the file is damaged.
    """
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    (length,) = struct.unpack("<Q", stream.read(8))
    if length > min(size - 8, _LARGEST_HEADER):
        raise WeightsError(
            f"damaged or truncated safetensors file: a header of {length:,} bytes, of which the file has "
            f"{size - 8:,} and {_LARGEST_HEADER:,} are read"
        )
    header = json.loads(stream.read(length))
    header.pop("__metadata__", None)

    def values(kind: str, shape: list[int], first: int, last: int) -> NDArray[Any]:
        if kind not in _TYPES:
            raise WeightsError(f"expected floating-point values, found {shortened(kind)}")
        if not 0 <= first <= last <= size - 8 - length:
            raise WeightsError("damaged or truncated, its bytes are not in the file")
        stream.seek(8 + length + first)
        found = np.frombuffer(stream.read(last - first), _TYPES[kind]).reshape(shape)
        return from_bfloat16(found) if kind == "BF16" else found

    stored = {
        name: StoredArray(
            name,
            tuple(told["shape"]),
            partial(values, told["dtype"], told["shape"], *told["data_offsets"]),
        )
        for name, told in header.items()
    }
    arrays, preprocessing = read_network(stored)
    return arrays, Provenance.of_file(stream, path, "safetensors", preprocessing)
