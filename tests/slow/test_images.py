"""The images of the pages can be drawn, and are those that the pages show."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
SHOWN = re.compile(r"\]\((?:\.\./)?images/([\w-]+\.svg)#gh-(light|dark)-mode-only\)")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    command = [sys.executable, "-W", "error", str(DOCS / "images"), "-o", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(list(folder.iterdir()))
    return folder


def test_all_are_drawn_and_are_images(drawn):
    names = {path.name for path in drawn.iterdir()}
    assert names == {path.name for path in (DOCS / "images").glob("*.svg")}
    for path in drawn.iterdir():
        text = path.read_text()
        assert text.startswith("<?xml")
        assert text.count("<path") > 10
        assert text.rstrip().endswith("</svg>")


def test_drawn_again_they_are_the_same(drawn, tmp_path):
    command = [sys.executable, str(DOCS / "images"), "winograd", "-o", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True)
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (drawn / path.name).read_bytes()


def test_each_is_shown_for_light_and_for_dark_pages():
    shown = {}
    for page in DOCS.rglob("*.md"):
        for name, theme in SHOWN.findall(page.read_text()):
            assert name.endswith(f"-{theme}.svg")
            shown.setdefault(page, []).append(name)
    names = [name for found in shown.values() for name in found]
    assert sorted(names) == sorted(path.name for path in (DOCS / "images").glob("*.svg"))


def test_an_unknown_image_is_refused(tmp_path):
    command = [sys.executable, str(DOCS / "images"), "mona-lisa", "-o", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "there is no figure mona-lisa" in done.stderr
