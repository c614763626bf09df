"""The goal of a problem: every clause holds, through whatever atom of the largest one is the easiest."""

from __future__ import annotations

import torch
from torch import Tensor

from clinch.attacks.goal import Answer, Goal
from clinch.attacks.lanes import disjunctive_clause, leaky_forward, tightened
from clinch.attacks.result import Best, HasQuery, query_of
from clinch.certify.point import check_points
from clinch.errors import UnsupportedByEngine
from clinch.query import Activations, Distance, Query


class Conditions(Goal):
    """The clauses of a problem, tightened by what rounding may cost in the model's dtype.

    Branch k is the larger of the k-th atom of the largest clause and of all other clauses. Distances are the
    objective's; where the objective is none, those from the centre of the problem's ball in the ball's own norm.

    Args:
        problem: a ``cl.Problem``, or its normal form.
        p: the norm of distances where the objective is no distance.

    Raises:
        UnsupportedByEngine: the problem has no clauses, so that there is no goal but its objective.
    """

    def __init__(self, problem: HasQuery | Query, p: float = torch.inf) -> None:
        query = query_of(problem)
        if not query.clauses:
            raise UnsupportedByEngine(
                "This attack drives an input to where constraints on the network hold, and the problem has none. Use "
                "clinch.attacks.minimise for an objective alone."
            )
        best = Best(query, "attack")
        self.query, self.tight = best.query, tightened(best)
        objective = self.tight.objective
        self.x = objective.center if isinstance(objective, Distance) else best.anchor
        self.start = best.anchor
        self.p, self.weights = (objective.p, objective.weights) if isinstance(objective, Distance) else (p, None)
        self.region = self.tight.region
        self.forward = torch.full((query.size,), 6, dtype=torch.int64, device=self.x.device)
        self.backward = torch.zeros_like(self.forward)
        main = disjunctive_clause(self.tight)
        self._main = 0 if main is None else main
        self._atoms = (self.tight.clause == self._main).nonzero().flatten()
        rows = torch.arange(self.size, device=self.x.device)
        self.todo = (~self.verdict(self.x, rows)[0]).nonzero().flatten()

    @property
    def width(self) -> int:
        """Number of atoms of the largest clause."""
        return len(self._atoms)

    def answer(self, z: Tensor, rows: Tensor) -> Answer:
        """See :meth:`Goal.answer`."""
        return self.answer_from(self.tight.graph.forward(z, self.tight.atoms.nodes), rows)

    def leaky_answer(self, z: Tensor, rows: Tensor) -> Answer | None:
        """See :meth:`Goal.leaky_answer`."""
        return self.answer_from(leaky_forward(self.tight.graph, z, self.tight.atoms.nodes), rows)

    def answer_from(self, activations: Activations, rows: Tensor) -> Answer:
        """The answer of a network with these activations of the watched nodes."""
        values = self.tight.atoms.take(rows).values(activations)
        wanted = values[:, self._atoms]
        if self.tight.clauses == 1:
            return Answer(wanted, None)
        clauses = self.tight.clause_values(values)
        others = torch.cat([clauses[:, : self._main], clauses[:, self._main + 1 :]], 1)
        return Answer(torch.maximum(wanted, others.amax(1, keepdim=True)), None, wanted, others)

    def verdict(self, z: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`Goal.verdict`."""
        check = check_points(self.query, z, rows)
        return check.feasible.to(z.device), check.violation.to(z.device)
