"""D2-Net without a framework: keypoints and descriptors, NumPy arrays in, NumPy arrays out.

net = d2np.Net.load("vgg16")
features = net("picture.jpg")
matches = d2np.match(features, net("another.jpg"))
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .errors import CacheWarning, Error, FormatError, ImageError, OptionError, WeightsError

if TYPE_CHECKING:
    from . import draw, opencv
    from .features import Features, Matches
    from .matching import match, nearest_pairs
    from .net import Net

__version__ = "1.0.0"

__all__ = [
    "CacheWarning",
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
    "opencv",
]

# Imported when first asked for: a program that only reads features need not wait for the compiler's import.
_HOMES = {
    "Features": "features",
    "Matches": "features",
    "Net": "net",
    "draw": "draw",
    "match": "matching",
    "nearest_pairs": "matching",
    "opencv": "opencv",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"{__name__}.{_HOMES[name]}")
    value = module if name == _HOMES[name] else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
