import naive
import numpy as np
import pytest

from d2np import reference
from d2np.network import detect
from d2np.network.detect import MapRows
from d2np.threads import Team


@pytest.fixture(params=[1, 3])
def team(request):
    with Team(request.param) as team:
        yield team


def smooth_map(height, width, channels, seed=0):
    rng = np.random.RandomState(seed)
    coarse = rng.standard_normal((height // 4 + 2, width // 4 + 2, channels))
    return reference.resize(coarse, height, width).astype(np.float32)


def hard_detection(cells, banned, team):
    """The detector on a whole map, in two parts; also which cells are blocked afterwards."""
    height, blocked = len(cells), banned.copy()
    cut = height // 3
    parts = [
        detect.hard_detection(MapRows(cells[: cut + 1], 0, height), blocked, 0, cut, team),
        detect.hard_detection(MapRows(cells[cut - 1 :], cut - 1, height), blocked, cut, height, team),
    ]
    return detect.Candidates(
        np.concatenate([part.positions for part in parts]), np.concatenate([part.scores for part in parts])
    ), blocked


def test_hard_detection_equals_the_reference(team):
    cells = smooth_map(35, 41, 12)
    banned = np.random.RandomState(1).rand(35, 41) < 0.2
    _, positions, scores, taken = naive.detect(cells, banned)
    found, blocked = hard_detection(cells, banned, team)
    assert len(positions) > 20
    np.testing.assert_array_equal(found.positions, positions)
    np.testing.assert_array_equal(found.scores, scores)
    np.testing.assert_array_equal(blocked, banned | taken)


def test_more_keypoints_in_a_task_than_expected(team):
    """Lone peaks in every other column: far more in eight rows than there is room for at first."""
    cells = np.zeros((9, 601, 2), np.float32)
    cells[1::2, 1::2, 0] = np.arange(1, 1201).reshape(4, 300)
    banned = np.zeros((9, 601), bool)
    found, _ = hard_detection(cells, banned, team)
    assert len(found.positions) == 1200
    np.testing.assert_array_equal(found.scores, np.arange(1, 1201))
    np.testing.assert_array_equal(found.positions, naive.detect(cells, banned)[1])


def test_nothing_to_find(team):
    banned = np.zeros((6, 7), bool)
    found, blocked = hard_detection(np.zeros((6, 7, 512), np.float32), banned, team)
    assert found.positions.shape == (0, 2)
    assert found.scores.shape == (0,)
    assert not blocked.any()


def test_strength_equals_the_reference(team):
    cells = smooth_map(13, 90, 33)
    np.testing.assert_allclose(
        detect.strength(cells, team), reference.strength(cells.astype(float)), rtol=1e-6
    )


def test_strength_ranking_names_every_free_cell(team):
    cells = smooth_map(5, 6, 20)
    banned = np.zeros((5, 6), bool)
    banned[2, 3] = True
    found = detect.strength_ranking(MapRows(cells, 0, 5), banned, 0, 5, team)
    np.testing.assert_array_equal(found.positions, np.argwhere(~banned))
    np.testing.assert_allclose(found.scores, reference.strength(cells.astype(float))[~banned], rtol=1e-6)
    assert banned.sum() == 1


def test_strength_ranking_of_some_rows(team):
    cells = smooth_map(9, 6, 20)
    free = np.zeros((9, 6), bool)
    whole = detect.strength_ranking(MapRows(cells, 0, 9), free, 0, 9, team)
    part = detect.strength_ranking(MapRows(cells[3:8], 3, 9), free, 4, 7, team)
    rows = (whole.positions[:, 0] >= 4) & (whole.positions[:, 0] < 7)
    np.testing.assert_array_equal(part.positions, whole.positions[rows])
    np.testing.assert_array_equal(part.scores, whole.scores[rows])


@pytest.mark.parametrize("relu", [False, True])
def test_descriptors_equal_the_reference(team, relu):
    cells = smooth_map(9, 11, 40)
    positions = np.random.RandomState(0).uniform(-1, 11, (700, 2)).astype(np.float32)
    found, valid = detect.descriptors(MapRows(cells, 0, 9), positions, team, relu=relu)
    values, expected_valid = reference.sample(cells.astype(np.float64), positions)
    np.testing.assert_array_equal(valid, expected_valid)
    assert 0 < valid.sum() < 700
    np.testing.assert_allclose(
        found, reference.l2_normalize(reference.relu(values) if relu else values), atol=1e-6
    )


def test_no_descriptors(team):
    found, valid = detect.descriptors(
        MapRows(np.ones((3, 3, 5), np.float32), 0, 3), np.empty((0, 2), np.float32), team, relu=True
    )
    assert found.shape == (0, 5)
    assert valid.shape == (0,)
