"""The projection of descriptors to fewer dimensions, learnt from some images of a job."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from typing import TYPE_CHECKING

import numpy as np

from ..errors import Error, count
from ..features import DESCRIPTOR_SIZE, Features, Projection
from .listing import Entry
from .pipeline import features_of

if TYPE_CHECKING:
    from ..network.net import Net
    from .extraction import Settings

IMAGES = 32
"""Images that a projection is learnt from, at most; they are spread over the list."""

_OF_EACH = 1024


def learnt(
    net: Net,
    entries: Sequence[Entry],
    settings: Settings,
    dimensions: int,
    *,
    threads: int | None = None,
    stop: Callable[[], bool] | None = None,
) -> Projection:
    """Return the principal components of the descriptors of some images.

    No mean is subtracted, so that cosines stay what they are, as near as so many numbers can tell; to
    subtract it made no difference (``benchmarks/NOTES.md``). Images that cannot be read are left out.

    Parameters
    ----------
    net : Net
    entries : list of Entry
        Of these :data:`IMAGES` at most are looked at, spread evenly.
    settings : Settings
    dimensions : int
    threads : int, optional
        See :func:`~d2np.dataset.features_of`.
    stop : callable, optional
        Asked after each image; once it says True, nothing is learnt.

    Raises
    ------
    Error
        If the images have fewer keypoints than that.
    KeyboardInterrupt
        If ``stop`` said so.
    """
    chosen = entries[:: -(-len(entries) // IMAGES) or 1]
    moments, seen = np.zeros((DESCRIPTOR_SIZE, DESCRIPTOR_SIZE)), 0
    with closing(features_of(net, chosen, settings, threads=threads)) as found:
        for _, features in found:
            if isinstance(features, Features):
                rows = features.descriptors[:: -(-len(features) // _OF_EACH) or 1].astype(np.float64)
                moments += rows.T @ rows
                seen += len(rows)
            if stop is not None and stop():
                raise KeyboardInterrupt
    if seen < dimensions:
        raise Error(
            f"{count(len(chosen), 'image')} with {count(seen, 'keypoint')} are too few to learn {dimensions} "
            "dimensions from: leave --dimensions out, or give --projection a feature file that has one"
        )
    _, vectors = np.linalg.eigh(moments)
    components = vectors[:, : -dimensions - 1 : -1].T
    # Either sign would do: the same one everywhere.
    largest = np.abs(components).argmax(axis=1, keepdims=True)
    return Projection(components * np.sign(np.take_along_axis(components, largest, axis=1)))
