"""Names of weights, and the files they stand for."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import tempfile
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import WeightsError, did_you_mean
from ..machine import user_cache
from ..options import PackagedWeights, PublishedWeights, names
from .parameters import Provenance

PACKAGED = names(PackagedWeights)

NAMES = (*PACKAGED, *names(PublishedWeights))

SOURCES = {
    "tf": (
        "https://dusmanu.com/files/d2-net/d2_tf.pth",
        "https://huggingface.co/vismatch/d2net/resolve/main/d2_tf.pth",
        "https://huggingface.co/Realcat/imcui_checkpoints/resolve/main/d2net/d2_tf.pth",
    ),
    "ots": (
        "https://dusmanu.com/files/d2-net/d2_ots.pth",
        "https://storage.googleapis.com/tensorflow/keras-applications/vgg16/"
        "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5",
    ),
    "tf_no_phototourism": ("https://dusmanu.com/files/d2-net/d2_tf_no_phototourism.pth",),
}
"""Where the published checkpoints are: first at their authors', then at others who keep them."""

MD5 = {"vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5": "6d6bbae143d832006294945121d1f1fc"}
"""Known checksums of files of that name; Keras' source states this one."""

ARRAYS = {"ots": "8f73a20cfe50739365387e36b32fcbc6658c20bdd0b8e3b7c227bf078bb90cf9"}
"""Known SHA-256 of arrays, as :meth:`Provenance.of_arrays` computes it; this one is that of Keras' VGG16."""

_VGG16 = (
    "CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/): VGG16, trained on ImageNet by Karen Simonyan "
    "and Andrew Zisserman, Visual Geometry Group, University of Oxford"
)
# By the SHA-256 of the arrays: files may be copies.
_LICENCES = {
    "f3f6a186f994a54739505c66fc86f1d1a087c3407dc3bcc77e41161d934e23c3": "BSD-3-Clause: part of d2np",
    "93351ba3cbf610728a1deb9fc5467b0be015a1f253555f5fa6c6f2ba81839ebc": f"{_VGG16}; rounded to float16 here",
    "16001cab0508c5fc3d2b3009889279d6b480aefad4914158f463d6c6bbbfbefd": (
        f"{_VGG16}; rounded to float16, and conv4_3 trained by d2np"
    ),
    ARRAYS["ots"]: _VGG16,
}


def cache_folder() -> Path:
    """Return the folder of converted weights; it need not exist.

    ``$D2NP_CACHE``, or else the platform's folder for caches: ``$XDG_CACHE_HOME/d2np`` or ``~/.cache/d2np``,
    on macOS ``~/Library/Caches/d2np``, on Windows ``%LOCALAPPDATA%\\d2np\\Cache``.

    Raises
    ------
    WeightsError
        If the user has no home folder and ``D2NP_CACHE`` is not set.
    """
    try:
        if chosen := os.environ.get("D2NP_CACHE"):
            return Path(chosen).expanduser()
    except RuntimeError:  # it begins with ~, and there is no home
        pass
    if (folder := user_cache("d2np")) is None:
        raise WeightsError("no home folder to keep weights in: set D2NP_CACHE to a folder")
    return folder


def cached_file(name: str) -> Path:
    """Return where the converted weights of that name are, or would be, in the cache."""
    return cache_folder() / f"{name}.h5"


def default() -> str:
    """Return the name of the weights to use when none are given: ``tf`` if it is cached, else ``d2np``."""
    try:
        return "tf" if cached_file("tf").is_file() else "d2np"
    except (WeightsError, OSError):
        return "d2np"


def resolve(source: str | os.PathLike[str]) -> Path:
    """Return the file that a name or a path stands for.

    Parameters
    ----------
    source : str or path
        A string that is one of :data:`NAMES` always means those weights, even where a file of that name
        lies in the working folder: write ``./tf`` for the file. A path object always means a file.

    Returns
    -------
    Path
        A file that exists.

    Raises
    ------
    WeightsError
        If there is no such file. For published weights that are not cached it says how to get them.
    """
    if isinstance(source, str) and source in PACKAGED:
        return _packaged(source)
    if isinstance(source, str) and source in SOURCES:
        path = cached_file(source)
        if path.is_file():
            return path
        raise WeightsError(
            f"the published weights `{source}` are not on this machine: run `d2np fetch {source}`, or "
            f"download {' or '.join(SOURCES[source])} and run `d2np convert FILE {path}`"
        )
    try:
        path = Path(os.fsdecode(source))
        if path.is_file():
            return path
        is_there = path.exists()
    except (TypeError, ValueError, OSError) as error:
        raise WeightsError(f"expected a name or a file of weights: {error}"[:200]) from None
    if is_there:
        raise WeightsError(f"{path}: is a folder or a device, expected a file of weights")
    hint = did_you_mean(os.fspath(source), NAMES)
    raise WeightsError(f"{path}: no such file; the names that d2np knows are {', '.join(NAMES)}{hint}")


def licence(source: object, arrays: Mapping[str, NDArray[np.float32]], provenance: Provenance) -> str:
    """Return the licence of weights, or whose terms they are under.

    Parameters
    ----------
    source : str or path
        What was loaded.
    arrays : mapping of str to float32 arrays
    provenance : Provenance
        As :func:`d2np.weights.load` returns them.
    """
    if known := _LICENCES.get(Provenance.of_arrays(arrays).sha256):
        return known
    if source in SOURCES or provenance.name in [f"d2_{name}.pth" for name in SOURCES]:
        return "its authors' terms (https://github.com/mihaidusmanu/d2-net)"
    return "not known to d2np: ask where the file comes from"


def _packaged(name: str) -> Path:
    # Beside this module once installed, maybe in a zip file; at the top of the repository in a checkout.
    inside = resources.files(__package__).joinpath(f"{name}.h5")
    if inside.is_file():
        return inside if isinstance(inside, Path) else _unpacked(name)
    path = Path(__file__).resolve().parents[2] / "weights" / f"{name}.h5"
    if path.is_file():
        return path
    raise WeightsError(
        f"the packaged weights `{name}` are missing from this installation: install d2np again"
    )


@functools.cache
def _unpacked(name: str) -> Path:
    """Copy packaged weights out of a zip file, until the process ends."""
    try:
        folder = Path(tempfile.mkdtemp(prefix="d2np-"))
        atexit.register(_remove, folder, os.getpid())
        copy = folder / f"{name}.h5"
        copy.write_bytes(resources.files(__package__).joinpath(copy.name).read_bytes())
        return copy
    except OSError as error:
        raise WeightsError(
            f"the packaged weights `{name}` cannot be unpacked ({error.strerror or error}): set TMPDIR to a "
            "folder that can be written"
        ) from None


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:  # a forked child may end earlier
        shutil.rmtree(folder, ignore_errors=True)
