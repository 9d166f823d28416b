"""Every access that hloc makes to a feature file and to a match file, on files that d2np wrote.

Each function here does what the function of hloc named in it does with the file, in plain h5py, and checks
what hloc goes on to rely on.
"""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import h5py
import numpy as np
import pytest

from d2np import dataset, match
from d2np.features import Features
from d2np.formats import hloc

NAMES = ["1.jpg", "db/2.jpg", "db/night/3.jpg", "empty.jpg"]
COUNTS = dict(zip(NAMES, (40, 30, 35, 0), strict=True))


@pytest.fixture(params=[False, True], ids=["float32", "half"])
def files(tmp_path, request):
    """A feature file and a match file of all pairs."""
    rng = np.random.default_rng(0)
    shared = rng.standard_normal((40, 512))
    with h5py.File(tmp_path / "features.h5", "w") as file:
        for name, count in COUNTS.items():
            descriptors = shared[:count] + 0.3 * rng.standard_normal((count, 512))
            descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
            keypoints = rng.uniform(0, 480, (count, 3))
            given = Features(keypoints, rng.random(count), descriptors, (640, 480))
            hloc.write(file, name, given, half=request.param, uncertainty=1.5)
    settings = dataset.MatchSettings()
    dataset.match_pairs(
        tmp_path / "features.h5",
        dataset.all_pairs(tmp_path / "features.h5"),
        dataset.MatchOutput(tmp_path / "matches.h5", settings.recorded(tmp_path / "features.h5")),
        settings,
    )
    return tmp_path / "features.h5", tmp_path / "matches.h5"


def names_to_pair(a, b, separator="/"):
    """``hloc.utils.parsers``; ``names_to_pair_old`` has the separator ``_``."""
    return separator.join((a.replace("/", "-"), b.replace("/", "-")))


def list_h5_names(path):
    """``hloc.utils.io``"""
    names = []
    with h5py.File(str(path), "r", libver="latest") as file:
        file.visititems(
            lambda _, item: (
                names.append(item.parent.name.strip("/")) if isinstance(item, h5py.Dataset) else None
            )
        )
    return list(set(names))


def get_keypoints(path, name):
    """``hloc.utils.io``: positions and their uncertainty."""
    with h5py.File(str(path), "r", libver="latest") as file:
        dataset = file[name]["keypoints"]
        return dataset.__array__(), dataset.attrs.get("uncertainty")


def find_pair(file, a, b):
    """``hloc.utils.io``: the group's name and whether it has the pair in the other order."""
    for separator in "/_":
        for first, second, reverse in ((a, b, False), (b, a, True)):
            if (name := names_to_pair(first, second, separator)) in file:
                return name, reverse
    raise ValueError


def get_matches(path, a, b):
    """``hloc.utils.io``: pairs of indices and scores."""
    with h5py.File(str(path), "r", libver="latest") as file:
        name, reverse = find_pair(file, a, b)
        matches = file[name]["matches0"].__array__()
        scores = file[name]["matching_scores0"].__array__()
    (here,) = np.where(matches != -1)
    pairs = np.stack([here, matches[here]], -1)
    return np.flip(pairs, -1) if reverse else pairs, scores[here]


def test_names(files):
    """``extract_features.main`` leaves out what is there; ``pairs_from_exhaustive`` pairs all names."""
    assert sorted(list_h5_names(files[0])) == sorted(NAMES)


def test_features_for_a_matcher(files):
    """``match_features.FeaturePairsDataset``: all arrays become floats, the size a shape."""
    for name in NAMES:
        with h5py.File(files[0], "r") as file:
            group = file[name]
            arrays = {key: item.__array__().astype(np.float32) for key, item in group.items()}
            image = np.empty((1, *tuple(group["image_size"])[::-1]))
        assert image.shape == (1, 480, 640)
        count = COUNTS[name]
        assert arrays["keypoints"].shape == (count, 2)
        assert arrays["scores"].shape == (count,)
        assert arrays["descriptors"].shape == (512, count)
        assert all(np.isfinite(values).all() for values in arrays.values())
        assert all(item.dtype.kind in "fi" for item in arrays.values())


def test_new_pairs(files):
    """``match_features.find_unique_new_pairs``: no pair of ours is matched again, in whichever order."""
    with h5py.File(str(files[1]), "r", libver="latest") as file:
        for a, b in combinations(NAMES, 2):
            found = [
                names_to_pair(*names, separator) in file for separator in "/_" for names in ((a, b), (b, a))
            ]
            assert any(found)
        assert names_to_pair("1.jpg", "other.jpg") not in file


def test_pairs_are_added_and_replaced(files):
    """``match_features.writer_fn`` and ``extract_features.main`` go on with files of ours."""
    with h5py.File(str(files[1]), "a", libver="latest") as file:
        for pair in ("1.jpg/db-2.jpg", "1.jpg/other.jpg"):
            if pair in file:
                del file[pair]
            group = file.create_group(pair)
            group.create_dataset("matches0", data=np.array([0], np.int16))
            group.create_dataset("matching_scores0", data=np.array([1], np.float16))
    assert get_matches(files[1], "1.jpg", "db/2.jpg")[0].tolist() == [[0, 0]]
    assert len(get_matches(files[1], "1.jpg", "db/night/3.jpg")[0]) > 9
    with h5py.File(str(files[0]), "a", libver="latest") as file:
        if "db/2.jpg" in file:
            del file["db/2.jpg"]
        file.create_group("db/2.jpg").create_dataset("keypoints", data=np.zeros((1, 2), np.float16))
        file["db/2.jpg"]["keypoints"].attrs["uncertainty"] = 2.0
    assert len(get_keypoints(files[0], "db/2.jpg")[0]) == 1


def test_keypoints_for_colmap(files):
    """``triangulation.import_features``: half a pixel is added in place, then it is an array for COLMAP."""
    for name in NAMES:
        keypoints, _ = get_keypoints(files[0], name)
        before = keypoints.copy()
        keypoints += 0.5
        assert keypoints.shape == (COUNTS[name], 2)
        np.testing.assert_allclose(keypoints, before + 0.5, atol=0.5)
        assert np.asarray(keypoints, np.float32).flags.c_contiguous


@pytest.mark.parametrize("reverse", [False, True])
def test_matches_for_colmap(files, reverse):
    """``triangulation.import_matches``: pairs of indices within both images, and a least score."""
    for pair in combinations(NAMES, 2):
        a, b = pair[::-1] if reverse else pair
        matches, scores = get_matches(files[1], a, b)
        assert matches.shape == (len(scores), 2)
        assert (matches >= 0).all()
        assert (matches < (COUNTS[a], COUNTS[b])).all()
        assert ((scores > 0) & (scores <= 1.001)).all()
        assert len(matches[scores > 0.5]) <= len(matches)
        assert np.asarray(matches, np.uint32).shape == matches.shape
        truth = match(hloc.read(files[0], a), hloc.read(files[0], b))
        assert set(map(tuple, matches)) == set(map(tuple, truth.indices))


def test_verification_with_known_poses(files):
    """``triangulation.geometric_verification``: rows of keypoints by match, thresholds by uncertainty."""
    for a, b in combinations(NAMES, 2):
        (first, noise), (second, _) = get_keypoints(files[0], a), get_keypoints(files[0], b)
        matches, _ = get_matches(files[1], a, b)
        assert first[matches[:, 0]].shape == second[matches[:, 1]].shape == (len(matches), 2)
        assert float(noise * 4.0) == 6.0


def test_localization(files):
    """``localize_sfm.pose_from_cluster``: indices into the points of a reconstructed image."""
    query, reference = "1.jpg", "db/2.jpg"
    keypoints, _ = get_keypoints(files[0], query)
    keypoints = keypoints.astype(float)
    points = np.arange(COUNTS[reference])
    matches, _ = get_matches(files[1], query, reference)
    matches = matches[points[matches[:, 1]] != -1]
    assert keypoints[[here for here, _ in matches]].shape == (len(matches), 2)
    assert len({(int(here), int(points[there])) for here, there in matches}) == len(matches) > 9


def test_localization_indoors(files):
    """``localize_inloc.pose_from_cluster``: both files stay open, and pairs are in the order of the list."""
    features = h5py.File(files[0], "r", libver="latest")
    matches = h5py.File(files[1], "r", libver="latest")
    with features, matches:
        for query, reference in combinations(NAMES, 2):
            partner = matches[names_to_pair(query, reference)]["matches0"].__array__()
            there = features[reference]["keypoints"].__array__()
            valid = partner > -1
            assert len(partner) == COUNTS[query]
            assert len(there[partner[valid]]) == np.count_nonzero(valid)


def test_lists_are_read_as_hloc_writes_them(files, tmp_path):
    """``pairs_from_retrieval`` and the like write ``'\\n'.join(' '.join([i, j]) for i, j in pairs)``."""
    pairs = [(a, b) for b, a in combinations(NAMES, 2)]
    path = Path(tmp_path, "pairs.txt")
    path.write_text("\n".join(" ".join(pair) for pair in pairs))
    assert dataset.listed_pairs(path, files[0]) == pairs
