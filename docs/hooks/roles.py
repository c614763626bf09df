"""Docstrings as Markdown: code and references in the style of reStructuredText become code and links.

A reference to the function ``clinch.attacks.pgd`` with a tilde in front shows ``pgd`` and leads to its entry where the
reference has one; elsewhere it is code. A section *Example* becomes *Examples*, which mkdocstrings shows as a session.
"""

from __future__ import annotations

import html
import re

import griffe

_CODE = re.compile(r"``(.+?)``", re.DOTALL)
_ROLE = re.compile(r":(?:attr|class|data|func|meth|mod):`\s*(~?)([^`<]+?)(?:\s*<([^`>]+)>)?`")
_EXAMPLE = re.compile(r"^Example:$", re.MULTILINE)


class Roles(griffe.Extension):
    """Rewrites every docstring once the package has been read, when names can be looked up."""

    def on_package(self, *, pkg: griffe.Module, **_: object) -> None:
        """Rewrite the docstrings of all modules, classes, functions and attributes of the package."""
        waiting: list[griffe.Object] = [pkg]
        while waiting:
            obj = waiting.pop()
            if obj.docstring is not None:
                obj.docstring.value = markdown(obj.docstring.value, obj)
            waiting += [member for member in obj.members.values() if isinstance(member, griffe.Object)]


def markdown(text: str, obj: griffe.Object) -> str:
    """The docstring with code in single backticks and references that lead somewhere if the reference has the name."""
    text = _ROLE.sub(lambda match: _reference(match, obj), text)
    return _EXAMPLE.sub("Examples:", _CODE.sub(lambda match: f"`{match[1]}`", text))


def _reference(match: re.Match[str], obj: griffe.Object) -> str:
    short, shown, target = match.groups()
    if target is None:
        target = "".join(shown.split())
        shown = f"<code>{target.rpartition('.')[2] if short else target}</code>"
    return f'<autoref optional identifier="{html.escape(identifier(target, obj))}">{shown}</autoref>'


def identifier(name: str, obj: griffe.Object) -> str:
    """The path of what a name in an object's docstring means: a member, a neighbour, an import or a full path."""
    first, dot, rest = name.partition(".")
    if first == "clinch":
        path = name
    else:
        try:
            path = obj.resolve(first) + dot + rest
        except griffe.NameResolutionError:
            path = name
    return _defined(path, obj.package)


def _defined(path: str, package: griffe.Object) -> str:
    """Where a path leads through imports; a module that is called as its function means the function."""
    try:
        found = package[path.removeprefix("clinch.")] if path != "clinch" else package
        if found.is_module and found.name in found.members:
            found = found.members[found.name]
        return found.canonical_path
    except (KeyError, griffe.AliasResolutionError, griffe.CyclicAliasError):
        return path
