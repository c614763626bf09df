"""From a linear lower limit on the input to a number: the last step of the dual function."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from clinch.geometry.halfspace import halfspace_distance
from clinch.geometry.linear_minimum import flatten_ball, linear_minimum
from clinch.geometry.warm_distance import applies, warm_distance
from clinch.query import Distance, Query

#: Newton steps on the multiplier of a half-space that changed a little since the last call
WARM_STEPS = 2


class Concretised(NamedTuple):
    """Bounds ``(D,)``, minimisers ``(D, n)``, the weight ``(D,)`` of ``<rows, x> + offset`` in the dual function there,
    and where the next call may start ``(D,)``.
    """

    bound: Tensor
    point: Tensor
    weight: Tensor
    start: Tensor | None


class Concretiser:
    """The input side of a query, prepared for many linear limits on domains of its problems."""

    def __init__(self, query: Query) -> None:
        self.objective = query.objective
        self.lower, self.upper = query.region.lower.flatten(1), query.region.upper.flatten(1)
        self.ball = flatten_ball(query.region.balls[0]) if query.region.balls else None
        self.quick = False
        if isinstance(self.objective, Distance):
            self.center = self.objective.center.flatten(1)
            self.weights = None if self.objective.weights is None else self.objective.weights.flatten(1)
            self.low, self.high = self.lower - self.center, self.upper - self.center
            self.quick = self.weights is None and applies(self.objective.p, self.low, self.high)

    def __call__(self, rows: Tensor, offset: Tensor, problem: Tensor, start: Tensor | None) -> Concretised:
        """The bound that ``<rows, x> + offset`` gives on each domain.

        Distance objectives: the distance from the centre to ``<rows, x> + offset <= 0`` within the box. Others: the
        exact minimum of ``<rows, x> + offset`` over the box and the first ball.

        Args:
            rows: ``(D, n)``; offset: ``(D,)``; problem: ``(D,)``.
            start: what an earlier call for the same domains returned, or None.
        """
        if self.quick:
            return self._warm(rows, offset, problem, start)
        lower, upper = self.lower[problem], self.upper[problem]
        if isinstance(self.objective, Distance):
            weights = None if self.weights is None else self.weights[problem]
            bound, point, weight = halfspace_distance(
                rows, offset, lower, upper, self.center[problem], self.objective.p, weights
            )
            return Concretised(bound, point, _climbing(weight), None)
        ball = None if self.ball is None else self.ball.take(problem)
        value, point = linear_minimum(rows.unsqueeze(1), lower, upper, ball)
        return Concretised(value[:, 0] + offset, point[:, 0], torch.ones_like(offset), None)

    def _warm(self, rows: Tensor, offset: Tensor, problem: Tensor, start: Tensor | None) -> Concretised:
        assert isinstance(self.objective, Distance)
        # one problem: its limits are shared by all domains and stay in cache
        which = problem[:1] if len(self.lower) == 1 else problem
        center, low, high = self.center[which], self.low[which], self.high[which]
        products = rows * center
        need = products.sum(1) + offset
        rounding = 4 * torch.finfo(rows.dtype).eps * (products.abs().sum(1) + offset.abs())
        found = warm_distance(rows, need, rounding, low, high, self.objective.p, start, WARM_STEPS)
        return Concretised(found.bound, center + found.delta, _climbing(found.multiplier), found.start)


def _climbing(weight: Tensor) -> Tensor:
    """Where the centre satisfies the limit, or p = 0 has no multiplier, the limit itself at the point must rise."""
    return torch.where(weight > 0, weight, torch.ones_like(weight))
