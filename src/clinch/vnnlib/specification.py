"""What a VNN-LIB file says, as typed objects."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

#: name of a declared tensor and row-major position of one of its elements
Variable = tuple[str, int]


@dataclass(frozen=True)
class Atom:
    """A linear condition ``Σ coefficient·variable + constant <= 0``, or ``< 0`` where it is strict.

    Attributes:
        terms: coefficients by variable, none of them zero.
        constant: the rest.
        strict: whether equality does not count.
        line: where the file says so.
    """

    terms: Mapping[Variable, float]
    constant: float
    strict: bool
    line: int

    def negated(self) -> Atom:
        """The atom that holds exactly where this one does not."""
        return Atom({v: -c for v, c in self.terms.items()}, -self.constant, not self.strict, self.line)


@dataclass(frozen=True)
class Junction:
    """Formulas of which every one must hold, or at least one; the empty ones are true and false."""

    every: bool
    parts: tuple[Formula, ...]

    def negated(self) -> Junction:
        """The formula that holds exactly where this one does not (De Morgan)."""
        return Junction(not self.every, tuple(part.negated() for part in self.parts))


Formula = Atom | Junction


@dataclass(frozen=True)
class Declaration:
    """A tensor that the file declares.

    Attributes:
        name: ``X`` or ``Y`` in version 1.0, where its elements are called ``X_0``, ``X_1``, ...
        kind: "input", "output" or "hidden".
        shape: as declared, the batch of one included; in version 1.0 the number of elements.
        dtype: "real", or the name of a floating type.
        layer: name of the tensor in the ONNX file; needed where it is hidden.
        line: where it is declared.
        network: name of the network that it is of, in version 2.0.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    dtype: str
    layer: str | None
    line: int
    network: str = ""

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True, eq=False)
class Specification:
    """A property: the counterexamples are the inputs at which the formula holds.

    Made by :func:`read_specification` and :func:`parse_specification`.

    Attributes:
        name: of the file, for messages.
        version: "1.0" or "2.0".
        tensors: declarations by name, in order.
        formula: over elements of the tensors.
        networks: names of the networks that version 2.0 declares.
        equal: of those that are declared equal to an earlier one, its name: they need no file of their own.

    Example:
        >>> from clinch.vnnlib.reader import parse_specification
        >>> spec = parse_specification("(declare-const X_0 Real) (declare-const Y_0 Real) (assert (>= Y_0 X_0))")
        >>> spec.violation({"X": np.array([0.5]), "Y": np.array([2.0])})
        -1.5
    """

    name: str
    version: str
    tensors: Mapping[str, Declaration]
    formula: Formula
    networks: tuple[str, ...] = ()
    equal: Mapping[str, str] = field(default_factory=dict)

    @property
    def input(self) -> Declaration:
        """The network's input; of several networks the first one's."""
        return next(t for t in self.tensors.values() if t.kind == "input")

    @property
    def output(self) -> Declaration:
        """The network's output; of several networks the first one's."""
        return next(t for t in self.tensors.values() if t.kind == "output")

    def element(self, variable: Variable) -> str:
        """How the file calls an element: ``X_3``, ``X[0,3]``."""
        name, position = variable
        if self.version == "1.0":
            return f"{name}_{position}"
        shape = self.tensors[name].shape
        return f"{name}[{','.join(str(int(i)) for i in np.unravel_index(position, shape))}]" if shape else name

    def violation(self, values: Mapping[str, np.ndarray]) -> float:
        """By how much the formula fails: the largest part of *and*, the smallest of *or*, the left side of an atom.

        At most 0 where it holds; a strict atom that is not met is at least the smallest positive number.

        Args:
            values: float64 elements of each tensor, ``(size,)`` in row-major order.

        Returns:
            Infinity where NaN is met.
        """
        return _violation(self.formula, values)


def _violation(formula: Formula, values: Mapping[str, np.ndarray]) -> float:
    if isinstance(formula, Junction):
        parts = [_violation(part, values) for part in formula.parts]
        return max(parts, default=-math.inf) if formula.every else min(parts, default=math.inf)
    total = formula.constant + sum(c * float(values[name][i]) for (name, i), c in formula.terms.items())
    if math.isnan(total):
        return math.inf
    return max(total, math.ulp(0.0)) if formula.strict and total >= 0 else total
