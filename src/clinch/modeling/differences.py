"""Norms of differences of variables become norms of one variable.

In ``cl.norm(x - y, p) <= r`` a new variable δ stands for ``x − y``, and ``x − δ`` for y. The ball is one of inputs
then, which every engine cuts its region with, and bounds of ``net(x)`` and ``net(y)`` share x.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from clinch.modeling.constraints import Constraint, Junction
from clinch.modeling.expressions import LinearExpression
from clinch.modeling.joint import over_part, pieces_of
from clinch.modeling.norms import NormBall, NormExpression
from clinch.modeling.parts import Application, Piece, Root
from clinch.modeling.sparse_maps import Terms
from clinch.modeling.variables import Applied, Variable, apply

#: variables that are gone -> what they are
Replaced = dict[Root, LinearExpression]


def without_differences(
    objective: LinearExpression | NormExpression, constraints: Sequence[Constraint]
) -> tuple[LinearExpression | NormExpression, list[Constraint], Replaced]:
    """The same problem with norms of inputs in place of norms of differences, as far as that is possible.

    Args:
        objective: over a joint network, as the constraints.
        constraints: all must hold.

    Returns:
        Objective and constraints, each over a network of its own, and what the variables are that they no longer have.
    """
    flat = list(Junction.of(True, list(constraints)).parts) if constraints else []
    gone: Replaced = {}
    while True:
        norms = [part.norm for part in flat if isinstance(part, NormBall)]
        norms += [objective] if isinstance(objective, NormExpression) else []
        change = next((one for norm in norms if (one := _change_for(norm.expression.flatten())) is not None), None)
        if change is None:
            return objective, flat, gone
        objective = objective.mapped(change) if isinstance(objective, NormExpression) else change(objective)
        flat = [part.mapped(change) for part in flat]
        gone = {root: change(e) for root, e in gone.items()} | {change.root: change.replacement}


class _Change:
    """Puts an expression in the place of a variable.

    Args:
        piece: the variable's share of a difference: each element once, with the factor 1 or −1.
        difference: flat; becomes a variable.
    """

    def __init__(self, piece: Piece, difference: LinearExpression) -> None:
        assert isinstance(piece.part, Root)
        self.root, own = piece.part, piece.terms
        delta = Variable(difference.size, "difference")
        rest = [over_part(p, difference.shape) for p in pieces_of(difference) if p.part is not self.root]
        left = delta.shifted(-difference.constant, None) - sum(rest[1:], start=rest[0])
        at = torch.empty_like(own.row).index_copy(0, own.col, own.row)
        sign = torch.empty(1, self.root.size, dtype=torch.float64).index_copy(1, own.col, own.value)
        self.replacement = left.picked(at, self.root.shape).scaled(sign, None)
        self._applied: dict[object, Applied] = {}

    def __call__(self, e: LinearExpression) -> LinearExpression:
        """The expression without the variable."""
        shares = [self._share(piece, e) for piece in pieces_of(e)]
        if not shares:
            return e
        return sum(shares[1:], start=shares[0]).shifted(e.constant, e.batch)

    def _share(self, piece: Piece, e: LinearExpression) -> LinearExpression:
        if piece.part is self.root:
            return _composed(piece.terms, self.replacement, e)
        if isinstance(piece.part, Application):
            piece = Piece(self._again(piece.part), piece.node, piece.terms)
        return over_part(piece, e.shape)

    def _again(self, application: Application) -> Application:
        """The network applied to what its argument has become."""
        if application.key not in self._applied:
            self._applied[application.key] = apply(application.network, self(application.argument))
        return self._applied[application.key].application


def _composed(terms: Terms, inner: LinearExpression, e: LinearExpression) -> LinearExpression:
    """``terms`` of the elements of an inner expression, in the shape of another."""
    rows = inner.flatten().picked(terms.col, (len(terms.col),)).scaled(terms.value, e.batch)
    constant = torch.zeros(len(rows.constant), e.size, dtype=torch.float64).index_add(1, terms.row, rows.constant)
    moved = {position: part.renumbered(terms.row) for position, part in rows.terms.items()}
    return LinearExpression(rows.network, e.shape, moved, constant, e.batch)


def _change_for(e: LinearExpression) -> _Change | None:
    """What makes a difference of variables one variable: of those that it has whole, the last one goes."""
    parts = pieces_of(e)
    if len(parts) < 2 or len(e.constant) > 1 or not all(isinstance(p.part, Root) for p in parts):
        return None
    for piece in reversed(parts):
        terms, size = piece.terms, piece.size
        once = len(terms.row) == size == e.size and len(terms.row.unique()) == len(terms.col.unique()) == size
        if once and bool((terms.value.abs() == 1).all()):
            return _Change(piece, e)
    return None
