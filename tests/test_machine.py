"""Cores and memory, from files as Linux writes them, in containers too."""

from __future__ import annotations

import os
import sys

import pytest

from d2np import machine

GB = 1 << 30


@pytest.fixture
def system(tmp_path, monkeypatch):
    """Makes a machine of 64 cores and 16 GB, of which 12 GB are available.

    Its arguments are lines of /proc/self/cgroup and files below /sys/fs/cgroup.
    """
    monkeypatch.setattr(machine, "_PROC", tmp_path)
    monkeypatch.setattr(machine, "_CONTROL_GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)), raising=False)
    sysconf = {"SC_PHYS_PAGES": 16 * GB // 4096, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr(os, "sysconf", sysconf.__getitem__, raising=False)
    monkeypatch.setattr("resource.getrlimit", lambda limit: (-1, -1))
    (tmp_path / "self").mkdir()
    available = f"MemTotal: {16 << 20} kB\nMemFree: 1 kB\nMemAvailable: {12 << 20} kB\n"
    (tmp_path / "meminfo").write_text(available)

    def make(groups, files):
        (tmp_path / "self" / "cgroup").write_text("".join(f"{line}\n" for line in groups))
        root = tmp_path / "cgroup"
        for name, text in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(f"{text}\n")

    return make


def test_without_groups(system):
    system([], {})
    assert machine.usable_cores() == 64
    assert machine.free_memory() == 12 * GB


@pytest.mark.parametrize(
    ("groups", "files", "cores", "memory"),
    [
        pytest.param(
            ["0::/job.slice/job-7.scope"],
            {
                "job.slice/job-7.scope/cpu.max": "250000 100000",
                "job.slice/job-7.scope/memory.max": 2 * GB,
                "job.slice/job-7.scope/memory.current": GB,
                "job.slice/job-7.scope/memory.stat": f"active_file {GB // 4}\ninactive_file {GB // 4}",
                "job.slice/cpu.max": "max 100000",
                "job.slice/memory.max": "max",
            },
            3,
            3 * GB // 2,
            id="version 2",
        ),
        pytest.param(
            ["0::/job.slice/job-7.scope"],
            {
                "job.slice/job-7.scope/cpu.max": "max 100000",
                "job.slice/job-7.scope/memory.max": "max",
                "job.slice/cpu.max": "50000 100000",
                "job.slice/memory.max": 4 * GB,
                "job.slice/memory.high": 3 * GB,
            },
            1,
            3 * GB,
            id="version 2, limits of a group above",
        ),
        pytest.param(
            ["0::/"],
            {"cpu.max": "400000 100000", "memory.max": GB, "memory.current": 2 * GB},
            4,
            0,
            id="version 2, within a container",
        ),
        pytest.param(
            ["5:memory:/docker/f00", "4:cpu,cpuacct:/docker/f00", "1:name=systemd:/docker/f00"],
            {
                "cpu/docker/f00/cpu.cfs_quota_us": 200000,
                "cpu/docker/f00/cpu.cfs_period_us": 50000,
                "cpu/cpu.cfs_quota_us": -1,
                "cpu/cpu.cfs_period_us": 100000,
                "memory/docker/f00/memory.limit_in_bytes": 3 * GB,
                "memory/docker/f00/memory.usage_in_bytes": 2 * GB,
                "memory/docker/f00/memory.stat": f"inactive_file 0\nactive_file 0\ntotal_active_file {GB}",
                "memory/memory.limit_in_bytes": 9223372036854771712,
            },
            4,
            2 * GB,
            id="version 1",
        ),
        pytest.param(
            ["5:memory:/docker/f00", "4:cpu,cpuacct:/docker/f00"],
            {
                "cpu/cpu.cfs_quota_us": 150000,
                "cpu/cpu.cfs_period_us": 100000,
                "memory/memory.limit_in_bytes": GB,
            },
            2,
            GB,
            id="version 1, within a container",
        ),
        pytest.param(["0::/a"], {"a/cpu.max": "", "a/memory.max": "much"}, 64, 12 * GB, id="odd content"),
    ],
)
def test_control_groups(system, groups, files, cores, memory):
    system(groups, files)
    assert machine.usable_cores() == cores
    assert machine.free_memory() == memory


def test_affinity_may_be_less_than_the_quota(system, monkeypatch):
    system(["0::/"], {"cpu.max": "800000 100000"})
    assert machine.usable_cores() == 8
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 5})
    assert machine.usable_cores() == 2


def test_limits_of_the_process(system, monkeypatch, tmp_path):
    """``ulimit -v`` and ``ulimit -d``, less what the process has."""
    import resource

    system([], {})
    (tmp_path / "self" / "statm").write_text("1000 9 9 9 0 500 0\n")
    page = resource.getpagesize()
    for limit, pages in ((resource.RLIMIT_AS, 1000), (resource.RLIMIT_DATA, 500)):
        limits = {resource.RLIMIT_AS: (-1, -1), resource.RLIMIT_DATA: (-1, -1), limit: (GB, -1)}
        monkeypatch.setattr(resource, "getrlimit", limits.__getitem__)
        assert machine.free_memory() == GB - pages * page
    monkeypatch.setattr(resource, "getrlimit", lambda asked: (1, 1))
    assert machine.free_memory() == 0


def test_a_system_that_tells_nothing(system, monkeypatch, tmp_path):
    """As Windows."""
    monkeypatch.delattr(os, "sysconf")
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    monkeypatch.setitem(sys.modules, "resource", None)
    monkeypatch.setattr(machine, "_PROC", tmp_path / "none")
    assert machine.usable_cores() == 1
    assert machine.free_memory() is None
