"""Under which terms weights may be used and passed on, told by their arrays: files may be copies."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from . import store
from .parameters import Provenance

_VGG16 = (
    "CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/): VGG16, trained on ImageNet by Karen Simonyan "
    "and Andrew Zisserman, Visual Geometry Group, University of Oxford"
)
_BY_ARRAYS = {
    "f3f6a186f994a54739505c66fc86f1d1a087c3407dc3bcc77e41161d934e23c3": "BSD-3-Clause: part of d2np",
    "93351ba3cbf610728a1deb9fc5467b0be015a1f253555f5fa6c6f2ba81839ebc": f"{_VGG16}; rounded to float16 here",
    store.ARRAYS["ots"]: _VGG16,
}


_PUBLISHED = {"d2_tf.pth", "d2_ots.pth", "d2_tf_no_phototourism.pth"}


def terms(source: object, arrays: Mapping[str, NDArray[np.float32]], provenance: Provenance) -> str:
    """Return the licence of weights, or whose terms they are under.

    Parameters
    ----------
    source : str or path
        What was loaded.
    arrays : mapping of str to float32 arrays
    provenance : Provenance
        As :func:`d2np.weights.load` returns them.
    """
    if known := _BY_ARRAYS.get(Provenance.of_arrays(arrays).sha256):
        return known
    if source in store.SOURCES or provenance.name in _PUBLISHED:
        return "its authors' terms (https://github.com/mihaidusmanu/d2-net)"
    return "not known to d2np: ask where the file comes from"
