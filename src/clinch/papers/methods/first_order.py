"""Balda et al.'s robustness radius and their feasibility problem GN, which proposition 1 decides."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from clinch.attacks.core.arguments import Attacked, attack_method, objective_of, radius_of
from clinch.attacks.core.batches import along
from clinch.attacks.core.best_points import BestPoints
from clinch.attacks.core.result import NO_GRADIENT, AttackResult
from clinch.attacks.core.settings import AttackSettings, Fields
from clinch.attacks.linear_model import first_points, ratios, shortest_step
from clinch.geometry.projection import project_into
from clinch.solver.settings import Share

#: why an input has no point
INFEASIBLE = "to first order nothing inside the ball reaches the goal (proposition 1 of arXiv 1803.03607)"


@dataclass(frozen=True)
class FeasibilitySettings(AttackSettings):
    """Of :func:`linear_model_feasibility`.

    Attributes:
        overshoot: how far a point goes beyond the boundary of the linear model, relative to the way there.
    """

    overshoot: Share = 0.02


@attack_method
def first_order_radius(
    net: Attacked,
    x: Tensor | None = None,
    y: Tensor | None = None,
    *,
    norm: float = torch.inf,
    target: Tensor | int | None = None,
    outputs: str = "logits",
) -> Tensor:
    """The size that a perturbation needs to first order, ``min_k L_k(x)/‖∇L_k(x)‖_q`` with ``q = p/(p−1)``.

    ``L_k = f_y − f_k`` for each other class: below this radius GN has no solution (Balda et al. 2018, arXiv 1803.03607,
    proposition 1), and its mean is their measure of robustness ρ̂₂. The range of inputs plays no part, as in the paper.
    An estimate and no bound: the network is not linear.

    Args:
        norm: any p >= 1 or ``cl.inf``.
        target: one class or ``(B,)``: the margin to that class alone, ``L = max_{c≠t} f_c − f_t``.

    Returns:
        ``(B,)`` in float64: 0 where the goal is reached already, infinity where all gradients are zero.

    Example:
        >>> rho2 = first_order_radius(net, x, y).mean()
    """
    objective = objective_of(
        net, x, y, target=target, bounds=None, norm=norm, outputs=outputs, any_p=True, scaled=False
    )
    radius = torch.zeros(objective.size, dtype=torch.float64, device=objective.x.device)
    if len(indices := objective.todo):
        candidates, gradients = objective.jacobian(first_points(objective, indices), indices)
        radius[indices] = ratios(objective, indices, candidates, gradients).amin(1)
    return radius


@attack_method
def linear_model_feasibility(
    net: Attacked,
    x: Tensor | None = None,
    y: Tensor | None = None,
    *,
    eps: float | Tensor | None = None,
    norm: float = torch.inf,
    settings: FeasibilitySettings | Fields | None = None,
    target: Tensor | int | None = None,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    outputs: str = "logits",
) -> AttackResult:
    """GN: find η with ``L_k + <∇L_k, η> < 0`` for some k and ``‖η‖_p <= ε``, or say that there is none.

    The shortest such η of all k, 2% longer where the ball has room, so that the inequality is strict (Balda et al.
    2018, arXiv 1803.03607, problem GN). Without limits of the range there is one exactly where ε exceeds
    :func:`first_order_radius`; with them their part of the ball has to reach as well, which is ours.

    Args:
        norm: any p >= 1 or ``cl.inf``.

    Returns:
        ``x + η`` where GN is feasible; elsewhere x itself with the reason. Whether the network itself is fooled is
        ``success``.

    Example:
        >>> found = linear_model_feasibility(net, x, y, eps=0.05)
        >>> feasible = [reason != INFEASIBLE for reason in found.reason]
    """
    numbers = FeasibilitySettings.of(settings)
    objective = objective_of(net, x, y, target=target, bounds=bounds, norm=norm, outputs=outputs, any_p=True)
    radius = radius_of(objective, eps)
    best_points = BestPoints(objective, settings=numbers)
    feasible = torch.ones(objective.size, dtype=torch.bool, device=objective.x.device)
    if len(indices := objective.todo):
        z = first_points(objective, indices)
        candidates, gradients = objective.jacobian(z, indices)
        best_points.note_gradient(gradients.flatten(1, 2), indices)
        length, step = shortest_step(objective, z, indices, candidates, gradients)
        length = length.double()
        inside = length < radius[indices]
        feasible[indices] = inside
        indices, z, step = indices[inside], z[inside], step[inside]
        longer = (radius[indices] / length[inside].clamp(min=torch.finfo(torch.float64).tiny)).clamp(
            max=1 + numbers.overshoot
        )
        z = project_into(objective.within(radius[indices], indices), z + along(longer.to(z), z) * step)
        best_points.update(z, indices, objective.look(z, indices))
    found = best_points.result(radius)
    reason = tuple(
        old if possible or old == NO_GRADIENT else INFEASIBLE for old, possible in zip(found.reason, feasible.tolist())
    )
    return replace(found, reason=reason)
