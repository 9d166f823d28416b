"""A job in a small container: 1 GB of memory, and half a core of four.

No container is made, which needs rights that tests do not have. What d2np is told of the container are files
as Linux writes them; the memory is limited by the system, as far as a process can do that to itself.
"""

from __future__ import annotations

import json

import pytest
import scripts

from d2np.demo import views
from d2np.formats import hloc

GB = 1 << 30
# Another process of the container, or what this one takes before the job begins.
TAKEN = 300 << 20

JOB = """
import json, os, resource, sys
from pathlib import Path
from d2np import machine

place, limit, *arguments = sys.argv[1:]
status = Path("/proc/self/status")
machine._PROC, machine._CONTROL_GROUPS = Path(place), Path(place, "cgroup")
os.sched_getaffinity = lambda process: set(range(4))
# What is written to: with RLIMIT_AS the code of libraries would count, of which little is ever in memory.
resource.setrlimit(resource.RLIMIT_DATA, (int(limit), int(limit)))
try:
    bytearray(int(limit))
    sys.exit("the limit is not kept")
except MemoryError:
    pass

from d2np.cli import main

code = main(["extract", *arguments, "--weights", "d2np", "-q"])
peak = next(int(line.split()[1]) << 10 for line in status.open() if line.startswith("VmHWM:"))
print(json.dumps({"cores": machine.usable_cores(), "peak": peak}))
sys.exit(code)
"""


@pytest.fixture
def container(tmp_path):
    """Files that tell of a container."""
    group = tmp_path / "system" / "cgroup"
    group.mkdir(parents=True)
    (tmp_path / "system" / "self").mkdir()
    (tmp_path / "system" / "self" / "cgroup").write_text("0::/\n")
    for name, text in {"cpu.max": "50000 100000", "memory.max": GB, "memory.current": TAKEN}.items():
        (group / name).write_text(f"{text}\n")
    return tmp_path / "system"


@pytest.fixture
def photos(tmp_path):
    """A folder with an image of 12 megapixels, and smaller ones."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, size in (("large", (4000, 3000)), ("a", (640, 480)), ("b", (640, 480))):
        views().first.resize(size).save(folder / f"{name}.jpg")
    return folder


@pytest.mark.parametrize(
    "options", [[], ["--max-edge", "none", "--max-sum-edges", "none"]], ids=["reduced", "whole"]
)
def test_a_large_image_is_extracted(container, photos, options):
    output = photos.with_name("features.h5")
    done = scripts.run(JOB, container, GB, photos, "-o", output, *options)
    assert done.stderr == ""
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["cores"] == 1
    assert told["peak"] < GB
    assert hloc.names(output) == ["a.jpg", "b.jpg", "large.jpg"]
    keypoints = hloc.read(output, "large.jpg").keypoints
    assert keypoints[:, :2].max(axis=0) == pytest.approx((4000, 3000), rel=0.02)
