"""The packaged weights really match images, and are what the code says."""

import runpy
from pathlib import Path

import evaluation
import numpy as np
import pytest

import d2np

ARRAYS = runpy.run_path(str(Path(__file__).parents[1] / "weights" / "analytic.py"))["arrays"]
SEEDS = range(1000, 1002)


@pytest.fixture(scope="module")
def packaged():
    return d2np.Net.load("analytic")


def test_packaged_file_is_what_the_code_writes(packaged):
    for name, array in ARRAYS().items():
        np.testing.assert_array_equal(packaged.arrays[name], array)


@pytest.fixture(scope="module")
def scores(packaged):
    """Scores by strength, over four images and several warps of each."""
    found = {evaluation.MILD: [], evaluation.MEDIUM: []}
    for name, image in evaluation.images().items():
        if name == "brick":  # repetitive: fails, as the README says
            continue
        own = packaged(image)
        for strength, results in found.items():
            for seed in SEEDS:
                view, homography = evaluation.warp(image, strength, seed)
                other = packaged(view)
                matches = d2np.match(own, other)
                results.append(evaluation.score(own, other, matches, homography, own.image_size))
    return found


@pytest.mark.parametrize(("strength", "least"), [(evaluation.MILD, 0.80), (evaluation.MEDIUM, 0.65)])
def test_most_matches_are_right(scores, strength, least):
    assert np.mean([score.share for score in scores[strength]]) >= least


@pytest.mark.parametrize("strength", [evaluation.MILD, evaluation.MEDIUM])
def test_homography_puts_the_corners_right(scores, strength):
    assert max(score.corner_error for score in scores[strength]) <= 2
    assert min(score.matches for score in scores[strength]) >= 50


def test_score_of_a_stereo_pair():
    """Correct, 4 px off in a row, in a column, and where nothing is known."""
    places = np.array([[20, 10, 1], [20, 20, 1], [20, 30, 1], [30, 10, 1]], np.float32)
    moved = places + np.array([[-5, 0, 0], [-9, 0, 0], [-5, 4, 0], [-5, 0, 0]], np.float32)
    a, b = (d2np.Features(xys, np.ones(4), np.eye(4, 512), (40, 40)) for xys in (places, moved))
    disparity = np.full((40, 40), 5.0)
    disparity[10, 30] = np.inf
    found = evaluation.stereo_score(a, b, d2np.match(a, b), disparity)
    assert (found.matches, found.correct) == (3, 1)
