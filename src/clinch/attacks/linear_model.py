"""Balda et al.'s framework on goals: every branch replaced by its first-order model at a point.

``L_k(z + η) ≈ L_k(z) + <∇L_k(z), η>`` for each branch k (Balda, Behboodi and
Mathar 2018, arXiv 1803.03607, section II); the range of inputs is one more convex constraint on η, met exactly.
"""

from __future__ import annotations

import torch
from torch import Tensor

from clinch.attacks.core.batches import along
from clinch.attacks.core.best_points import BestPoints
from clinch.attacks.core.objective import AttackObjective
from clinch.geometry.halfspace import halfspace_distance
from clinch.geometry.linear_minimum import linear_minimum
from clinch.geometry.norms import norm_of
from clinch.geometry.projection import project_into
from clinch.geometry.region import Ball


def first_points(goal: AttackObjective, rows: Tensor) -> Tensor:
    """The inputs themselves, or where those lie outside the region the points next to them."""
    return project_into(goal.region.take(rows), goal.x[rows])


def ratios(goal: AttackObjective, rows: Tensor, branches: Tensor, gradients: Tensor) -> Tensor:
    """``L_k/‖∇L_k‖_q``, ``(L, K)`` in float64: 0 where ``L_k <= 0``, infinity where the gradient is zero.

    Args:
        goal: gives norm and weights.
        rows: ``(L,)``.
        branches: ``(L, K)``.
        gradients: ``(L, K, *input_shape)``.
    """
    weights = None if goal.weights is None else goal.weights[rows].flatten(1).unsqueeze(1).double()
    length = norm_of(goal.p).dual_value(gradients.flatten(2).double(), weights)
    need = branches.double().clamp(min=0)
    return torch.where(need > 0, need / length, 0.0)


def shortest_step(
    goal: AttackObjective, z: Tensor, rows: Tensor, branches: Tensor, gradients: Tensor
) -> tuple[Tensor, Tensor]:
    """Equation 8 for the branch that is the nearest: the shortest step to ``L_k + <∇L_k, η> <= 0``.

    Where the region has no such step for any branch, the one for the least ``L_k/‖∇L_k‖_q`` that comes closest.

    Args:
        goal: gives norm, weights and region.
        z: ``(L, *input_shape)`` points of the region.
        rows: ``(L,)``.
        branches: ``(L, K)`` at z.
        gradients: ``(L, K, *input_shape)``.

    Returns:
        Lengths ``(L,)``, infinity where there is no such step, and steps ``(L, *input_shape)``.
    """
    lower, upper = _room(goal, z, rows)
    known = branches.isfinite()
    weights = None if goal.weights is None else goal.weights[rows].flatten(1)
    # a branch that is not there becomes one that nothing changes
    need = torch.where(known, branches, 1.0)
    slopes, origin = gradients.flatten(2), torch.zeros_like(lower)
    lengths, steps, _ = halfspace_distance(slopes, need, lower, upper, origin, goal.p, weights)
    steps = torch.where(slopes.ne(0).any(-1, keepdim=True), steps, 0.0)
    without_box = ratios(goal, rows, torch.where(known, branches, torch.inf), gradients)
    reached = lengths.isfinite().any(1, keepdim=True)
    choice = torch.where(reached, lengths.double(), without_box).argmin(1)
    lane = torch.arange(len(z), device=z.device)
    return lengths[lane, choice], steps[lane, choice].reshape(z.shape)


def steepest_step(
    goal: AttackObjective, z: Tensor, rows: Tensor, values: Tensor, gradients: Tensor, radius: Tensor
) -> Tensor:
    """GNII for the function whose model falls the lowest: ``min_k min_η L_k + <∇L_k, η>  s.t.  ‖w ⊙ η‖_p <= radius``.

    Args:
        goal: gives norm, weights and region.
        z: ``(L, *input_shape)`` points of the region.
        rows: ``(L,)``.
        values: ``(L, K)`` at z; infinity for a function that a row does not have.
        gradients: ``(L, K, *input_shape)``.
        radius: ``(L,)``.

    Returns:
        Steps ``(L, *input_shape)``.
    """
    lower, upper = _room(goal, z, rows)
    weights = None if goal.weights is None else goal.weights[rows].flatten(1)
    ball = Ball(torch.zeros_like(lower), radius.to(z), goal.p, weights)
    with torch.no_grad():
        falls, steps = linear_minimum(gradients.flatten(2), lower, upper, ball)
    choice = (values + falls).argmin(1)
    return steps[torch.arange(len(z), device=z.device), choice].reshape(z.shape)


def draw_back(best_points: BestPoints, halvings: int) -> None:
    """Move the points found towards their inputs, by bisection along the segment between them: ``halvings`` passes."""
    goal = best_points.objective
    rows = goal.todo[best_points.success[goal.todo]]
    if not len(rows) or halvings < 1:
        return
    start = first_points(goal, rows)
    move = best_points.x[rows] - start
    low, high = move.new_zeros(len(rows)), move.new_ones(len(rows))
    region = goal.region.take(rows)
    for _ in range(halvings):
        middle = (low + high) / 2
        z = project_into(region, start + along(middle, move) * move)
        margin = goal.look(z, rows)
        best_points.update(z, rows, margin)
        low, high = torch.where(margin < 0, low, middle), torch.where(margin < 0, middle, high)


def _room(goal: AttackObjective, z: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """How far each element of z can go down and up, ``(L, n)``."""
    region = goal.region.take(rows)
    return (region.lower - z).clamp(max=0).flatten(1), (region.upper - z).clamp(min=0).flatten(1)
