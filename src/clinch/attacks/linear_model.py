"""Balda et al.'s framework on goals: every candidate replaced by its first-order model at a point.

``L_k(z + η) ≈ L_k(z) + <∇L_k(z), η>`` for each candidate k (Balda, Behboodi and
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


def first_points(objective: AttackObjective, indices: Tensor) -> Tensor:
    """The inputs themselves, or where those lie outside the region the points next to them."""
    return project_into(objective.region.take(indices), objective.x[indices])


def ratios(objective: AttackObjective, indices: Tensor, candidates: Tensor, gradients: Tensor) -> Tensor:
    """``L_k/‖∇L_k‖_q``, ``(L, K)`` in float64: 0 where ``L_k <= 0``, infinity where the gradient is zero.

    Args:
        objective: gives norm and weights.
        indices: ``(L,)``.
        candidates: ``(L, K)``.
        gradients: ``(L, K, *input_shape)``.
    """
    weights = None if objective.weights is None else objective.weights[indices].flatten(1).unsqueeze(1).double()
    length = norm_of(objective.p).dual_value(gradients.flatten(2).double(), weights)
    need = candidates.double().clamp(min=0)
    return torch.where(need > 0, need / length, 0.0)


def shortest_step(
    objective: AttackObjective, z: Tensor, indices: Tensor, candidates: Tensor, gradients: Tensor
) -> tuple[Tensor, Tensor]:
    """Equation 8 for the candidate that is the nearest: the shortest step to ``L_k + <∇L_k, η> <= 0``.

    Where the region has no such step for any candidate, the one for the least ``L_k/‖∇L_k‖_q`` that comes closest.

    Args:
        objective: gives norm, weights and region.
        z: ``(L, *input_shape)`` points of the region.
        indices: ``(L,)``.
        candidates: ``(L, K)`` at z.
        gradients: ``(L, K, *input_shape)``.

    Returns:
        Lengths ``(L,)``, infinity where there is no such step, and steps ``(L, *input_shape)``.
    """
    lower, upper = _room(objective, z, indices)
    known = candidates.isfinite()
    weights = None if objective.weights is None else objective.weights[indices].flatten(1)
    # a candidate that is not there becomes one that nothing changes
    need = torch.where(known, candidates, 1.0)
    slopes, origin = gradients.flatten(2), torch.zeros_like(lower)
    lengths, steps, _ = halfspace_distance(slopes, need, lower, upper, origin, objective.p, weights)
    steps = torch.where(slopes.ne(0).any(-1, keepdim=True), steps, 0.0)
    without_box = ratios(objective, indices, torch.where(known, candidates, torch.inf), gradients)
    reached = lengths.isfinite().any(1, keepdim=True)
    choice = torch.where(reached, lengths.double(), without_box).argmin(1)
    run = torch.arange(len(z), device=z.device)
    return lengths[run, choice], steps[run, choice].reshape(z.shape)


def steepest_step(
    objective: AttackObjective, z: Tensor, indices: Tensor, values: Tensor, gradients: Tensor, radius: Tensor
) -> Tensor:
    """GNII for the function whose model falls the lowest: ``min_k min_η L_k + <∇L_k, η>  s.t.  ‖w ⊙ η‖_p <= radius``.

    Args:
        objective: gives norm, weights and region.
        z: ``(L, *input_shape)`` points of the region.
        indices: ``(L,)``.
        values: ``(L, K)`` at z; infinity for a function that a row does not have.
        gradients: ``(L, K, *input_shape)``.
        radius: ``(L,)``.

    Returns:
        Steps ``(L, *input_shape)``.
    """
    lower, upper = _room(objective, z, indices)
    weights = None if objective.weights is None else objective.weights[indices].flatten(1)
    ball = Ball(torch.zeros_like(lower), radius.to(z), objective.p, weights)
    with torch.no_grad():
        falls, steps = linear_minimum(gradients.flatten(2), lower, upper, ball)
    choice = (values + falls).argmin(1)
    return steps[torch.arange(len(z), device=z.device), choice].reshape(z.shape)


def draw_back(best_points: BestPoints, halvings: int) -> None:
    """Move the points found towards their inputs, by bisection along the segment between them: ``halvings`` passes."""
    objective = best_points.objective
    indices = objective.todo[best_points.success[objective.todo]]
    if not len(indices) or halvings < 1:
        return
    start = first_points(objective, indices)
    move = best_points.x[indices] - start
    low, high = move.new_zeros(len(indices)), move.new_ones(len(indices))
    region = objective.region.take(indices)
    for _ in range(halvings):
        middle = (low + high) / 2
        z = project_into(region, start + along(middle, move) * move)
        margin = objective.look(z, indices)
        best_points.update(z, indices, margin)
        low, high = torch.where(margin < 0, low, middle), torch.where(margin < 0, middle, high)


def _room(objective: AttackObjective, z: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
    """How far each element of z can go down and up, ``(L, n)``."""
    region = objective.region.take(indices)
    return (region.lower - z).clamp(max=0).flatten(1), (region.upper - z).clamp(min=0).flatten(1)
