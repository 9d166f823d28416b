"""Imports point one way: down the levels that the documentation draws."""

import runpy
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

READER = runpy.run_path(str(Path(__file__).parents[1] / "docs" / "images" / "imports.py"))
BASE, LEVELS, part = READER["BASE"], READER["LEVELS"], READER["part"]
IMPORTS = READER["imports"]()


def test_each_part_has_one_level():
    placed = [name for level in LEVELS for name in level] + sorted(BASE)
    assert sorted(placed) == sorted({part(module) for module in IMPORTS})


def test_there_is_no_cycle():
    list(TopologicalSorter(IMPORTS).static_order())


@pytest.mark.parametrize("module", sorted(IMPORTS))
def test_imports_point_down(module):
    level = {name: number for number, names in enumerate(LEVELS) for name in names}
    level |= dict.fromkeys(BASE, len(LEVELS))
    mine = part(module)
    up = {
        other
        for other in IMPORTS[module]
        if part(other) != mine and level[part(other)] <= level[mine] and not ({mine, part(other)} <= BASE)
    }
    assert not up


def test_the_reader_finds_imports_inside_functions_and_not_those_for_types(tmp_path, monkeypatch):
    (tmp_path / "cli").mkdir()
    (tmp_path / "cli" / "__init__.py").write_text("from ..network.net import Net\n")
    (tmp_path / "cli" / "show.py").write_text(
        "def main():\n    from .. import draw\n    from . import report\n"
    )
    (tmp_path / "cli" / "report.py").write_text("if TYPE_CHECKING:\n    from ..network.net import Net\n")
    (tmp_path / "draw.py").write_text("from d2np.cli import show\n")
    (tmp_path / "network").mkdir()
    (tmp_path / "network" / "net.py").write_text("import os\n")
    monkeypatch.setitem(READER["modules"].__globals__, "PACKAGE", tmp_path)
    assert READER["imports"]() == {
        "d2np.cli": {"d2np.network.net"},
        "d2np.cli.report": set(),
        "d2np.cli.show": {"d2np.cli.report", "d2np.draw"},
        "d2np.draw": {"d2np.cli.show"},
        "d2np.network.net": set(),
    }
