"""The same harnesses under atheris, which keeps inputs that reach new lines of d2np."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

_SETUP = """
import sys
import atheris
with atheris.instrument_imports(include=["d2np", "pickletools", "zipfile"]):
    import d2np.dataset
    from fuzz.targets import TARGETS
from fuzz import limits, small
name = sys.argv.pop(1)
with small.shapes():
    for data in TARGETS[name].seeds:
        TARGETS[name].run(data)
    limits.bound_memory(TARGETS[name].memory)
    atheris.Setup(sys.argv, TARGETS[name].run)
    atheris.Fuzz()
"""


def guided(name: str, runs: int, seed: int, findings: Path) -> int:
    """Run a harness; it ends at the first input that is a bug, which is then in the folder of findings."""
    from . import small
    from .targets import TARGETS

    findings.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as corpus:
        with small.shapes():
            for number, data in enumerate(TARGETS[name].seeds):
                (Path(corpus) / str(number)).write_bytes(data)
        options = (
            *(f"-runs={runs}", f"-seed={seed + 1}", "-max_len=131072", "-timeout=20", "-rss_limit_mb=0"),
            *("-print_final_stats=1", f"-artifact_prefix={findings / name}-"),
        )
        return 1 if subprocess.run([sys.executable, "-c", _SETUP, name, *options, corpus]).returncode else 0
