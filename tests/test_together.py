"""All options of a job at once: alone, on a cluster, and in two runs; and what matching makes of the file."""

from __future__ import annotations

from functools import partial
from itertools import count

import numpy as np
import pytest
from parted import contents
from PIL import Image

import d2np
from d2np.dataset import HlocOutput, MatchOutput, MatchSettings, Settings, extract, listing, match_pairs
from d2np.dataset.pair_choice import most_similar
from d2np.formats import colmap, hloc, hloc_matches
from d2np.matching import project

ROTATIONS = (0, 90, 180, 270)
OPTIONS = {
    "rotations": ROTATIONS,
    "max_keypoints": 60,
    "spread": True,
    "scales": (0.5, 1.0),
    "centered": True,
}


@pytest.fixture
def entries(tmp_path):
    """Four windows of one scene, of which two are upside down, and their masks."""
    rng = np.random.default_rng(0)
    scene = Image.fromarray(rng.integers(0, 256, (44, 52, 3), np.uint8)).resize(
        (208, 176), Image.Resampling.BICUBIC
    )
    mask = np.full((168, 192), 255, np.uint8)
    mask[:40] = 0
    for folder in ("photos", "masks"):
        (tmp_path / folder).mkdir()
    for k in range(4):
        image = np.array(scene)[k : k + 168, 4 * k : 4 * k + 192]
        Image.fromarray(np.rot90(image, 2 * (k % 2))).save(tmp_path / "photos" / f"{k}.png")
        Image.fromarray(mask).save(tmp_path / "masks" / f"{k}.png.png")
    return listing([tmp_path / "photos"], masks=tmp_path / "masks")


def ended_after(images):
    """Return a function that is asked after each image, and ends the job then."""
    asked = count(1)
    return lambda: next(asked) == images


def test_all_options(entries, client, tmp_path):
    net = d2np.Net.load("analytic")
    settings = Settings(**OPTIONS)
    recorded = settings.recorded(net)

    def run(name, projection, **how):
        output = HlocOutput(tmp_path / name, recorded, half=True, dimensions=128, projection=projection)
        return extract(net, entries, output, settings, **how)

    assert run("alone.h5", None, threads=1).failed == []
    projection = hloc.read_projection(tmp_path / "alone.h5")
    run("cluster.h5", projection, client=client)
    with pytest.raises(KeyboardInterrupt):
        run("two runs.h5", projection, stop=ended_after(1), threads=1)
    again = run("two runs.h5", projection, client=client)
    assert again.done + again.skipped == 4
    assert again.skipped >= 1
    expected = contents(tmp_path / "alone.h5")
    assert contents(tmp_path / "cluster.h5") == expected
    assert contents(tmp_path / "two runs.h5") == expected

    features = tmp_path / "alone.h5"
    for entry in entries:
        found = hloc.read(features, entry.name)
        made = project(net(entry.path, mask=entry.mask, **OPTIONS), projection)
        assert np.unique(found.rotations, return_counts=True)[1].tolist() == [60] * 4
        assert found.keypoints[:, 1].min() >= 39.5
        np.testing.assert_array_equal(found.rotations, made.rotations)
        np.testing.assert_allclose(found.keypoints, made.keypoints, rtol=1e-3)
        np.testing.assert_allclose(found.descriptors, made.descriptors, atol=2e-3)
    verified_pairs(features, client, tmp_path)


def verified_pairs(features, client, tmp_path):
    names = hloc.names(features)
    pairs = most_similar(names, hloc.read_global_descriptors(features, names), 2)
    how = MatchSettings(verify="homography", min_inliers=12)

    def run(name, **more):
        output = MatchOutput(tmp_path / name, how.recorded(features), features=features)
        return match_pairs(features, pairs, output, how, **more)

    assert run("m.h5", threads=1).done == len(pairs)
    run("m on a cluster.h5", client=client)
    with pytest.raises(KeyboardInterrupt):
        run("m in two runs.h5", stop=ended_after(1), threads=1)
    run("m in two runs.h5", threads=1)
    expected = contents(tmp_path / "m.h5")
    assert contents(tmp_path / "m on a cluster.h5") == expected
    assert contents(tmp_path / "m in two runs.h5") == expected

    # Windows lie a pixel further down and four further right each; every second one is upside down.
    size = np.array([191, 167])
    place = partial(np.multiply, [4, 1])
    for a, b in pairs:
        found = hloc_matches.read(tmp_path / "m.h5", a, b)
        assert found.rotation == 180 * ((int(a[0]) + int(b[0])) % 2)
        assert len(found) >= 12
        there = []
        for name, column in ((a, 0), (b, 1)):
            xy = hloc.read(features, name).keypoints[found.indices[:, column], :2]
            there.append((size - xy if int(name[0]) % 2 else xy) + place(int(name[0])))
        assert np.median(np.abs(there[0] - there[1])) < 1
    summary = colmap.write(tmp_path / "d.db", features, tmp_path / "m.h5", tmp_path / "photos")
    assert summary.pairs == len(pairs)
