"""A shrinking ball with averaged extreme points: for networks whose linearisation misleads.

    G ← a·G + (1 − a)·g/‖g‖,   z ← z + s·(x + L(G, e) − z)          L: extreme point of ball(e) ∩ box against G
    goal reached:  e ← min(e, ‖z − x‖)·(1 − γ)        else  e ← min(e·(1 + γ), 0.998·best)

from a large radius. Related to FMN (Pintor et al. 2021, arXiv 2102.12827), with the projected gradient step replaced by
a Frank-Wolfe step with momentum. For p = 0 the step is s = 1, so that the iterate stays sparse, and a point that
reaches the goal is followed by the attempt to change at least one element less.
"""

from __future__ import annotations

import torch
from torch import Tensor

from clinch.attacks.core.best_points import BestPoints
from clinch.attacks.core.gradient_steps import cosine, toward
from clinch.attacks.minimum_norm.feasible_steps import FeasibleSteps


def shrinking_steps(
    best_points: BestPoints, indices: Tensor, candidate: Tensor, z: Tensor, radius: Tensor, steps: int, *,
    rate: tuple[float, float] = (0.2, 0.01), step_size: tuple[float | Tensor, float] = (0.5, 0.1),
    averaging: tuple[float, float] = (0.0, 0.5),
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Run the iteration, two passes for each step of each run (three where candidates share conditions); what is found
    goes to the best points.

    Args:
        best_points: where points are kept.
        indices: ``(L,)`` inputs, may repeat.
        candidate: ``(L,)`` wanted candidates, or ANY.
        z: ``(L, *input_shape)`` where to start.
        radius: ``(L,)`` first radius.
        steps: number of steps.
        rate: γ at the first and at the last step.
        step_size: s likewise, at the first step for each run ``(L, 1)`` or for all; without meaning for p = 0.
        averaging: a likewise.

    Returns:
        ``(L,)`` the smallest distance at which each run reached the goal, infinity where it did not; and the moves
        ``(L, n)`` to these points, where there is none the first one.
    """
    runs = ShrinkingRuns(best_points, indices, candidate, z, radius, steps, rate, step_size, averaging)
    runs.advance(steps)
    return runs.nearest, runs.best


class ShrinkingRuns:
    """The iteration on L runs, which can be interrupted; arguments as :func:`shrinking_steps` has them.

    Attributes:
        nearest: ``(L,)`` the smallest distance at which each run reached the goal, infinity where it did not; ``best``
            ``(L, n)`` the moves to these points, where there is none the first one.
    """

    def __init__(
        self, best_points: BestPoints, indices: Tensor, candidate: Tensor, z: Tensor, radius: Tensor, steps: int,
        rate: tuple[float, float], step_size: tuple[float | Tensor, float], averaging: tuple[float, float],
    ) -> None:  # fmt: skip
        self.best_points, self.steps, self.done = best_points, steps, 0
        self.rate, self.step_size, self.averaging = rate, step_size, averaging
        self.indices, self.candidate, self.radius = indices, candidate, radius
        self.feasible = FeasibleSteps.of(best_points.objective, indices)
        self.x = best_points.objective.x[indices]
        self.move, self.average = (z - self.x).flatten(1), z.new_zeros(len(indices), z.shape[1:].numel())
        self.nearest, self.best = torch.full_like(radius, torch.inf), self.move.clone()

    def keep(self, which: Tensor) -> None:
        """Go on with the chosen runs alone."""
        for name in ("indices", "candidate", "radius", "x", "move", "average", "nearest", "best"):
            setattr(self, name, getattr(self, name)[which])
        self.feasible = self.feasible.take(which)

    def advance(self, count: int) -> None:
        """So many of the steps."""
        best_points, sparse = self.best_points, self.best_points.objective.norm.counts
        objective, first, last = best_points.objective, *self.step_size
        for k in range(self.done, min(self.done + count, self.steps) if len(self.indices) else 0):
            if best_points.exhausted:
                break
            self.done = k + 1
            z = self.x + self.move.view_as(self.x)
            slope = toward(objective, z, self.indices, self.candidate)
            best_points.note_gradient(slope.gradient, self.indices)
            distance = objective.distance(z, self.indices)
            best_points.update(z, self.indices, slope.margin, distance)
            reached = slope.margin < 0
            better = (reached & (distance < self.nearest)).nonzero().flatten()
            self.nearest = self.nearest.index_copy(0, better, distance[better])
            self.best[better] = self.move[better]
            gamma = cosine(*self.rate, k, self.steps)
            shrunk = _fewer if sparse else _smaller
            self.radius = shrunk(self.radius, distance, reached, self.nearest, gamma)
            g = slope.gradient.flatten(1)
            length = torch.linalg.vector_norm(g, dim=1, keepdim=True)
            keep = cosine(*self.averaging, k, self.steps)
            self.average = keep * self.average + (1 - keep) * g / torch.where(length > 0, length, 1.0)
            extreme = self.feasible.farthest(self.average, self.radius)
            if sparse:
                self.move = self.feasible.inside(extreme)
            else:
                mixed = torch.lerp(self.move, extreme, cosine(first, last, k, self.steps))
                self.move = self.feasible.within(mixed, self.radius)


def _smaller(radius: Tensor, distance: Tensor, reached: Tensor, nearest: Tensor, gamma: float) -> Tensor:
    """The next radii, where distances are measured."""
    smaller = torch.minimum(radius, distance) * (1 - gamma)
    return torch.where(reached, smaller, torch.minimum(radius * (1 + gamma), 0.998 * nearest))


def _fewer(radius: Tensor, distance: Tensor, reached: Tensor, nearest: Tensor, gamma: float) -> Tensor:
    """The next radii, where elements are counted."""
    smaller = torch.minimum(torch.minimum(radius, distance) * (1 - gamma), distance - 1).floor().clamp(min=1)
    return torch.where(reached, smaller, torch.minimum(torch.maximum(radius * (1 + gamma), radius + 1), nearest - 1))
