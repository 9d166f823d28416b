"""The names of ``import d2np``, and when they are loaded."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import d2np

MODULES = [
    "dataset",
    "demo",
    "draw",
    "formats",
    "layers",
    "opencv",
    "options",
    "reference",
    "verification",
    "weights",
]
BELOW = {
    "formats": ["colmap", "hloc", "hloc_matches", "kapture", "mat", "npz", "tables"],
    "weights": ["fetch", "onnx"],
}


def test_documented_modules_are_attributes_loaded_on_first_use():
    named = [f"d2np.{name}" for name in MODULES]
    named += [f"d2np.{package}.{name}" for package, names in BELOW.items() for name in names]
    script = (
        "import sys, d2np\n"
        "assert not {'numpy', 'numba', 'h5py', 'PIL', 'difflib'} & set(sys.modules), 'loaded at once'\n"
        f"assert set({MODULES}) <= set(dir(d2np))\n"
        + "".join(f"assert set({names}) <= set(dir(d2np.{package}))\n" for package, names in BELOW.items())
        + "".join(f"assert {name}.__name__ == '{name}'\n" for name in named)
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("package", ["d2np", "d2np.formats", "d2np.weights"])
def test_editors_and_type_checkers_see_every_name(package):
    """They read no ``__getattr__``: the names must be bound or imported in the module itself."""
    module = import_module(package)
    bound = set()
    for node in ast.walk(ast.parse(Path(module.__file__).read_text())):
        if isinstance(node, ast.ImportFrom):
            bound |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.FunctionDef):
            bound.add(node.name)
    assert set(module.__all__) <= bound
    assert set(module.__all__) <= set(dir(module))


@pytest.mark.parametrize("package", [d2np, d2np.formats, d2np.weights])
def test_other_names_are_no_attributes(package):
    with pytest.raises(AttributeError, match=r"^module 'd2np[.\w]*' has no attribute 'verifcation'$"):
        package.verifcation  # noqa: B018
