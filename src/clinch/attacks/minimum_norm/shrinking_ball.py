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
    objective, sparse, (first, last) = best_points.objective, best_points.objective.norm.counts, step_size
    feasible, x = FeasibleSteps.of(objective, indices), objective.x[indices]
    move, average = (z - x).flatten(1), z.new_zeros(len(indices), z.shape[1:].numel())
    nearest, best = torch.full_like(radius, torch.inf), move.clone()
    for k in range(steps):
        if best_points.exhausted:
            break
        z = x + move.view_as(x)
        slope = toward(objective, z, indices, candidate)
        best_points.note_gradient(slope.gradient, indices)
        distance = objective.distance(z, indices)
        best_points.update(z, indices, slope.margin, distance)
        reached = slope.margin < 0
        better = (reached & (distance < nearest)).nonzero().flatten()
        nearest, best[better] = nearest.index_copy(0, better, distance[better]), move[better]
        gamma = cosine(*rate, k, steps)
        radius = (_fewer if sparse else _smaller)(radius, distance, reached, nearest, gamma)
        g = slope.gradient.flatten(1)
        length = torch.linalg.vector_norm(g, dim=1, keepdim=True)
        keep = cosine(*averaging, k, steps)
        average = keep * average + (1 - keep) * g / torch.where(length > 0, length, 1.0)
        extreme = feasible.farthest(average, radius)
        if sparse:
            move = feasible.inside(extreme)
        else:
            move = feasible.within(torch.lerp(move, extreme, cosine(first, last, k, steps)), radius)
    return nearest, best


def _smaller(radius: Tensor, distance: Tensor, reached: Tensor, nearest: Tensor, gamma: float) -> Tensor:
    """The next radii, where distances are measured."""
    smaller = torch.minimum(radius, distance) * (1 - gamma)
    return torch.where(reached, smaller, torch.minimum(radius * (1 + gamma), 0.998 * nearest))


def _fewer(radius: Tensor, distance: Tensor, reached: Tensor, nearest: Tensor, gamma: float) -> Tensor:
    """The next radii, where elements are counted."""
    smaller = torch.minimum(torch.minimum(radius, distance) * (1 - gamma), distance - 1).floor().clamp(min=1)
    return torch.where(reached, smaller, torch.minimum(torch.maximum(radius * (1 + gamma), radius + 1), nearest - 1))
