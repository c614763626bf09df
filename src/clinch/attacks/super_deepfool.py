"""SuperDeepFool: DeepFool to the boundary, then a projection that makes the perturbation orthogonal to it (p = 2)."""

from __future__ import annotations

import torch
from torch import Tensor

from clinch.attacks.core.arguments import Attacked, attack_method, check_norm, objective_of
from clinch.attacks.core.batches import along
from clinch.attacks.core.best_points import BestPoints, Progress
from clinch.attacks.core.objective import AttackObjective
from clinch.attacks.core.result import AttackResult
from clinch.attacks.linear_model import draw_back, first_points, shortest_step
from clinch.errors import ProblemError
from clinch.geometry.projection import project_into


@attack_method
def super_deepfool(
    net: Attacked,
    x: Tensor | None = None,
    y: Tensor | None = None,
    *,
    steps: int = 10,
    inner: int = 10,
    overshoot: float = 0.02,
    halvings: int = 10,
    target: Tensor | int | None = None,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    history: bool = False,
    progress: Progress | None = None,
) -> AttackResult:
    """DeepFool until the goal is reached at x̃, then back to the foot of x on x̃'s own hyperplane, again and again.

    ``x̃ = DeepFool(z),   z ← x + <x̃ − x, w>/‖w‖² · w`` with the gradient w of the margin at x̃: SDF(∞, 1) of
    Abdolahpourrostam, Abroshan and Moosavi-Dezfooli 2023 (arXiv 2303.12481, algorithm 2). Where we differ: an input
    goes on for so many ``steps`` and keeps the nearest point, where the original ends at the first projection that
    reaches the goal; steps are the shortest ones inside the range; the end is drawn back along its ray.

    Args:
        steps: projections of each input.
        inner: DeepFool steps before each, at most.
        overshoot: how far each of those goes beyond the linearised boundary, relative to its length.
        halvings: of the bisection at the end.

    Example:
        >>> super_deepfool(net, x, y).distance.median()
        tensor(0.4600, dtype=torch.float64)
    """
    if steps < 1 or inner < 1 or halvings < 0:
        raise ProblemError(f"steps={steps} and inner={inner} must be at least 1, halvings={halvings} at least 0.")
    if not 0 <= overshoot < torch.inf:
        raise ProblemError(f"overshoot={overshoot} must be finite and not negative.")
    objective = check_norm(objective_of(net, x, y, target=target, bounds=bounds, norm=2.0), "SuperDeepFool", (2.0,))
    best_points = BestPoints(objective, record=history, progress=progress, steps=steps)
    indices = objective.todo
    z = first_points(objective, indices)
    for _ in range(steps):
        z, reached = _to_boundary(best_points, indices, z, inner, overshoot)
        indices, z = indices[reached], z[reached]
        if not len(indices):
            break
        z = _foot(best_points, indices, z)
        best_points.step()
    draw_back(best_points, halvings)
    return best_points.result()


def _to_boundary(
    best_points: BestPoints, indices: Tensor, z: Tensor, steps: int, overshoot: float
) -> tuple[Tensor, Tensor]:
    """DeepFool from ``z (A, *input_shape)``: where it ends, and whether it reached the goal."""
    objective, z = best_points.objective, z.clone()
    left = torch.arange(len(indices), device=z.device)
    for _ in range(steps):
        here = indices[left]
        candidates, gradients = objective.jacobian(z[left], here)
        best_points.note_gradient(gradients.flatten(1, 2), here)
        margin = candidates.amin(1)
        best_points.update(z[left], here, margin)
        going = margin >= 0
        left = left[going]
        if not len(left):
            break
        need = _beyond(candidates[going], objective)
        step = shortest_step(objective, z[left], indices[left], need, gradients[going])[1]
        z[left] = project_into(objective.region.take(indices[left]), z[left] + (1 + overshoot) * step)
    reached = torch.ones(len(indices), dtype=torch.bool, device=z.device)
    if len(left):
        margin = objective.look(z[left], indices[left])
        best_points.update(z[left], indices[left], margin)
        reached[left] = margin < 0
    return z, reached


def _beyond(candidates: Tensor, objective: AttackObjective) -> Tensor:
    """At a tie the exact step has no length: at least a few roundings of the margin are asked for."""
    least = 64 * torch.finfo(candidates.dtype).eps * candidates.abs().nan_to_num(posinf=0.0).amax(1, keepdim=True)
    return torch.maximum(candidates, least)


def _foot(best_points: BestPoints, indices: Tensor, z: Tensor) -> Tensor:
    """The projection of the inputs along the margin's gradient at z: one pass each way."""
    objective = best_points.objective
    slope, start = objective.slope(z, indices), first_points(objective, indices)
    w = slope.gradient.flatten(1)
    share = torch.linalg.vecdot((z - start).flatten(1), w) / w.square().sum(1).clamp(min=torch.finfo(w.dtype).tiny)
    return project_into(objective.region.take(indices), start + along(share, z) * slope.gradient)
