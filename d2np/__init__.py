"""D2-Net without a framework: keypoints and descriptors, NumPy arrays in, NumPy arrays out."""

from . import draw
from .errors import Error, FormatError, ImageError, OptionError, WeightsError
from .features import Features, Matches
from .match import match, nearest_pairs
from .net import Net

__version__ = "0.1.0"

__all__ = [
    "Error",
    "Features",
    "FormatError",
    "ImageError",
    "Matches",
    "Net",
    "OptionError",
    "WeightsError",
    "draw",
    "match",
    "nearest_pairs",
]
