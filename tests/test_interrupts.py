"""Ctrl-C in the midst of a call, and an interpreter that ends meanwhile."""

from __future__ import annotations

import pytest
import scripts

NET = """
import atexit, itertools, os, signal, sys, threading
import numpy as np
import d2np
from d2np.threads import Team
net = d2np.Net.load("analytic")
image = np.random.default_rng(0).integers(0, 256, (160, 200, 3)).astype(np.uint8)
threads = int(sys.argv[1])
expected = net(image, threads=threads)
assert len(expected) > 20
def check(found):
    for name in ("keypoints", "scores", "descriptors"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
"""

# Interrupts in the midst of one list of tasks after another, and counts the lists that are begun afterwards.
INTERRUPT = """
signal.signal(signal.SIGINT, signal.default_int_handler)
share, lists = Team.share, []
def share_and_interrupt(team, work, tasks):
    lists.append(None)
    def working(task):
        if len(lists) == last:
            os.kill(os.getpid(), signal.SIGINT)
        work(task)
    share(team, working, tasks)
Team.share = share_and_interrupt
last = None
net(image, threads=threads)
count = len(lists)
assert count > 10
for part in (0.0, 0.3, 0.6, 0.9):
    lists.clear()
    last = 1 + int(part * count)
    try:
        net(image, threads=threads)
    except KeyboardInterrupt:
        assert last <= len(lists) <= last + 1, (last, len(lists))
    else:
        raise SystemExit("it was not interrupted")
    last = None
    check(net(image, threads=threads))
assert threading.active_count() == 1, threading.enumerate()
"""


@pytest.mark.parametrize("threads", [1, 3])
def test_ctrl_c_during_a_call(threads):
    """It ends before anything else is begun, and the net works on as before."""
    scripts.run(NET + INTERRUPT, threads)


BUSY = """
share, inside = Team.share, threading.Event()
def share_and_tell(*given):
    inside.set()
    share(*given)
Team.share = share_and_tell
def work():
    while True:
        net(image, threads=threads)
"""

ENDS = {
    "a daemon is in a call": (
        BUSY + "threading.Thread(target=work, daemon=True).start(); inside.wait()",
        0,
    ),
    "with an exit code": (
        BUSY + "[threading.Thread(target=work, daemon=True).start() for _ in range(3)]; inside.wait()\n"
        "sys.exit(3)",
        3,
    ),
    "sys.exit in atexit": (
        BUSY + "threading.Thread(target=work, daemon=True).start(); atexit.register(sys.exit, 0)",
        0,
    ),
    "an exception": (
        BUSY + "threading.Thread(target=work, daemon=True).start(); inside.wait(); raise LookupError",
        1,
    ),
    "a thread goes on behind the main one": (
        "def last():\n    threading.main_thread().join(); check(net(image, threads=threads)); os._exit(7)\n"
        "threading.Thread(target=last).start()",
        7,
    ),
    "a call in atexit": (
        "def last():\n    check(net(image, threads=threads)); sys.stdout.flush(); os._exit(7)\n"
        "atexit.register(last)",
        7,
    ),
}


@pytest.mark.parametrize("how", ENDS)
def test_the_interpreter_ends(how):
    script, code = ENDS[how]
    done = scripts.run(NET + script, 3, code=code)
    assert (
        done.stderr == ""
        or (how == "an exception" and done.stderr.endswith("LookupError\n"))
        or (
            # Python itself tells of it.
            how == "sys.exit in atexit" and "SystemExit" in done.stderr
        )
    )


def test_threads_that_cannot_be_started_are_done_without():
    """As under a limit on the processes of a user: what there is does the work."""
    script = """
def refuse(self):
    raise RuntimeError("can't start new thread")
threading.Thread.start = refuse
check(net(image, threads=threads))
"""
    scripts.run(NET + script, 3)
