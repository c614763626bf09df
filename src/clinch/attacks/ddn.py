"""DDN: direction and length of the perturbation are changed apart from each other (p = 2)."""

from __future__ import annotations

import torch
from torch import Tensor

from clinch.attacks.core.arguments import Attacked, attack_method, check_norm, objective_of
from clinch.attacks.core.batches import along
from clinch.attacks.core.best_points import BestPoints, Progress
from clinch.attacks.core.gradient_steps import cosine
from clinch.attacks.core.losses import loss_of
from clinch.attacks.core.result import AttackResult
from clinch.errors import ProblemError
from clinch.geometry.directions import steepest_direction
from clinch.geometry.projection import project_into


@attack_method
def ddn(
    net: Attacked,
    x: Tensor | None = None,
    y: Tensor | None = None,
    *,
    steps: int = 100,
    gamma: float = 0.05,
    first_radius: float = 1.0,
    step_size: float = 1.0,
    loss: str | None = None,
    target: Tensor | int | None = None,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    seed: int = 0,
    history: bool = False,
    progress: Progress | None = None,
) -> AttackResult:
    """A small ℓ2 perturbation: one gradient step for its direction, one factor for its length.

    ``δ ← δ − α·∇L/‖∇L‖₂,   ε ← (1 ∓ γ)·ε  (− where δ reached the goal),   δ ← clip(x + ε·δ/‖δ‖₂) − x`` with α by cosine
    annealing to a hundredth. Rony et al. 2019 (arXiv 1811.09600, algorithm 1); as in the authors' code the next step
    starts at the rescaled and clipped δ. Results are not rounded to 256 grey levels. The
    gradient of cross-entropy mixes the classes and leaves the perturbation some percent too long, however many steps;
    that of ``loss="margin"`` does not.

    Args:
        steps: one pass forward and one backward each.
        gamma: γ.
        first_radius: ε at the start, in units of the input.
        step_size: α at the start.
        seed: of the random direction that stands for a gradient of zero.

    Example:
        >>> ddn(net, x, y, steps=120).distance.median()
        tensor(0.4869, dtype=torch.float64)
    """
    if steps < 1 or not 0 < gamma < 1 or first_radius <= 0:
        raise ProblemError(
            f"steps={steps}, gamma={gamma}, first_radius={first_radius}: at least 1, in (0, 1), above 0."
        )
    objective = check_norm(objective_of(net, x, y, target=target, bounds=bounds, norm=2.0), "DDN", (2.0,))
    function = loss_of(objective.query, loss)
    best_points = BestPoints(objective, record=history, progress=progress, steps=steps)
    draws = objective.draws(seed)
    indices, region, center = objective.todo, objective.region.take(objective.todo), objective.x[objective.todo]
    z, radius = best_points.x[indices], center.new_full((len(indices),), first_radius)
    for k in range(steps if len(indices) else 0):
        slope = objective.slope(z, indices, function)
        best_points.note_gradient(slope.gradient, indices)
        best_points.update(z, indices, slope.margin)
        radius = radius * torch.where(slope.margin < 0, 1 - gamma, 1 + gamma)
        direction = steepest_direction(slope.gradient, 2)
        blind = (~direction.flatten(1).any(1)).nonzero().flatten()
        if len(blind):
            direction[blind] = steepest_direction(draws.at(k).take(indices[blind]).normal(z[blind]), 2)
        delta = z - center - cosine(step_size, 0.01 * step_size, k, steps) * direction
        z = project_into(region, center + along(radius, z) * steepest_direction(delta, 2))
        best_points.step()
    return best_points.result()
