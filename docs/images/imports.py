"""Read which modules of d2np import which, for the drawing and for ``tests/test_layout.py``."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "d2np"

BASE = frozenset(
    {
        "atomic",
        "errors",
        "extras",
        "features",
        "hdf5",
        "layers",
        "machine",
        "options",
        "streams",
        "threads",
        "version",
    }
)
"""Modules that all others may import."""

LEVELS = (
    ("cli",),
    ("dataset", "demo", "opencv", "training"),
    ("draw", "formats", "network"),
    ("matching",),
    ("verification",),
    ("images", "weights"),
    ("kernels", "reference"),
)
"""Packages and modules of d2np from top to bottom: each imports those below it and the base only."""


def part(module: str) -> str:
    """Return the package or module right below ``d2np`` that a module belongs to."""
    return module.split(".")[1]


def modules() -> dict[str, Path]:
    """Return the file of each module of d2np but ``d2np`` itself and what starts the command line."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        names = ["d2np", *path.relative_to(PACKAGE).with_suffix("").parts]
        if len(names) > 2 or not names[1].startswith("__"):
            found[".".join(names).removesuffix(".__init__")] = path
    return {name: path for name, path in found.items() if "__" not in name}


def imports() -> dict[str, set[str]]:
    """Return the modules of d2np that each module imports, inside functions too; not those for types only."""
    known = modules()
    return {name: set(_imported(name, path, known)) - {name} for name, path in known.items()}


def _imported(name: str, path: Path, known: dict[str, Path]) -> Iterator[str]:
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for statement in _statements(ast.parse(path.read_text(encoding="utf-8"))):
        above = package.split(".")[: len(package.split(".")) + 1 - statement.level]
        base = ".".join(
            [*(above if statement.level else []), *([statement.module] if statement.module else [])]
        )
        for alias in statement.names:
            whole = f"{base}.{alias.name}"
            if whole in known or base in known:
                yield whole if whole in known else base
            elif base == "d2np" and not alias.name.startswith("__"):
                yield base


def _statements(node: ast.AST) -> Iterator[ast.ImportFrom]:
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        return
    if isinstance(node, ast.ImportFrom):
        yield node
    for child in ast.iter_child_nodes(node):
        yield from _statements(child)
