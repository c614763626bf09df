"""Functions of expressions beyond linear ones: absolute values, largest elements, norms, squares, products.

Each is a small network of its own, applied to an expression like any other network, so that every engine reads it: an
absolute value and a maximum are ReLUs, a square is one, a product has McCormick's planes. Its value is an expression
again, which can be added, scaled, compared, and given to networks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from clinch.errors import ProblemError, ShapeError
from clinch.modeling.clauses import LITERALS, literals
from clinch.modeling.constraints import MARGIN, Constraint, Junction
from clinch.modeling.expressions import Atoms, LinearExpression, concatenate
from clinch.modeling.symbols import FUNCTIONS, Constant, Shape, Symbolic, as_tensor
from clinch.modeling.variables import apply
from clinch.network.build import Builder
from clinch.network.network import Network
from clinch.network.ops.composites import Parts
from clinch.network.ops.reading import Call, Value


class _Statement(Call):
    """A function of the problem language, as the readers of operators see it."""

    advice = "State it with sums, absolute values, maxima, squares and products."  # type: ignore[assignment]

    @property
    def output_shape(self) -> Shape:
        """That of what it is applied to."""
        return self.arguments["self"].shape


class FunctionNetwork(Network):
    """A function of the language as a network; it computes in the dtype of what it is given."""

    any_dtype: ClassVar[bool] = True

    @classmethod
    def of(cls, name: str, shape: Shape, read: Callable[[Parts, Value], Value]) -> FunctionNetwork:
        """The network of a function, from how it is put together.

        Args:
            name: for messages and layers.
            shape: of what it is applied to.
            read: from the argument to the value.
        """
        builder = Builder("argument", shape, torch.device("cpu"))
        call = _Statement(builder, name, {"self": builder.input}, name, "")
        output = read(Parts(call), builder.input)
        names = [f"step {i}" if i != output.position else "value" for i in range(len(builder.nodes))]
        graph, _ = builder.graph(output, ["argument", *names[1:]], [()] * len(names))
        made = cls(graph, lambda x, layers: {}, dtype=torch.float64, device="cpu", name=name)
        made.original = made._computed
        return made

    def _computed(self, x: Tensor, layers: list[str]) -> dict[str, Tensor]:
        graph = self.graph_as(x.dtype, x.device)
        with torch.no_grad():
            found = graph.forward(x, [graph.names[layer] for layer in layers])
        return {layer: found[graph.names[layer]] for layer in layers}


@cache
def _function(name: str, shape: Shape, argument: float = 0.0) -> FunctionNetwork:
    """The network of a function for arguments of one shape, made once so that equal expressions are."""
    flat = list(range(1, len(shape) + 1))
    axis = {"self": None, "dim": [1], "keepdim": False}
    reads: dict[str, Callable[[Parts, Value], Value]] = {
        "abs": lambda parts, x: parts.apply("aten.abs", self=x),
        "square": lambda parts, x: parts.apply("aten.square", self=x),
        "power": lambda parts, x: parts.apply("aten.pow", self=x, exponent=int(argument)),
        "max": lambda parts, x: parts.apply("aten.amax", **{**axis, "self": x}),
        "min": lambda parts, x: parts.apply("aten.amin", **{**axis, "self": x}),
        "norm": lambda parts, x: parts.apply("aten.linalg_vector_norm", self=x, ord=argument, dim=flat, keepdim=False),
        "product": lambda parts, x: _halves(parts, x),
    }
    return FunctionNetwork.of(name, shape, reads[name])


def _halves(parts: Parts, x: Value) -> Value:
    """The product of the first and the second row."""
    rows = [parts.apply("aten.select", self=x, dim=1, index=i) for i in range(2)]
    found = parts.multiply(*rows)
    assert isinstance(found, Value)
    return found


def applied(name: str, e: LinearExpression, argument: float = 0.0) -> LinearExpression:
    """A function of an expression, in the shape of what it gives."""
    shape = e.shape or (1,)
    found = apply(_function(name, shape, argument), e.reshape(shape))
    scalar = name == "norm" or not e.shape or (name in ("max", "min") and len(shape) == 1)
    return found.reshape(() if scalar else found.shape)


# --- extremes and absolute values -------------------------------------------------------------------------------------


class Extreme(LinearExpression):
    """The largest or the smallest of several candidates, element by element.

    A limit on its good side is one limit of each candidate, on the other side a limit of at least one of them.

    Args:
        value: what stands for it elsewhere.
        candidates: ``(k, *shape)``.
        sign: 1 for the largest, −1 for the smallest.
    """

    def __init__(self, value: LinearExpression, candidates: LinearExpression, sign: int) -> None:
        super().__init__(value.network, value.shape, value.terms, value.constant, value.batch)
        object.__setattr__(self, "candidates", candidates)
        object.__setattr__(self, "sign", sign)

    candidates: LinearExpression
    sign: int

    def __le__(self, other: LinearExpression | Constant) -> Constraint:
        return self._limited(other, 1)

    def __ge__(self, other: LinearExpression | Constant) -> Constraint:
        return self._limited(other, -1)

    __hash__ = object.__hash__

    def _limited(self, other: LinearExpression | Constant, sign: int) -> Constraint:
        """``sign·self <= sign·other``."""
        if isinstance(other, Symbolic) and not isinstance(other, LinearExpression):
            return NotImplemented
        count = self.candidates.shape[0]
        each = [
            (self.candidates[k] - other) * float(sign)
            if isinstance(other, LinearExpression)
            else (self.candidates[k] <= other if sign > 0 else self.candidates[k] >= other).atoms.reshape(self.shape)
            for k in range(count)
        ]
        if sign == self.sign:
            every = concatenate([one.flatten() for one in each])
            return Atoms(every, (-every) + MARGIN)
        size = math.prod(self.shape)
        rows = [concatenate([one.flatten()[[j]] for one in each]) for j in range(size)]
        found = [Atoms(row, (-row) + MARGIN, every=False) for row in rows]
        return found[0] if size == 1 else Junction.of(True, list(found))


def _extreme(sign: int, expressions: Sequence[LinearExpression | Constant]) -> LinearExpression:
    name = "max" if sign > 0 else "min"
    symbols = [e for e in expressions if isinstance(e, LinearExpression)]
    if not symbols or not all(isinstance(e, LinearExpression) or not isinstance(e, Symbolic) for e in expressions):
        said = ", ".join(type(e).__name__ for e in expressions) or "nothing"
        raise ProblemError(f"cl.{name} takes expressions, and numbers beside them; it was given {said}.")
    if len(expressions) == 1:
        (e,) = symbols
        candidates = e.flatten()
        return candidates.reshape(()) if e.size == 1 else Extreme(applied(name, candidates), candidates, sign)
    shapes = [e.shape if isinstance(e, LinearExpression) else tuple(np.shape(e)) for e in expressions]
    try:
        shape = np.broadcast_shapes(*shapes)
    except ValueError:
        raise ShapeError(f"cl.{name}: shapes {', '.join(map(str, shapes))} do not fit together.") from None
    zero = symbols[0].network
    nothing = LinearExpression(zero, shape, {}, torch.zeros(1, math.prod(shape), dtype=torch.float64))
    each = [nothing + e for e in expressions]
    candidates = concatenate([e.flatten() for e in each]).reshape((len(each), *shape))
    return Extreme(applied(name, candidates).reshape(shape), candidates, sign)


def max(*expressions: LinearExpression | Constant) -> LinearExpression:
    """The largest element of one expression, a scalar; of several expressions the largest of them, element by element.

    ``cl.max(e) <= r`` says that every element is at most r, ``cl.max(e) >= r`` that some element is at least r.

    Args:
        expressions: one, or several whose shapes fit together as in NumPy; numbers may stand beside them.

    Raises:
        ProblemError: none is an expression. ShapeError: their shapes do not fit together.

    Example:
        >>> hinge = cl.max(1 - net.output[0], 0)
    """
    return _extreme(1, expressions)


def min(*expressions: LinearExpression | Constant) -> LinearExpression:
    """The smallest element of one expression, or the smallest of several; as :func:`max`.

    Example:
        >>> cl.min(net.output).shape
        ()
    """
    return _extreme(-1, expressions)


def abs(e: LinearExpression) -> LinearExpression:
    """``|e|``, element by element; also written ``abs(e)``.

    Example:
        >>> close = cl.abs(net.output[0] - net.output[1]) <= 0.1
    """
    both = concatenate([e.flatten(), -e.flatten()]).reshape((2, *e.shape))
    return Extreme(applied("abs", e), both, 1)


# --- squares, products and norms --------------------------------------------------------------------------------------


def square(e: LinearExpression) -> LinearExpression:
    """``e²``, element by element; also written ``e ** 2``."""
    return applied("square", e)


def power(e: LinearExpression, exponent: object) -> LinearExpression:
    """``e`` to a whole power of at least 1, element by element.

    Raises:
        ProblemError: another exponent.
    """
    whole = isinstance(exponent, int | float) and float(exponent).is_integer() and exponent >= 1
    if not whole:
        raise ProblemError(f"A symbol can be raised to whole powers from 1 on; {exponent!r:.40} is none.")
    number = int(float(exponent))  # type: ignore[arg-type]
    return e if number == 1 else square(e) if number == 2 else applied("power", e, number)


def sum_squares(e: LinearExpression) -> LinearExpression:
    """``Σ e_i²``, a scalar."""
    return square(e.flatten()).sum()


def quad_form(e: LinearExpression, matrix: Constant) -> LinearExpression:
    """``eᵀ P e`` of a vector, a scalar: a sum of squares of linear forms, by the eigenvectors of P.

    Args:
        e: ``(n,)``.
        matrix: P, ``(n, n)``; only its symmetric part counts. Any signs of its eigenvalues.

    Raises:
        ShapeError: the matrix is not square, or of another size.
    """
    p = as_tensor(matrix, "matrix")
    if len(e.shape) != 1 or p.shape != (e.size, e.size):
        raise ShapeError(
            f"quad_form takes a vector (n,) and a matrix (n, n); these have shapes {e.shape} and {tuple(p.shape)}."
        )
    value, vector = torch.linalg.eigh((p + p.T) / 2)
    kept = value.abs() > 1e-14 * value.abs().amax()
    if not bool(kept.any()):
        return e.sum() * 0.0
    squares = square(vector[:, kept].T @ e)
    return value[kept] @ squares


def product(a: LinearExpression, b: LinearExpression) -> LinearExpression:
    """``a ⊙ b``, element by element; also written ``a * b``. Shapes fit together as in NumPy."""
    try:
        shape = np.broadcast_shapes(a.shape, b.shape)
    except ValueError:
        raise ShapeError(f"Expressions of shapes {a.shape} and {b.shape} do not fit together.") from None
    nothing = LinearExpression(a.network, shape, {}, torch.zeros(1, math.prod(shape), dtype=torch.float64))
    rows = concatenate([(nothing + one).flatten() for one in (a, b)]).reshape((2, math.prod(shape)))
    return applied("product", rows).reshape(shape)


def norm_of_expression(e: LinearExpression, p: float) -> LinearExpression:
    """``‖e‖_p`` for p = 1, 2 or infinity, a scalar expression.

    Raises:
        ProblemError: another p.
    """
    if p not in (1.0, 2.0, math.inf):
        raise ProblemError(
            f"A norm of p = {p:g} can stand alone as the objective, or bound the distance of the input from a constant "
            "as in cl.norm(x - x0, p) <= r. In sums, in comparisons of other expressions and inside | use p = 1, 2 or "
            "inf."
        )
    return applied("norm", e.flatten(), p)


# --- joining ----------------------------------------------------------------------------------------------------------


def stack(expressions: Sequence[LinearExpression]) -> LinearExpression:
    """Expressions of one shape along a new first axis.

    Raises:
        ShapeError: shapes differ, or there are none.
    """
    shapes = {e.shape for e in expressions}
    if len(shapes) != 1:
        raise ShapeError(f"stack needs expressions of one shape; it was given {sorted(shapes) or 'none'}.")
    return concatenate([e.flatten() for e in expressions]).reshape((len(expressions), *shapes.pop()))


def joined(expressions: Sequence[LinearExpression]) -> LinearExpression:
    """Expressions one after the other along their first axis, as ``cl.concatenate``; scalars count as one element.

    Raises:
        ShapeError: their other axes differ, or there are none.
    """
    each = [e.reshape((1,)) if not e.shape else e for e in expressions]
    tails = {e.shape[1:] for e in each}
    if len(tails) != 1:
        raise ShapeError(
            f"concatenate needs expressions that differ in their first axis alone; it was given "
            f"{[e.shape for e in expressions] or 'none'}."
        )
    return concatenate([e.flatten() for e in each]).reshape((sum(e.shape[0] for e in each), *tails.pop()))


# --- conditions as one number -----------------------------------------------------------------------------------------


def violation(constraint: Constraint) -> LinearExpression:
    """A scalar that is at most 0 where a constraint of linear atoms holds, and only there."""
    if isinstance(constraint, Atoms):
        return max(constraint.atoms) if constraint.every else min(constraint.atoms)
    if isinstance(constraint, Junction):
        parts = joined([violation(part) for part in constraint.parts])
        return max(parts) if constraint.every else min(parts)
    return violation(constraint.as_alternative())


def compact(constraint: Constraint) -> Constraint:
    """The same constraint, small enough to be written as a conjunction of disjunctions.

    An alternative of many conditions becomes one: the largest of their atoms, a function like any other.
    """
    if not isinstance(constraint, Junction) or literals(constraint)[0] <= LITERALS:
        return constraint
    if constraint.every:
        return Junction.of(True, [compact(part) for part in constraint.parts])
    return Junction.of(False, [part if literals(part)[1] == 1 else _as_one(part) for part in constraint.parts])


def _as_one(constraint: Constraint) -> Atoms:
    """A constraint as one atom."""
    value = violation(constraint).flatten()
    return Atoms(value, (-value) + MARGIN)


FUNCTIONS.update(product=product, power=power, abs=abs, norm=norm_of_expression)
