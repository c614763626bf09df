"""FMN: projected gradient steps in a ball whose radius follows the boundary (p = 0, and any from 1 on)."""

from __future__ import annotations

import torch
from torch import Tensor

from clinch.attacks.core.arguments import Attacked, attack_method, check_norm, objective_of
from clinch.attacks.core.best_points import BestPoints, Progress
from clinch.attacks.core.gradient_steps import cosine
from clinch.attacks.core.losses import loss_of
from clinch.attacks.core.objective import Slope
from clinch.attacks.core.result import AttackResult
from clinch.errors import ProblemError
from clinch.geometry.directions import steepest_direction
from clinch.geometry.projection import project_into


@attack_method
def fmn(
    net: Attacked,
    x: Tensor | None = None,
    y: Tensor | None = None,
    *,
    norm: float = torch.inf,
    steps: int = 100,
    step_size: float = 1.0,
    gamma: float = 0.05,
    loss: str | None = "margin",
    target: Tensor | int | None = None,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    seed: int = 0,
    history: bool = False,
    progress: Progress | None = None,
) -> AttackResult:
    """A small perturbation in any norm, with the radius ε of the ball adapted in each step.

    ``δ ← P_ε(δ − α·∇m/‖∇m‖₂)`` where, before the first success, ``ε = ‖δ‖_p + m/‖∇m‖_q`` (the boundary of the linear
    model), and after it ``ε ← (1+γ)·ε`` outside, ``ε ← min((1−γ)·ε, best)`` inside; α and γ by cosine annealing to
    α/100 and γ/50. For p = 0 the radius is a whole number that changes by at least one. Pintor et al. 2021
    (arXiv 2102.12827, algorithm 1). Where we differ: P is the exact projection onto ball ∩ range at once instead of one
    after the other, and the radius of the linear model is taken ``1 + γ`` times as large, since points exactly on that
    boundary may stay just short of it for good.

    Args:
        steps: one pass forward and one backward each.
        step_size: α at the start, in units of the input.
        gamma: γ at the start.
        loss: ``"margin"`` or a key of :data:`clinch.attacks.LOSSES`; None: cross-entropy, for a problem the margin. The
            radius of the linear model is that of the margin, and with another loss the ball grows by γ instead.

    Example:
        >>> fmn(net, x, y, norm=1, steps=120).distance.median()
        tensor(1.4195, dtype=torch.float64)
    """
    if steps < 1 or not 0 < gamma < 1 or step_size <= 0:
        raise ProblemError(f"steps={steps}, gamma={gamma}, step_size={step_size}: at least 1, in (0, 1), above 0.")
    objective = check_norm(objective_of(net, x, y, target=target, bounds=bounds, norm=norm), "FMN", counts=True)
    function = loss_of(objective.query, loss)
    best_points = BestPoints(objective, record=history, progress=progress, steps=steps)
    indices = objective.todo
    z = best_points.x[indices]
    radius = torch.ones_like(best_points.distance[indices])
    for k in range(steps if len(indices) else 0):
        slope = objective.slope(z, indices, function)
        best_points.note_gradient(slope.gradient, indices)
        distance = objective.distance(z, indices)
        best_points.update(z, indices, slope.margin, distance)
        share = cosine(gamma, gamma / 50, k, steps)
        radius = _next_radius(best_points, slope, radius, distance, share, linear=function is None)
        moved = z - cosine(step_size, step_size / 100, k, steps) * steepest_direction(slope.gradient, 2)
        z = project_into(objective.within(radius.double(), indices), moved)
        best_points.step()
    return best_points.result()


def _next_radius(
    best_points: BestPoints, slope: Slope, radius: Tensor, here: Tensor, share: float, linear: bool
) -> Tensor:
    """Radii ``(L,)`` for points at the distances ``here``."""
    norm, best = best_points.objective.norm, best_points.distance[best_points.objective.todo]
    inside, found = slope.margin < 0, best.isfinite()
    smaller, larger = (1 - share) * radius, (1 + share) * radius
    if norm.counts:
        smaller = torch.minimum(smaller.floor(), radius - 1)
        larger = torch.maximum(larger.floor(), radius + 1)
    elif linear:
        steepness = norm.dual.value(slope.gradient)
        reach = here + slope.margin / steepness
        # beyond it, or rounding keeps the points just short of the boundary for good
        larger = torch.where(found | (steepness == 0), larger, (1 + share) * reach)
    radius = torch.where(inside, torch.minimum(smaller, best), larger)
    return radius.clamp(min=1.0) if norm.counts else radius
