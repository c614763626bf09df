"""What the documentation names, and what the project has: read from the pages and from the code."""

from __future__ import annotations

import importlib
import inspect
import re
import tomllib
from pathlib import Path

import clinch as cl
from clinch.cli import app
from clinch.papers.parts.reproduction import names as papers
from clinch.search.engines import ENGINES

ROOT = Path(__file__).resolve().parents[2]
GUIDES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md")),
          *sorted((ROOT / "docs" / "decisions").glob("*.md"))]  # fmt: skip
REFERENCE = sorted((ROOT / "docs" / "api").glob("*.md"))
#: text between backticks, on one line; and blocks of code
SPAN, BLOCK = re.compile(r"`([^`\n]+)`"), re.compile(r"^```[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)


def commands():
    """Name -> options of every command."""
    import typer.main

    group = typer.main.get_command(app)
    return {
        name: {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        for name, command in group.commands.items()
    }


def targets():
    """What ``make`` can be asked for by name."""
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    return set(phony[1].split())


def extras():
    """Optional parts of an installation."""
    return set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])


def functions(package):
    """Public functions of a package."""
    module = importlib.import_module(package)
    listed = getattr(module, "__all__", [name for name in vars(module) if not name.startswith("_")])
    return [name for name in listed if inspect.isfunction(getattr(module, name))]


def applications():
    """Packages of ``clinch.applications``."""
    place = Path(importlib.import_module("clinch.applications").__file__).parent
    return sorted(path.parent.name for path in place.glob("*/__init__.py"))


#: kind -> (what there is of it, the page that must name each, how the page writes it)
KINDS = {
    "attack": (functions("clinch.attacks"), "docs/attacks.md", r"`(?:cl\.attacks\.)?{}\b"),
    "bound": (functions("clinch.bounds"), "docs/bounds.md", r"\b{}\b"),
    "engine": (list(ENGINES), "docs/concepts.md", r"`{}`"),
    "exact search": (list(cl.exact.__all__), "docs/api/exact.md", r"clinch\.exact\b"),
    "application": (applications(), "docs/index.md", r"{}"),
    "command": (list(commands()), "README.md", r"^clinch {} "),
    "paper": (papers(), "docs/reproduce.md", r"^\| `{}` \|"),
    "extra": (sorted(extras()), "docs/index.md", r"`clinch-nn\[{}\]`"),
    "make target": (sorted(targets()), "CONTRIBUTING.md", r"^make {}\b"),
}


def undocumented(kind, names=None):
    """Those of a kind whose page has no line about them, each with the page that should have one."""
    known, page, pattern = KINDS[kind]
    text = (ROOT / page).read_text()
    return [
        f"the {kind} '{name}' has no line in {page}"
        for name in (known if names is None else names)
        if not re.search(pattern.format(re.escape(name)), text, re.MULTILINE)
    ]


def spans(page):
    """Code of a page, span by span and line by line of its blocks."""
    text = page.read_text()
    blocks = [line for block in BLOCK.findall(text) for line in block.splitlines()]
    return SPAN.findall(BLOCK.sub("", text)), blocks
