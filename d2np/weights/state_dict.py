"""Which arrays of a state dict are the network's: those of a D2-Net, or the first ones of a VGG16.

VGG16's convolutions stand in torchvision and timm at the same positions of an ``nn.Sequential`` as in the
published code, so the same numbers name them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from ..errors import WeightsError
from ..layers import PARAMETER_SHAPES
from ..options import Preprocessing
from .parameters import StoredArray, check_names, listed, read_arrays

PUBLISHED_INDICES = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21)
"""Positions of conv1_1 ... conv4_3 in the published ``nn.Sequential``."""

PUBLISHED_NAMES: dict[str, str] = {
    f"{index}.{part}": f"{layer}/{part}"
    for index, layer in zip(
        PUBLISHED_INDICES, dict.fromkeys(name.split("/")[0] for name in PARAMETER_SHAPES), strict=True
    )
    for part in ("weight", "bias")
}
"""``"0.weight"`` -> ``"conv1_1/weight"`` and so on, in network order."""

# DataParallel puts "module." in front; a state dict of the inner Sequential alone has less.
_D2NET = tuple(
    outer + inner for inner in ("dense_feature_extraction.model.", "model.", "") for outer in ("", "module.")
)
_VGG16 = ("features.", "module.features.")


def read_network(stored: Mapping[str, StoredArray]) -> tuple[dict[str, NDArray[Any]], Preprocessing]:
    """Read the network's arrays of a state dict, and tell the preprocessing that it was trained with.

    Parameters
    ----------
    stored : mapping of str to StoredArray
        All arrays of the state dict.

    Returns
    -------
    arrays : dict of str to arrays
        ``"conv1_1/weight"`` ... in network order.
    preprocessing : {"caffe", "torch"}
        ``"torch"`` for a VGG16 of torchvision or timm.

    Raises
    ------
    WeightsError
        If these are not the arrays of a D2-Net or a VGG16.
    """

    def hits(prefix: str) -> int:
        return sum(prefix + name in stored for name in PUBLISHED_NAMES)

    prefix = max((*_D2NET, *_VGG16), key=hits)
    if not hits(prefix):
        raise WeightsError(
            f"not a D2-Net: expected tensors named {_D2NET[0]}0.weight ... {_D2NET[0]}21.bias, or those of a "
            f"VGG16, features.0.weight ..., found the tensors {listed(stored) or 'none'}"
        )
    is_vgg = prefix in _VGG16
    # A VGG16 goes on behind conv4_3. Others, with batch normalisation or as VGG19, differ before.
    found = [name for name in stored if not (is_vgg and _is_behind(name, prefix))]
    check_names(found, [prefix + name for name in PUBLISHED_NAMES])
    arrays = read_arrays({ours: stored[prefix + name] for name, ours in PUBLISHED_NAMES.items()})
    return arrays, "torch" if is_vgg else "caffe"


def _is_behind(name: str, prefix: str) -> bool:
    index = name.removeprefix(prefix).partition(".")[0]
    return not name.startswith(prefix) or (index.isdecimal() and int(index[:9]) > PUBLISHED_INDICES[-1])
