"""Constraints: what comparisons give, and how ``&``, ``|`` and ``~`` join them.

Negation is pushed inwards when it is written, so that a constraint is always a tree of *and* and *or* over leaves
that need no negation. A leaf is a whole stack of linear atoms: ``h <= hi`` for a thousand neurons is one object.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from clinch.errors import ProblemError
from clinch.limits import within_ball
from clinch.symbols import merge_batches

if TYPE_CHECKING:
    from clinch.expressions import LinearExpression
    from clinch.functions import NormExpression
    from clinch.network.network import Network

#: by how much a negated comparison must hold when nothing else is said, in the units of what is compared
MARGIN = 1e-5
#: ``a == b`` between activations means ``|a − b| <= EQUALITY_TOLERANCE``; single inputs are fixed exactly
EQUALITY_TOLERANCE = 1e-6


class Constraint:
    """A condition on input and activations. Join with ``&``, ``|`` and ``~``."""

    #: NumPy then leaves ``array & constraint`` to the constraint, which refuses it
    __array_ufunc__: ClassVar[None] = None

    @property
    def network(self) -> Network:
        """The network whose activations are constrained."""
        raise NotImplementedError

    @property
    def batch(self) -> int | None:
        """Number of problems that its constants state; None without a batch axis."""
        raise NotImplementedError

    def __and__(self, other: object) -> Constraint:
        return Junction.of(True, [self, _constraint(other, "&")])

    def __or__(self, other: object) -> Constraint:
        return Junction.of(False, [self, _constraint(other, "|")])

    def __rand__(self, other: object) -> Constraint:
        return Junction.of(True, [_constraint(other, "&"), self])

    def __ror__(self, other: object) -> Constraint:
        return Junction.of(False, [_constraint(other, "|"), self])

    def __invert__(self) -> Constraint:
        raise NotImplementedError

    def __bool__(self) -> bool:
        raise ProblemError(
            "A constraint has no truth value: join constraints with &, | and ~ instead of and, or, not, all(), any(); "
            "write a chained comparison such as 0 <= x <= 1 as two: x >= 0, x <= 1."
        )


def _constraint(value: object, operator: str) -> Constraint:
    if not isinstance(value, Constraint):
        raise ProblemError(
            f"{operator} joins two constraints, but one side is a {type(value).__name__}. "
            "Put each comparison in parentheses: (a <= b) & (c >= d)."
        )
    return value


@dataclass(frozen=True, eq=False)
class Atoms(Constraint):
    """Linear atoms ``atom_k <= 0`` of which every one must hold, or at least one.

    Attributes:
        atoms: one-dimensional expression.
        opposite: the atoms of the negation, of which at least one must hold, or every one.
        every: whether all atoms must hold.
        equality: for ``a == b``, the difference ``a − b``, one-dimensional: single inputs in it are fixed exactly.
    """

    atoms: LinearExpression
    opposite: LinearExpression
    every: bool = True
    equality: LinearExpression | None = None

    @property
    def network(self) -> Network:
        """The network whose activations are constrained."""
        return self.atoms.network

    @property
    def batch(self) -> int | None:
        """Number of problems that its constants state; None without a batch axis."""
        return merge_batches([self.atoms.batch, self.opposite.batch])

    def __invert__(self) -> Constraint:
        return Atoms(self.opposite, self.atoms, not self.every, self.equality)


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

    def expanded(self) -> Atoms:
        """For p = infinity, the same as linear atoms ``±w_i·e_i <= radius``; elements of weight zero count as 0."""
        assert self.norm.p == torch.inf
        e, weights, radius = self.norm.expression.flatten(), self.norm.weights, self.radius.reshape(-1, 1)
        scaled = e if weights is None else e.scaled(weights, self.norm.batch)
        beyond = scaled.stacked(-scaled).shifted(-radius, self.radius_batch)
        return Atoms(within_ball(e, weights, radius, self.batch), (-beyond) + MARGIN)

    def __invert__(self) -> Constraint:
        if self.norm.p != torch.inf:
            raise ProblemError(
                f"The outside of a ball of norm {self.norm.p:g} is not a linear condition and cannot be negated. "
                "Maximise the norm instead, or use p = inf: ~(cl.norm(x - x0, cl.inf) <= r)."
            )
        return ~self.expanded()


@dataclass(frozen=True, eq=False)
class Junction(Constraint):
    """Several constraints of which every one must hold, or at least one."""

    every: bool
    parts: tuple[Constraint, ...]

    @staticmethod
    def of(every: bool, parts: list[Constraint]) -> Junction:
        """Join, with nested joins of the same kind made flat.

        Raises:
            ProblemError: the parts belong to different networks, or a ball stands inside ``|``.
        """
        flat: list[Constraint] = []
        for part in parts:
            flat.extend(part.parts if isinstance(part, Junction) and part.every == every else [part])
        if any(part.network is not flat[0].network for part in flat):
            raise ProblemError("The constraints belong to two networks. State one problem per network.")
        merge_batches(part.batch for part in flat)
        if not every:
            for part in flat:
                _refuse_balls(part)
        return Junction(every, tuple(flat))

    @property
    def network(self) -> Network:
        """The network whose activations are constrained."""
        return self.parts[0].network

    @property
    def batch(self) -> int | None:
        """Number of problems that its constants state; None without a batch axis."""
        return merge_batches(part.batch for part in self.parts)

    def __invert__(self) -> Constraint:
        return Junction.of(not self.every, [~part for part in self.parts])


def _refuse_balls(part: Constraint) -> None:
    """A ball of p = 0, 1, 2 has no linear form and can only cut the region as a whole."""
    if isinstance(part, NormBall) and part.norm.p != torch.inf:
        raise ProblemError(
            f"A ball of norm {part.norm.p:g} cannot stand inside |. List it among the constraints by itself, state one "
            "problem per alternative, or use p = inf."
        )
    if isinstance(part, Junction):
        for inner in part.parts:
            _refuse_balls(inner)
