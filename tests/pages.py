"""The needs of a reader of the pages: blocks, images, weights, a server with the published checkpoints.

``test_docs.py`` and ``.ci/follow.py`` share it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import colmap_model
import numpy as np
from checkpoints import legacy, state_dict, tensor
from loopback import File, serving
from numpy.typing import NDArray
from PIL import Image

import d2np
from d2np.demo import views
from d2np.verification import transformed
from d2np.weights import catalogue

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SIZE = 320

NOT_RUN = {
    "from pathlib import Path\nfrom hloc import": "hloc is on no package registry",
    "from pathlib import Path\n\nfrom hloc import": "gigabytes; `tests/with_adapters` runs it",
    "import torch\n\nimport d2np": "gigabytes; `tests/with_adapters` runs it",
    "import d2np\nfrom vismatch": "gigabytes; `tests/with_adapters` runs it",
    "colmap mapper": "COLMAP's program is no Python package; the page runs the same by pycolmap",
    "colmap model_converter": "COLMAP's program is no Python package",
    "openMVG_main": "openMVG is in no package; `tests/test_openmvg.py` has kapture read the folder",
    "pip install pyinstaller": "`.ci/frozen` does that",
    "pytest": "`.ci/run` does that",
    "pip install -e '.[test]'": "`.ci/run` does that",
    "pip install 'd2np[verify]' scikit-image\npython benchmarks/quality.py --seeds 2 --d": "on another page",
    "python -m pip install -e": "for other machines than this",
    "python benchmarks/leaks.py": "minutes; `tests/slow/test_leaks.py` makes fewer calls",
    "pip install torch": "gigabytes; `.ci/run` compares with PyTorch",
    "pip install '.[reference]'": "gigabytes; `.ci/run` compares with PyTorch",
    "@inproceedings": "a citation",
    "@InProceedings": "a citation",
    "ENV D2NP": "lines of a Dockerfile",
    "RUN d2np": "a line of a Dockerfile",
    "FROM python": "a Dockerfile: there is no registry of images",
    "geometric agreement": "one of these lines is printed, depending on the images",
    "NFA = ": "a formula",
    "L = sum_i": "a formula",
    "d2np: ": "messages, of files that the page does not have",
}
"""The beginnings of blocks and commands that are left out, and why."""

INSTEAD = [
    (r" && pytest\b.*", "", "`.ci/run` runs the tests"),
    (r"(python benchmarks/compare\.py)$", r"\1 --sizes 64x64 --rounds 1", "minutes"),
    (r"(python benchmarks/extraction\.py)$", r"\1 --size 64x64 --rounds 1", "minutes"),
    (r"(python benchmarks/quality\.py).*$", r"\1 --seeds 0 --dimensions 128", "minutes"),
    (r"(python benchmarks/retrieval\.py)$", r"\1 --views 2 --weights analytic", "minutes"),
    (r"(python benchmarks/size\.py.*)$", r"\1 --megapixels 0.1 0.2 --rounds 1", "minutes"),
    (r"(python benchmarks/neon\.py)$", r"\1 --cores", "llvm-mca is in a large package"),
    (r"(python benchmarks/memory\.py)$", r"\1 --sizes 160x120 --scales 1", "minutes"),
    (r"(benchmarks/hpatches\.py) FOLDER", r"\1 hpatches-sequences-release", "a folder of the reader's"),
    (r"(d2np train .*)$", r"\1 --iterations 3", "hours"),
    (r"s3://bucket/\w+/", "photos/", "a bucket of the reader's"),
    (r"--dask tcp://host:8786", "--dask local:1", "a cluster of the reader's"),
    (r"\bmine\.pth\b", "d2_tf.pth", "a checkpoint of the reader's"),
]
"""The texts that are replaced before a block is run, and why."""

COMMAND = re.compile(r"d2np |python benchmarks/|python -m venv |pip install ")
CALL = re.compile(r"(net[.(]|d2np\.[\w.]+\(|print\(net\.|for \w+ in net\.)")
WITHOUT_ARGUMENTS = {"demo", "warmup"}
NAMES = """
import numpy as np
import d2np
net = d2np.Net.load("analytic")
image, xy, mask = "A.jpg", [(40.0, 50.0)], np.ones((320, 320), np.uint8)
memmap = np.zeros((64, 64, 3), np.uint8)
a, b = net("A.jpg"), net("B.jpg")
"""
"""The names that calls in tables refer to."""


@dataclass
class Step:
    """A block, or the commands and calls of a paragraph or a table's row."""

    line: int
    language: str
    text: str
    extras: frozenset[str] = frozenset()
    printed: str = ""


class Failed(Exception):
    """A step does not do what its page says."""


def is_whole(code: str) -> bool:
    """Return whether inline code is a command to run, and not the mention of one."""
    if not COMMAND.match(code) or "..." in code or "…" in code or code.startswith(tuple(NOT_RUN)):
        return False
    words = shlex.split(code)
    return words[0] != "d2np" or words[1] in WITHOUT_ARGUMENTS or any(word[0] != "-" for word in words[2:])


def steps(text: str) -> Iterator[Step]:
    """Yield what a page tells its reader to run, in order."""
    last = None
    end = 0
    for match in [*BLOCK.finditer(text), None]:
        yield from inline(text[end : match.start() if match else len(text)], text.count("\n", 0, end))
        if match is None:
            return
        end = match.end()
        line = text.count("\n", 0, match.start()) + 1
        language, body = match.groups()
        if language == "text":
            if last is None:
                raise Failed(f"line {line}: no block before it that could print this")
            last.printed = body
        elif not body.startswith(tuple(NOT_RUN)):
            if not language and not COMMAND.match(body):
                raise Failed(f"line {line}: neither sh, python or text, nor in NOT_RUN of tests/pages.py")
            last = Step(line, language or "sh", body)
            yield last


def inline(text: str, above: int) -> Iterator[Step]:
    """Yield the commands and calls of each paragraph and each row of a table."""
    for unit in re.finditer(r"^\|.*$|(?:^[^|\n].*\n?)+", text, re.MULTILINE):
        codes = [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", unit.group())]
        needed = {code for code in codes if code in extras()}
        for code in codes:
            if named := re.fullmatch(r"'?(?:\.|d2np)\[([\w,]+)\]'?", code):
                needed |= set(named[1].split(","))
        line = above + text.count("\n", 0, unit.start()) + 1
        commands = [code for code in codes if is_whole(code)]
        if commands:
            yield Step(line, "sh", "\n".join(commands), frozenset(needed))
        calls = [code for code in codes if CALL.match(code)]
        if calls and unit.group().startswith("|"):
            body = "\n".join(f"{call}: pass" if call.startswith("for ") else call for call in calls)
            yield Step(line, "python", NAMES + body, frozenset(needed))


def check(step: Step, printed: str) -> None:
    """Raise unless each line that a page shows is printed, in this order."""
    lines = iter(printed.splitlines())
    for wanted in step.printed.splitlines():
        pattern = ".*".join(map(re.escape, wanted.split("...")))
        if not any(re.fullmatch(pattern, line.rstrip()) for line in lines):
            raise Failed(f"line {step.line}: no line {wanted!r} in what is printed:\n{printed}")


def blocks(page: Path) -> list[tuple[str, str]]:
    """Return the language and the text of each fenced block."""
    return BLOCK.findall(page.read_text())


@cache
def extras() -> set[str]:
    """Return the names of d2np's extras."""
    text = (ROOT / "pyproject.toml").read_text().partition("[project.optional-dependencies]\n")[2]
    return set(re.findall(r"^(\w+) = \[", text.partition("\n[")[0], re.MULTILINE))


def checkpoint() -> bytes:
    """Return a file with the layout of the published ones, and made-up weights."""
    arrays = {name: tensor(array) for name, array in d2np.weights.load("analytic")[0].items()}
    return legacy({"model": state_dict(arrays)})


@contextmanager
def mirror() -> Iterator[str]:
    """Serve the published checkpoints' names on this machine; yields the address."""
    answer = File(checkpoint())
    with serving() as server:
        server.answers = {f"/d2_{name}.pth": answer for name in catalogue.SOURCES}
        yield server.address


def prepare(folder: Path) -> None:
    """Write what the pages take for granted.

    ``A.jpg`` and ``B.jpg``, two views of one scene, ``photos/`` with three images, one of them in a folder of
    its own, ``others/`` with one, ``sparse/0``, a model of two of the first, and ``d2.h5``, weights.
    """
    scene = views()
    for name, view in (("A", scene.first), ("B", scene.second)):
        view.resize((SIZE, SIZE)).save(folder / f"{name}.jpg")
    (folder / "photos" / "yard").mkdir(parents=True)
    for name in ("left.jpg", "right.jpg", "yard/gate.jpg"):
        Image.open(folder / ("A.jpg" if "left" in name else "B.jpg")).save(folder / "photos" / name)
    (folder / "others").mkdir()
    Image.open(folder / "A.jpg").rotate(90).save(folder / "others" / "hall.jpg")
    points = colmap_model.grid(SIZE, 6)
    seen = transformed(truth(), points)
    kept = ((seen > 0) & (seen < SIZE - 1)).all(axis=1)
    names = "left.jpg", "right.jpg"
    colmap_model.write(folder / "sparse" / "0", names, SIZE, points[kept], seen[kept])
    d2np.Net.load("analytic").save(folder / "d2.h5")


def truth() -> NDArray[np.float64]:
    """Return the homography from pixels of ``A.jpg`` to pixels of ``B.jpg``."""
    scene = views()
    to_first, to_second = (
        np.diag([SIZE / view.width, SIZE / view.height, 1]) for view in (scene.first, scene.second)
    )
    return to_second @ scene.truth @ np.linalg.inv(to_first)


def prepare_downloads(folder: Path) -> None:
    """Write what the pages have a reader download: a published checkpoint and two sequences of HPatches."""
    (folder / "d2_tf.pth").write_bytes(checkpoint())
    scene = views()
    for name in ("i_shore", "v_yard"):
        sequence = folder / "hpatches-sequences-release" / name
        sequence.mkdir(parents=True)
        scene.first.resize((SIZE, SIZE)).save(sequence / "1.ppm")
        for number in range(2, 7):
            scene.second.resize((SIZE, SIZE)).save(sequence / f"{number}.ppm")
            np.savetxt(sequence / f"H_1_{number}", truth())
