"""Sums of products in the notation of Einstein: of one activation and constants, or of two activations."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from clinch.network.ops.base import Affine, Shape
from clinch.network.ops.bilinear import Bilinear
from clinch.network.ops.reading import Call, Value, from_aten, from_onnx


@dataclass(frozen=True, eq=False)
class Einsum(Bilinear):
    """``f(x, y) = einsum(equation, x, y)`` of two activations.

    Attributes:
        equation: of samples, ``ij,jk->ik``; no letter twice in one of the three.
        row: whether one number as a result is a row of one.
    """

    equation: str
    row: bool = False

    def forward(self, *inputs: Tensor) -> Tensor:
        """The sums."""
        first, second, out = self.letters(())
        x, y = (t if letters else t.flatten() for t, letters in zip(inputs, (first, second)))
        found = torch.einsum(f"Z{first},Z{second}->Z{out}", x, y)
        return found.unsqueeze(1) if self.row else found

    def with_an_axis(self, shapes: Sequence[Shape]) -> Einsum:
        """One number is a row of one."""
        return replace(self, row=self.equation.endswith("->"))

    def letters(self, shapes: Sequence[Shape]) -> tuple[str, str, str]:
        """Those of the equation."""
        terms, out = self.equation.split("->")
        first, second = terms.split(",")
        return first, second, out


@dataclass(frozen=True, eq=False)
class Contraction(Affine):
    """``f(x) = einsum(equation, x, constant)``.

    Attributes:
        equation: of a sample, ``ij,jk->ik``.
        constant: the second operand.
        row: whether one number as a result is a row of one.
    """

    equation: str
    constant: Tensor
    row: bool = False

    linear: ClassVar[bool] = True

    def forward(self, *inputs: Tensor) -> Tensor:
        """The sums."""
        return self._with(inputs[0], self.constant)

    def _with(self, x: Tensor, constant: Tensor) -> Tensor:
        terms, out = self.equation.split("->")
        found = torch.einsum(f"Z{terms}->Z{out}", x if terms[0] != "," else x.flatten(), constant)
        return found.unsqueeze(1) if self.row else found

    def with_an_axis(self, shapes: Sequence[Shape]) -> Contraction:
        """One number is a row of one."""
        return replace(self, row=self.equation.endswith("->"))

    def absolute(self, *inputs: Tensor) -> Tensor:
        """With the absolute values of the constant."""
        return self._with(inputs[0], self.constant.abs())


class _Terms(NamedTuple):
    """Letters of each operand and of the result, without an ellipsis."""

    operands: list[str]
    out: str


def _terms(equation: str, ranks: Sequence[int]) -> _Terms | None:
    """The equation with small letters alone; those of an ellipsis are the last of the alphabet."""
    equation = equation.replace(" ", "")
    left, arrow, out = equation.partition("->")
    given = left.split(",")
    if len(given) != len(ranks):
        return None
    if not arrow:
        counts = {c: left.count(c) for c in left if c.isalpha()}
        out = ("..." if "..." in left else "") + "".join(sorted(c for c, n in counts.items() if n == 1))
    named = dict(zip(sorted({c for c in equation if c.isalpha()}), string.ascii_lowercase))
    free = [c for c in string.ascii_lowercase if c not in named.values()]
    depth = max((rank - len(t.replace("...", "")) for t, rank in zip(given, ranks) if "..." in t), default=0)
    if len(free) < depth:
        return None
    dots = "".join(free[len(free) - depth :]) if depth else ""

    def spelled_out(term: str, own: int) -> str:
        return "".join(named.get(c, c) for c in term).replace("...", dots[depth - own :])

    operands = [spelled_out(t, rank - len(t.replace("...", "")) if "..." in t else 0) for t, rank in zip(given, ranks)]
    return _Terms(operands, spelled_out(out, depth))


def _einsum(call: Call, equation: str, operands: Sequence[Value | Tensor]) -> Value | None:
    ranks = [len(v.shape) + 1 if isinstance(v, Value) else v.dim() for v in operands]
    terms = _terms(equation, ranks)
    if terms is None or any(len(set(t)) < len(t) for t in (*terms.operands, terms.out)) or not terms.out:
        return None
    batch = terms.out[0]
    values, constants = [], []
    for letters, operand in zip(terms.operands, operands):
        if isinstance(operand, Value):
            if letters[0] != batch:
                return None
            values.append((letters[1:], operand))
        else:
            if batch in letters:
                if operand.shape[letters.index(batch)] != 1:
                    return None
                operand = operand.squeeze(letters.index(batch))
            constants.append((letters.replace(batch, ""), operand))
    out = terms.out[1:]
    if len(values) == 2 and not constants:
        (first, x), (second, y) = values
        return call.emit(Einsum(f"{first},{second}->{out}"), x, y)
    if len(values) > 1:
        return _in_pairs(call, values, constants, out)
    if len(values) != 1 or not constants:
        return None
    ((letters, x),) = values
    every = "".join(dict.fromkeys("".join(own for own, _ in constants)))
    if len(constants) > 1:
        product = torch.einsum(",".join(own for own, _ in constants) + f"->{every}", *(c for _, c in constants))
    else:
        every, product = constants[0]
    return call.emit(Contraction(f"{letters},{every}->{out}", product), x)


def _in_pairs(
    call: Call, values: Sequence[tuple[str, Value]], constants: Sequence[tuple[str, Tensor]], out: str
) -> Value | None:
    """Several activations and constants, one after the other: what no later one needs is summed up early."""
    todo: list[tuple[str, Value | Tensor]] = [*values[1:], *constants]
    # a constant between two activations is multiplied to the first of them
    todo.sort(key=lambda term: isinstance(term[1], Value))
    letters, x = values[0]
    for i, (own, factor) in enumerate(todo):
        later = set(out).union(*(term for term, _ in todo[i + 1 :]))
        kept = "".join(c for c in dict.fromkeys(letters + own) if c in later) if i + 1 < len(todo) else out
        if isinstance(factor, Value):
            x = call.emit(Einsum(f"{letters},{own}->{kept}"), x, factor)
        else:
            x = call.emit(Contraction(f"{letters},{own}->{kept}", factor), x)
        letters = kept
    return x


@from_aten("aten.einsum")
def _aten_einsum(call: Call) -> Value | None:
    operands = [v if isinstance(v, Value) else call.constant(v) for v in call["tensors"]]
    return _einsum(call, call["equation"], operands)


@from_onnx("Einsum")
def _onnx_einsum(call: Call) -> Value | None:
    operands = [v if isinstance(v, Value) else call.constant(v) for v in call["Inputs"]]
    return _einsum(call, call["equation"], operands)
