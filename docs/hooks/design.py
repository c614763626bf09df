"""Write the parts of ``docs/design.md`` that the code knows: its floors, and the way of a problem to its solution.

    python docs/hooks/design.py

Floors are those that ``tests/repository/test_floors.py`` keeps. The way is watched: a small problem is solved, and
every call from one room of the package into another is noted when it happens for the first time.
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "design.md"
PACKAGE = ROOT / "src" / "clinch"
#: functions named beside each room, at most
NAMED = 3
#: where their names begin
COLUMN = 36


def floors() -> list[list[str]]:
    """Rooms from the ground up, floor by floor, as the law of the tree has them."""
    tree = ast.parse((ROOT / "tests" / "repository" / "test_floors.py").read_text(encoding="utf-8"))
    (found,) = (
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["FLOORS"]
    )
    return [rooms.split() for rooms in ast.literal_eval(found)]


def purpose(room: str) -> str:
    """The first sentence of a room's docstring."""
    path = PACKAGE / room / "__init__.py" if (PACKAGE / room).is_dir() else PACKAGE / f"{room}.py"
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    text = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", " ".join(text.split("\n\n")[0].split()))
    return text.replace("``", "`").rstrip(".")


def floors_table() -> str:
    """The floors from the top down, each room with what it is for."""
    lines = ["| floor | room | what it is |", "|---|---|---|"]
    for height, rooms in reversed(list(enumerate(floors()))):
        for i, room in enumerate(rooms):
            name = "clinch" if room == "__init__" else room
            lines.append(f"| {height if not i else ''} | `{name}` | {purpose(room)} |")
    return "\n".join(lines)


class Watch:
    """Calls between rooms while it watches: who called whom first, and through which functions."""

    def __init__(self) -> None:
        self.stack: list[str | None] = []
        self.callers: dict[str, str] = {}
        self.functions: dict[str, list[str]] = {}

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        """What :func:`sys.setprofile` calls."""
        if event == "return" and self.stack:
            self.stack.pop()
        elif event == "call":
            before = next((room for room in reversed(self.stack) if room is not None), None)
            here = self._room(frame)
            self.stack.append(here)
            if here is not None and here != before:
                self._note(here, before, frame.f_code.co_name)

    def _room(self, frame: FrameType) -> str | None:
        parts = str(frame.f_globals.get("__name__", "")).split(".")
        inner = frame.f_code.co_name.startswith("<")
        return parts[1] if parts[0] == "clinch" and len(parts) > 1 and not inner else None

    def _note(self, here: str, before: str | None, function: str) -> None:
        self.callers.setdefault(here, before or "")
        known = self.functions.setdefault(here, [])
        if not function.startswith("_") and function not in known and self.callers[here] == (before or ""):
            known.append(function)

    def picture(self) -> str:
        """The rooms as a tree, each below the one that called it first."""
        lines: list[str] = []
        waiting = [(room, 0) for room, caller in self.callers.items() if not caller]
        while waiting:
            room, depth = waiting.pop(0)
            named = ", ".join(self.functions[room][:NAMED])
            lines.append(f"{'    ' * depth}{room:<{COLUMN - 4 * depth}}{named}")
            waiting[:0] = [(inner, depth + 1) for inner, caller in self.callers.items() if caller == room]
        return "```text\n" + "\n".join(line.rstrip() for line in lines) + "\n```"


def way() -> str:
    """The picture of a solve of a distance with two conditions."""
    from clinch.demo.problem import build

    # what is imported or compiled late is not part of the way
    build().problem.solve(time_limit=600)
    problem, watch = build().problem, Watch()
    sys.setprofile(watch)
    try:
        problem.solve(time_limit=600)
    finally:
        sys.setprofile(None)
    return watch.picture()


def filled(page: str, parts: dict[str, str]) -> str:
    """The page with its parts between their marks."""
    for name, text in parts.items():
        marks = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        page = marks.sub(lambda found, text=text: f"{found[1]}{text}\n{found[2]}", page)
    return page


def current() -> str:
    """The page as it should be."""
    return filled(PAGE.read_text(encoding="utf-8"), {"floors": floors_table(), "way": way()})


if __name__ == "__main__":
    PAGE.write_text(current(), encoding="utf-8")
