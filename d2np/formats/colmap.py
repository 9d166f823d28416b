"""A COLMAP database of features and matches, built and verified by COLMAP itself through pycolmap.

Cameras, rigs and frames are what COLMAP's image reader makes of the images: the focal length in terms of
35 mm film from EXIF where there is one, else 1.2 times the longest edge, refined later by the mapper.
Keypoints lie half a pixel further right and down than elsewhere in d2np, since to COLMAP (0.5, 0.5) is the
centre of the top-left pixel. There are no descriptors: COLMAP's matcher would not know what to do with them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..atomic import sync_folder
from ..errors import Error, FormatError, ImageError, OptionError, did_you_mean, several
from ..extras import require
from ..features import Matches, check_indices
from ..images.names import inside
from ..threads import thread_count
from . import hloc, hloc_matches

PathLike = str | os.PathLike[str]

CAMERA_MODEL = "SIMPLE_RADIAL"
"""COLMAP's own choice: one focal length and one coefficient of radial distortion."""

ENOUGH = 30
"""Matches that COLMAP's mapper wants before it places an image (its ``abs_pose_min_num_inliers``)."""

_CENTRE = 0.5

# As hloc verifies: learned features have more outliers than COLMAP's default of at least a quarter inliers
# reckons with. The seed makes the result the same each time.
_RANSAC = {"max_num_trials": 20_000, "min_inlier_ratio": 0.1, "random_seed": 0}


@dataclass(frozen=True)
class Content:
    """The content of a file or folder for another program.

    Attributes
    ----------
    images, keypoints : int
    cameras : int
        Fewer than images where several were taken by the same one.
    pairs, matches : int
        Pairs with matches, and the matches of all.
    """

    images: int
    cameras: int
    keypoints: int
    pairs: int
    matches: int


@dataclass(frozen=True)
class Summary(Content):
    """The content of a database, and how the matches were verified.

    Attributes
    ----------
    images, cameras, keypoints, pairs, matches : int
        See :class:`Content`.
    verified, inliers : int
        Pairs with matches that agree on a two-view geometry, and these matches.
    weak : int
        Images that have fewer than :data:`ENOUGH` of them with any other image.
    """

    verified: int
    inliers: int
    weak: int


def write(
    path: PathLike,
    features: PathLike,
    matches: PathLike,
    images: PathLike,
    *,
    camera_model: str = CAMERA_MODEL,
    single_camera: bool = False,
    verify: bool | None = None,
    overwrite: bool = False,
    threads: int | None = None,
    tell: Callable[[str], object] = lambda _: None,
) -> Summary:
    """Write a database that COLMAP and pycolmap reconstruct from; all of it or nothing.

    Parameters
    ----------
    path : path
        The database.
    features : path
        hloc's feature file; all its images get into the database.
    matches : path
        hloc's match file.
    images : path
        The folder of the images, which are found in it by their names in the feature file.
    camera_model : str
        One of COLMAP's, such as ``"PINHOLE"`` or ``"OPENCV"``.
    single_camera : bool
        All images were taken by one camera with one focal length. Otherwise COLMAP has a camera for those
        that EXIF says so of, and one for each of the others.
    verify : bool, optional
        Estimate the two-view geometry of each pair, and keep the matches that agree with it. Otherwise all
        matches count as agreeing, as with hloc's ``skip_geometric_verification``. By default they are
        verified unless they were so when they were matched, with the model that is then written.
    overwrite : bool
        Replace a file that is there.
    threads : int, optional
        Of the verification; by default every core this process may use.
    tell : callable, optional
        Called with a few words on what is begun.

    Raises
    ------
    FormatError
        If pycolmap is missing, the files cannot be read or do not fit each other, or the database is there
        already or cannot be written.
    ImageError
        If images are missing, or COLMAP cannot read them, or a single camera cannot have taken them.
    OptionError
        If there is no such camera model.
    """
    pycolmap = require("pycolmap", "COLMAP databases need", "colmap", FormatError)
    if camera_model not in pycolmap.CameraModelId.__members__:
        models = sorted(pycolmap.CameraModelId.__members__)
        hint = did_you_mean(camera_model, models)
        raise OptionError(f"no camera model {camera_model!r}: use one of {', '.join(models)}{hint}")
    workers = thread_count(threads)
    shown, target = os.fspath(path), Path(os.path.realpath(path))
    if target.exists() and not (overwrite and target.is_file()):
        raise FormatError(f"{shown} is there already: choose another name, or replace it with --overwrite")
    names = image_names(features, Path(images))
    pairs = image_pairs(matches, features, names)
    if verify is None:
        verify = not _is_verified(matches, pairs)
    with _new_database(pycolmap, target, shown) as partial:
        pycolmap.Database.open(partial).close()  # it is there now, as the image reader wants it
        tell(f"reading the cameras of {len(names)} images")
        pycolmap.import_images(
            partial,
            os.fspath(images),
            pycolmap.CameraMode.SINGLE if single_camera else pycolmap.CameraMode.AUTO,
            names,
            pycolmap.ImageReaderOptions(camera_model=camera_model),
        )
        with pycolmap.Database.open(partial) as database:
            tell("writing keypoints and matches")
            numbers = _write_keypoints(database, features, names)
            counts = {name: database.num_keypoints_for_image(number) for name, number in numbers.items()}
            for pair, found, model in matches_of_pairs(matches, features, pairs, counts):
                ids = [numbers[name] for name in pair]
                indices = found.indices.astype(np.uint32)
                database.write_matches(*ids, indices)
                if not verify:
                    database.write_two_view_geometry(*ids, _geometry(pycolmap, indices, model))
        if verify:
            tell("verifying the matches")
            options = pycolmap.TwoViewGeometryOptions()
            options.ransac.mergedict(_RANSAC)
            pycolmap.geometric_verification(
                partial,
                verifier_options=pycolmap.GeometricVerifierOptions(num_threads=workers),
                two_view_geometry_options=options,
            )
        with pycolmap.Database.open(partial) as database:
            # Pairs that failed verification have a geometry too, of no inliers.
            verified, inliers = database.read_two_view_geometry_num_inliers()
            enough = [pair for pair, number in zip(verified, inliers, strict=True) if number >= ENOUGH]
            strong = {image for pair in enough for image in pycolmap.pair_id_to_image_pair(pair)}
            return Summary(
                images=database.num_images(),
                cameras=database.num_cameras(),
                keypoints=database.num_keypoints(),
                pairs=database.num_matched_image_pairs(),
                matches=database.num_matches(),
                verified=sum(number > 0 for number in inliers),
                inliers=sum(inliers),
                weak=database.num_images() - len(strong),
            )


def image_names(features: PathLike, folder: Path) -> list[str]:
    """Return the names of the images of a feature file, all of which the folder must hold."""
    names = hloc.names(features)
    if not names:
        raise FormatError(f"{os.fspath(features)} holds no features of D2-Net")
    if missing := [name for name in names if not inside(folder, name).is_file()]:
        raise ImageError(f"{folder} lacks images that {os.fspath(features)} holds: {several(missing)}")
    return names


def image_pairs(matches: PathLike, features: PathLike, names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Return the two images of each group of a match file; of a pair in both orders, those of one group."""
    groups = hloc_matches.pair_names(matches)
    if not groups:
        raise FormatError(f"{os.fspath(matches)} holds no matches")
    used = {flat for group in groups for flat in group.split("/")}
    known = hloc_matches.by_flat_name(name for name in names if hloc_matches.flat_name(name) in used)
    if missing := sorted(used - known.keys()):
        raise FormatError(
            f"{os.fspath(matches)} has matches of images that {os.fspath(features)} does not hold: "
            f"{several(missing)}"
        )
    pairs: dict[frozenset[str], tuple[str, tuple[str, str]]] = {}
    for group in groups:
        first, second = group.split("/")
        if first != second:
            pairs.setdefault(frozenset((first, second)), (group, (known[first], known[second])))
    return dict(pairs.values())


def _write_keypoints(database: Any, features: PathLike, names: Sequence[str]) -> dict[str, int]:
    """Write the keypoints of all images, which COLMAP has looked at; return its numbers of them."""
    found = {image.name: image for image in database.read_all_images()}
    if unread := [name for name in names if name not in found]:
        raise ImageError(
            f"COLMAP cannot read {several(unread)}: damaged, of a kind it does not take, or of another size "
            "than the others of a single camera"
        )
    with hloc.opened(features) as file:
        for name, image in found.items():
            camera = database.read_camera(image.camera_id)
            keypoints, (width, height) = hloc.read_keypoints(file, name)
            if (width, height) != (camera.width, camera.height):
                raise FormatError(
                    f"{name} has {camera.width} x {camera.height} px, but its features are of an image of "
                    f"{width} x {height} px: extract them from this one, without --orient"
                )
            database.write_keypoints(image.image_id, keypoints + np.float32(_CENTRE))
    return {name: image.image_id for name, image in found.items()}


Model = tuple[str, NDArray[np.float64]]


def _is_verified(matches: PathLike, pairs: Iterable[str]) -> bool:
    """Return whether the matches of all pairs were verified when they were matched."""
    with hloc.opened(matches) as file:
        return all(hloc_matches.read_model(file, group) is not None for group in pairs)


def matches_of_pairs(
    matches: PathLike, features: PathLike, pairs: Mapping[str, tuple[str, str]], counts: Mapping[str, int]
) -> Iterator[tuple[tuple[str, str], Matches, Model | None]]:
    """Yield the names, the matches and the model of each pair with matches, if the keypoints are there."""
    with hloc.opened(matches) as file:
        for group, pair in pairs.items():
            if len(found := hloc_matches.read_pair(file, group)):
                try:
                    check_indices(found, *(counts[name] for name in pair))
                except FormatError as error:
                    raise FormatError(
                        f"{os.fspath(matches)} was made from other features than {os.fspath(features)}: "
                        f"of {' and '.join(pair)}, {error}"
                    ) from None
                yield pair, found, hloc_matches.read_model(file, group)


def _geometry(pycolmap: Any, indices: NDArray[np.uint32], model: Model | None) -> Any:
    """Return a two-view geometry of these matches, with their model in COLMAP's pixels if it is known."""
    kinds = pycolmap.TwoViewGeometryConfiguration
    geometry = pycolmap.TwoViewGeometry(config=kinds.UNCALIBRATED, inlier_matches=indices)
    if model is not None and model[1].any():
        kind, matrix = model
        back = np.array([[1, 0, -_CENTRE], [0, 1, -_CENTRE], [0, 0, 1]])
        if kind == "homography":
            geometry.config, geometry.H = kinds.PLANAR_OR_PANORAMIC, np.linalg.inv(back) @ matrix @ back
        else:
            geometry.F = back.T @ matrix @ back
    return geometry


@contextmanager
def quiet(pycolmap: Any) -> Iterator[None]:
    """Keep COLMAP's own messages back: what goes wrong is raised."""
    level = pycolmap.logging.minloglevel
    pycolmap.logging.minloglevel = pycolmap.logging.Level.FATAL.value
    try:
        yield
    finally:
        pycolmap.logging.minloglevel = level


@contextmanager
def _new_database(pycolmap: Any, target: Path, shown: str) -> Iterator[str]:
    """Yield a path whose file becomes the target when the block ends well, and is deleted when it does not.

    What goes wrong in COLMAP is raised as an error of ours.
    """
    try:
        # A folder, since SQLite makes files of its own beside a database.
        with quiet(pycolmap), TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder:
            partial = os.path.join(folder, target.name)
            yield partial
            os.replace(partial, target)
            sync_folder(target.parent)
    except Error:
        raise
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        raise FormatError(
            f"{shown}: COLMAP cannot write it, which needs room and file locks there: {hloc.one_line(error)}"
        ) from None
