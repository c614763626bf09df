"""Every operator has all its pieces; and one that lacks a piece fails with a sentence that names it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from clinch.network.ops import erf
from clinch.network.ops.base import Affine, Interval, Lines, Operator
from clinch.network.ops.elementwise import Jump, ScalarFunction
from clinch.network.ops.reading import ATEN
from clinch.network.ops.relu import LeakyReLU
from clinch.network.ops.views import Matrix

from .conformance import complaints_about
from .operator_specimens import Specimen, leaf_operators, specimens

SPECIMENS = specimens()
#: made by the network's readers themselves, or behind another operator
READ_ELSEWHERE = {
    "Input", "LinearFunction", "TorchFunction", "RowFunction", "Multiply", "MatrixProduct", "Within", "Inside",
    "MaskedSoftmax", "Masked", "ArgMax", "WholeFunction",
}  # fmt: skip


#: no function of its inputs, but any number between them
SETS = {"Hull"}


@pytest.mark.parametrize(
    "kind",
    sorted((k for k in leaf_operators() if k.__name__ not in SETS), key=lambda kind: kind.__name__),
    ids=lambda kind: kind.__name__,
)
def test_every_operator_is_complete(kind: type[Operator]):
    found = complaints_about(kind, SPECIMENS)
    assert [text for text in found if not (kind.__name__ in READ_ELSEWHERE and "read from nowhere" in text)] == []


# --- the exercise: a new operator, each time with one piece forgotten -------------------------------------------------


@dataclass(frozen=True, eq=False)
class Cube(ScalarFunction):
    """``f(x) = x³``."""

    increasing: ClassVar[bool] = True

    def forward(self, *inputs: Tensor) -> Tensor:
        return inputs[0] ** 3

    def derivative(self, x: Tensor) -> Tensor:
        return 3 * x**2

    def turns(self) -> tuple[float, ...]:
        return (0.0,)


@dataclass(frozen=True, eq=False)
class Shift(Affine):
    """``f(x) = x + 1``."""

    nonnegative: ClassVar[bool] = True

    def forward(self, *inputs: Tensor) -> Tensor:
        return inputs[0] + 1


def without_documentation() -> Operator:
    @dataclass(frozen=True, eq=False)
    class Undocumented(Cube):
        pass

    Undocumented.__doc__ = None
    return Undocumented()


class Wrong(Cube):
    """``f(x) = x³``."""

    def forward(self, *inputs: Tensor) -> Tensor:
        return inputs[0] ** 2


class NoDerivative(Cube):
    """``f(x) = x³``."""

    derivative = ScalarFunction.derivative


class WrongDerivative(Cube):
    """``f(x) = x³``."""

    def derivative(self, x: Tensor) -> Tensor:
        return x**2


class NoTurns(Cube):
    """``f(x) = x³``."""

    turns = ScalarFunction.turns


class NoJump(Cube):
    """``f(x) = x³``, one more for x > 1."""

    def forward(self, *inputs: Tensor) -> Tensor:
        return inputs[0] ** 3 + (inputs[0] > 1)

    def turns(self) -> tuple[float, ...]:
        return 0.0, 1.0


class WithJump(NoJump):
    """``f(x) = x³``, one more for x > 1."""

    def jumps(self) -> tuple[Jump, ...]:
        return (Jump(1.0, 1.0, 2.0),)


class WrongInterval(Cube):
    """``f(x) = x³``."""

    def interval(self, *inputs: Interval) -> Interval:
        return inputs[0]


class WrongLines(Cube):
    """``f(x) = x³``."""

    def relax(self, inputs, shapes) -> Lines:
        one = torch.ones_like(inputs[0].lower)
        return Lines(one, 0 * one, one, 0 * one)


class NoInterval(Operator):
    """``f(x) = x³``."""

    def forward(self, *inputs: Tensor) -> Tensor:
        return inputs[0] ** 3

    def relax(self, inputs, shapes) -> Lines:
        return Cube().relax(inputs, shapes)


class NotLinear(Shift):
    """``f(x) = x + 1``."""

    linear: ClassVar[bool] = True


class NotSelecting(Shift):
    """``f(x) = x + 1``."""

    selects: ClassVar[bool] = True


class NotInOrder(Affine):
    """The elements in reverse."""

    keeps_order: ClassVar[bool] = True
    nonnegative: ClassVar[bool] = True

    def forward(self, *inputs: Tensor) -> Tensor:
        return inputs[0].flip(1)


class WrongMatrix(Shift):
    """``f(x) = x + 1``."""

    def as_matrix(self, shapes) -> Matrix:
        return Matrix(torch.eye(4, dtype=torch.float64), None)


class WrongPieces(Cube):
    """``f(x) = x³``."""

    def two_pieces(self):
        return LeakyReLU()


class WrongParts(Shift):
    """``f(x) = x + 1``."""

    def in_parts(self, emit, *inputs):
        return emit(LeakyReLU(), inputs[0])


class UnknownStatement(Shift):
    """``f(x) = x + 1``."""

    def statement(self, shapes, shape):
        return {"kind": "shifted"}, {}


def cube(x: Tensor) -> Tensor:
    return x * x * x


FORGOTTEN: dict[str, tuple[Callable[[], Operator], Callable[[Tensor], Tensor], str]] = {
    "docstring": (without_documentation, cube, "Undocumented has no docstring"),
    "forward": (Wrong, cube, "Wrong.forward is not the function of torch"),
    "derivative": (NoDerivative, cube, "NoDerivative states no derivative"),
    "right derivative": (WrongDerivative, cube, "WrongDerivative.derivative is not that of forward"),
    "turns": (NoTurns, cube, "NoTurns.turns lacks one between -0.0"),
    "jumps": (NoJump, lambda x: cube(x) + (x > 1), "NoJump.jumps lacks one near 1.00"),
    "interval": (NoInterval, cube, "NoInterval has a relaxation and no interval rule"),
    "right interval": (WrongInterval, cube, "WrongInterval.interval is passed by a value"),
    "right relaxation": (WrongLines, cube, "WrongLines.relax is passed by a value"),
    "linear": (NotLinear, lambda x: x + 1, "NotLinear.linear is stated"),
    "selects": (NotSelecting, lambda x: x + 1, "NotSelecting.selects is stated"),
    "keeps_order": (NotInOrder, lambda x: x.flip(1), "NotInOrder.keeps_order is stated"),
    "as_matrix": (WrongMatrix, lambda x: x + 1, "WrongMatrix.as_matrix is not the operator"),
    "two_pieces": (WrongPieces, cube, "WrongPieces.two_pieces is not the operator"),
    "in_parts": (WrongParts, lambda x: x + 1, "WrongParts.in_parts is not the operator"),
    "statement": (UnknownStatement, lambda x: x + 1, "UnknownStatement.statement is of a kind"),
}


@pytest.fixture
def read(monkeypatch):
    """Operators of this file count as read from somewhere."""

    def reader(call):
        return None

    monkeypatch.setitem(ATEN, "aten.of_a_test", reader)


@pytest.mark.parametrize("piece", FORGOTTEN)
def test_a_forgotten_piece_is_named(piece: str, read):
    make, reference, sentence = FORGOTTEN[piece]
    op = make()
    found = complaints_about(type(op), [Specimen(op, ((4,),), reference)])
    assert any(sentence in text for text in found), found


@pytest.mark.parametrize("op", [Cube(), WithJump(), Shift()], ids=lambda op: type(op).__name__)
def test_nothing_is_said_of_a_complete_operator(op: Operator, read):
    assert complaints_about(type(op), [Specimen(op, ((4,),), type(op)().forward)]) == []


def test_a_missing_reader_and_a_missing_specimen_are_named():
    found = complaints_about(Cube, [])
    assert "Cube is read from nowhere: register a reader with @spelled, @from_aten or @from_onnx" in found
    assert "Cube has no specimen: add a row in scalar_functions.py" in found


def test_the_example_of_the_guide_is_the_file_itself():
    guide = Path(__file__).parents[2] / "CONTRIBUTING.md"
    example = guide.read_text().partition("```python\n")[2].partition("```")[0]
    assert "class Erf" in example
    assert example in Path(erf.__file__).read_text()
