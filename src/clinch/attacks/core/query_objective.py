"""The goal of a problem: every clause holds, through whatever atom of the largest one is the easiest."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from clinch.attacks.core.batches import filled
from clinch.attacks.core.objective import Answer, Goal, linearised_distance
from clinch.attacks.core.result import HasQuery, query_of
from clinch.attacks.core.rounding_margins import disjunctive_clause, reference_point, tightened, within_reach
from clinch.attacks.core.units import Units, range_of, working_dtype
from clinch.errors import UnsupportedByEngine
from clinch.geometry.projection import project_into
from clinch.network.graph import Graph
from clinch.network.ops.base import Operator
from clinch.query import Activations, Distance, Query
from clinch.runtime.gradients import with_gradients
from clinch.solver.check_points import check_points


class Conditions(Goal):
    """The clauses of a problem, tightened by what rounding may cost in the model's dtype.

    Branch k is the larger of the k-th atom of the largest clause and of all other clauses. Distances are the
    objective's; where the objective is none, those from the centre of the problem's ball in the ball's own norm.

    Args:
        problem: a ``cl.Problem``, or its normal form.
        p: the norm of distances where the objective is no distance.
        needed: False takes a problem without clauses too: its goal is reached everywhere.
        scaled: whether to work in the units of :mod:`clinch.attacks.core.units`; otherwise in the user's.

    Attributes:
        query: the float64 normal form on the CPU.
        tight: what attacks see of it, see :func:`~clinch.attacks.core.rounding_margins.tightened`.

    Raises:
        UnsupportedByEngine: the problem has no clauses, so that there is no goal but its objective.
    """

    several = True

    @with_gradients
    def __init__(
        self, problem: HasQuery | Query, p: float = torch.inf, *, needed: bool = True, scaled: bool = False
    ) -> None:
        query = query_of(problem)
        if needed and not query.clauses:
            raise UnsupportedByEngine(
                "This attack drives an input to where constraints on the network hold, and the problem has none. Use "
                "clinch.attacks.minimise for an objective alone."
            )
        dtype = query.network.dtype
        model = query.to(working_dtype(dtype), query.device)
        anchor = project_into(model.region, reference_point(model))
        self.query, self.tight = query.moved("cpu"), tightened(query, anchor)
        objective = self.tight.objective
        self.p, self.weights = (objective.p, objective.weights) if isinstance(objective, Distance) else (p, None)
        x, region = objective.center if isinstance(objective, Distance) else anchor, self.tight.region
        units = self.units = Units.of(x, region.lower, region.upper, dtype)
        self.x, self.region = units.start, region
        self.forward = torch.full((query.size,), 6, dtype=torch.int64, device=self.x.device)
        self.backward = torch.zeros_like(self.forward)
        self._main = disjunctive_clause(self.tight) or 0
        self._atoms = (self.tight.clause == self._main).nonzero().flatten()
        if scaled:
            units = self.units = units.scaled(self._sizes())
        self.tight = within_reach(self.tight, units)
        self.x, self.region = units.start, units.region(self.tight.region)
        self.todo = self._open()

    def _sizes(self) -> Tensor:
        """``(B,)`` the widest range of an element, or the width of the ball that reaches the linearised
        boundary."""
        size = range_of(self.region.lower, self.region.upper)
        rows = (~size.isfinite()).nonzero().flatten()
        if len(rows) and self.tight.clauses:
            size[rows] = 2 * linearised_distance(self, rows)
        return size

    def _open(self) -> Tensor:
        """Rows whose start is not the answer already: it may break clauses, or a ball may have pushed it away from the
        point of the box that is next to x."""
        start = self.start
        met = self.verdict(start, torch.arange(self.size, device=self.x.device))[0]
        closest = torch.maximum(torch.minimum(self.x, self.region.upper), self.region.lower)
        return (~(met & (start == closest).flatten(1).all(1))).nonzero().flatten()

    @property
    def width(self) -> int:
        """Number of atoms of the largest clause."""
        return max(1, len(self._atoms))

    @property
    def shared(self) -> bool:
        """Whether there are other clauses."""
        return self.tight.clauses > 1

    def answer(self, z: Tensor, rows: Tensor) -> Answer:
        """See :meth:`Goal.answer`."""
        z = self.point(z, rows).to(self.x)
        return self.answer_from(filled(lambda z: self.tight.graph.forward(z, self._nodes), z), rows)

    def leaky_answer(self, z: Tensor, rows: Tensor) -> Answer | None:
        """See :meth:`Goal.leaky_answer`."""
        z = self.point(z, rows).to(self.x)
        return self.answer_from(filled(lambda z: leaky_forward(self.tight.graph, z, self._nodes), z), rows)

    @property
    def _nodes(self) -> list[int]:
        return self.tight.atoms.nodes

    def answer_from(self, activations: Activations, rows: Tensor) -> Answer:
        """The answer of a network with these activations of the watched nodes."""
        if not self.tight.clauses:
            return Answer(self.x.new_full((len(rows), 1), -torch.inf), None)
        values = self.tight.atoms.take(rows).values(activations)
        wanted = values[:, self._atoms]
        if self.tight.clauses == 1:
            return Answer(wanted, None)
        clauses = self.tight.clause_values(values)
        others = torch.cat([clauses[:, : self._main], clauses[:, self._main + 1 :]], 1)
        return Answer(torch.maximum(wanted, others.amax(1, keepdim=True)), None, wanted, others)

    def verdict(self, z: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`Goal.verdict`."""
        check = check_points(self.query, self.point(z, rows), rows)
        return check.feasible.to(z.device), check.violation.to(z.device)


class Objective(Conditions):
    """Points that satisfy every clause, the smaller the objective the better; answers carry the objective's value.

    Args:
        problem: a ``cl.Problem``, or its normal form.
    """

    def __init__(self, problem: HasQuery | Query) -> None:
        super().__init__(problem, needed=False)

    def _open(self) -> Tensor:
        return torch.arange(self.size, device=self.x.device)

    @property
    def _nodes(self) -> list[int]:
        return sorted({0, *self.tight.nodes})

    def answer_from(self, activations: Activations, rows: Tensor) -> Answer:
        """See :meth:`Conditions.answer_from`."""
        value = self.tight.objective.take(rows).value(activations[0], activations)
        return super().answer_from(activations, rows)._replace(value=value)

    def lowered(self, z: Tensor, rows: Tensor) -> Tensor:
        """See :meth:`Goal.lowered`."""
        return check_points(self.query, z, rows).value.to(z.device)


#: slope with which gradients pass a switched-off element
LEAK = 0.5


class _Leaky(torch.autograd.Function):
    """An operator with two pieces: forward as it is, backward with LEAK on the switched-off side.

    Only where a descent asks for more output: a switched-off element has no less to give.
    """

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, op: Operator) -> Tensor:
        ctx.save_for_backward(x)
        return op.forward(x)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return torch.where(x > 0, grads[0], LEAK * grads[0].clamp(max=0)), None


def leaky_forward(graph: Graph, x: Tensor, wanted: list[int]) -> dict[int, Tensor]:
    """:meth:`Graph.forward` whose gradients pass switched-off elements with slope LEAK."""

    def leaky(op: Operator, h: Tensor) -> Tensor:
        return _Leaky.apply(h, op)  # type: ignore[return-value]

    pieces = {i: partial(leaky, node.op) for i, node in enumerate(graph.nodes) if node.op.splits_at_zero}
    return graph.forward(x, wanted, pieces)
