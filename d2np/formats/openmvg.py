"""A folder of openMVG's: images, keypoints and matches, with which its geometric filter and its SfM go on.

::

    sfm_data.json           images, numbered from 0, and cameras
    image_describer.json    says that the regions are like those of SIFT
    STEM.feat               for each keypoint of the image STEM.jpg a line: x, y, scale, orientation
    STEM.desc               the number of keypoints, uint64, and 128 bytes for each
    matches.putative.txt    for each pair the images' numbers, how many matches, and a line for each match

None of openMVG's types of regions has room for 512 numbers. The matches are there already, and only openMVG's
guided matching looks at descriptors after that: they are zeros, as orientations are, and scales are 1, which
its SfM does not look at. (0, 0) is the centre of the top-left pixel.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..atomic import sync_folder
from ..errors import FormatError
from . import hloc
from .colmap import Content, PathLike, image_names, image_pairs, matches_of_pairs

_FOCAL = 1.2  # of the longest edge, as COLMAP begins with
_BYTES = 128

# The library with which openMVG writes files, cereal, numbers objects and types. This bit says that one is
# described here, for the first time; the other, that a type needs no description.
_FIRST, _PLAIN = 1 << 31, 1 << 30


class Summary(Content):
    """The content of a folder, as in :class:`d2np.formats.colmap.Content`; one size means one camera."""


def write(folder: PathLike, features: PathLike, matches: PathLike, images: PathLike) -> Summary:
    """Write a folder that openMVG goes on with; all of it or nothing.

    Parameters
    ----------
    folder : path
        It must not be there.
    features : path
        hloc's feature file; all its images get into the folder.
    matches : path
        hloc's match file.
    images : path
        The folder of the images, which are found in it by their names in the feature file.

    Raises
    ------
    FormatError
        If the files cannot be read or do not fit each other, two images would have the same files, or the
        folder is there already or cannot be written.
    ImageError
        If images are missing.
    """
    target = Path(folder)
    if os.path.lexists(target):
        raise FormatError(f"{target} is there already: choose another name, or delete it")
    names = image_names(features, Path(images))
    _check_stems(names)
    pairs = image_pairs(matches, features, names)
    numbers = {name: number for number, name in enumerate(names)}
    sizes: dict[str, tuple[int, int]] = {}
    counts: dict[str, int] = {}
    found = []
    try:
        with TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as place:
            partial = Path(place, "partial")
            partial.mkdir()
            with hloc.opened(features) as file:
                for name in names:
                    keypoints, sizes[name] = hloc.read_keypoints(file, name)
                    counts[name] = len(keypoints)
                    _write_regions(partial / Path(name).stem, keypoints)
            with open(partial / "matches.putative.txt", "w", encoding="utf-8") as stream:
                for pair, both, _ in matches_of_pairs(matches, features, pairs, counts):
                    first, second = (numbers[name] for name in pair)
                    indices = both.indices if first < second else both.indices[:, ::-1]
                    stream.write(f"{min(first, second)} {max(first, second)}\n{len(both)}\n")
                    np.savetxt(stream, indices, "%d")
                    found.append(len(both))
            cameras = {size: number for number, size in enumerate(dict.fromkeys(sizes.values()))}
            for name, content in (
                ("sfm_data.json", _sfm_data(os.path.abspath(images), sizes, cameras)),
                ("image_describer.json", _image_describer()),
            ):
                (partial / name).write_text(json.dumps(content, indent=1), encoding="utf-8")
            partial.rename(target)
            sync_folder(target.parent)
    except OSError as error:
        raise FormatError(f"{target}: cannot be written: {error.strerror or error}") from None
    return Summary(len(names), len(cameras), sum(counts.values()), len(found), sum(found))


def _check_stems(names: Iterable[str]) -> None:
    """Find out whether openMVG, which leaves out folders and extensions, tells the images apart."""
    stems: dict[str, str] = {}
    for name in names:
        stem = Path(name).stem
        if (other := stems.setdefault(stem, name)) != name:
            raise FormatError(f"openMVG would look for both {other} and {name} in {stem}.feat: rename one")


def _write_regions(path: Path, keypoints: NDArray[np.float32]) -> None:
    np.savetxt(path.with_name(f"{path.name}.feat"), keypoints, "%.9g %.9g 1 0")
    count = len(keypoints)
    path.with_name(f"{path.name}.desc").write_bytes(count.to_bytes(8, "little") + bytes(_BYTES * count))


def _sfm_data(
    root: str, sizes: Mapping[str, tuple[int, int]], cameras: Mapping[tuple[int, int], int]
) -> dict[str, Any]:
    views = []
    for number, (name, size) in enumerate(sizes.items()):
        folder, _, base = name.rpartition("/")
        data: dict[str, Any] = {"local_path": folder, "filename": base, "width": size[0], "height": size[1]}
        data |= {"id_view": number, "id_intrinsic": cameras[size], "id_pose": number}
        pointer = {"id": _FIRST + 1 + number, "data": data}
        views.append({"key": number, "value": {"polymorphic_id": _PLAIN, "ptr_wrapper": pointer}})
    intrinsics = []
    for (width, height), number in cameras.items():
        kind: dict[str, Any] = {"polymorphic_id": 1}
        if not number:
            kind = {"polymorphic_id": _FIRST + 1, "polymorphic_name": "pinhole_radial_k3"}
        data = {"width": width, "height": height, "focal_length": _FOCAL * max(width, height)}
        data |= {"principal_point": [width / 2, height / 2], "disto_k3": [0.0, 0.0, 0.0]}
        pointer = {"id": _FIRST + 1 + len(views) + number, "data": data}
        intrinsics.append({"key": number, "value": {**kind, "ptr_wrapper": pointer}})
    empty: dict[str, Any] = {name: [] for name in ("extrinsics", "structure", "control_points")}
    return {
        "sfm_data_version": "0.3",
        "root_path": root,
        "views": views,
        "intrinsics": intrinsics,
        **empty,
    }


def _image_describer() -> dict[str, Any]:
    def described(name: str, number: int, data: dict[str, Any], **more: Any) -> dict[str, Any]:
        kind = {"polymorphic_id": _FIRST + number, "polymorphic_name": name}
        return {**kind, "ptr_wrapper": {"valid": 1, "data": data}, **more}

    return {
        "image_describer": described("SIFT_Image_describer", 1, {"params": {}, "bOrientation": True}),
        "regions_type": described("SIFT_Regions", 2, {"value0": [], "value1": []}),
    }
