"""Numba's cache where it cannot be written, is damaged, or shared: the kernels are compiled, and right."""

from __future__ import annotations

import compileall
import os
import re
import shutil
import zipfile

import pytest
import scripts

from d2np.weights import catalogue

# Becomes an ordinary user who may read everything and write only what is their own, if it was the
# administrator: Python itself may lie in a folder that others cannot enter.
ORDINARY = """
import ctypes, os
def become_ordinary():
    if os.geteuid():
        return
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(8, 1, 0, 0, 0)  # keep capabilities
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    only_reading = (ctypes.c_uint32 * 6)(1 << 2, 1 << 2)
    assert libc.capset(header, only_reading) == 0, os.strerror(ctypes.get_errno())
"""

# Two kernels, one of them with an intrinsic inside; prints the hits and misses of their caches.
WORK = """
import numpy as np
from d2np.kernels import nearest, pool
from d2np.kernels.simd import host_block
block = host_block()
values = np.random.default_rng(0).standard_normal((block.rows, 37)).astype(np.float32)
found = np.empty((block.rows, block.columns), np.float32)
multiply = nearest.kernel(block)
multiply(values, nearest.pack(values[:1], block), found)
np.testing.assert_allclose(found[:, 0], values @ values[0], rtol=1e-4)
pool.relu(values)
assert (values >= 0).all() and (values > 0).any()
kernels = (multiply, pool.relu)
for counts in ("cache_hits", "cache_misses"):
    print(sum(sum(getattr(kernel.stats, counts).values()) for kernel in kernels))
"""


def counts(done):
    """Hits and misses of the cache."""
    return tuple(int(line) for line in done.stdout.split()[-2:])


def warnings_in(done):
    return re.findall(r"CacheWarning: d2np cannot keep its compiled kernels \((.+?)\)", done.stderr)


@pytest.fixture
def package(tmp_path):
    """A copy of d2np in which nobody but the administrator can write."""
    copy = tmp_path / "package"
    shutil.copytree(
        scripts.PACKAGE / "d2np", copy / "d2np", ignore=shutil.ignore_patterns("__pycache__", "*.h5")
    )
    for folder, _, files in os.walk(copy):
        for name in files:
            os.chmod(os.path.join(folder, name), 0o444)
        os.chmod(folder, 0o555)
    os.chmod(tmp_path, 0o755)
    yield copy
    for folder, _, _ in os.walk(copy):
        os.chmod(folder, 0o755)


@pytest.fixture
def nowhere(tmp_path):
    """A home in which an ordinary user cannot write."""
    home = tmp_path / "home"
    home.mkdir()
    home.chmod(0o555)
    # pytest's folders are for its own user only.
    return {"HOME": home, "XDG_CACHE_HOME": home, "PYTHONDONTWRITEBYTECODE": "1", "NUMBA_CACHE_DIR": None}


@pytest.mark.parametrize("flags", [(), ("-W", "error")], ids=str)
def test_where_nothing_can_be_written(package, nowhere, flags):
    done = scripts.run(ORDINARY + "become_ordinary()\n" + WORK, package=package, flags=flags, **nowhere)
    assert warnings_in(done) == ["no folder can be written"]
    assert "NUMBA_CACHE_DIR" in done.stderr
    assert list(package.rglob("*.nb?")) == []


def test_without_a_home_no_folder_is_made(package, nowhere, tmp_path):
    """Nobody of that number has a home, and Numba makes a folder called ``~`` of it."""
    work = tmp_path / "work"
    work.mkdir(mode=0o777)
    work.chmod(0o777)
    script = f"import os\nos.chdir({str(work)!r})\n" + ORDINARY.replace("65534", "54321")
    environment = {**nowhere, "HOME": None, "XDG_CACHE_HOME": None, "D2NP_CACHE": None}
    for chosen in (None, "~/kernels"):
        environment["NUMBA_CACHE_DIR"] = chosen
        done = scripts.run(script + "become_ordinary()\n" + WORK, package=package, **environment)
        assert warnings_in(done) == ["no folder can be written"]
        assert list(work.iterdir()) == []


@pytest.fixture
def frozen(tmp_path):
    """Modules as PyInstaller has them: no sources, and names of files that are below the working folder."""
    package = tmp_path / "frozen" / "d2np"
    for folder in ("", "kernels"):
        shutil.copytree(scripts.PACKAGE / "d2np" / folder, package / folder, ignore=only_modules)
        compiled = {"ddir": os.path.join("d2np", folder), "legacy": True, "maxlevels": 0, "quiet": 1}
        assert compileall.compile_dir(package / folder, **compiled)
    for path in package.rglob("*.py"):
        path.unlink()
    return package.parent, "import sys\nsys.frozen = True\n"


@pytest.fixture
def zipped(tmp_path):
    """Make what ``python -m zipapp`` makes of an installation."""
    path = tmp_path / "program.pyz"
    with zipfile.ZipFile(path, "w") as archive:
        for file in (scripts.PACKAGE / "d2np").rglob("*"):
            if file.is_file() and "__pycache__" not in file.parts:
                archive.write(file, file.relative_to(scripts.PACKAGE))
        archive.write(catalogue.resolve("analytic"), "d2np/weights/analytic.h5")
    return scripts.PACKAGE, f"import sys\nsys.path.insert(0, {str(path)!r})\n" + PACKAGED


def only_modules(folder, names):
    return [name for name in names if not name.endswith(".py")]


PACKAGED = """
import os
import d2np
from d2np.demo import views
from d2np.draw.html import match_page
from d2np.weights import catalogue
assert ".pyz" in d2np.__file__
assert d2np.Net.load("analytic").provenance.name
unpacked = catalogue.resolve("analytic")
assert unpacked == catalogue.resolve("analytic"), "once is enough"
if os.fork() == 0:
    sys.exit()  # a child that ends leaves the file to its parent
os.wait()
assert d2np.Net.load("analytic").provenance.name
image, features = views().first, d2np.Features([[4, 4, 1]], [1], [[1] + [0] * 511], (512, 512))
assert "</html>" in match_page(image, image, features, features, d2np.Matches([[0, 0]], [1]))
"""


@pytest.mark.parametrize("kind", ["frozen", "zipped"])
def test_kernels_are_compiled_once_for_all_working_folders(kind, tmp_path, request):
    package, script = request.getfixturevalue(kind)
    home = {"HOME": tmp_path / "home", "XDG_CACHE_HOME": "relative", "NUMBA_CACHE_DIR": None}
    for name, expected in (("one", (0, 2)), ("other", (2, 0))):
        work = tmp_path / name
        work.mkdir()
        there = f"import os\nos.chdir({str(work)!r})\n"
        done = scripts.run(script + there + WORK, package=package, TMPDIR=work, **home)
        assert done.stderr == ""
        assert counts(done) == expected
        assert list(work.iterdir()) == []
    assert len(list((tmp_path / "home" / ".cache" / "numba").iterdir())) == 1


@pytest.mark.parametrize("place", ["NUMBA_CACHE_DIR", "package"])
def test_a_container_image_that_cannot_be_written(place, package, nowhere, tmp_path):
    """As on AWS Lambda: kernels that were compiled when the image was built are used as they are."""
    nowhere["NUMBA_CACHE_DIR"] = tmp_path / "kernels" if place == "NUMBA_CACHE_DIR" else None
    kernels = package / "d2np" / "kernels"
    kernels.chmod(0o755)
    assert counts(scripts.run(WORK, package=package, **nowhere)) == (0, 2)
    kernels.chmod(0o555)
    for folder in (*tmp_path.glob("kernels/*"), *kernels.glob("__pycache__")):
        folder.chmod(0o555)
    script = ORDINARY + "become_ordinary()\n" + WORK
    done = scripts.run(script, package=package, flags=("-W", "error"), **nowhere)
    assert (done.stderr, counts(done)) == ("", (2, 0))


def test_the_warning_can_be_silenced(package, nowhere):
    silence = "import warnings, d2np\nwarnings.simplefilter('ignore', d2np.CacheWarning)\n"
    script = ORDINARY + "become_ordinary()\n" + silence + WORK
    assert scripts.run(script, package=package, **nowhere).stderr == ""


def test_a_full_disk(tmp_path):
    """No file may grow beyond 100 bytes: as where a disk is full, files can be made and not filled."""
    limit = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
    done = scripts.run(limit + WORK, NUMBA_CACHE_DIR=tmp_path, PYTHONDONTWRITEBYTECODE="1")
    assert len(warnings_in(done)) == 1
    assert "no folder" not in done.stderr
    assert not [path for path in tmp_path.rglob("*") if ".tmp." in path.name]
    assert counts(scripts.run(WORK, NUMBA_CACHE_DIR=tmp_path))[1] > 0
    assert counts(scripts.run(WORK, NUMBA_CACHE_DIR=tmp_path)) == (2, 0)


@pytest.fixture(scope="module")
def filled_once(tmp_path_factory):
    folder = tmp_path_factory.mktemp("filled") / "cache"
    assert counts(scripts.run(WORK, NUMBA_CACHE_DIR=folder)) == (0, 2)
    assert counts(scripts.run(WORK, NUMBA_CACHE_DIR=folder)) == (2, 0)
    return folder


@pytest.fixture
def filled(filled_once, tmp_path):
    """A cache that holds the kernels."""
    return shutil.copytree(filled_once, tmp_path / "cache")


@pytest.mark.parametrize(("suffix", "kept"), [(".nbi", 0), (".nbi", 20), (".nbc", 1000)])
def test_a_damaged_cache_is_mended(filled, suffix, kept):
    for path in filled.rglob(f"*{suffix}"):
        path.write_bytes(path.read_bytes()[:kept])
    done = scripts.run(WORK, NUMBA_CACHE_DIR=filled, flags=("-W", "error"))
    assert counts(done) == (0, 2)
    assert done.stderr == ""
    assert counts(scripts.run(WORK, NUMBA_CACHE_DIR=filled)) == (2, 0)


def test_a_cache_that_cannot_be_read(filled):
    """A folder where a file should be: reading and writing fail, whoever tries."""
    for path in filled.rglob("*.nbi"):
        path.unlink()
        path.mkdir()
    assert len(warnings_in(scripts.run(WORK, NUMBA_CACHE_DIR=filled))) == 1


def test_two_users_share_a_folder(tmp_path, package, nowhere):
    """A cache of the administrator is used by others, who cannot write there, and vice versa."""
    shared = {**nowhere, "NUMBA_CACHE_DIR": tmp_path / "cache"}
    ordinary = ORDINARY + "become_ordinary()\n" + WORK
    assert counts(scripts.run(WORK, package=package, **shared)) == (0, 2)
    for folder, _, files in os.walk(tmp_path / "cache"):
        for name in files:
            os.chmod(os.path.join(folder, name), 0o444)
        os.chmod(folder, 0o555)
    done = scripts.run(ordinary, package=package, flags=("-W", "error"), **shared)
    assert (done.stderr, counts(done)) == ("", (2, 0))
    other = scripts.run(ordinary, package=package, **{**shared, "D2NP_SIMD": "sse"})
    assert warnings_in(other) == ["Permission denied"]
    assert counts(other) == (0, 2)

    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o1777)
    shared["NUMBA_CACHE_DIR"] = open_to_all
    first, second = (scripts.run(script, package=package, **shared) for script in (ordinary, WORK))
    assert first.stderr == second.stderr == ""
    assert counts(first) == (0, 2)


MATCH = """
import json
import numpy as np
import d2np
from d2np.kernels import nearest
from d2np.kernels.simd import host_block
random = np.random.default_rng(0)
a, b = (random.standard_normal((40, 512)).astype(np.float32) for _ in range(2))
a, b = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (a, b))
def features(v):
    return d2np.Features(np.zeros((40, 3)), np.zeros(40), v, (9, 9))
matches = d2np.match(features(a), features(b))
product = a @ b.T
best = product.argmax(axis=1)
mutual = product.argmax(axis=0)[best] == np.arange(40)
np.testing.assert_array_equal(matches.indices[:, 0], np.flatnonzero(mutual))
np.testing.assert_array_equal(matches.indices[:, 1], best[mutual])
np.testing.assert_allclose(matches.similarities, product.max(axis=1)[mutual], atol=1e-5)
stats = nearest.kernel(host_block()).stats
print(sum(stats.cache_hits.values()), sum(stats.cache_misses.values()))
"""

# Another processor with the same instructions: of another name, and one that lacks what no kernel uses.
OTHER = """
from llvmlite import binding
features = binding.get_host_cpu_features()
features["sse4.2"] = features["bmi2"] = features["crc"] = False
binding.get_host_cpu_name = lambda: "generic"
binding.get_host_cpu_features = lambda: features
"""


def test_processors_with_the_same_instructions_share_kernels(tmp_path):
    assert counts(scripts.run(WORK, NUMBA_CACHE_DIR=tmp_path)) == (0, 2)
    assert counts(scripts.run(OTHER + WORK, NUMBA_CACHE_DIR=tmp_path, NUMBA_CPU_NAME="generic")) == (2, 0)


def test_processors_of_several_kinds_share_a_folder(tmp_path):
    """Each has kernels of its own there, which the others neither run nor replace."""
    for expected in ("0 1", "1 0"):
        for name in ("avx2", "sse", "avx512"):
            done = scripts.run(MATCH, NUMBA_CACHE_DIR=tmp_path, D2NP_SIMD=name)
            assert done.stdout.split("\n")[0] == expected, name


def test_no_kernel_is_used_by_a_processor_that_may_lack_its_instructions(tmp_path):
    """Neither is one without a register block, which looks the same for all."""
    for expected in ((0, 2), (2, 0)):
        for name in ("avx2", "sse"):
            done = scripts.run(WORK, NUMBA_CACHE_DIR=tmp_path, D2NP_SIMD=name)
            assert counts(done) == expected, name


def test_warming_up_for_other_processors(tmp_path):
    """Kernels for fewer instructions than this one has are compiled, and found by those that have these."""
    warm_up = ["-m", "d2np", "warmup", "--target", "sse"]
    scripts.run(warm_up, NUMBA_CACHE_DIR=tmp_path)
    assert counts(scripts.run(WORK, NUMBA_CACHE_DIR=tmp_path, D2NP_SIMD="sse")) == (2, 0)


def test_a_change_of_any_kernel_is_noticed(tmp_path):
    """Numba looks at the file of a kernel, and not at those that hold what is compiled into it."""
    copy, cache = tmp_path / "copy", {"NUMBA_CACHE_DIR": tmp_path / "cache"}
    shutil.copytree(
        scripts.PACKAGE / "d2np", copy / "d2np", ignore=shutil.ignore_patterns("__pycache__", "*.h5")
    )
    assert counts(scripts.run(WORK, package=copy, **cache)) == (0, 2)
    source = copy / "d2np" / "kernels" / "simd.py"
    text, value = source.read_text(), "value = sums[2 * r + half]"
    assert value in text
    source.write_text(text.replace(value, "value = v.add(*[sums[2 * r + half]] * 2)"))
    check = "values @ values[0]"
    assert check in WORK
    assert counts(scripts.run(WORK.replace(check, f"2 * {check}"), package=copy, **cache)) == (0, 2)
