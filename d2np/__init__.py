"""D2-Net without a framework: keypoints and descriptors, NumPy arrays in, NumPy arrays out.

net = d2np.Net.load("d2np")
features = net("image.jpg")
matches = d2np.match(features, net("another.jpg"))
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .errors import CacheWarning, Error, FormatError, ImageError, OptionError, WeightsError
from .version import __version__ as __version__

if TYPE_CHECKING:
    from . import (
        dataset,
        demo,
        draw,
        formats,
        layers,
        opencv,
        options,
        reference,
        training,
        verification,
        weights,
    )
    from .features import Features, Matches
    from .matching import match, nearest_pairs
    from .network.net import Net
    from .options import Options

__all__ = [
    "CacheWarning",
    "Error",
    "Features",
    "FormatError",
    "ImageError",
    "Matches",
    "Net",
    "OptionError",
    "Options",
    "WeightsError",
    "dataset",
    "demo",
    "draw",
    "formats",
    "layers",
    "match",
    "nearest_pairs",
    "opencv",
    "options",
    "reference",
    "training",
    "verification",
    "weights",
]

# Names are imported when first asked for, with the module that has them: a program that only reads features
# need not wait for the compiler's import. All others are modules.
_HOMES = {
    "Features": "features",
    "Matches": "features",
    "Net": "network.net",
    "Options": "options",
    "match": "matching",
    "nearest_pairs": "matching",
}

if not TYPE_CHECKING:  # which would then believe in any name

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module = import_module(f"{__name__}.{_HOMES.get(name, name)}")
        value = globals()[name] = getattr(module, name) if name in _HOMES else module
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
