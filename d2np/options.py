"""Options: those of images, written once, and the names that options take. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict, get_args

from .errors import OptionError, did_you_mean

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from .images.open import Encoded

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

PackagedWeights: TypeAlias = Literal["d2np", "vgg16", "analytic"]
"""Weights that are part of d2np: trained by it, trained on ImageNet only, and written by hand."""

PublishedWeights: TypeAlias = Literal["tf", "ots", "tf_no_phototourism"]
"""The published checkpoints, once they are in the cache."""


_QUARTERS = frozenset((0, 90, 180, 270))


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


def whole_number(option: str, given: Any, least: int = 1) -> int:
    """Return an option's value as an int.

    Raises
    ------
    OptionError
        If it is not a whole number from ``least`` up.
    """
    if isinstance(given, bool) or not hasattr(given, "__index__") or int(given) < least:
        raise OptionError(f"{option} must be a whole number from {least} up; got {given!r}")
    return int(given)


@dataclass(frozen=True)
class Options:
    """The options of an image, on which its features depend beside the weights.

    All calls of :class:`d2np.Net` take one, keywords with the same names, or both, of which the keywords
    count: ``net(image, options, max_edge=800)``.

    Parameters
    ----------
    detector : {"d2", "strength"}
        The published hard detection with sub-cell localisation, or a ranking of all cells by strength.
    scales : sequence of float
        Sizes of the pyramid's levels; ``(0.5, 1.0, 2.0)`` is the published one.
    max_keypoints : int, optional
        Keep the keypoints with the highest scores only, the highest first.
    spread : bool
        Choose these evenly from all parts of the image: the best ones of each cell of a grid, which is as
        fine as leaves about eight to a cell. Cells with fewer keypoints leave their share to the others.
    preprocessing : {"caffe", "torch"}, optional
        How colours are scaled; by default as the weights were trained, :attr:`d2np.Net.preprocessing`.
    relu : bool
        Whether the last convolution is followed by a ReLU.
    centered : bool
        Put keypoints where their cells truly lie in the image. The published positions lack the 2 px by
        which the average pooling moves a cell's centre, and up to half a pixel times the factor where the
        image or a level of the pyramid was resized.
    max_edge : int or None
        The image is shrunk until its longest edge is no larger, in pixels.
    max_sum_edges : int or None
        Then it is shrunk until the sum of its width and height is no larger.
    rotations : sequence of int
        By how many degrees the image is turned anticlockwise, as by ``np.rot90``, to be looked at: 0, and any
        of 90, 180 and 270. Each is an image of its own, with ``max_keypoints`` of its own; all keypoints are
        those of the image as given. With others than 0 the image is held whole.
    mask : (H, W) array or image file, optional
        Keypoints are kept only where it is not zero, or not black. A file is a path, bytes or a file object.
        It is for the image as given.
    orient : bool
        Turn the image as its EXIF orientation says, as COLMAP and hloc do not; keypoints are those of the
        turned image. Arrays have no orientation, and a PIL image of a TIFF file is one that Pillow has turned
        already.
    stretch : bool
        Spread the values that a 16-bit image uses over the full range, but for one pixel in a thousand at
        each end: thermal and scientific cameras leave most of it empty. Other images are as they are.
    max_pixels : int, optional
        Files with more pixels are refused before they are decoded: a small file may unpack to one that fills
        the memory. By default where Pillow refuses them, at twice ``PIL.Image.MAX_IMAGE_PIXELS``.
    global_descriptor : bool
        Make one vector of the whole image as well, to find similar images by; it changes no keypoint. See
        :mod:`d2np.network.pooling`.

    Raises
    ------
    OptionError
        If an option has a value that makes no sense.
    """

    detector: Detector = "d2"
    scales: Sequence[float] = (1.0,)
    max_keypoints: int | None = None
    spread: bool = False
    preprocessing: Preprocessing | None = None
    relu: bool = True
    centered: bool = False
    max_edge: int | None = 1600
    max_sum_edges: int | None = 2800
    rotations: Sequence[int] = (0,)
    mask: ArrayLike | Encoded | None = None
    orient: bool = False
    stretch: bool = False
    max_pixels: int | None = None
    global_descriptor: bool = False

    def __post_init__(self) -> None:
        check("detector", self.detector, Detector)
        object.__setattr__(self, "scales", _checked_scales(self.scales))
        object.__setattr__(self, "rotations", _checked_rotations(self.rotations))
        if self.max_keypoints is not None:
            whole_number("max_keypoints", self.max_keypoints, 0)
        elif self.spread:
            raise OptionError(
                "spread chooses where max_keypoints are: give their number as well (--max-keypoints)"
            )
        if self.preprocessing is not None:
            check("preprocessing", self.preprocessing, Preprocessing, ", or None")
        for name in ("max_edge", "max_sum_edges"):
            limit = getattr(self, name)
            is_number = isinstance(limit, Real) and not isinstance(limit, bool)
            if limit is not None and not (is_number and limit >= 1):
                raise OptionError(f"{name} must be a number of pixels, or None for no limit; got {limit!r}")
        if self.max_pixels is not None:
            whole_number("max_pixels", self.max_pixels)


def _checked_scales(given: Any) -> tuple[float, ...]:
    try:
        scales = tuple(float(scale) for scale in given)
    except (TypeError, ValueError):
        scales = ()
    if not scales or len(set(scales)) < len(scales) or not all(0 < scale < inf for scale in scales):
        raise OptionError(f"scales must be a list of different positive numbers; got {given!r}")
    return scales


def _checked_rotations(given: Any) -> tuple[int, ...]:
    try:
        rotations = tuple(whole_number("rotations", degrees, 0) for degrees in given)
    except (TypeError, OptionError):
        rotations = ()
    if 0 not in rotations or len(set(rotations)) < len(rotations) or not _QUARTERS.issuperset(rotations):
        raise OptionError(
            f"rotations must be 0 and any of 90, 180 and 270, each once; got {given!r}: for others, turn "
            "the image yourself, as PIL.Image.rotate does, and extract its features as another image's"
        )
    return tuple(sorted(rotations))


class OptionChanges(TypedDict, total=False):
    """All fields of :class:`Options`, as keywords."""

    detector: Detector
    scales: Sequence[float]
    max_keypoints: int | None
    spread: bool
    preprocessing: Preprocessing | None
    relu: bool
    centered: bool
    max_edge: int | None
    max_sum_edges: int | None
    rotations: Sequence[int]
    mask: ArrayLike | Encoded | None
    orient: bool
    stretch: bool
    max_pixels: int | None
    global_descriptor: bool


def chosen(options: Options | None, **changes: Any) -> Options:
    """Return the options that a call was given.

    Parameters
    ----------
    options : Options or None
        Fields that mean nothing to the call have no effect: one object serves for all calls.
    **changes
        Keywords, which count where there are both.

    Raises
    ------
    OptionError
        If a keyword has a value that makes no sense.
    TypeError
        If there is no such option.
    """
    if options is not None and not isinstance(options, Options):
        raise OptionError(f"options must be d2np.Options; got {type(options).__name__}")
    return replace(options or Options(), **changes)
