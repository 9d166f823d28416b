"""A COLMAP database of features and matches, built and verified by COLMAP itself through pycolmap.

Cameras, rigs and frames are what COLMAP's image reader makes of the images: the focal length in terms of
35 mm film from EXIF where there is one, else 1.2 times the longest edge, refined later by the mapper.
Keypoints lie half a pixel further right and down than elsewhere in d2np, since to COLMAP (0.5, 0.5) is the
centre of the top-left pixel. There are no descriptors: COLMAP's matcher would not know what to do with them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..atomic import sync_folder
from ..errors import Error, FormatError, ImageError, OptionError, did_you_mean, several
from ..extras import require
from ..images.names import inside, near
from ..threads import thread_count
from . import hloc, hloc_matches

CAMERA_MODEL = "SIMPLE_RADIAL"
"""COLMAP's own choice: one focal length and one coefficient of radial distortion."""

ENOUGH = 30
"""Matches that COLMAP's mapper wants before it places an image (its ``abs_pose_min_num_inliers``)."""

_CENTRE = 0.5
_LEAST_VERSION = 4

# As hloc verifies: learned features have more outliers than COLMAP's default of at least a quarter inliers
# reckons with. The seed makes the result the same each time.
_RANSAC = {"max_num_trials": 20_000, "min_inlier_ratio": 0.1, "random_seed": 0}


@dataclass(frozen=True)
class Summary:
    """The content of a database.

    Attributes
    ----------
    images, keypoints : int
    cameras : int
        Fewer than images where several were taken by the same one.
    pairs, matches : int
        Pairs with matches, and the matches of all.
    verified, inliers : int
        Pairs with matches that agree on a two-view geometry, and these matches.
    weak : int
        Images that have fewer than :data:`ENOUGH` of them with any other image.
    """

    images: int
    cameras: int
    keypoints: int
    pairs: int
    matches: int
    verified: int
    inliers: int
    weak: int


def write(
    path: str | os.PathLike[str],
    features: str | os.PathLike[str],
    matches: str | os.PathLike[str],
    images: str | os.PathLike[str],
    *,
    camera_model: str = CAMERA_MODEL,
    single_camera: bool = False,
    verify: bool = True,
    overwrite: bool = False,
    threads: int | None = None,
    tell: Callable[[str], object] = lambda _: None,
) -> Summary:
    """Write a database that COLMAP and pycolmap reconstruct from; all of it or nothing.

    Parameters
    ----------
    path : path
        The database. While it is being written it is ``PATH.partial``.
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
    verify : bool
        Estimate the two-view geometry of each pair, and keep the matches that agree with it. Otherwise all
        matches count as agreeing, as with hloc's ``skip_geometric_verification``.
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
        If images are missing, or COLMAP cannot read them.
    OptionError
        If there is no such camera model, or a single camera cannot have taken the images.
    """
    pycolmap = _pycolmap()
    models = [name for name in pycolmap.CameraModelId.__members__ if name != "INVALID"]
    if camera_model not in models:
        hint = did_you_mean(camera_model, models)
        raise OptionError(f"no camera model {camera_model!r}: use one of {', '.join(models)}{hint}")
    workers = thread_count(threads)
    shown, target = os.fspath(path), Path(os.path.realpath(path))
    if target.exists() and not (overwrite and target.is_file()):
        raise FormatError(f"{shown} is there already: choose another name, or replace it with --overwrite")
    source = _Source(features, matches)
    source.check_images(Path(images), single_camera)
    with _new_database(pycolmap, target, shown) as partial:
        pycolmap.Database.open(partial).close()  # it is there now, as the image reader wants it
        tell(f"reading the cameras of {len(source.sizes)} images")
        pycolmap.import_images(
            partial,
            os.fspath(images),
            pycolmap.CameraMode.SINGLE if single_camera else pycolmap.CameraMode.AUTO,
            list(source.sizes),
            pycolmap.ImageReaderOptions(camera_model=camera_model),
        )
        with pycolmap.Database.open(partial) as database:
            tell("writing keypoints and matches")
            source.copy(pycolmap, database, geometries=not verify)
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
            pairs, inliers = database.read_two_view_geometry_num_inliers()
            enough = [pair for pair, number in zip(pairs, inliers, strict=True) if number >= ENOUGH]
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


class _Source:
    """The features and matches, which must fit each other.

    Attributes
    ----------
    sizes : dict
        Width and height of each image.
    pairs : dict
        The two images of each group of the match file; of a pair that is there in both orders, of one group.
    """

    def __init__(self, features: str | os.PathLike[str], matches: str | os.PathLike[str]) -> None:
        self._features, self._matches = os.fspath(features), os.fspath(matches)
        # The keypoints themselves are read again when they are written: there may be many.
        with hloc.opened(features) as file:
            self.sizes = {name: hloc.read_keypoints(file, name)[1] for name in hloc.names(file)}
        if not self.sizes:
            raise FormatError(f"{self._features} holds no features of D2-Net")
        groups = [group.split("/") for group in hloc_matches.pair_names(matches)]
        if not groups:
            raise FormatError(f"{self._matches} holds no matches")
        used = {flat for group in groups for flat in group}
        known = hloc_matches.by_flat_name(name for name in self.sizes if hloc_matches.flat_name(name) in used)
        if missing := sorted(used - known.keys()):
            raise FormatError(
                f"{self._matches} has matches of images that {self._features} does not hold: "
                f"{several(missing)}"
            )
        unordered: dict[frozenset[str], list[str]] = {}
        for group in groups:
            if group[0] != group[1]:
                unordered.setdefault(frozenset(group), group)
        self.pairs = {"/".join(group): (known[group[0]], known[group[1]]) for group in unordered.values()}

    def check_images(self, folder: Path, single_camera: bool) -> None:
        """Find out whether all images are there, and can be of one camera if they should be."""
        if not folder.is_dir():
            raise ImageError(f"{folder}: there is no such folder of images{near(folder)}")
        if missing := [name for name in self.sizes if not inside(folder, name).is_file()]:
            raise ImageError(f"{folder} lacks images that {self._features} holds: {several(missing)}")
        if single_camera and len(sizes := {size: name for name, size in self.sizes.items()}) > 1:
            found = several(f"{name} has {_size(size)} px" for size, name in sizes.items())
            raise OptionError(f"a single camera takes images of one size, but {found}")

    def copy(self, pycolmap: Any, database: Any, *, geometries: bool) -> None:
        """Write everything into a database that has the images."""
        images = {image.name: image for image in database.read_all_images()}
        if unread := [name for name in self.sizes if name not in images]:
            raise ImageError(f"COLMAP cannot read {several(unread)}: damaged, or of a kind it does not take")
        with hloc.opened(self._features) as file:
            for name, size in self.sizes.items():
                camera = database.read_camera(images[name].camera_id)
                if size != (camera.width, camera.height):
                    raise FormatError(
                        f"{name} has {camera.width} x {camera.height} px, but its features are of an image "
                        f"of {_size(size)} px: extract them from this one, without --orient"
                    )
                keypoints, _ = hloc.read_keypoints(file, name)
                database.write_keypoints(images[name].image_id, keypoints + np.float32(_CENTRE))
        with hloc.opened(self._matches) as file:
            for group, pair in self.pairs.items():
                indices = hloc_matches.read_pair(file, group).indices
                if not len(indices):
                    continue
                numbers = [images[name].image_id for name in pair]
                counts = [database.num_keypoints_for_image(number) for number in numbers]
                if indices.min() < 0 or (indices.max(axis=0) >= counts).any():
                    raise FormatError(
                        f"{self._matches} matches keypoints of {' and '.join(pair)} that {self._features} "
                        "does not hold: it was made from other features"
                    )
                indices = indices.astype(np.uint32)
                database.write_matches(*numbers, indices)
                if geometries:
                    geometry = pycolmap.TwoViewGeometry(
                        config=pycolmap.TwoViewGeometryConfiguration.UNCALIBRATED, inlier_matches=indices
                    )
                    database.write_two_view_geometry(*numbers, geometry)


def _pycolmap() -> Any:
    pycolmap = require("pycolmap", "COLMAP databases need", "colmap", FormatError)
    version = str(pycolmap.__version__)
    if int(version.partition(".")[0]) < _LEAST_VERSION:
        raise FormatError(
            f"COLMAP databases need pycolmap {_LEAST_VERSION}.0 or newer, this is {version}: "
            "pip install -U 'd2np[colmap]'"
        )
    return pycolmap


@contextmanager
def _new_database(pycolmap: Any, target: Path, shown: str) -> Iterator[str]:
    """Yield a path whose file becomes the target when the block ends well, and is deleted when it does not.

    COLMAP's own messages are kept back: what goes wrong is raised, as an error of ours.
    """
    partial = target.with_name(f"{target.name}.partial")
    # SQLite's own, beside a database that is open or was when its process died.
    besides = [partial.with_name(partial.name + suffix) for suffix in ("", "-wal", "-shm", "-journal")]
    level = pycolmap.logging.minloglevel
    pycolmap.logging.minloglevel = pycolmap.logging.Level.FATAL.value
    try:
        for path in besides:
            path.unlink(missing_ok=True)
        _check_locks(partial, shown)
        yield os.fspath(partial)
        os.replace(partial, target)
        sync_folder(target.parent)
    except Error:
        raise
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        raise FormatError(f"{shown}: cannot be written: {hloc.one_line(error)}") from None
    finally:
        pycolmap.logging.minloglevel = level
        for path in besides:
            with suppress(OSError):
                path.unlink()


def _check_locks(path: Path, shown: str) -> None:
    """Create a file, and find out whether it can be locked: SQLite cannot do without, nor say so."""
    with open(path, "wb") as stream, suppress(ImportError):
        import fcntl  # not on Windows

        try:
            fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise FormatError(
                f"{shown}: file locks do not work there, which COLMAP's databases need: write it to another "
                "file system"
            ) from None


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
