"""The one format of results: a title, the command that makes the page, the machine, then text and tables.

A page has no date: it changes where a figure changes, and git knows when.
"""

from __future__ import annotations

import os
import platform
import shlex
import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"


def command() -> str:
    """How this run was asked for, with files outside of the project by their names alone."""
    return " ".join(["python -m benchmarks", _name(), *map(_plain, sys.argv[1:])])


def again(*arguments: object) -> list[str]:
    """The command of another process of this benchmark with arguments of its own."""
    return [sys.executable, "-m", "benchmarks", _name(), *map(str, arguments)]


def _name() -> str:
    return Path(sys.argv[0]).stem


def _plain(argument: str) -> str:
    path = Path(argument)
    if path.is_absolute():
        inside = ROOT in path.parents
        argument = path.relative_to(ROOT).as_posix() if inside else path.name
    return shlex.quote(argument)


def machine(*packages: str) -> str:
    """Versions and processor in a line, such as ``Python 3.11.7, torch 2.13.0, x86_64 (Xeon), 2 cores``."""
    parts = [f"Python {platform.python_version()}"]
    for name in ("torch", *packages):
        try:
            parts.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            parts.append(f"no {name}")
    return ", ".join([*parts, f"{platform.machine()} ({_processor()})", f"{os.cpu_count()} cores"])


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or "unknown processor")


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Lines of a Markdown table; numbers with a fraction have three digits, None is a dash."""
    return [_row(columns), "|" + "---|" * len(columns), *map(_row, rows)]


def _row(entries: Sequence[object]) -> str:
    return "| " + " | ".join(_cell(entry).replace("|", "\\|") for entry in entries) + " |"


def _cell(entry: object) -> str:
    if entry is None:
        return "–"
    return f"{entry:.3g}" if isinstance(entry, float) else str(entry)


def write_page(path: Path, title: str, lines: Iterable[str], packages: Sequence[str] = ()) -> Path:
    """Write a page of results: heading, command and machine, then the lines; says where it is.

    Args:
        path: of the page; folders above it are made.
        title: of the page.
        lines: what was measured, in Markdown.
        packages: further packages whose versions matter.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    head = [f"# {title}", "", f"    {command()}", "", f"{machine(*packages)}.", ""]
    path.write_text("\n".join([*head, *lines]).rstrip("\n") + "\n", encoding="utf-8")
    print(f"Written to {path.relative_to(ROOT) if ROOT in path.resolve().parents else path}")
    return path


def judged_page(
    path: Path, title: str, lines: Iterable[str], wrong: Sequence[str], held: str, packages: Sequence[str] = ()
) -> int:
    """:func:`write_page` with a last line that says what does not hold, or what does; returns the exit code.

    Args:
        path: of the page, as title, lines and packages.
        title: see there.
        lines: see there.
        wrong: what does not hold, each with its figures.
        held: what is said where nothing is wrong.
        packages: see there.
    """
    write_page(path, title, [*lines, f"Judged: {'; '.join(wrong) or held}"], packages)
    print(*wrong, sep="\n")
    return 1 if wrong else 0
