"""Options that name where results go: refused while the command line is read, before any work is spent.

Nothing is written by these checks. A lone ``-`` means standard output where an option says so, and is no name of a file
or folder anywhere else.
"""

from __future__ import annotations

import os
from pathlib import Path

import typer


def output_file(name: str) -> Path:
    """A file to be written; ``parser=`` of an option.

    Raises:
        typer.BadParameter: the name is ``-`` or empty, its folder is missing, or it cannot be written.
    """
    path = _named(name, "file")
    reason = unwritable(path)
    if reason:
        raise typer.BadParameter(f"Cannot write {name}: {reason}. Name another file.")
    return path


def output_folder(name: str) -> Path:
    """A folder for results, made where it is missing; ``parser=`` of an option.

    Raises:
        typer.BadParameter: the name is ``-`` or empty.
    """
    return _named(name, "folder")


def output_json(name: str) -> str:
    """A file for JSON, or ``-`` for standard output; ``parser=`` of an option.

    Raises:
        typer.BadParameter: the file cannot be written.
    """
    return name if name == "-" else str(output_file(name))


def unwritable(path: Path) -> str:
    """Why a file cannot be written, or nothing."""
    path = path.absolute()
    if path.is_dir():
        return "Is a directory"
    if not path.parent.is_dir():
        return "No such file or directory"
    return "" if os.access(path if path.exists() else path.parent, os.W_OK) else "Permission denied"


def _named(name: str, kind: str) -> Path:
    if not name:
        raise typer.BadParameter(f"the name is empty. Name a {kind}.")
    if name == "-":
        raise typer.BadParameter(
            f"- stands for standard output, where only --json can go. Name a {kind}; one called - is ./-"
        )
    return Path(name)
