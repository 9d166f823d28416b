"""``python -m fuzz NAME``: read many damaged files of a kind, and tell what went wrong."""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from . import limits, small
from .targets import TARGETS
from .worker import current, failing, place

FINDINGS = Path(__file__).parent / "findings"

_PIECE = 5000


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("name", choices=[*TARGETS, "all"], help="which reader")
    parser.add_argument("--runs", type=int, default=200_000, help="inputs of each; default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="another one gives other inputs; default: 0")
    parser.add_argument("--first", type=int, default=0, help="number of the first input, to go on from")
    parser.add_argument(
        "--guided", action="store_true", help="by atheris, which looks for new ways through the code"
    )
    parser.add_argument("--input", type=Path, help="read this file alone, and show the traceback")
    options = parser.parse_args()
    names = list(TARGETS) if options.name == "all" else [options.name]
    if options.input is not None:
        return _one(names[0], options.input.read_bytes())
    if options.guided:
        from .guided import guided

        return max(guided(name, options.runs, options.seed, FINDINGS) for name in names)
    return max(_run(name, options.seed, options.first, options.runs) for name in names)


def _one(name: str, data: bytes) -> int:
    target = TARGETS[name]
    with small.shapes():
        for seed in target.seeds:
            failing(target, seed)
        limits.bound_memory(target.memory)
        error = failing(target, data)
    if error is not None:
        print(place(error))
        raise error
    print(f"{name}: read, or refused as it should be")
    return 0


def _run(name: str, seed: int, first: int, runs: int) -> int:
    """Runs in pieces, each in a process of its own; 1 if anything was found."""
    start = time.perf_counter()
    found: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "current"
        place.touch()
        for begin in range(first, first + runs, _PIECE):
            count = min(_PIECE, first + runs - begin)
            command = [
                sys.executable,
                "-m",
                "fuzz.worker",
                name,
                *map(str, (seed, begin, count, place, FINDINGS)),
            ]
            done = subprocess.run(command, capture_output=True, text=True)
            found += done.stdout.splitlines()
            if done.returncode:
                data = current(place)
                kept = FINDINGS / f"{name}-crash-{hashlib.sha256(data).hexdigest()[:12]}"
                kept.parent.mkdir(exist_ok=True)
                kept.write_bytes(data)
                found.append(f"ended with {done.returncode} in {kept}\n{done.stderr[-3000:]}")
    for line in dict.fromkeys(found):
        print(f"{name}: {line}")
    print(f"{name}: {runs:,} inputs in {time.perf_counter() - start:.0f} s, {len(found)} found", flush=True)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
