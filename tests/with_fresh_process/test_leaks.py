"""Calls leave nothing behind: ``benchmarks/leaks.py``, a few times over, with each allocation traced."""

from __future__ import annotations

import gc
import os
import sys
import threading
import tracemalloc
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import leaks

CALLS = 20
# For so many calls: less than 100 bytes each, where the smallest array that could be left takes that.
ALLOWED = 2000
# What calls leave behind grows in each round. Python 3.10 also keeps something, once, of a function that was
# called a thousand times.
ROUNDS = 10


@pytest.fixture(scope="module")
def calls(tmp_path_factory):
    return list(leaks.work(tmp_path_factory.mktemp("leaks")))


def grows(call, count):
    """Whether so many calls leave something behind, however often they are made."""
    return all(growth(call, count) >= ALLOWED for _ in range(ROUNDS))


def growth(call, count):
    """Bytes that are held after so many calls and were not before."""
    call()
    gc.collect()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(count):
        call()
    gc.collect()
    return tracemalloc.get_traced_memory()[0] - before


@pytest.fixture
def traced():
    tracemalloc.start()
    yield
    tracemalloc.stop()


def test_no_call_leaves_anything_behind(calls, traced):
    for name, rarity, call in calls:
        count = max(3, CALLS // rarity)
        growth(call, 3)
        before = leaks.counts()
        assert not grows(call, count), name
        assert leaks.counts() == before, name


def test_what_is_left_behind_is_seen(traced, tmp_path):
    kept, stop = [], threading.Event()
    assert grows(lambda: kept.append(bytes(100)), CALLS)
    before = leaks.counts()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    file = open(tmp_path / "file", "w")  # noqa: SIM115
    after = leaks.counts()
    assert (after.threads, after.files) == (before.threads + 1, before.files + 1)
    stop.set()
    thread.join()
    file.close()
    child = os.posix_spawn("/bin/sleep", ["sleep", "60"], {})
    assert leaks.counts().children == before.children + 1
    os.kill(child, 9)
    os.waitpid(child, 0)
    assert leaks.counts() == before


def test_growing_memory_is_not_flat():
    kept = []
    grows = leaks.measure("grows", lambda: kept.append(b"x" * 100_000), 200, 2)
    assert not grows.is_flat
    assert leaks.measure("does not", lambda: None, 200, 2).is_flat
