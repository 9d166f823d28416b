"""What d2np uses of Numba beyond its public names: in one module, and still there."""

from __future__ import annotations

import ast
from pathlib import Path

import llvmlite
import numba
import pytest

import d2np
from d2np.kernels import internals, normalize

PACKAGE = Path(d2np.__file__).parent
MENDER = PACKAGE / "kernels" / "internals.py"

# What Numba and llvmlite document, and d2np uses outside that one module.
PUBLIC = {
    "numba": {"njit", "types", "extending"},
    "numba.extending": {"intrinsic"},
    "numba.types": {"IntegerLiteral", "float32", "int64", "void"},
    "llvmlite": {"ir", "binding"},
    "llvmlite.binding": {"get_host_cpu_features", "get_default_triple"},
    "llvmlite.ir": {
        "Constant", "FloatType", "Function", "FunctionType", "IntType", "IRBuilder", "Undefined",
        "VectorType", "VoidType",
    },
}  # fmt: skip


def test_this_numba_has_every_name():
    gone = internals.missing(normalize.l2_normalize)
    assert not gone, (
        f"numba {numba.__version__} (llvmlite {llvmlite.__version__}) has no {', '.join(gone)}: mend "
        "d2np/kernels/internals.py, whose docstring says what each is for"
    )


@pytest.mark.parametrize("name", internals.NAMES)
def test_a_name_that_is_gone_is_named(name, monkeypatch):
    module, _, path = name.partition(":")
    monkeypatch.delattr(f"{module}.{path}")
    assert internals.missing(normalize.l2_normalize) == [name]


def test_what_a_kernel_lacks_is_named():
    def no_kernel():
        return None

    gone = internals.missing(no_kernel)
    assert [name.rpartition(":")[2] for name in gone] == [
        f"function.{path}" for path in internals.INSTANCE_NAMES
    ]


def test_the_docstring_tells_about_every_name():
    text = MENDER.read_text().split('"""')[1]
    for name in (*internals.NAMES, *internals.INSTANCE_NAMES):
        assert name.replace(":", ".").split(".")[-1] in text


def test_works_without_what_only_makes_it_better(monkeypatch):
    class Bare:
        """A kernel of a Numba without the attributes that are replaced."""

        def enable_caching(self):
            pass

    internals.keep(Bare(), pytest.fail)
    monkeypatch.delattr("numba.core.config.DISABLE_JIT")
    assert internals.is_jit_disabled() is False


def strays(source):
    """What a module uses of Numba or llvmlite that is not public."""
    tree = ast.parse(source)
    modules, found = {}, []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] in ("numba", "llvmlite"):
                    if alias.name in PUBLIC and "." not in alias.name:
                        modules[alias.asname or alias.name] = alias.name
                    else:
                        found.append(alias.name)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in (
            "numba",
            "llvmlite",
        ):
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                if alias.name not in PUBLIC.get(node.module, ()):
                    found.append(name)
                elif name in PUBLIC:
                    modules[alias.asname or alias.name] = name
        elif isinstance(node, ast.Constant) and str(node.value).startswith(("numba.core", "llvmlite.ir.")):
            found.append(node.value)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            owner = ast.unparse(node.value)
            public = PUBLIC.get(modules.get(owner, ""))
            # The target context of an intrinsic is Numba's own.
            is_context = modules and owner in ("context", "self.context")
            if is_context or (public is not None and node.attr not in public):
                found.append(f"{owner}.{node.attr}")
    return found


def named(path):
    return str(path.relative_to(PACKAGE))


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=named)
def test_no_other_module_uses_what_is_not_public(path):
    if path == MENDER:
        assert strays(path.read_text())
    else:
        assert strays(path.read_text()) == []


@pytest.mark.parametrize(
    "source",
    [
        "import numba.core",
        "from numba.core import cgutils",
        "from numba import _dispatcher",
        "import numba\nnumba.core.config.DISABLE_JIT",
        "import numba as nb\nnb.config",
        "from numba import extending\nextending.overload",
        "from llvmlite.ir import builder",
        "from llvmlite import ir\ndef f(context): context.make_array",
        "import_module('numba.core.config')",
    ],
)
def test_strays_are_seen(source):
    assert strays(source)
