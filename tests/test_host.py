"""d2np inside a program of somebody else: interpreter options, and what of the process it leaves alone."""

from __future__ import annotations

import numpy as np
import pytest
import scripts
from PIL import Image

USE = """
import sys
import numpy as np
import d2np
net = d2np.Net.load("analytic")
a, b = (net(path, scales=(0.5, 1.0)) for path in sys.argv[1:3])
matches = d2np.match(a, b, ratio=0.95)
assert len(matches.indices) > 5
described, valid = net.describe(sys.argv[1], a.keypoints[:, :2])
assert valid.all()
np.savez(sys.argv[3], a=a.descriptors, keypoints=a.keypoints, matches=matches.indices)
try:
    d2np.Net.load(sys.argv[1])
except d2np.WeightsError:
    pass
else:
    raise SystemExit("an image is no file of weights")
"""

FLAGS = [("-O",), ("-OO",), ("-X", "dev", "-W", "error")]


@pytest.fixture(scope="module")
def images(make_image, tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    whole = make_image(150, 190)
    for name, part in (("a.png", whole[:-16, :-8]), ("b.png", whole[16:, 8:])):
        Image.fromarray(part).save(folder / name)
    return folder / "a.png", folder / "b.png"


@pytest.fixture(scope="module")
def expected(images, tmp_path_factory):
    path = tmp_path_factory.mktemp("expected") / "found.npz"
    scripts.run(USE, *images, path)
    return dict(np.load(path))


@pytest.mark.parametrize("flags", FLAGS, ids=" ".join)
def test_options_of_the_interpreter(flags, images, expected, tmp_path):
    done = scripts.run(USE, *images, tmp_path / "found.npz", flags=flags)
    assert done.stdout == done.stderr == ""
    with np.load(tmp_path / "found.npz") as found:
        for name, wanted in expected.items():
            np.testing.assert_array_equal(found[name], wanted, err_msg=name)


@pytest.mark.parametrize(("flags", "name"), [(("-OO",), "view.png"), (("-W", "error"), "view.html")], ids=str)
def test_the_command_line_under_options_of_the_interpreter(flags, name, images, tmp_path):
    command = ["-m", "d2np", "match", "--weights", "analytic"]
    done = scripts.run(command, *images, "-o", tmp_path / name, flags=flags)
    assert "Warning" not in done.stderr
    assert (tmp_path / name).stat().st_size > 1000


def test_without_the_compiler():
    script = "import d2np\ntry:\n    d2np.Net\nexcept d2np.Error as error:\n    print(error)"
    assert "d2np.reference computes the same" in scripts.run(script, NUMBA_DISABLE_JIT="1").stdout


STATE = """
import ctypes, decimal, gc, json, locale, logging, os, random, resource, signal, socket, sys, threading
import warnings
import h5py, numba, numpy as np, PIL.Image, PIL.ImageFile, PIL.PngImagePlugin, PIL.JpegImagePlugin, tqdm
import numba.core.dispatcher, numba.core.caching, threadpoolctl
import scipy.linalg  # by Numba, where SciPy is installed; before 1.16 it adds a filter of warnings

random.seed(3)
np.random.seed(4)
warnings.simplefilter("always", BytesWarning)
signal.signal(signal.SIGUSR1, lambda *_: None)
np.seterr(under="call")
os.umask(0o027)

def state():
    umask = os.umask(0o077)
    os.umask(umask)
    tiny = np.full(4, 1e-40, np.float32)
    return {
        "signals": {str(n): str(signal.getsignal(n)) for n in signal.valid_signals()},
        "signal mask": str(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
        "wakeup": signal.set_wakeup_fd(-1),
        "warnings": [str(entry) for entry in warnings.filters],
        "showwarning": str(warnings.showwarning),
        "loggers": {
            name: (logger.level, len(logger.handlers), logger.propagate, logger.disabled)
            for name, logger in [*logging.root.manager.loggerDict.items(), ("root", logging.root)]
            if isinstance(logger, logging.Logger)
        },
        "logging": (logging.root.manager.disable, str(logging.getLoggerClass())),
        "numba threads": numba.get_num_threads(),
        "pools": {pool["filepath"]: pool["num_threads"] for pool in threadpoolctl.threadpool_info()},
        "numpy errors": (np.geterr(), str(np.geterrcall())),
        "numpy printing": str(np.get_printoptions()),
        "denormals": (tiny * np.float32(1)).tolist(),
        "random": str(random.getstate()),
        "numpy random": str(np.random.get_state()),
        "decimal": str(decimal.getcontext()),
        "folder": os.getcwd(),
        "locale": locale.setlocale(locale.LC_ALL),
        "umask": umask,
        "environment": dict(os.environ),
        "limits": [resource.getrlimit(n) for n in range(16)],
        "affinity": sorted(os.sched_getaffinity(0)),
        "nice": os.nice(0),
        "path": sys.path[:],
        "hooks": [str(hook) for hook in (
            sys.excepthook, sys.unraisablehook, threading.excepthook, sys.displayhook
        )],
        "audit": (str(sys.gettrace()), str(sys.getprofile()), str(threading.gettrace())),
        "limits of Python": (sys.getrecursionlimit(), sys.getswitchinterval(), threading.stack_size()),
        "collector": (gc.isenabled(), gc.get_threshold(), gc.get_debug()),
        "streams": [str(stream) for stream in (sys.stdin, sys.stdout, sys.stderr)],
        "Pillow": (PIL.Image.MAX_IMAGE_PIXELS, PIL.ImageFile.LOAD_TRUNCATED_IMAGES, PIL.ImageFile.MAXBLOCK),
        "sockets": socket.getdefaulttimeout(),
        "threads": threading.active_count(),
        "children": open(f"/proc/self/task/{os.getpid()}/children").read(),
        "h5py": h5py.get_config().track_order,
    }

np.zeros((9, 9)) @ np.zeros((9, 9))
before = state()
import d2np
import d2np.cli
from d2np.dataset import HlocOutput, Settings, extract, listing

folder, a, b = sys.argv[1:]
net = d2np.Net.load("analytic")
features = net(a, scales=(0.5, 1.0), threads=2)
net.dense(a), net.strength(a), net.describe(a, features.keypoints[:, :2])
d2np.match(features, features, ratio=0.9)
d2np.nearest_pairs(features, features, 4)
d2np.draw.keypoints(a, features)
net.save(f"{folder}/net.h5")
d2np.Net.load(f"{folder}/net.h5")
settings = Settings()
for threads in (1, 2):
    output = HlocOutput(f"{folder}/{threads}.h5", settings.recorded(net))
    assert extract(net, listing([a, b]), output, settings, threads=threads).done == 2
# OpenCV itself changes LD_LIBRARY_PATH when it is imported.
commands = [
    ["match", a, b, "--weights", "analytic", "--verify", "none", "-o", f"{folder}/view.html"],
    ["extract", a, b, "--weights", "analytic", "-o", f"{folder}/features.h5"],
    ["extract", a, b, "--weights", "analytic", "-o", f"{folder}/features.npz", "--format", "npz"],
    ["match", a, "missing.png", "--verify", "none"],
    ["match"],
    ["info", "analytic"],
]
assert [d2np.cli.main(command) for command in commands] == [0, 0, 0, 1, 2, 0]
after = state()
# Modules that are imported meanwhile may have loggers and pools of their own.
for what in ("loggers", "pools"):
    after[what] = {name: after[what].get(name) for name in before[what]}
changed = {name: (before[name], after[name]) for name in before if before[name] != after[name]}
assert not changed, changed
"""


def test_the_state_of_the_process_is_left_alone(images, tmp_path):
    scripts.run(STATE, tmp_path, *images)


LOGGING = """
import logging, sys
lines = []
class Kept(logging.Handler):
    def emit(self, record):
        lines.append(record.name.partition(".")[0])
logging.basicConfig(level=logging.DEBUG, handlers=[Kept()])
named, when = sys.argv[1:]
if when == "before":
    logging.getLogger(named).setLevel(logging.DEBUG)
from d2np.kernels import pool
if when == "after":
    logging.getLogger(named).setLevel(logging.DEBUG)
import numpy as np
pool.relu(np.zeros((2, 2), np.float32))
print(lines.count("numba"))
"""


@pytest.mark.parametrize(
    ("named", "when", "is_asked"),
    [
        ("d2np", "before", False),
        ("numba", "before", True),
        ("numba", "after", True),
        ("numba.core.ssa", "after", True),
    ],
)
def test_the_compiler_logs_where_it_is_asked_by_name_only(named, when, is_asked, tmp_path):
    done = scripts.run(LOGGING, named, when, NUMBA_CACHE_DIR=tmp_path)
    assert (int(done.stdout) > 10) == is_asked
    assert is_asked or int(done.stdout) == 0
