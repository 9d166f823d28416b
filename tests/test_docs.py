"""Every command and example of the pages in ``docs/``, and the README's Python, runs as it stands there.

A page is worked through from its top to its bottom in one folder that holds what a reader would have:
``A.jpg`` and ``B.jpg``, two views of one scene, ``photos/`` with three pictures, one of them in a folder of
its own, and ``d2.h5``, a file of weights. Blocks marked ``sh`` and ``python`` are run; lines that install
something are compared with the extras that there are. What would be downloaded comes from a server on this
machine, with made-up weights in place of the published ones.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from checkpoints import legacy, state_dict, tensor
from loopback import File, serving
from PIL import Image

import d2np
from d2np.demo import views
from d2np.weights import analytic, store

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
RUN = ("sh", "python")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXTRAS = re.compile(r"^(\w+) = \[", re.MULTILINE)


def blocks(page):
    return [match.groups() for match in BLOCK.finditer(page.read_text())]


@pytest.fixture(scope="session")
def mirror():
    """The address of a server that has the published checkpoints' names."""
    arrays = {name: tensor(array) for name, array in analytic.arrays().items()}
    checkpoint = File(legacy({"model": state_dict(arrays)}))
    with serving() as server:
        server.answers = {f"/d2_{name}.pth": checkpoint for name in store.SOURCES}
        yield server.address


@pytest.fixture
def folder(tmp_path, mirror, monkeypatch):
    monkeypatch.setenv("D2NP_FETCH_MIRROR", mirror)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    scene = views()
    for name, view in (("A", scene.first), ("B", scene.second)):
        view.resize((320, 320)).save(tmp_path / f"{name}.jpg")
    (tmp_path / "photos" / "yard").mkdir(parents=True)
    for name in ("left.jpg", "right.jpg", "yard/gate.jpg"):
        Image.open(tmp_path / ("A.jpg" if "left" in name else "B.jpg")).save(tmp_path / "photos" / name)
    d2np.Net.load("analytic").save(tmp_path / "d2.h5")
    return tmp_path


def run(command, folder):
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "D2NP_CACHE": str(folder / "cache"),
    }
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{command[-1]}\n{done.stdout}{done.stderr}"


def installs(script, extras):
    """The script without the lines that install extras, which must exist."""
    rest = []
    for line in script.splitlines():
        if line.startswith("pip install"):
            (named,) = re.findall(r"\[([\w,]+)\]", line)
            assert set(named.split(",")) <= extras
        else:
            rest.append(line)
    return "\n".join(rest)


def runs(page):
    return any(language in RUN for language, _ in blocks(page))


def name(page):
    return page.relative_to(ROOT / "docs").with_suffix("").as_posix()


def follow(page, folder):
    """Run the page's blocks, one after the other; ``slow/test_pages.py`` does so with each page."""
    extras = set(EXTRAS.findall((ROOT / "pyproject.toml").read_text()))
    for language, text in blocks(page):
        if language == "sh":
            run(["bash", "-ec", installs(text, extras)], folder)
        elif language == "python":
            run([sys.executable, "-W", "error", "-c", text], folder)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_blocks_are_marked_as_what_is_run_or_not_at_all(page):
    assert page.read_text().count("\n```") == 2 * len(blocks(page))
    assert {language for language, _ in blocks(page)} <= {*RUN, ""}


def test_readme(folder):
    examples = [text for language, text in blocks(ROOT / "README.md") if language == "python"]
    assert examples
    for text in examples:
        run([sys.executable, "-W", "error", "-c", text], folder)
        assert (folder / "matches.png").exists()
