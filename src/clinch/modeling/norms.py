"""Norms of expressions, and the balls that limits of them give."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from clinch.errors import EmptyRegionError, ProblemError
from clinch.geometry.norms import Norm, norm_of
from clinch.modeling.constraints import MARGIN, Change, Constraint
from clinch.modeling.expressions import Atoms, LinearExpression
from clinch.modeling.limits import within_ball
from clinch.modeling.symbols import FUNCTIONS, Constant, Symbolic, as_tensor, constant, merge_batches

if TYPE_CHECKING:
    from clinch.network.network import Network

#: the exponent of the maximum norm
inf = math.inf


@dataclass(frozen=True, eq=False)
class NormExpression(Symbolic):
    """``‖w ⊙ e‖_p`` of a linear expression. Made by :func:`norm`.

    Attributes:
        expression: e.
        p: 0, any number from 1 on, or infinity.
        weights: w, shape ``(B, n)`` or ``(1, n)``; None stands for ones.
        weights_batch: number of problems that the weights state.
    """

    expression: LinearExpression
    p: float
    weights: Tensor | None
    weights_batch: int | None

    _kind: ClassVar[str] = "norms (scale the radius or the weights; for the negative write Maximize)"

    @property
    def kind(self) -> Norm:
        """What p stands for."""
        return norm_of(self.p)

    @property
    def network(self) -> Network:
        """The network whose activations are meant."""
        return self.expression.network

    @property
    def batch(self) -> int | None:
        """Number of problems that its constants state; None without a batch axis."""
        return merge_batches([self.expression.batch, self.weights_batch])

    def mapped(self, change: Change) -> NormExpression:
        """The norm of the changed expression."""
        return replace(self, expression=change(self.expression))

    def over(self, network: Network) -> NormExpression:
        """As :meth:`LinearExpression.over`."""
        return self.mapped(lambda e: e.over(network))

    def as_expression(self) -> LinearExpression:
        """The norm as an expression that can be added, scaled and compared.

        Raises:
            ProblemError: p is none of 1, 2 and infinity.
        """
        e = self.expression if self.weights is None else self.expression.scaled(self.weights, self.weights_batch)
        return FUNCTIONS["norm"](e, self.p)

    def __neg__(self) -> LinearExpression:
        return -self.as_expression()

    def __add__(self, other: object) -> LinearExpression:
        return self.as_expression() + _plain(other)

    __radd__ = __add__

    def __sub__(self, other: object) -> LinearExpression:
        return self.as_expression() - _plain(other)

    def __rsub__(self, other: object) -> LinearExpression:
        return _plain(other) - self.as_expression()

    def __mul__(self, other: object) -> NormExpression | LinearExpression:
        """A positive number times a norm is the norm with its weights scaled."""
        if isinstance(other, Symbolic):
            return self.as_expression() * _plain(other)
        factor, batch = constant(other, (), "factor")
        if not bool((factor > 0).all()):
            return self.as_expression() * other
        weights = torch.ones(1, self.expression.size, dtype=torch.float64) if self.weights is None else self.weights
        return replace(self, weights=weights * factor, weights_batch=merge_batches([self.weights_batch, batch]))

    __rmul__ = __mul__

    def __truediv__(self, other: object) -> NormExpression | LinearExpression:
        return self * (1 / as_tensor(other, "divisor"))

    def __pow__(self, other: object) -> LinearExpression:
        return self.as_expression() ** other

    def __le__(self, other: Constant) -> Constraint:
        if isinstance(other, Symbolic):
            return self.as_expression() <= _plain(other)
        radius, batch = constant(other, (), "radius of the ball", infinite=True)
        merge_batches([self.batch, batch])
        if bool((radius < 0).any()):
            raise EmptyRegionError(f"A ball of radius {float(radius.min()):g} is empty. Write a radius >= 0.")
        finite = radius[radius.isfinite()]
        if self.kind.counts and self.weights is None and bool((finite != finite.round()).any()):
            raise ProblemError("The radius of a p = 0 ball counts elements: write a whole number.")
        return NormBall(self, radius[:, 0], batch)

    def __ge__(self, other: object) -> Constraint:
        return self.as_expression() >= _plain(other)

    def __eq__(self, other: object) -> Any:
        return self.as_expression() == _plain(other)

    __hash__ = object.__hash__


@dataclass(frozen=True, eq=False)
class NormBall(Constraint):
    """``‖w ⊙ e‖_p <= radius``: a ball of inputs where e is input minus constant.

    Attributes:
        norm: the left side.
        radius: shape ``(B,)`` or ``(1,)``, non-negative.
        radius_batch: number of problems that the radius states.
    """

    norm: NormExpression
    radius: Tensor
    radius_batch: int | None

    @property
    def network(self) -> Network:
        """The network whose activations are constrained."""
        return self.norm.expression.network

    @property
    def batch(self) -> int | None:
        """Number of problems that its constants state; None without a batch axis."""
        return merge_batches([self.norm.batch, self.radius_batch])

    def mapped(self, change: Change) -> NormBall:
        """See :meth:`Constraint.mapped`."""
        return replace(self, norm=self.norm.mapped(change))

    def expanded(self) -> Atoms:
        """For p = infinity, the same as linear atoms ``±w_i·e_i <= radius``; elements of weight zero count as 0."""
        assert self.norm.kind.is_box
        e, weights, radius = self.norm.expression.flatten(), self.norm.weights, self.radius.reshape(-1, 1)
        scaled = e if weights is None else e.scaled(weights, self.norm.batch)
        beyond = scaled.stacked(-scaled).shifted(-radius, self.radius_batch)
        return Atoms(within_ball(e, weights, radius, self.batch), (-beyond) + MARGIN)

    def as_atoms(self) -> Atoms:
        """The same as linear atoms: of the elements for p = infinity, otherwise of the norm as an expression."""
        if self.norm.kind.is_box:
            return self.expanded()
        return self.norm.as_expression() <= (self.radius if self.radius_batch else float(self.radius))

    def as_alternative(self) -> Atoms:
        """What it is inside ``|``."""
        return self.as_atoms()

    def __invert__(self) -> Constraint:
        return ~self.as_atoms()


def _plain(value: Any) -> Any:
    """A norm as an expression; anything else as it is."""
    return value.as_expression() if isinstance(value, NormExpression) else value


def norm(
    expr: LinearExpression, p: float | str = 2, weights: Constant | None = None, mask: Constant | None = None
) -> NormExpression:
    """``‖w ⊙ e‖_p``; for p = 0 ``Σ_i w_i [e_i ≠ 0]``. Of ``x − x0`` it is a distance between inputs.

    Args:
        expr: a linear expression of any layers.
        p: 0, any number from 1 on, or infinity; or a name such as "l2".
        weights: non-negative, shape of the expression, or one more axis in front for one problem per entry.
        mask: booleans of the same shapes; elements where it is False do not count.

    Raises:
        ProblemError: no such norm, negative weights, a mask that is not boolean, an expression that is not linear.

    Example:
        >>> ball = cl.norm(net.input - x0, cl.inf) <= 0.1
    """
    if not isinstance(expr, LinearExpression):
        raise ProblemError("norm takes an expression of a network's layers, such as net.input - x0.")
    kind = norm_of(p)
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
    return NormExpression(expr, kind.p, combined, batch)
