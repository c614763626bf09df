"""Nothing outside ``network`` asks which operator a layer is: it asks the operator, so that new ones are served too."""

import ast
import inspect
from pathlib import Path

import pytest

import clinch
import clinch.network.ops  # reads every operator
from clinch.network.graph import Input
from clinch.network.ops.base import Operator

ROOT = Path(clinch.__file__).parent
TESTS = ("isinstance", "issubclass")


def operators() -> set[str]:
    def below(kind: type) -> set[type]:
        return {kind}.union(*(below(child) for child in kind.__subclasses__()))

    return {kind.__name__ for kind in below(Operator) if kind.__module__.startswith("clinch.")}


OPERATORS = operators()


def asked(text: str) -> list[str]:
    """Operators of the network that a file tells apart by class, with the line."""
    tree = ast.parse(text)
    known = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("clinch.network")
        for alias in node.names
        if alias.name in OPERATORS
    }
    found = []
    for node in ast.walk(tree):
        asks: list[ast.AST] = []
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in TESTS:
            asks = [node.args[1]]
        elif isinstance(node, ast.Compare) and any(
            isinstance(side, ast.Call) and isinstance(side.func, ast.Name) and side.func.id == "type"
            for side in (node.left, *node.comparators)
        ):
            asks = [node]
        elif isinstance(node, ast.MatchClass):
            asks = [node.cls]
        names = {n.id for ask in asks for n in ast.walk(ask) if isinstance(n, ast.Name)}
        found += [f"line {node.lineno}: {name}" for name in sorted(names & known)]  # type: ignore[attr-defined]
    return found


def test_no_file_outside_of_network_tells_operators_apart():
    files = [path for path in ROOT.rglob("*.py") if path.relative_to(ROOT).parts[0] != "network"]
    found = {str(path.relative_to(ROOT)): asked(path.read_text()) for path in files}
    assert {name: lines for name, lines in found.items() if lines} == {}, "write a hook, see network/ops/base.py"


@pytest.mark.parametrize(
    "line",
    ["isinstance(op, Dense)", "isinstance(op, int | Dense)", "type(op) is Dense", "issubclass(type(op), (Dense,))"],
)
def test_every_way_to_ask_is_found(line: str):
    assert asked(f"from clinch.network.ops.dense import Dense\n{line}") == ["line 2: Dense"]


def test_a_class_of_the_same_name_from_elsewhere_is_no_operator():
    assert asked("from clinch.checker.matrices import Convolution\nisinstance(x, Convolution)") == []


def test_every_hook_says_no_by_default():
    op, shapes = Input(), [(2, 3)]
    hooks = [name for name in vars(Operator) if name.startswith("as_")]
    assert len(hooks) == 7
    assert [getattr(op, name)(shapes) for name in hooks] == [None] * len(hooks)
    assert not op.treats_places_alike(shapes)
    assert (op.two_pieces(), op.prune(shapes), op.statement(shapes, (2, 3))) == (None, None, None)
    table = inspect.getdoc(inspect.getmodule(Operator))
    assert table is not None
    for name in (*hooks, "two_pieces", "prune", "statement"):
        assert f"``{name}(" in table, f"the table of hooks in network/ops/base.py has no row for {name}"
