"""Calls leave nothing behind: seen in a process of its own, since others leave things in this one."""

from pathlib import Path

import scripts

CASES = Path(__file__).parents[1] / "with_fresh_process" / "test_leaks.py"


def test_calls_leave_nothing_behind():
    done = scripts.run(["-m", "pytest", "-q", "-p", "no:cacheprovider", str(CASES)])
    assert "3 passed" in done.stdout
