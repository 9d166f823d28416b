"""Packages that only some users need: the extras of ``pyproject.toml``, imported when they are used."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from .errors import Error


def require(module: str, purpose: str, extra: str, error: type[Error], package: str | None = None) -> Any:
    """Import a module of an extra.

    Parameters
    ----------
    module : str
    purpose : str
        How the sentence begins that says what it is needed for, verb included: ``"ONNX files need"``.
    extra : str
    error : type
        What to raise: the error of what cannot be done without it.
    package : str, optional
        What holds the module, where it is not called like it.

    Raises
    ------
    Error
        If it cannot be imported; with the command that installs it.
    """
    try:
        return import_module(module)
    except ImportError as problem:
        missing = isinstance(problem, ModuleNotFoundError) and f"{module}.".startswith(f"{problem.name}.")
        # One that is there may lack something else, such as a library of the system.
        but = "" if missing else f", which does not load ({problem})"
        package = package or module.partition(".")[0]
        raise error(f"{purpose} the package {package}{but}: pip install 'd2np[{extra}]'") from None
