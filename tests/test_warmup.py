import os
import subprocess
import sys

# Counts, in a fresh process, how many kernels are compiled for how many kinds of arguments: after warming up,
# and again after work of every kind.
SCRIPT = """
import gc
import numpy as np
import d2np
from numba.core.dispatcher import Dispatcher
from d2np.cli.looking import _compile as warm_up

def compiled():
    kernels = [thing for thing in gc.get_objects() if isinstance(thing, Dispatcher)]
    return {kernel.py_func.__qualname__: len(kernel.signatures) for kernel in kernels
            if kernel.py_func.__module__.startswith("d2np")}

warm_up()
before = compiled()
net = d2np.Net.load("analytic")
random = np.random.default_rng(0)
image = random.integers(0, 256, (61, 83, 3)).astype(np.uint8)
features = net(image, scales=(0.5, 1, 2), threads=2)
net(image[:, :, 0].astype(float), detector="strength", max_keypoints=3, relu=False, preprocessing="torch")
net.dense(image)
net.strength(image, max_edge=40)
net.describe(image, features.keypoints)
d2np.match(features, features, ratio=0.9)
d2np.nearest_pairs(features, features, 4)
d2np.Net(net.arrays, algorithm="direct")(image)
after = compiled()
assert len(before) > 15, before
assert before == after, (before, after)
"""


def test_nothing_is_left_to_compile():
    subprocess.run([sys.executable, "-c", SCRIPT], check=True)


FIRST_USE = """
import hashlib
import numpy as np
import d2np

image = np.random.default_rng(0).integers(0, 256, (32, 40, 3)).astype(np.uint8)
features = d2np.Net.load("analytic")(image, threads=1)
print(len(features), hashlib.sha256(features.descriptors.tobytes()).hexdigest())
"""


def test_two_processes_that_start_at_once_with_an_empty_cache(tmp_path):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-W", "error", "-c", FIRST_USE]
    started = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    printed = [process.communicate()[0] for process in started]
    assert [process.returncode for process in started] == [0, 0]
    assert printed[0] == printed[1] != ""
    assert any(tmp_path.rglob("*.nbc"))
