"""The goal of a problem whose objective is lowered: a linear form, or a norm of outputs."""

from __future__ import annotations

import torch
from torch import Tensor

from clinch.attacks.conditions import Conditions
from clinch.attacks.goal import Answer
from clinch.attacks.result import HasQuery
from clinch.query import Activations, Query
from clinch.solver.check_points import check_points


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
