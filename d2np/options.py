"""The names that options take, as types for editors and type checkers. Imports nothing heavy."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, get_args

from .errors import OptionError, did_you_mean

Detector: TypeAlias = Literal["d2", "strength"]
"""The published hard detection, or a ranking of all cells by their strength."""

Preprocessing: TypeAlias = Literal["caffe", "torch"]
"""How the colours of an image are scaled; which of them it is belongs to the weights."""

Algorithm: TypeAlias = Literal["winograd", "direct"]
"""Winograd convolution takes a quarter of the multiplications; direct convolution is the plain one."""

GeometricModel: TypeAlias = Literal["homography", "fundamental"]
"""The model that matches are verified with: one homography, or one fundamental matrix."""

FeatureFormat: TypeAlias = Literal["h5", "npz", "mat", "kapture"]
"""The files that ``d2np extract`` writes: hloc's HDF5, or those of the published scripts."""

ColourMap: TypeAlias = Literal["viridis", "plasma", "inferno", "magma"]
"""The colours of heat maps."""

PackagedWeights: TypeAlias = Literal["vgg16", "analytic"]
"""Weights that are part of d2np: trained on ImageNet, and written by hand."""

PublishedWeights: TypeAlias = Literal["tf", "ots", "tf_no_phototourism"]
"""The published checkpoints, once they are in the cache."""


def names(alias: Any) -> tuple[str, ...]:
    """Return the names that a type of this module allows."""
    return get_args(alias)


def check(option: str, given: object, alias: Any, otherwise: str = "") -> None:
    """Find out whether an option has one of the names that its type allows.

    Parameters
    ----------
    option : str
        Its name, for the message.
    given : object
    alias : type
        One of this module's.
    otherwise : str
        What else it may be, for the message, such as ``", or None"``.

    Raises
    ------
    OptionError
        If not; it lists the names.
    """
    known = names(alias)
    if not isinstance(given, str) or given not in known:
        hint = did_you_mean(given, known)
        raise OptionError(f"{option} must be one of {', '.join(known)}{otherwise}; got {given!r}{hint}")
