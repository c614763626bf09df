"""Norms and argmax of expressions: the two functions of the problem language that are not linear."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from clinch.constraints import Atoms, Constraint, NormBall
from clinch.errors import EmptyRegionError, ProblemError, ShapeError
from clinch.expressions import LinearExpression, margins
from clinch.geometry.norms import NORMS
from clinch.symbols import Constant, Symbolic, constant, merge_batches

#: the exponent of the maximum norm
inf = math.inf


@dataclass(frozen=True, eq=False)
class NormExpression(Symbolic):
    """``‖w ⊙ e‖_p`` of a linear expression. Made by :func:`norm`.

    Attributes:
        expression: e.
        p: 0, 1, 2 or infinity.
        weights: w, shape ``(B, n)`` or ``(1, n)``; None stands for ones.
        weights_batch: number of problems that the weights state.
    """

    expression: LinearExpression
    p: float
    weights: Tensor | None
    weights_batch: int | None

    _kind: ClassVar[str] = "norms (scale the radius or the weights; for the negative write Maximize)"

    @property
    def batch(self) -> int | None:
        """Number of problems that its constants state; None without a batch axis."""
        return merge_batches([self.expression.batch, self.weights_batch])

    def __le__(self, other: Constant) -> Constraint:
        if isinstance(other, Symbolic):
            raise ProblemError("A norm is compared with a constant only: cl.norm(x - x0, 2) <= 0.5.")
        radius, batch = constant(other, (), "radius of the ball", infinite=True)
        merge_batches([self.batch, batch])
        if bool((radius < 0).any()):
            raise EmptyRegionError(f"A ball of radius {float(radius.min()):g} is empty. Write a radius >= 0.")
        finite = radius[radius.isfinite()]
        if self.p == 0 and self.weights is None and bool((finite != finite.round()).any()):
            raise ProblemError("The radius of a p = 0 ball counts elements: write a whole number.")
        return NormBall(self, radius[:, 0], batch)

    def __ge__(self, other: object) -> Constraint:
        raise ProblemError(
            "A norm can be bounded from above only: cl.norm(x - x0, 2) <= 0.5. Maximise it, or write "
            "~(cl.norm(x - x0, cl.inf) <= r) for the outside of a ball of p = inf."
        )

    def __eq__(self, other: object) -> Any:
        raise ProblemError("A norm cannot be fixed by ==. Bound it from above: cl.norm(x - x0, 2) <= 0.5.")

    __hash__ = object.__hash__


def norm(
    expr: LinearExpression, p: float = 2, weights: Constant | None = None, mask: Constant | None = None
) -> NormExpression:
    """``‖w ⊙ e‖_p``; for p = 0 ``Σ_i w_i [e_i ≠ 0]``. Of ``x − x0`` it is a distance between inputs.

    Args:
        expr: a linear expression of any layers.
        p: 0, 1, 2 or infinity.
        weights: non-negative, shape of the expression, or one more axis in front for one problem per entry.
        mask: booleans of the same shapes; elements where it is False do not count.

    Raises:
        ProblemError: another p, negative weights, a mask that is not boolean, an expression that is not linear.

    Example:
        >>> cl.norm(net.input - x0, cl.inf) <= 0.1
    """
    if not isinstance(expr, LinearExpression):
        raise ProblemError("norm takes an expression of a network's layers, such as net.input - x0.")
    if p not in NORMS:
        raise ProblemError(f"p = {p} is not among the norms. Write 0, 1, 2 or cl.inf.")
    combined, batch = None, None
    if weights is not None:
        combined, batch = constant(weights, expr.shape, "weights")
        if bool((combined < 0).any()):
            raise ProblemError("The weights contain a negative number. Write numbers >= 0.")
    if mask is not None:
        if torch.as_tensor(np.asarray(mask) if not isinstance(mask, Tensor) else mask).dtype != torch.bool:
            raise ProblemError("The mask is not boolean. Write mask != 0, or pass numbers as weights=.")
        counted, mask_batch = constant(mask, expr.shape, "mask")
        batch = merge_batches([batch, mask_batch])
        combined = counted if combined is None else combined * counted
    merge_batches([expr.batch, batch])
    return NormExpression(expr, float(p), combined, batch)


@dataclass(frozen=True, eq=False)
class Argmax(Symbolic):
    """The index of the largest element of a one-dimensional expression; only ``==`` and ``!=`` have a meaning.

    ``== c`` says ``z_c − z_k >= margin`` for all ``k ≠ c``; ``!= c`` says ``z_k − z_c >= margin`` for some ``k ≠ c``.
    """

    expression: LinearExpression
    margin: float

    _kind: ClassVar[str] = "argmax (compare it with a class: z.argmax() == 7)"

    def __post_init__(self) -> None:
        if len(self.expression.shape) != 1 or self.expression.size < 2:
            raise ShapeError(
                f"argmax needs one axis with at least two elements, this expression has shape {self.expression.shape}: "
                "index or flatten it first."
            )
        margins(self.margin, ())

    def __eq__(self, other: object) -> Any:
        return Atoms(self._above(other, 1.0), self._above(other, -1.0), every=True)

    def __ne__(self, other: object) -> Any:
        return Atoms(self._above(other, -1.0), self._above(other, 1.0), every=False)

    __hash__ = object.__hash__

    def _above(self, other: object, sign: float) -> LinearExpression:
        """Atoms ``sign·(z_k − z_c) + margin <= 0`` for k ≠ c in increasing order."""
        labels, batch = self._labels(other)
        z, classes = self.expression, self.expression.size
        by, margin_batch = margins(self.margin, ())
        others = torch.arange(classes - 1).expand(len(labels), -1)
        others = others + (others >= labels.unsqueeze(1))
        if batch is None:
            rows = z.picked(others[0], (classes - 1,)) - z[int(labels)]
        else:
            one_hot = torch.nn.functional.one_hot
            rows = z.applied((one_hot(others, classes) - one_hot(labels, classes).unsqueeze(1)).to(torch.float64))
        return rows.scaled(torch.full((1, classes - 1), sign, dtype=torch.float64), None).shifted(by, margin_batch)

    def _labels(self, other: object) -> tuple[Tensor, int | None]:
        if isinstance(other, (bool, Symbolic)):
            raise ProblemError("argmax is compared with a class index or an array of them: z.argmax() == 7.")
        values, batch = constant(other, (), "label")
        labels = values[:, 0].to(torch.long)
        if bool((labels != values[:, 0]).any()):
            raise ProblemError("Labels must be whole numbers.")
        outside = labels[(labels < 0) | (labels >= self.expression.size)]
        if len(outside):
            raise ProblemError(
                f"Label {int(outside[0])} is out of range: there are {self.expression.size} classes, from 0 to "
                f"{self.expression.size - 1}."
            )
        return labels, batch
