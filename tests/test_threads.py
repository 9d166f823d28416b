import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import d2np
from d2np.machine import usable_cores
from d2np.threads import Team, shrinking_spans, spans


@hypothesis_settings(deadline=None, max_examples=50, derandomize=True)
@given(st.integers(0, 50), st.integers(-1, 60))
def test_spans_cover_everything_once(count, size):
    cut = spans(count, size)
    assert [n for first, last in cut for n in range(first, last)] == list(range(count))
    assert all(last - first == max(1, size) for first, last in cut[:-1])


@hypothesis_settings(deadline=None, max_examples=50, derandomize=True)
@given(st.integers(0, 400), st.integers(1, 60), st.integers(1, 14), st.integers(1, 5))
def test_shrinking_spans_cover_everything_once_and_end_in_short_ones(count, units, unit, threads):
    cut = shrinking_spans(count, units * unit, unit, threads)
    lengths = [last - first for first, last in cut]
    assert [n for first, last in cut for n in range(first, last)] == list(range(count))
    assert all(length % unit == 0 and length <= units * unit for length in lengths[:-1])
    assert lengths == sorted(lengths, reverse=True)
    if count > 8 * threads * units * unit:
        assert lengths[0] == units * unit
        assert lengths[-1] <= 4 * unit


@hypothesis_settings(deadline=None, max_examples=50, derandomize=True)
@given(st.integers(0, 400), st.integers(1, 60), st.integers(1, 14), st.integers(1, 5))
def test_threads_that_take_turns_get_equal_shares(count, units, unit, threads):
    cut = shrinking_spans(count, units * unit, unit, threads)
    shares = [sum(last - first for first, last in cut[thread::threads]) for thread in range(threads)]
    # A unit that is left over, and a last one that is not whole.
    assert max(shares) - min(shares) < 2 * unit


@pytest.mark.parametrize("size", [1, 2, 5])
def test_every_task_is_done_once(size):
    done = []
    with Team(size) as team:
        for _ in range(3):
            team.share(done.append, range(40))
    assert sorted(done) == sorted([*range(40)] * 3)


def test_threads_work_side_by_side():
    """Three tasks that wait for each other can only end if three threads work on them."""
    barrier = threading.Barrier(3, timeout=600)
    with Team(3) as team:
        team.share(lambda _: barrier.wait(), range(3))
        assert not barrier.broken


@pytest.mark.parametrize("size", [1, 2, 5])
def test_an_exception_reaches_the_caller_and_ends_the_work(size):
    done = []

    def work(task):
        if task == 3:
            raise LookupError("third")
        done.append(task)

    with Team(size) as team:
        with pytest.raises(LookupError, match="third"):
            team.share(work, range(10_000))
        assert len(done) < 10_000
        team.share(done.append, ["still usable"])
    assert done[-1] == "still usable"


def test_an_exception_in_a_helper_ends_the_work_of_all():
    caller, failed, done = threading.get_ident(), threading.Event(), []

    def work(task):
        if threading.get_ident() != caller:
            failed.set()
            raise LookupError("in a helper")
        assert failed.wait(timeout=600)
        time.sleep(0.001)
        done.append(task)

    with Team(2) as team, pytest.raises(LookupError, match="in a helper"):
        team.share(work, range(1000))
    assert len(done) < 900


def test_no_thread_outlives_the_team():
    before = threading.active_count()
    with Team(4) as team:
        team.share(lambda _: None, range(100))
    assert threading.active_count() == before


def test_none_means_every_core():
    with Team() as team:
        assert team.size == usable_cores() >= 1


@pytest.mark.parametrize("threads", [0, -1, 1.5, "2", True, [1]])
def test_senseless_numbers_of_threads(threads):
    with pytest.raises(d2np.OptionError, match="threads"):
        Team(threads)


def test_scratch_memory_belongs_to_one_thread():
    barrier = threading.Barrier(2, timeout=600)
    addresses = set()

    def work(_):
        memory = team.scratch(100)
        assert memory.shape == (100,)
        assert memory.dtype == np.float32
        barrier.wait()
        addresses.add(memory.ctypes.data)

    with Team(2) as team:
        team.share(work, range(2))
        assert team.scratch(7).shape == (7,)
    assert len(addresses) == 2
