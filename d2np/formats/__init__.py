"""Where features go: the layouts of feature files.

``hloc``
    one HDF5 file for many images, as hloc reads and writes it
``hloc_matches``
    one HDF5 file for the matches of many pairs of images, as hloc reads and writes it
``tables``
    the matches of two images as CSV, JSON or ``.npz``
``colmap``
    a COLMAP database of features and matches
``npz``, ``mat``
    one file for each image, as the published extraction script writes them
``kapture``
    a kapture folder, as the published script for it adds features to one

The modules are loaded when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType

    from . import colmap, hloc, hloc_matches, kapture, mat, npz, tables

__all__ = ["colmap", "hloc", "hloc_matches", "kapture", "mat", "npz", "tables"]

if not TYPE_CHECKING:  # which would then believe in any name

    def __getattr__(name: str) -> ModuleType:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return import_module(f"{__name__}.{name}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
