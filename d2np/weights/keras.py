"""Finds the first ten convolutions of Keras' VGG16 in HDF5 files of Keras.

Files of Keras 1 and 2, weights alone or whole models, have groups named ``block1_conv1`` and so on, with an
array of four dimensions (the kernel: height, width, in, out) and one of one dimension (the bias) in them.
Files of Keras 3 number the convolutions, ``layers/conv2d/vars/0`` and ``1``, ``layers/conv2d_1/vars/0``
..., in the order of the network. Either may lie in groups of models around it. Keras' VGG16 takes blue
first, and was trained with the ``caffe`` preprocessing.
"""

from __future__ import annotations

import re
from typing import Any

from ..errors import WeightsError
from ..layers import PARAMETER_SHAPES
from .parameters import shortened

_BLOCK = re.compile(r"(?:.*/)?block(\d)_conv(\d)/(?:.*/)?[^/]+")
_NUMBERED = re.compile(r"(?:.*/)?conv2d(?:_(\d{1,4}))?/vars/[01]")
_NORMALISED = re.compile(r"(?:.*/)?batch_normalization[^/]*/.*")

_CONVOLUTIONS = tuple(dict.fromkeys(name.split("/")[0] for name in PARAMETER_SHAPES))


def find(arrays: dict[str, Any]) -> dict[str, Any] | None:
    """Return the network's arrays among those of a file, or None if it has no convolutions of Keras.

    Parameters
    ----------
    arrays : dict of str to h5py.Dataset
        All of the file by their full names.

    Returns
    -------
    dict of str to h5py.Dataset, or None
        ``"conv1_1/weight"`` ... in network order, as they are in the file: kernels are (3, 3, in, out).

    Raises
    ------
    WeightsError
        If these are other convolutions than those of VGG16; the first difference is named.
    """
    layers: dict[str, list[tuple[str, Any]]] = {}
    for name, array in arrays.items():
        if match := _BLOCK.fullmatch(name):
            layers.setdefault(f"conv{match[1]}_{match[2]}", []).append((name, array))
    if not layers:
        numbered: dict[int, list[tuple[str, Any]]] = {}
        for name, array in arrays.items():
            if match := _NUMBERED.fullmatch(name):
                numbered.setdefault(int(match[1] or 0), []).append((name, array))
        if not numbered:
            return None
        if normalised := [name for name in arrays if _NORMALISED.fullmatch(name)]:
            raise WeightsError(f"not a VGG16: it has batch normalisation ({shortened(normalised[0])})")
        layers = dict(zip(_CONVOLUTIONS, (numbered[key] for key in sorted(numbered)), strict=False))
    # VGG19 has one more convolution in the third and in the fourth block.
    for layer in layers:
        if layer not in _CONVOLUTIONS and layer < "conv5":
            raise WeightsError(f"not a VGG16: it has {_keras_name(layer)}")
    found = {}
    for layer in _CONVOLUTIONS:
        if layer not in layers:
            raise WeightsError(f"not a VGG16: it has no {_keras_name(layer)}")
        by_kind = {len(array.shape or ()): (name, array) for name, array in layers[layer]}
        if len(layers[layer]) != 2 or set(by_kind) != {4, 1}:
            names = ", ".join(shortened(name) for name, _ in layers[layer][:4])
            raise WeightsError(f"{_keras_name(layer)}: expected one kernel and one bias, found {names}")
        for kind, dimensions in (("weight", 4), ("bias", 1)):
            name, array = by_kind[dimensions]
            expected = keras_shape(PARAMETER_SHAPES[f"{layer}/{kind}"])
            if array.shape != expected:
                raise WeightsError(
                    f"not a VGG16: {shortened(name)}: expected shape {expected}, found {array.shape}"
                )
            found[f"{layer}/{kind}"] = array
    return found


def keras_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return Keras' shape of an array: (out, in, height, width) is (height, width, in, out) there."""
    return shape if len(shape) == 1 else (*shape[2:], shape[1], shape[0])


def _keras_name(layer: str) -> str:
    return f"block{layer[4]}_conv{layer[6]}"
