"""σ-zero: a smooth stand-in for the number of changed elements, and a threshold that follows the boundary (p = 0)."""

from __future__ import annotations

import torch
from torch import Tensor

from clinch.attacks.core.arguments import Attacked, attack_method, check_norm, objective_of
from clinch.attacks.core.batches import along
from clinch.attacks.core.best_points import BestPoints, Progress
from clinch.attacks.core.gradient_steps import Moments, cosine
from clinch.attacks.core.result import AttackResult
from clinch.errors import ProblemError
from clinch.geometry.projection import project_into


@attack_method
def sigma_zero(
    net: Attacked,
    x: Tensor | None = None,
    y: Tensor | None = None,
    *,
    steps: int = 1000,
    step_size: float = 1.0,
    sigma: float = 1e-3,
    threshold: float = 0.3,
    threshold_rate: float = 0.01,
    target: Tensor | int | None = None,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    seed: int = 0,
    history: bool = False,
    progress: Progress | None = None,
) -> AttackResult:
    """Few changed elements (p = 0), by gradient descent on a smooth count with small changes restored.

    ``L = max(m, 0) + 1/n·Σ_i δ_i²/(δ_i² + σ)``; ``g = ∇L/‖∇L‖_∞``; ``δ ← clip(x + δ − η·Adam(g)) − x``; elements with
    ``|δ_i| < τ`` are restored, ``τ ← τ ± t·η`` (+ where δ reached the goal); η by cosine annealing to a tenth. Cinà et
    al. 2025 (arXiv 2402.01879, algorithm 1), with Adam's averages as in the authors' code.

    Args:
        steps: one pass forward and one backward each.
        step_size: η at the start; as all lengths here in units of the input, published for the range (0, 1).
        sigma: σ, the sharpness of the count.
        threshold: τ at the start.
        threshold_rate: t.
        target: one class or ``(B,)``; None: any class but the label. The paper's attack has no target; a target changes
            the margin alone.

    Example:
        >>> sigma_zero(net, x, y, steps=120).distance.median()
        tensor(2., dtype=torch.float64)
    """
    if steps < 1 or step_size <= 0 or sigma <= 0:
        raise ProblemError(f"steps={steps}, step_size={step_size}, sigma={sigma}: at least 1, above 0, above 0.")
    objective = check_norm(objective_of(net, x, y, target=target, bounds=bounds, norm=0.0), "σ-zero", (0.0,))
    best_points = BestPoints(objective, record=history, progress=progress, steps=steps)
    indices, region, center = objective.todo, objective.region.take(objective.todo), objective.x[objective.todo]
    z, limit = best_points.x[indices], center.new_full((len(indices),), threshold)
    base, moments = z, Moments(z)
    for k in range(steps if len(indices) else 0):
        slope = objective.slope(z, indices)
        best_points.note_gradient(slope.gradient, indices)
        best_points.update(z, indices, slope.margin)
        inside, delta = slope.margin < 0, z - base
        count = 2 * sigma * delta / (delta.square() + sigma).square() / max(delta[0].numel(), 1)
        gradient = torch.where(along(inside, z), 0.0, slope.gradient) + count
        size = gradient.flatten(1).abs().amax(1).clamp(min=1e-12)
        mean, scale = moments.add(gradient / along(size, z))
        eta = cosine(step_size, 0.1 * step_size, k, steps)
        z = project_into(region, z - eta * mean / scale)
        limit = (limit + threshold_rate * eta * torch.where(inside, 1.0, -1.0)).clamp(0, 1)
        z = torch.where((z - base).abs() < along(limit, z), base, z)
        best_points.step()
    return best_points.result()
