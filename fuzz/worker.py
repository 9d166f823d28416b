"""Runs a piece of a harness's inputs, in a process of its own that a bad one may end.

``python -m fuzz.worker NAME SEED FIRST COUNT CURRENT FINDINGS``: the inputs with the numbers from FIRST on.
Each is written into the file CURRENT before it is read, and those that are bugs into the folder FINDINGS.
What was found goes to the output, a line for each kind.
"""

from __future__ import annotations

import faulthandler
import hashlib
import mmap
import random
import sys
import traceback
from pathlib import Path

from . import limits, small
from .mutate import mutated
from .targets import TARGETS, Target

LONGEST = 1 << 17
"""Bytes of an input."""

_HEADER = 8


def generated(target: Target, seed: int, number: int) -> bytes:
    """One input; it depends on nothing else. The first ones are the seeds, as they are."""
    if number < len(target.seeds):
        return target.seeds[number]
    return mutated(random.Random(f"{target.name}/{seed}/{number}"), target.seeds, target.words, LONGEST)


def current(path: Path) -> bytes:
    """The input that a worker had before it ended."""
    content = path.read_bytes()
    return content[_HEADER : _HEADER + int.from_bytes(content[:_HEADER], "little")]


def place(error: BaseException) -> str:
    """Where an error comes from: its kind, and the last line of d2np that it passed."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/d2np/" in frame.filename]
    where = (
        f"{frames[-1].filename.partition('/d2np/')[2]}:{frames[-1].lineno}" if frames else "outside of d2np"
    )
    return f"{type(error).__name__} at {where}"


def failing(target: Target, data: bytes) -> Exception | None:
    """A fault that an input causes."""
    try:
        with limits.bounded_time():
            target.run(data)
    except Exception as error:
        return error
    return None


def main(name: str, seed: str, first: str, count: str, current_path: str, findings: str) -> None:
    faulthandler.enable()
    target = TARGETS[name]
    with small.shapes(), open(current_path, "r+b") as stream:
        stream.truncate(_HEADER + LONGEST)
        shown = mmap.mmap(stream.fileno(), 0)
        # What is imported and compiled by the first inputs is none of their memory.
        for data in target.seeds:
            failing(target, data)
        limits.bound_memory(target.memory)
        seen: set[str] = set()
        for number in range(int(first), int(first) + int(count)):
            if number % 100 == 0:
                limits.watch_for_hangs()
            data = generated(target, int(seed), number)
            shown[: _HEADER + len(data)] = len(data).to_bytes(_HEADER, "little") + data
            error = failing(target, data)
            if error is not None and (what := place(error)) not in seen:
                seen.add(what)
                kept = Path(findings) / f"{name}-{hashlib.sha256(data).hexdigest()[:12]}"
                kept.parent.mkdir(exist_ok=True)
                kept.write_bytes(data)
                print(f"{what}: {str(error)[:200]!r} in {kept}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
