"""Sphinx's roles in docstrings, such as ``:func:`match```, as links that mkdocstrings makes.

Editors and Sphinx know these roles, mkdocstrings does not. A name is looked up where the docstring stands; if
it has no place in the reference, it is shown as code.
"""

from __future__ import annotations

import re
from html import escape
from typing import Any

import griffe

_ROLE = re.compile(r":(?:attr|class|data|exc|func|meth|mod|obj):`([^`<]*?)(?:\s*<([^>`]+)>)?`")


class Roles(griffe.Extension):
    """Rewrites the docstrings of a package once it has been read."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        _rewrite(pkg)


def _rewrite(obj: griffe.Object) -> None:
    if obj.docstring is not None:
        obj.docstring.value = _ROLE.sub(lambda match: _link(obj, *match.groups()), obj.docstring.value)
    for member in obj.members.values():
        if not member.is_alias:
            _rewrite(member)


def _link(obj: griffe.Object, text: str, target: str | None) -> str:
    shown = text.removeprefix("~").rpartition(".")[2] if text.startswith("~") else text
    named = (target or text).removeprefix("~")
    identifier = escape(_resolved(obj, named))
    return f'<autoref identifier="{identifier}" optional><code>{escape(shown)}</code></autoref>'


def _resolved(obj: griffe.Object, name: str) -> str:
    if name.startswith("d2np."):
        return name
    try:
        return obj.resolve(name)
    except griffe.NameResolutionError:
        return name
