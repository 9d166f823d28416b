"""One net among threads and processes, whose results are the same bit for bit."""

import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import scripts

import d2np

SCALES = (0.5, 1.0, 2.0)
OPTIONS = [{}, {"scales": SCALES}, {"detector": "strength", "max_keypoints": 30}, {"relu": False}]


@pytest.mark.parametrize("algorithm", ["winograd", "direct"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_any_number_of_threads(weights_arrays, make_image, options, algorithm, assert_same_features):
    net, image = d2np.Net(weights_arrays, algorithm=algorithm), make_image(97, 131)
    expected = net(image, threads=1, **options)
    assert len(expected)
    for threads in (2, 5, None):
        assert_same_features(net(image, threads=threads, **options), expected)


def test_any_number_of_threads_for_maps(net, make_image):
    image = make_image(97, 131)
    places = np.random.RandomState(0).uniform(0, 97, (600, 2))

    def maps(threads):
        options = {"threads": threads}
        described = net.describe(image, places, **options)
        return net.dense(image, **options), net.strength(image, **options), *described

    expected = maps(1)
    for threads in (2, 5):
        for found, wanted in zip(maps(threads), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)


def test_eight_threads_call_one_net_at_once(net, make_image, assert_same_features):
    images = [make_image(60 + 5 * n, 90 - 4 * n, seed=n) for n in range(8)]
    expected = [net(image, scales=SCALES, threads=1) for image in images]
    barrier = threading.Barrier(8)

    def work(n):
        barrier.wait(timeout=600)
        return [net(images[n], scales=SCALES, threads=threads) for threads in (1, 2, 3)]

    with ThreadPoolExecutor(8) as pool:
        for features, wanted in zip(pool.map(work, range(8)), expected, strict=True):
            for found in features:
                assert_same_features(found, wanted)


def test_many_nets_in_many_threads(make_weights, make_image, assert_same_features):
    """Each is made, used and dropped beside the others, and gives its own numbers."""
    image = make_image(48, 56)
    weights = [make_weights(seed) for seed in range(2)]
    expected = [d2np.Net(arrays)(image, threads=1) for arrays in weights]
    assert expected[0].scores.tobytes() != expected[1].scores.tobytes()
    barrier = threading.Barrier(4)

    def work(n):
        barrier.wait(timeout=600)
        return d2np.Net(weights[n % 2])(image, threads=n // 2 + 1)

    with ThreadPoolExecutor(4) as pool:
        for n, found in enumerate(pool.map(work, range(4))):
            assert_same_features(found, expected[n % 2])


def test_pickled_while_others_use_it(net, image, assert_same_features):
    expected, stop = net(image, threads=1), threading.Event()

    def use():
        count = 0
        while not stop.is_set() or count == 0:
            assert_same_features(net(image, threads=2), expected)
            count += 1
        return count

    with ThreadPoolExecutor(2) as pool:
        users = [pool.submit(use) for _ in range(2)]
        try:
            for protocol in (2, pickle.HIGHEST_PROTOCOL):
                copy = pickle.loads(pickle.dumps(net, protocol))
                assert_same_features(copy(image, threads=1), expected)
        finally:
            stop.set()
        assert all(user.result(timeout=600) for user in users)


FORK = """
import os, sys
import numpy as np
import d2np

net, image = d2np.Net.load(sys.argv[1]), np.load(sys.argv[2])
before = net(image, threads=2)
child = os.fork()
if not child:
    found = net(image, threads=2)
    same = np.array_equal(found.keypoints, before.keypoints)
    same &= np.array_equal(found.descriptors, before.descriptors)
    os._exit(0 if same and len(found) else 3)
_, status = os.waitpid(child, 0)
after = net(image, threads=2)
assert np.array_equal(after.descriptors, before.descriptors)
sys.exit(os.waitstatus_to_exitcode(status))
"""

FORK_WHILE_BUSY = """
import os, sys, threading, warnings
import numpy as np
import d2np

warnings.simplefilter("ignore", DeprecationWarning)  # Python's, of forks beside threads
net, image = d2np.Net.load(sys.argv[1]), np.load(sys.argv[2])
expected = net(image, threads=2)
stop = threading.Event()
def same(found):
    return all(np.array_equal(getattr(found, name), getattr(expected, name))
               for name in ("keypoints", "scores", "descriptors"))
wrong = []
def work():
    while not stop.is_set():
        if not same(net(image, threads=2)):
            wrong.append(1)
busy = [threading.Thread(target=work) for _ in range(2)]
for thread in busy:
    thread.start()
codes = []
for _ in range(3):
    child = os.fork()
    if not child:
        # A grandchild, too: what a child has used is inherited once more.
        good = same(net(image, threads=2))
        grandchild = os.fork()
        if not grandchild:
            os._exit(0 if good and same(net(image, threads=3)) else 3)
        os._exit(os.waitstatus_to_exitcode(os.waitpid(grandchild, 0)[1]))
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
stop.set()
for thread in busy:
    thread.join()
assert codes == [0] * 3 and not wrong, (codes, wrong)
"""

POOL = """
import multiprocessing, sys
import numpy as np
import d2np

if __name__ == "__main__":
    net, image = d2np.Net.load(sys.argv[1]), np.load(sys.argv[2])
    here = net(image, threads=2)
    with multiprocessing.get_context(sys.argv[3]).Pool(1) as pool:
        for found in pool.map(net, [image] * 2):
            assert np.array_equal(found.keypoints, here.keypoints)
            assert np.array_equal(found.descriptors, here.descriptors)
            assert len(found) and found.image_size == here.image_size
"""


@pytest.fixture(scope="module")
def files(net, image, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    net.save(folder / "net.h5")
    np.save(folder / "image.npy", image)
    return folder


def run(script, folder, *arguments):
    """Run a script of its own, which a spawned process can import."""
    path = folder / "script.py"
    path.write_text(script)
    scripts.run([str(path)], folder / "net.h5", folder / "image.npy", *arguments)


def test_a_forked_child_uses_the_net_of_its_parent(files):
    run(FORK, files)


def test_children_forked_while_others_use_the_net(files):
    run(FORK_WHILE_BUSY, files)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_pool_of_processes(files, method):
    run(POOL, files, method)
