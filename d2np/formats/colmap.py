"""A COLMAP database of features and matches, built and verified by COLMAP itself through pycolmap.

Cameras, rigs and frames are what COLMAP's image reader makes of the images: the focal length in terms of
35 mm film from EXIF where there is one, else 1.2 times the longest edge, refined later by the mapper.
Keypoints lie half a pixel further right and down than elsewhere in d2np, since to COLMAP (0.5, 0.5) is the
centre of the top-left pixel. There are no descriptors: COLMAP's matcher would not know what to do with them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..atomic import NO_LOCKS, sync_folder
from ..errors import FormatError, ImageError, OptionError, did_you_mean, several
from ..extras import require
from ..images.names import inside, near
from ..threads import Team
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
    """What is in a database.

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
    shown, target = os.fspath(path), Path(os.path.realpath(path))
    if camera_model not in _models(pycolmap):
        known = _models(pycolmap)
        hint = did_you_mean(camera_model, known)
        raise OptionError(f"no camera model {camera_model!r}: use one of {', '.join(known)}{hint}")
    with Team(threads) as team:
        workers = team.size
    if target.exists() and not overwrite:
        raise FormatError(f"{shown} is there already: choose another name, or replace it with --overwrite")
    source = _Source(features, matches)
    source.check_images(Path(images), single_camera)
    with _replacing_database(target, shown) as partial, _quiet(pycolmap), _named(shown):
        with pycolmap.Database.open(partial):
            pass  # it is there now, as the image reader wants it
        tell(f"reading the cameras of {len(source.names)} images")
        pycolmap.import_images(
            partial,
            os.fspath(images),
            pycolmap.CameraMode.SINGLE if single_camera else pycolmap.CameraMode.AUTO,
            source.names,
            pycolmap.ImageReaderOptions(camera_model=camera_model),
        )
        with pycolmap.Database.open(partial) as database:
            tell("writing keypoints and matches")
            source.copy(pycolmap, database, geometries=not verify)
        if verify:
            tell("verifying the matches")
            _verify(pycolmap, partial, workers)
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
    """The features and matches, which are to fit each other."""

    def __init__(self, features: str | os.PathLike[str], matches: str | os.PathLike[str]) -> None:
        self._features, self._matches = os.fspath(features), os.fspath(matches)
        self.names = hloc.names(features)
        if not self.names:
            raise FormatError(f"{self._features} holds no features of D2-Net")
        # The keypoints themselves are read again when they are written: there may be many.
        self._counts: dict[str, int] = {}
        self._sizes: dict[str, tuple[int, int]] = {}
        with hloc.opened(features) as file:
            for name in self.names:
                keypoints, self._sizes[name] = hloc.read_keypoints(file, name)
                self._counts[name] = len(keypoints)
        self._pairs = self._pairs_of(hloc_matches.pair_names(matches))

    def check_images(self, folder: Path, single_camera: bool) -> None:
        """Whether all images are there, and can be of one camera if they should be."""
        if not folder.is_dir():
            raise ImageError(f"{folder}: there is no such folder of images{near(folder)}")
        if missing := [name for name in self.names if not inside(folder, name).is_file()]:
            raise ImageError(f"{folder} lacks images that {self._features} holds: {several(missing)}")
        if single_camera:
            first = self.names[0]
            for name in self.names:
                if self._sizes[name] != self._sizes[first]:
                    raise OptionError(
                        f"a single camera takes images of one size, but {first} has "
                        f"{_size(self._sizes[first])} px and {name} {_size(self._sizes[name])} px"
                    )

    def copy(self, pycolmap: Any, database: Any, *, geometries: bool) -> None:
        """Put everything into a database that has the images."""
        numbers = self._numbers(database)
        with hloc.opened(self._features) as file:
            for name, number in numbers.items():
                keypoints, _ = hloc.read_keypoints(file, name)
                database.write_keypoints(number, keypoints + np.float32(_CENTRE))
        with hloc.opened(self._matches) as file:
            for group, (a, b) in self._pairs.items():
                indices = self._checked(a, b, hloc_matches.read_pair(file, group).indices)
                if not len(indices):
                    continue
                database.write_matches(numbers[a], numbers[b], indices)
                if geometries:
                    geometry = pycolmap.TwoViewGeometry(
                        config=pycolmap.TwoViewGeometryConfiguration.UNCALIBRATED, inlier_matches=indices
                    )
                    database.write_two_view_geometry(numbers[a], numbers[b], geometry)

    def _numbers(self, database: Any) -> Mapping[str, int]:
        """The number in the database of each image."""
        numbers = {image.name: image.image_id for image in database.read_all_images()}
        if unread := [name for name in self.names if name not in numbers]:
            raise ImageError(f"COLMAP cannot read {several(unread)}: damaged, or of a kind it does not take")
        for image in database.read_all_images():
            camera = database.read_camera(image.camera_id)
            if self._sizes[image.name] != (camera.width, camera.height):
                raise FormatError(
                    f"{image.name} has {camera.width} x {camera.height} px, but its features are of a "
                    f"image of {_size(self._sizes[image.name])} px: extract them from this one, without "
                    "--orient"
                )
        return {name: numbers[name] for name in self.names}

    def _pairs_of(self, groups: Sequence[str]) -> Mapping[str, tuple[str, str]]:
        """The two images of each group; of a pair that is there in both orders, one group."""
        if not groups:
            raise FormatError(f"{self._matches} holds no matches")
        used = {flat for group in groups for flat in group.split("/")}
        known = hloc_matches.by_flat_name(name for name in self.names if hloc_matches.flat_name(name) in used)
        if missing := sorted(used - known.keys()):
            raise FormatError(
                f"{self._matches} has matches of images that {self._features} does not hold: "
                f"{several(missing)}"
            )
        found: dict[frozenset[str], str] = {}
        for group in groups:
            found.setdefault(frozenset(group.split("/")), group)
        pairs = {group: tuple(known[flat] for flat in group.split("/")) for group in found.values()}
        return {group: (a, b) for group, (a, b) in pairs.items() if a != b}

    def _checked(self, a: str, b: str, indices: NDArray[np.int64]) -> NDArray[np.uint32]:
        counts = self._counts[a], self._counts[b]
        if len(indices) and (indices.min() < 0 or (indices.max(axis=0) >= counts).any()):
            raise FormatError(
                f"{self._matches} matches keypoints of {a} and {b} that {self._features} does not hold: it "
                "was made from other features"
            )
        return indices.astype(np.uint32)


def _verify(pycolmap: Any, path: str, threads: int) -> None:
    options = pycolmap.TwoViewGeometryOptions()
    options.ransac.mergedict(_RANSAC)
    pycolmap.geometric_verification(
        path,
        verifier_options=pycolmap.GeometricVerifierOptions(num_threads=threads),
        two_view_geometry_options=options,
    )


def _pycolmap() -> Any:
    pycolmap = require("pycolmap", "COLMAP databases need", "colmap", FormatError)
    version = str(pycolmap.__version__)
    if int(version.partition(".")[0]) < _LEAST_VERSION:
        raise FormatError(
            f"COLMAP databases need pycolmap {_LEAST_VERSION}.0 or newer, this is {version}: "
            "pip install -U 'd2np[colmap]'"
        )
    return pycolmap


def _models(pycolmap: Any) -> list[str]:
    return [name for name in pycolmap.CameraModelId.__members__ if name != "INVALID"]


@contextmanager
def _replacing_database(target: Path, shown: str) -> Iterator[str]:
    """A path whose file becomes the target when the block ends well, and is deleted when it does not."""
    if target.exists() and not target.is_file():
        raise FormatError(f"{shown}: cannot be written: there is something that is no file")
    partial = target.with_name(f"{target.name}.partial")
    # SQLite's own, beside a database that is open or was when its process died.
    besides = [partial.with_name(partial.name + suffix) for suffix in ("", "-wal", "-shm", "-journal")]
    try:
        for path in besides:
            path.unlink(missing_ok=True)
        # SQLite would not tell why it cannot.
        partial.touch()
        try:
            _check_locks(partial, shown)
            yield os.fspath(partial)
            os.replace(partial, target)
            sync_folder(target.parent)
        except BaseException:
            for path in besides:
                path.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise FormatError(f"{shown}: cannot be written: {error.strerror or error}") from None


def _check_locks(path: Path, shown: str) -> None:
    """SQLite does nothing without file locks, neither here nor in COLMAP, and does not say why."""
    try:
        import fcntl
    except ImportError:  # Windows
        return
    with open(path, "rb+") as stream:
        try:
            fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in NO_LOCKS:
                raise FormatError(
                    f"{shown}: file locks do not work there, which COLMAP's databases need: write it to "
                    "another file system"
                ) from None


@contextmanager
def _quiet(pycolmap: Any) -> Iterator[None]:
    """COLMAP's own messages are kept back: what goes wrong is raised."""
    level = pycolmap.logging.minloglevel
    pycolmap.logging.minloglevel = pycolmap.logging.Level.FATAL.value
    try:
        yield
    finally:
        pycolmap.logging.minloglevel = level


@contextmanager
def _named(shown: str) -> Iterator[None]:
    """What pycolmap raises becomes an error of ours."""
    try:
        yield
    except (FormatError, ImageError, OptionError):
        raise
    except (RuntimeError, ValueError, TypeError) as error:
        raise FormatError(f"{shown}: cannot be written: {' '.join(str(error).split())}") from None


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
