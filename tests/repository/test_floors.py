"""The floors of the house: a room imports rooms below it, never above; known exceptions are listed and may only go.

A room is a folder of ``src/clinch`` or a file that lies loose in it. Imports count wherever they stand: at the top of a
file, inside a function, or for type checkers alone.
"""

import ast
from pathlib import Path

import clinch

ROOT = Path(clinch.__file__).parent
#: from the ground up; rooms of one line do not import each other
FLOORS = [
    "errors", "runtime", "io geometry", "backends", "network", "query",
    "encoding", "checker bounds solver", "attacks", "search", "certificates",
    "solve", "modeling", "testing figures", "applications vnnlib", "demo", "study", "papers", "cli",
    "__init__", "__main__",
]  # fmt: skip
FLOOR = {room: i for i, rooms in enumerate(FLOORS) for room in rooms.split()}
#: today's imports from a floor to the same or a higher one: delete, never add
KNOWN: set[tuple[str, str]] = set()


def room_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in FLOOR else "__init__"


def imported(tree: ast.AST) -> set[str]:
    """Dotted names of what a file imports from the package."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "clinch":
            names |= {f"{node.module}.{a.name}" if node.module == "clinch" else str(node.module) for a in node.names}
        elif isinstance(node, ast.Import):
            names |= {a.name for a in node.names if a.name.split(".")[0] == "clinch"}
    return names


def upward() -> set[tuple[str, str]]:
    found = set()
    for path in ROOT.rglob("*.py"):
        here = room_of(".".join(["clinch", *path.relative_to(ROOT).with_suffix("").parts]))
        for name in imported(ast.parse(path.read_text())):
            there = room_of(name)
            if there != here and there != "__init__" and FLOOR[there] >= FLOOR[here]:
                found.add((here, there))
    return found


def test_every_room_has_a_floor():
    rooms = {path.stem for path in ROOT.glob("*.py")} | {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert rooms == set(FLOOR), "a new room needs its place in FLOORS; a room that is gone leaves it"


def test_no_room_imports_one_above():
    assert upward() - KNOWN == set()


def test_the_list_of_exceptions_only_shrinks():
    assert KNOWN - upward() == set(), "gone: take it off the list"
