"""Scripts in processes of their own, in which a hang or a crash becomes a failure of the test."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import d2np

PACKAGE = Path(d2np.__file__).parents[1]


def environment(package=PACKAGE, **changes):
    """That of a script which finds d2np in ``package``; a change to None takes a variable away."""
    path = os.pathsep.join([str(package), *filter(None, [os.environ.get("PYTHONPATH")])])
    merged = {**os.environ, "PYTHONPATH": path, **changes}
    return {name: str(value) for name, value in merged.items() if value is not None}


def run(script, *arguments, flags=(), code=0, timeout=600, package=PACKAGE, **changes):
    """Run a script, or a module if it is a list.

    Parameters
    ----------
    script : str or list of str
    *arguments : object
        What the script finds in ``sys.argv``.
    flags : sequence of str
        For the interpreter.
    code : int
        How it must end.
    timeout : float
        Seconds after which it counts as hanging.
    package : Path
        The folder that d2np lies in.
    **changes : object
        Environment variables.

    Returns
    -------
    CompletedProcess
    """
    what = script if isinstance(script, list) else ["-c", script]
    done = subprocess.run(
        [sys.executable, *flags, *what, *map(str, arguments)],
        env=environment(package, **changes),
        cwd=package,  # where Python looks first
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == code, f"ended with {done.returncode}\n{done.stdout}{done.stderr}"
    return done
