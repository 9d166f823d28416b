"""One net among threads and processes, whose results are the same bit for bit."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import d2np

SCALES = (0.5, 1.0, 2.0)
OPTIONS = [{}, {"scales": SCALES}, {"detector": "strength", "max_keypoints": 30}, {"relu": False}]


@pytest.mark.parametrize("algorithm", ["winograd", "direct"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_any_number_of_threads(weights_arrays, make_picture, options, algorithm, assert_same_features):
    net, picture = d2np.Net(weights_arrays, algorithm=algorithm), make_picture(97, 131)
    expected = net(picture, threads=1, **options)
    assert len(expected)
    for threads in (2, 5, None):
        assert_same_features(net(picture, threads=threads, **options), expected)


def test_any_number_of_threads_for_maps(net, make_picture):
    picture = make_picture(97, 131)
    places = np.random.RandomState(0).uniform(0, 97, (600, 2))

    def maps(threads):
        options = {"threads": threads}
        described = net.describe(picture, places, **options)
        return net.dense(picture, **options), net.strength(picture, **options), *described

    expected = maps(1)
    for threads in (2, 5):
        for found, wanted in zip(maps(threads), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)


def test_eight_threads_call_one_net_at_once(net, make_picture, assert_same_features):
    pictures = [make_picture(60 + 5 * n, 90 - 4 * n, seed=n) for n in range(8)]
    expected = [net(picture, scales=SCALES, threads=1) for picture in pictures]
    barrier = threading.Barrier(8)

    def work(n):
        barrier.wait(timeout=30)
        return [net(pictures[n], scales=SCALES, threads=threads) for threads in (1, 2, 3)]

    with ThreadPoolExecutor(8) as pool:
        for features, wanted in zip(pool.map(work, range(8)), expected, strict=True):
            for found in features:
                assert_same_features(found, wanted)


FORK = """
import os, sys
import numpy as np
import d2np

net, picture = d2np.Net.load(sys.argv[1]), np.load(sys.argv[2])
before = net(picture, threads=2)
child = os.fork()
if not child:
    found = net(picture, threads=2)
    same = np.array_equal(found.keypoints, before.keypoints)
    same &= np.array_equal(found.descriptors, before.descriptors)
    os._exit(0 if same and len(found) else 3)
_, status = os.waitpid(child, 0)
after = net(picture, threads=2)
assert np.array_equal(after.descriptors, before.descriptors)
sys.exit(os.waitstatus_to_exitcode(status))
"""

POOL = """
import multiprocessing, sys
import numpy as np
import d2np

if __name__ == "__main__":
    net, picture = d2np.Net.load(sys.argv[1]), np.load(sys.argv[2])
    here = net(picture, threads=2)
    with multiprocessing.get_context(sys.argv[3]).Pool(1) as pool:
        for found in pool.map(net, [picture] * 2):
            assert np.array_equal(found.keypoints, here.keypoints)
            assert np.array_equal(found.descriptors, here.descriptors)
            assert len(found) and found.image_size == here.image_size
"""


@pytest.fixture(scope="module")
def files(net, picture, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    net.save(folder / "net.h5")
    np.save(folder / "picture.npy", picture)
    return folder


def run(script, folder, *arguments):
    """Run a script of its own, in which a hanging child becomes a failure."""
    path = folder / "script.py"
    path.write_text(script)
    package = str(Path(d2np.__file__).parents[1])
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, path, folder / "net.h5", folder / "picture.npy", *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_forked_child_uses_the_net_of_its_parent(files):
    run(FORK, files)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_pool_of_processes(files, method):
    run(POOL, files, method)
