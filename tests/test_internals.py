"""The names of Numba that d2np uses beyond the public ones: in one module, and still there."""

from __future__ import annotations

import ast
from importlib import import_module
from pathlib import Path

import llvmlite
import numba
import pytest

import d2np
from d2np.kernels import compile, normalize, processor

PACKAGE = Path(d2np.__file__).parent
EXEMPT = PACKAGE / "kernels" / "compile.py"

# What Numba and llvmlite document, and d2np uses outside that one module.
PUBLIC = {
    "numba": {"njit", "types", "extending", "config"},
    "numba.config": {"DISABLE_JIT"},
    "numba.extending": {"intrinsic"},
    "numba.types": {"IntegerLiteral", "boolean", "float32", "int64", "void"},
    "llvmlite": {"ir", "binding"},
    "llvmlite.binding": {"get_host_cpu_features", "get_host_cpu_name", "get_default_triple"},
    "llvmlite.ir": {
        "Constant", "FloatType", "Function", "FunctionType", "IntType", "IRBuilder", "Undefined",
        "VectorType", "VoidType",
    },
}  # fmt: skip


# What is not public, as ``module:name``, and what a compiled function must have.
NAMES = (
    "numba.core.base:BaseContext.make_array",
    "numba.core.base:BaseContext.get_dummy_value",
    "numba.core.base:BaseContext.subtarget",
    "numba.core.codegen:JITCPUCodegen._get_host_cpu_name",
    "numba.core.codegen:JITCPUCodegen._get_host_cpu_features",
    "numba.core.config:CACHE_DIR",
    "numba.core.registry:cpu_target",
    "numba.core.registry:CPUDispatcher.targetdescr",
    "numba.core.registry:CPUDispatcher.compile",
    "numba.core.caching:FunctionCache.load_overload",
    "numba.core.caching:FunctionCache.save_overload",
    "numba.core.caching:FunctionCache.flush",
    "numba.core.caching:CompileResultCacheImpl._locator_classes",
)


@pytest.mark.parametrize("name", NAMES)
def test_this_numba_has_every_name(name):
    module, _, path = name.partition(":")
    there = f"numba {numba.__version__} (llvmlite {llvmlite.__version__})"
    fix = f"{there} has no {name}: fix d2np/kernels/compile.py, whose docstring says what it is for"
    found = import_module(module)
    for part in path.split("."):
        assert hasattr(found, part), fix
        found = getattr(found, part)
    assert name.split(".")[-1].split(":")[-1] in compile.__doc__


def test_kernels_have_the_cache_of_d2np():
    assert "_cache" in vars(numba.njit(lambda: None))
    assert type(normalize.l2_normalize._cache) is compile._Cache


def test_kernels_are_compiled_by_the_generator_of_d2np():
    """Numba names the attribute in no place that is documented."""
    own = normalize.l2_normalize.targetctx
    assert own._internal_codegen is own.codegen()
    assert type(own.codegen()) is compile._Codegen
    assert own.codegen().magic_tuple()[1:] == processor.target()
    assert type(numba.njit(lambda: None).targetctx.codegen()) is not compile._Codegen


def strays(source):
    """Return the names of Numba or llvmlite that a module uses and that are not public."""
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
    if path == EXEMPT:
        assert strays(path.read_text())
    else:
        assert strays(path.read_text()) == []


@pytest.mark.parametrize(
    "source",
    [
        "import numba.core",
        "from numba.core import cgutils",
        "from numba import _dispatcher",
        "import numba\nnumba.core.config.CACHE_DIR",
        "import numba as nb\nnb.core",
        "from numba import extending\nextending.overload",
        "from llvmlite.ir import builder",
        "from llvmlite import ir\ndef f(context): context.make_array",
        "import_module('numba.core.config')",
    ],
)
def test_strays_are_seen(source):
    assert strays(source)
