"""Finds the first ten convolutions of Keras' VGG16 in HDF5 files of Keras.

Files of Keras 1 and 2, weights alone or whole models, have groups named ``block1_conv1`` and so on, with an
array of four dimensions (the kernel: height, width, in, out) and one of one dimension (the bias) in them.
Files of Keras 3 number the convolutions, ``layers/conv2d/vars/0`` and ``1``, ``layers/conv2d_1/vars/0``
..., in the order of the network. Either may lie in groups of models around it. Keras' VGG16 takes blue
first, and was trained with the ``caffe`` preprocessing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from ..errors import WeightsError
from ..layers import PARAMETER_SHAPES
from .parameters import shortened

_BLOCK = re.compile(r"(?:.*/)?(block\d_conv\d)/(?:.*/)?[^/]+")
_NUMBERED = re.compile(r"(?:.*/)?conv2d(?:_(\d{1,4}))?/vars/[01]")
_NORMALISED = re.compile(r"(?:.*/)?batch_normalization[^/]*/.*")

# Names of Keras' layers -> ours.
_CONVOLUTIONS = {
    f"block{name[4]}_conv{name[6]}": name for name in (full.split("/")[0] for full in PARAMETER_SHAPES)
}


def find(shapes: Mapping[str, tuple[int, ...] | None]) -> dict[str, str] | None:
    """Return the names of the network's arrays in a file, or None if it has no convolutions of Keras.

    Parameters
    ----------
    shapes : mapping of str to shapes
        All arrays of the file by their full names.

    Returns
    -------
    dict of str to str, or None
        ``"conv1_1/weight"`` ... in network order -> the name in the file, of arrays of the right number of
        dimensions. See :func:`keras_shape`.

    Raises
    ------
    WeightsError
        If these are other convolutions than those of VGG16; the first difference is named.
    """
    layers = _grouped(shapes, _BLOCK)
    if not layers:
        numbered = _grouped(shapes, _NUMBERED)
        if not numbered:
            return None
        if normalised := [name for name in shapes if _NORMALISED.fullmatch(name)]:
            raise WeightsError(f"not a VGG16: it has batch normalisation ({shortened(normalised[0])})")
        layers = dict(zip(_CONVOLUTIONS, (numbered[key] for key in sorted(numbered, key=int)), strict=False))
    # VGG19 has one more convolution in the third and in the fourth block.
    if more := [layer for layer in layers if layer not in _CONVOLUTIONS and layer < "block5"]:
        raise WeightsError(f"not a VGG16: it has {more[0]}")
    found = {}
    for layer, ours in _CONVOLUTIONS.items():
        if layer not in layers:
            raise WeightsError(f"not a VGG16: it has no {layer}")
        by_dimensions = {len(shapes[name] or ()): name for name in layers[layer]}
        if len(layers[layer]) != 2 or by_dimensions.keys() != {4, 1}:
            held = ", ".join(shortened(name) for name in layers[layer][:4])
            raise WeightsError(f"{layer}: expected one kernel and one bias, found {held}")
        found[f"{ours}/weight"], found[f"{ours}/bias"] = by_dimensions[4], by_dimensions[1]
    return found


def keras_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return Keras' shape of an array: (out, in, height, width) is (height, width, in, out) there."""
    return shape if len(shape) == 1 else (*shape[2:], shape[1], shape[0])


def _grouped(names: Iterable[str], pattern: re.Pattern[str]) -> dict[str, list[str]]:
    """Group the names that match by what the pattern's group finds in them, or "0"."""
    groups: dict[str, list[str]] = {}
    for name in names:
        if match := pattern.fullmatch(name):
            groups.setdefault(match[1] or "0", []).append(name)
    return groups
