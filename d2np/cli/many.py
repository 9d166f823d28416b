"""Commands on many images, which take long, and go on when they are started again."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from ..errors import Error, OptionError, count
from ..options import FeatureFormat, GeometricModel, names
from . import choice, files
from .arguments import EXTRACTION, MATCHING, POSITIVE, QUIET, THREADS, Command, check_owners, settings
from .console import complain, file_size, finishing, note, say, seconds

if TYPE_CHECKING:
    from ..dataset import Output, Settings
    from ..features import Projection
    from ..formats.colmap import Content
    from ..network.net import Net

# Formats of a file for each image, which can lie beside it.
_BESIDE = ("npz", "mat")
_BEGIN_ANEW = "--overwrite  begin anew and replace what is there, which stays until the end"

_CLUSTER = """cluster:
    --dask WHERE  let a Dask cluster work: the address of its scheduler, such as tcp://host:8786, or local:N
        for N processes on this machine
    --shards PLACE  where its workers leave their results: a folder that they and this process see, or a URL
        that fsspec knows, such as s3://bucket/folder; default: OUT.parts"""


@Command(
    f"""
    IMAGES  images, folders, patterns, lists
    -o, --output OUT  the file to write; with --format npz, mat or kapture a folder; without it, npz and mat
        go beside the images
    --format  what to write, see below; default: h5
    --half  h5: store float16, as hloc does: half the size, but positions beyond 1024 px lose their fractions
    --dimensions N  h5: store descriptors of 128 or 256 dimensions instead of 512: their principal components
    --projection FEATURES.h5  h5: the components that this file has, instead of those of these images
    {QUIET}
    going on:
    {_BEGIN_ANEW}
    --restart
    --retry-failed  try again images that failed before and have not changed since
    --checksum  h5: tell whether an image has changed by its content (SHA-256) instead of size and time; works
        for images that were extracted with this option
    {_CLUSTER}
    {EXTRACTION}
    """,
    images={"nargs": "+"},
    format={"choices": names(FeatureFormat), "default": "h5"},
)
def extract(options: argparse.Namespace) -> int:
    """Write the features of many images into files.

    Finds and describes keypoints in many images and writes them into files.

    IMAGES are any of
      house.jpg        an image, named by its file's name
      photos/          a folder: all images in it and below it, named by their path
                       inside it
      'photos/*.png'   a pattern (*, ?, [ab], and ** for any folders), quoted or not
      @list.txt        a path on each line, relative to the list's folder or else to
                       the working folder; the path as written is the name, of an
                       absolute path its last part
      @-               the same from standard input
    each of which may be a URL that fsspec knows, such as s3://bucket/photos/ or
    https://host/house.jpg; the URL of a web server's folder ends with a slash.
    URLs need pip install 'd2np[cloud]', and what fsspec asks for besides.

    formats
      h5       one file, as hloc's: for each image keypoints (N, 2), scores (N,),
               descriptors (512, N), image_size (2,), scales (N,), and
               global_descriptor (512,), one vector of the image; rotations (N,)
               with --rotations
      npz      a file IMAGE.d2-net for each image, as the published script writes
               it: keypoints (N, 3) with x, y, scale, scores (N,), descriptors
               (N, 512); beside the images, or under OUT
      mat      the same for MATLAB
      kapture  a kapture folder, new or there already; the features go under
               reconstruction/ and the name of the weights, and images that it does
               not know yet get a camera, a record and a link

    stopping and going on
      Whatever ends it (Ctrl-C, kill, a full disk, a power cut), nothing that is
      done is lost: start the same command again, and it goes on. Ctrl-C finishes
      the current image, a second one stops at once.

      OUT is there as a whole or not at all. With h5, each image that is done is
      kept in OUT.parts/, and at the end the file is assembled from that; this needs
      room for the features twice. A file that is there already stays until the new
      one, with its content and the new features, replaces it. Two jobs cannot
      write to one OUT.

      Started again, it leaves out the images that are done, and does new ones; with
      h5 also those that have changed, in size or time of change, or in content with
      --checksum. If OUT was made with other weights or options, it refuses and says
      which; --overwrite begins anew.

    fewer dimensions
      --dimensions learns the principal components of some of the images, up to 32,
      when the job begins, and keeps them with OUT: images that are added later have
      the same. Features of two files can only be matched if both have the same
      components: give the second one --projection and the first one.

    masks
      With --masks an image has keypoints only where its mask is not black. A mask
      has its image's size, and the name of the image with .png added to it, or in
      place of its extension. An image without a mask fails, as with COLMAP. With h5
      an image whose mask has changed is done again. Masks are not taken for images
      where their folder is inside that of the images.

    failures
      An image that cannot be used is listed at the end with the reason, and in
      OUT.failed.txt, a line NAME<TAB>REASON<TAB>STATE for each; the others are
      done, and the exit code is 1. Started again, such images are only listed,
      unless they have changed (size, times, what the server says of a URL) or their
      server did not answer; --retry-failed tries all of them. (npz and mat beside
      the images have no such list, and try again.)

    a cluster
      With --dask the same job runs on a Dask cluster. Its workers must see the
      images under the same path, and the folder OUT.parts/ as well; if
      they do not see that folder, --shards says where else they can leave their
      results. A worker that is killed loses no more than what it was working on,
      which others do again; when this process is killed, the same command goes on.
      Needs pip install 'd2np[dask]'.

    exit code
      0 all done; 1 some images failed, or the job did; 2 bad usage; 130 interrupted

    examples:
      d2np extract photos/ -o features.h5
      d2np extract photos/ -o features.h5 --max-keypoints 4000 --half
      d2np extract photos/ -o features.h5 --masks masks/
      d2np extract photos/ -o features.h5 --retry-failed
      d2np extract photos/ -o features.h5 --dask local:4
      find photos -name '*.jpg' -size +1M | d2np extract @- -o large.h5
      d2np extract @list.txt --format npz
      d2np extract photos/ -o kapture/ --format kapture
    """
    _check_extraction(options)
    projection = _projection(options)
    from .. import dataset
    from ..dataset.extraction import not_held

    entries = dataset.listing(options.images, beside=options.output is None, masks=options.masks, tell=note)
    if options.output is not None and Path(options.output).is_file():
        files.check_sources(options.output, (entry.path for entry in entries))
    how = settings(options)
    net = files.load(options.weights, options.threads)
    output = _output(net, how, projection, options)
    if options.dimensions and getattr(output, "projection", None) is None and sys.stderr.isatty():
        note(
            f"some of the images are extracted first, to learn {options.dimensions} dimensions from them ..."
        )
    job = partial(
        dataset.extract,
        *(net, entries, output, how),
        threads=options.threads,
        retry_failed=options.retry_failed or options.overwrite,
    )
    report, duration = _carried_out(
        *(job, output, "extracting", "image", len(entries)),
        lambda: len(not_held(entries, output)[0]),
        options,
    )
    say(
        f"{count(report.done, 'image')} extracted"
        + (f", {report.skipped:,} there already" if report.skipped else "")
        + (f", {len(report.failed):,} failed" if report.failed else "")
        + (f", {count(report.keypoints, 'keypoint')} in {seconds(duration)}" if report.done else "")
    )
    if options.format != "h5":
        say(f"feature files are {'beside the images' if options.output is None else f'in {options.output}'}")
    elif (path := Path(options.output)).exists():
        say(f"{path}: {file_size(path.stat().st_size)}")
    for _, reason in report.failed:
        complain(reason)
    if report.failed_before:
        note(
            f"not tried again, as unchanged: {count(report.failed_before, 'image')} that failed before; "
            "--retry-failed tries them"
        )
    if report.failed and output.failed_list is not None:
        note(f"these are listed in {output.failed_list}")
    if isinstance(output, dataset.KaptureOutput) and len(types := output.types()) > 1:
        note(
            f"{options.output} holds features of several weights ({', '.join(types)}): kapture's tools need "
            f"to be told which, for these: --keypoints-type {output.kind} --descriptors-type {output.kind}"
        )
    return 1 if report.failed else 0


def _check_extraction(options: argparse.Namespace) -> None:
    for option in ("half", "dimensions", "projection", "checksum", "dask"):
        if getattr(options, option) and options.format != "h5":
            raise OptionError(f"--{option} is for --format h5 only")
    if options.rotations != (0,) and options.format != "h5":
        raise OptionError("--rotations is for --format h5 only")
    if options.orient and options.format == "kapture":
        raise OptionError("--orient is not for --format kapture, whose images are as they are stored")
    if options.output is None and options.format not in _BESIDE:
        example = "features.h5" if options.format == "h5" else options.format
        raise OptionError(f"say where to write with -o OUT, such as -o {example}")
    if options.format == "h5" and files.extension(options.output) not in (".h5", ".hdf5", ""):
        raise OptionError(f"{options.output}: the format is h5: give it the extension .h5, or see --format")
    _check_cluster(options)


def _projection(options: argparse.Namespace) -> Projection | None:
    """Return the projection of the file that ``--projection`` names."""
    from ..formats import hloc

    if options.projection is None:
        return None
    files.check_there(options.projection)
    projection = hloc.read_projection(options.projection)
    if projection is None:
        raise Error(f"{options.projection} has no projection: it was extracted without --dimensions")
    if options.dimensions not in (None, projection.dimensions):
        raise OptionError(
            f"{options.projection} has a projection to {projection.dimensions} dimensions: leave "
            f"--dimensions {options.dimensions} out"
        )
    return projection


def _output(net: Net, how: Settings, projection: Projection | None, options: argparse.Namespace) -> Output:
    from .. import dataset
    from ..weights import catalogue

    path = None if options.output is None else Path(options.output)
    restart = options.overwrite
    if options.format in _BESIDE:
        return {"npz": dataset.NpzOutput, "mat": dataset.MatOutput}[options.format](path, restart=restart)
    assert path is not None
    if options.format == "kapture":
        weights = options.weights or catalogue.default()
        if weights not in catalogue.PACKAGED:
            weights = net.provenance.name if net.provenance else None
        return dataset.KaptureOutput(path, weights, restart=restart)
    return dataset.HlocOutput(
        path,
        how.recorded(net),
        half=options.half,
        dimensions=options.dimensions,
        projection=projection,
        checksum=options.checksum,
        restart=restart,
    )


@Command(
    f"""
    FEATURES.h5  what d2np extract or hloc wrote
    -o, --output MATCHES.h5  the file to write
    {_BEGIN_ANEW}
    --restart
    {QUIET}
    {THREADS}
    {choice.CHOICE}
    {_CLUSTER}
    {MATCHING}
    verification:
    --verify  store only matches that agree with one fundamental matrix (any rigid scene) or one homography (a
        plane, or a camera that only turns); needs pip install 'd2np[verify]'
    --threshold PX  how far a match may be off and still agree; default: 3, and more for images that were
        shrunk
    --min-inliers N  of a pair with fewer matches that agree, store none; default: 15
    """,
    output={"required": True},
    verify={"choices": names(GeometricModel)},
    threshold=POSITIVE,
)
def pairs(options: argparse.Namespace) -> int:
    """Match many pairs of images whose features are in a file.

    Matches the images of a feature file, each with every other or the pairs of a list, and writes hloc's
    match file.

    MATCHES.h5 is hloc's match file: for each pair a group A/B, slashes in the names
    replaced by hyphens, with matches0 (N,), the keypoint of B for each one of A or
    -1, and matching_scores0 (N,), (1 + cosine) / 2.

    LIST is hloc's: two names a line, separated by a space, as they are in
    FEATURES.h5. Names that hold spaces are separated by a tab or written in
    "quotes"; else they are found where a line has only one reading. With - the list
    is read from standard input.

    With --verify, pairs without agreement have no matches in MATCHES.h5, and the
    same command does not match them again. `d2np colmap` takes inliers as they are.

    The same command with another choice of pairs adds these to MATCHES.h5.

    Whatever ends it (Ctrl-C, kill, a full disk), what is done is kept in
    MATCHES.h5.parts/: start the same command again, and it goes on. MATCHES.h5 is
    there as a whole or not at all; the file is assembled at the end, which needs
    room for the matches twice. Pairs that are done are left out, unless the
    features of one of their images have changed. With other options, or features
    made with others, it refuses and says which; --overwrite begins anew.

    a cluster
      With --dask the same job runs on a Dask cluster. Its workers must see the
      feature file under the same path, and the folder MATCHES.h5.parts/ as well; if
      they do not see that folder, --shards says where else they can leave their
      results. A worker that is killed loses no more than what it was working on,
      which others do again; when this process is killed, the same command goes on.
      Needs pip install 'd2np[dask]'.

    examples:
      d2np extract photos/ -o features.h5
      d2np pairs features.h5 -o matches.h5
      d2np pairs features.h5 --pairs pairs.txt -o matches.h5 --ratio 0.95
      d2np pairs features.h5 --window 10 --quadratic -o matches.h5
      d2np pairs features.h5 --retrieval 20 -o matches.h5
      d2np pairs features.h5 --verify fundamental -o matches.h5
    """
    if files.extension(options.output) not in (".h5", ".hdf5"):
        raise OptionError(f"{options.output}: matches are written as HDF5: give it the extension .h5")
    check_owners(options, {"threshold": "verify", "min_inliers": "verify"})
    choice.check(options)
    _check_cluster(options)
    sources = [options.features, *([options.pairs] if options.pairs not in (None, "-") else [])]
    files.check_there(*sources, *([options.from_poses] if options.from_poses else []))
    files.check_place(options.output, sources)
    import numpy as np

    from .. import dataset
    from ..matching import match

    features = options.features
    chosen_matches = options.mutual, options.ratio, options.min_similarity
    fewest = options.min_inliers or dataset.pair_matching.MIN_INLIERS
    how = dataset.MatchSettings(*chosen_matches, options.verify, options.threshold, fewest)
    chosen = choice.chosen(options)
    path = Path(options.output)
    recorded = how.recorded(features)
    output = dataset.MatchOutput(path, recorded, features=features, restart=options.overwrite)
    job = partial(dataset.match_pairs, features, chosen, output, how, threads=options.threads)

    def waiting() -> int:
        number = sum(not output.holds(*pair) for pair in chosen)
        if number:
            files.tell_of_compiling()
            match(np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32), threads=1)
        return number

    report, duration = _carried_out(job, output, "matching", "pair", len(chosen), waiting, options)
    what, without = ("inlier", f"with fewer than {fewest}") if how.verify else ("match", "without any")
    say(
        f"{count(report.done, 'pair')} matched"
        + (f", {report.skipped:,} there already" if report.skipped else "")
        + (f", {count(report.matches, what)} in {seconds(duration)}" if report.done else "")
        + (f", {count(report.unmatched, 'pair')} {without}" if report.unmatched else "")
        + (f", {count(report.turned, 'pair')} with an image turned" if report.turned else "")
    )
    say(f"{path}: {file_size(path.stat().st_size)}")
    return 0


def _check_cluster(options: argparse.Namespace) -> None:
    if options.dask is not None:
        from ..dataset.cluster import local_processes

        local_processes(options.dask)
    check_owners(options, {"shards": "dask"})


def _carried_out(
    job: Callable[..., Any],
    output: Any,
    doing: str,
    unit: str,
    total: int,
    count_waiting: Callable[[], int],
    options: argparse.Namespace,
) -> tuple[Any, float]:
    """Run a job with a bar, and on the cluster; return its report, and the seconds that it took."""
    from .progress import Bar

    start = perf_counter()
    try:
        waiting = count_waiting()
        if not waiting:
            return job(), perf_counter() - start
        with (
            _cluster(options.dask) as client,
            Bar(desc=doing, unit=unit, total=total, initial=total - waiting, disable=options.quiet) as bar,
            finishing(f"the current {unit}{'s' if unit == 'pair' else ''}") as stop,
        ):
            if client is not None:
                bar.note(f"Dask's dashboard: {client.dashboard_link}")
            report = job(progress=bar, stop=stop, client=client, shards=options.shards)
        return report, perf_counter() - start
    except KeyboardInterrupt:
        without = " without --overwrite" if options.overwrite else ""
        raise KeyboardInterrupt(
            f"interrupted: what is done is kept, and the same command{without} goes on from there"
        ) from None
    finally:
        output.close()


def _cluster(address: str | None) -> AbstractContextManager[Any]:
    """Return what yields a client of the cluster, or None if there is to be none."""
    if address is None:
        return nullcontext()
    from ..dataset import cluster

    return cluster.connected(address)


@Command(
    f"""
    FEATURES.h5  what d2np extract or hloc wrote
    MATCHES.h5  what d2np pairs or hloc wrote
    IMAGES  the folder of the images
    -o, --output DATABASE  the file to write
    --camera-model MODEL  one of COLMAP's: PINHOLE, SIMPLE_RADIAL (default), OPENCV, ...
    --single-camera  write one camera, with one focal length, for all images; default: one for all those that
        have the same in EXIF, and one for each of the others
    --verify  two-view: keep the matches that agree with a two-view geometry of the pair; none: count all
        matches as inliers; default: two-view, unless d2np pairs --verify has verified them
    --no-verify
    --overwrite  replace DATABASE if it is there
    {THREADS}
    """,
    output={"required": True},
    camera_model={"default": "SIMPLE_RADIAL", "type": str.upper},
    verify={"choices": ("two-view", "none")},
    no_verify={"action": "store_const", "const": "none"},
)
def colmap(options: argparse.Namespace) -> int:
    """Write features and matches into a COLMAP database.

    Builds the database that COLMAP and pycolmap reconstruct from: cameras, images, keypoints, matches, and
    the two-view geometries that verify them.

    Cameras are what COLMAP makes of the images: the focal length from EXIF where
    there is any, else 1.2 times the longest edge. Images are found in IMAGES by
    their names in FEATURES.h5. Needs pip install 'd2np[colmap]'.

    examples:
      d2np extract photos/ -o features.h5
      d2np pairs features.h5 -o matches.h5
      d2np colmap features.h5 matches.h5 photos/ -o database.db
      colmap mapper --database_path database.db \\
          --image_path photos/ --output_path model/
    """
    files.check_there(options.features, options.matches, options.images)
    files.check_place(options.output, [options.features, options.matches])
    from ..formats import colmap

    start = perf_counter()
    summary = colmap.write(
        options.output,
        options.features,
        options.matches,
        options.images,
        camera_model=options.camera_model,
        single_camera=options.single_camera,
        verify={"two-view": True, "none": False, None: None}[options.verify],
        overwrite=options.overwrite,
        threads=options.threads,
        tell=(lambda what: note(f"{what} ...")) if sys.stderr.isatty() else (lambda _: None),
    )
    _say_content(summary)
    if options.verify != "none":
        say(f"{count(summary.verified, 'pair')} verified, {count(summary.inliers, 'inlier')}")
    else:
        say("not verified: every match counts as an inlier")
    if 10 * summary.weak >= summary.images and _has_one_scale(options.features):
        say(
            f"{summary.weak} of {count(summary.images, 'image')} have fewer than {colmap.ENOUGH} inliers "
            "with any other: extract at three scales (d2np extract --multiscale), which finds more"
        )
    say(f"wrote {options.output} in {seconds(perf_counter() - start)}")
    return 0


@Command(
    """
    FEATURES.h5  what d2np extract or hloc wrote
    MATCHES.h5  what d2np pairs or hloc wrote
    IMAGES  the folder of the images
    -o, --output FOLDER  the folder to write
    --format  the program that is to read it
    """,
    output={"required": True},
    format={"required": True, "choices": ("openmvg",)},
)
def export(options: argparse.Namespace) -> int:
    """Write features and matches for another program.

    Writes a folder with which openMVG goes on: sfm_data.json, image_describer.json, keypoints (.feat,
    .desc) and matches.putative.txt.

    Images are found in IMAGES by their names in FEATURES.h5. All images of one size
    have one camera. Its focal length is 1.2 times the longest edge, until openMVG
    refines it. Descriptors are zeros, since openMVG has no type of 512 numbers: the
    matches are made already. For COLMAP see d2np colmap.

    examples:
      d2np extract photos/ -o features.h5
      d2np pairs features.h5 -o matches.h5
      d2np export features.h5 matches.h5 photos/ --format openmvg -o mvg/
      openMVG_main_GeometricFilter -i mvg/sfm_data.json \\
          -m mvg/matches.putative.txt -o mvg/matches.f.bin
    """
    files.check_there(options.features, options.matches, options.images)
    from ..formats import openmvg

    summary = openmvg.write(options.output, options.features, options.matches, options.images)
    _say_content(summary)
    say(f"wrote {options.output}")
    return 0


def _say_content(content: Content) -> None:
    images, cameras = count(content.images, "image"), count(content.cameras, "camera")
    say(f"{images} of {cameras}, {count(content.keypoints, 'keypoint')}")
    say(f"{count(content.pairs, 'pair')} matched, {count(content.matches, 'match')}")


def _has_one_scale(features: str) -> bool:
    """Return whether the file tells that its features were found at one scale; hloc's does not tell."""
    from ..dataset.assembly import recorded_settings
    from ..formats import hloc

    with hloc.opened(features) as file:
        scales = (recorded_settings(file) or {}).get("scales")
    return isinstance(scales, list) and len(scales) == 1
