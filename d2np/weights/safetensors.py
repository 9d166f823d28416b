"""Reads the network from ``.safetensors`` files: a length, JSON, and the bytes of the arrays.

The header is a 64-bit count, little-endian, and as many bytes of JSON: for each array its type, its shape,
and where its bytes begin and end behind the header. All of it is checked before an array is read.
"""

from __future__ import annotations

import json
import os
import struct
from math import prod
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ..errors import WeightsError
from ..layers import PARAMETER_SHAPES
from ..options import Preprocessing
from . import state_dict
from .parameters import DAMAGE, shortened

_LARGEST_HEADER = 4 << 20
_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


def read(stream: BinaryIO) -> tuple[dict[str, NDArray[Any]], Preprocessing]:
    """Read the arrays of a D2-Net or a VGG16.

    Parameters
    ----------
    stream : seekable binary file
        At its beginning. Names are those of a state dict, see :mod:`d2np.weights.state_dict`.

    Returns
    -------
    arrays : dict of str to arrays
        ``"conv1_1/weight"`` ... in network order, in the type that the file holds (bfloat16 as float32).
    preprocessing : {"caffe", "torch"}

    Raises
    ------
    WeightsError
        If the file is damaged or does not hold such a network.
    """
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    try:
        (length,) = struct.unpack("<Q", stream.read(8))
        if length > min(size - 8, _LARGEST_HEADER):
            raise WeightsError(
                f"damaged or truncated safetensors file: a header of {length:,} bytes, of which the file has "
                f"{size - 8:,} and {_LARGEST_HEADER:,} are read"
            )
        header = json.loads(stream.read(length))
        names, preprocessing = state_dict.network([name for name in header if name != "__metadata__"])
        arrays = {
            ours: _array(stream, name, header[name], PARAMETER_SHAPES[ours], 8 + length)
            for name, ours in names.items()
        }
        return arrays, preprocessing
    except WeightsError:
        raise
    except (*DAMAGE, struct.error) as error:
        raise WeightsError(
            f"damaged or truncated safetensors file ({type(error).__name__}: {shortened(str(error))})"
        ) from None


def _array(
    stream: BinaryIO, name: str, told: dict[str, Any], expected: tuple[int, ...], begin: int
) -> NDArray[Any]:
    kind, shape, (first, last) = told["dtype"], told["shape"], told["data_offsets"]
    if kind not in _TYPES:
        raise WeightsError(f"{name}: expected floating-point values, found {shortened(kind)}")
    if shape != list(expected):
        raise WeightsError(f"{name}: expected shape {expected}, found {shortened(str(shape))}")
    size = prod(expected) * np.dtype(_TYPES[kind]).itemsize
    if first < 0 or last - first != size:
        raise WeightsError(f"{name}: damaged, its bytes are not the {size:,} of its shape")
    stream.seek(begin + first)
    data = stream.read(size)
    if len(data) != size:
        raise WeightsError(f"{name}: truncated, expected {size:,} bytes, found {len(data):,}")
    values = np.frombuffer(data, _TYPES[kind]).reshape(expected)
    return (values.astype(np.uint32) << 16).view(np.float32) if kind == "BF16" else values
