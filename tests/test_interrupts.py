"""Ctrl-C in the midst of a call, and an interpreter that ends meanwhile."""

from __future__ import annotations

import time

import pytest
import scripts

NET = """
import atexit, os, signal, sys, threading, time
import numpy as np
import d2np
net = d2np.Net.load("analytic")
picture = np.random.default_rng(0).integers(0, 256, (160, 200, 3)).astype(np.uint8)
threads = int(sys.argv[1])
start = time.perf_counter()
expected = net(picture, threads=threads)
assert len(expected) > 20
def check(found):
    for name in ("keypoints", "scores", "descriptors"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
"""

INTERRUPT = """
signal.signal(signal.SIGINT, signal.default_int_handler)
start = time.perf_counter()
net(picture, threads=threads)
seconds = time.perf_counter() - start
large = np.tile(picture, (8, 1, 1))  # eight times the work
sent = []
def interrupt():
    sent.append(time.perf_counter())
    os.kill(os.getpid(), signal.SIGINT)
late = []
for share in (0.05, 0.4, 1.3, 2.6):
    timer = threading.Timer(share * seconds, interrupt)
    timer.start()
    try:
        net(large, threads=threads)
    except KeyboardInterrupt:
        late.append(time.perf_counter() - sent[-1])
    else:
        raise SystemExit("it was not interrupted")
    timer.join()
    check(net(picture, threads=threads))
assert threading.active_count() == 1, threading.enumerate()
print(max(late))
"""


@pytest.mark.parametrize("threads", [1, 3])
def test_ctrl_c_during_a_call(threads):
    """It ends soon, long before the picture would have been done, and the net works on as before."""
    done = scripts.run(NET + INTERRUPT, threads)
    assert float(done.stdout) < 1.0


BUSY = """
def work():
    while True:
        net(picture, threads=threads)
"""

ENDS = {
    "a daemon is in a call": (
        BUSY + "threading.Thread(target=work, daemon=True).start(); time.sleep(0.1)",
        0,
    ),
    "with an exit code": (
        BUSY + "[threading.Thread(target=work, daemon=True).start() for _ in range(3)]; time.sleep(0.1)\n"
        "sys.exit(3)",
        3,
    ),
    "sys.exit in atexit": (
        BUSY + "threading.Thread(target=work, daemon=True).start(); atexit.register(sys.exit, 0)",
        0,
    ),
    "an exception": (
        BUSY + "threading.Thread(target=work, daemon=True).start(); time.sleep(0.1); raise LookupError",
        1,
    ),
    "a thread goes on behind the main one": (
        "def last():\n    time.sleep(0.1); check(net(picture, threads=threads)); os._exit(7)\n"
        "threading.Thread(target=last).start()",
        7,
    ),
    "a call in atexit": (
        "def last():\n    check(net(picture, threads=threads)); sys.stdout.flush(); os._exit(7)\n"
        "atexit.register(last)",
        7,
    ),
}


@pytest.mark.parametrize("how", ENDS)
def test_the_interpreter_ends(how):
    script, code = ENDS[how]
    start = time.perf_counter()
    done = scripts.run(NET + script, 3, code=code, timeout=60)
    assert time.perf_counter() - start < 30
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
check(net(picture, threads=threads))
"""
    scripts.run(NET + script, 3)
