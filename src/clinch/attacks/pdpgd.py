"""PDPGD: gradient descent on the margin with proximal steps of the norm, and a multiplier that follows the boundary."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from clinch.attacks.core.arguments import Attacked, attack_method, check_norm, objective_of
from clinch.attacks.core.attack_query import Answer
from clinch.attacks.core.batches import along
from clinch.attacks.core.best_points import BestPoints, Progress
from clinch.attacks.core.gradient_steps import Moments
from clinch.attacks.core.result import AttackResult
from clinch.attacks.core.settings import AttackSettings, Fields
from clinch.errors import ProblemError
from clinch.geometry.elementwise import power, sigmoid, softplus
from clinch.geometry.norms import Norm
from clinch.geometry.projection import project_into
from clinch.solver.settings import Positive, Share, Some


@dataclass(frozen=True)
class PdpgdSettings(AttackSettings):
    """Of :func:`pdpgd`, besides its arguments.

    Attributes:
        smallest_ratio: smallest ratio of the two multipliers, and its inverse the largest.
        average: decay of the average of the multipliers.
        iterations: of the proximal step, which ends at a relative change of ``settled``.
    """

    smallest_ratio: Positive = 1e-6
    average: Share = 0.9
    iterations: Some = 5
    settled: Share = 1e-2


@attack_method
def pdpgd(
    net: Attacked,
    x: Tensor | None = None,
    y: Tensor | None = None,
    *,
    norm: float = torch.inf,
    steps: int = 500,
    step_size: float = 0.1,
    reduction: float = 0.01,
    first_ratio: float = 0.01,
    dual_step_size: float = 0.1,
    settings: PdpgdSettings | Fields | None = None,
    target: Tensor | int | None = None,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    seed: int = 0,
    history: bool = False,
    progress: Progress | None = None,
) -> AttackResult:
    """A small perturbation in any norm, by primal-dual proximal gradient descent.

    ``min_δ max_λ λ_0·‖δ‖_p + λ_1·softplus(m)`` with ``λ = softmax(0, ν)``: a step of Adam on the second term, the
    proximal operator of the first in Adam's metric (Melchior et al. 2019, arXiv 1910.10094), ``ν ← ν + θ·sign(m)``, λ
    averaged over the steps. For p = 0 the proximal operator is that of ``Σ|δ_i|^{2/3}``. Matyasko and Chau 2021
    (arXiv 2106.01538). Adam moves all elements at nearly the same speed, so that some hundred steps end 5 to 25% above
    the smallest distance even of a linear classifier.

    Args:
        steps: one pass forward and one backward each.
        step_size: of δ at the start.
        reduction: last step size over the first, falling geometrically.
        first_ratio: λ_0/λ_1 at the start; small: the goal counts more than the distance.
        dual_step_size: θ at the start, falling linearly to a tenth.

    Example:
        >>> pdpgd(net, x, y, norm=1, steps=120).distance.median()
        tensor(1.5900, dtype=torch.float64)
    """
    numbers = PdpgdSettings.of(settings)
    if steps < 1 or step_size <= 0 or first_ratio <= 0:
        raise ProblemError(f"steps={steps}, step_size={step_size}, first_ratio={first_ratio} must be positive.")
    objective = check_norm(objective_of(net, x, y, target=target, bounds=bounds, norm=norm), "PDPGD", counts=True)
    best_points = BestPoints(objective, settings=numbers, record=history, progress=progress, steps=steps)
    indices, region, center = objective.todo, objective.region.take(objective.todo), objective.x[objective.todo]
    z, moments = best_points.x[indices], Moments(center)
    nu = torch.full_like(best_points.distance[indices], -math.log(first_ratio))
    share = sigmoid(nu)
    for k in range(steps if len(indices) else 0):
        slope = objective.slope(z, indices, _softplus)
        best_points.note_gradient(slope.gradient, indices)
        best_points.update(z, indices, slope.margin)
        mean, scale = moments.add(slope.gradient)
        size = step_size * reduction ** (k / steps)
        z = project_into(region, z - size * mean / scale)
        stiffest = scale.flatten(1).amax(1)
        weight = (1 - share) / share * size / stiffest
        z = _proximal_step(best_points, z, scale / along(stiffest, z), weight)
        fall = 0.1 + 0.9 * (steps - 1 - k) / max(steps - 1, 1)
        limit = -math.log(numbers.smallest_ratio)
        nu = (nu + dual_step_size * fall * slope.margin.sign()).clamp(-limit, limit)
        share = numbers.average * share + (1 - numbers.average) * sigmoid(nu)
        best_points.step()
    return best_points.result()


def _proximal_step(best_points: BestPoints, z: Tensor, metric: Tensor, weight: Tensor) -> Tensor:
    """Lower ``½‖u − z‖²_metric + weight·‖u − x‖_p`` over the range, by a few proximal steps in the plain metric."""
    s = best_points.objective.numbers(PdpgdSettings)
    objective, indices = best_points.objective, best_points.objective.todo
    region, center, wanted = objective.region.take(indices), objective.x[indices], z
    going = torch.ones_like(weight, dtype=torch.bool)
    for _ in range(s.iterations):
        inner = z - metric * (z - wanted)
        moved = project_into(region, center + _proximal(inner - center, weight, objective.norm))
        moved = torch.where(along(going, z), moved, z)
        change, length = (moved - z).flatten(1).norm(dim=1), (moved - center).flatten(1).norm(dim=1)
        z, going = moved, going & (change > s.settled * length)
        if not bool(going.any()):
            break
    return z


def _softplus(answer: Answer, indices: Tensor, which: Tensor) -> Tensor:
    return softplus(answer.margin)


def _proximal(delta: Tensor, weight: Tensor, norm: Norm) -> Tensor:
    """``argmin_u ½‖u − δ‖₂² + weight·‖u‖_p`` for weights ``(L,)``; p = 0: ``Σ|u_i|^{2/3}`` in place of the norm."""
    if norm.counts:
        return _two_thirds(delta, along(weight, delta))
    return norm.proximal(delta.flatten(1), weight).reshape(delta.shape)


def _two_thirds(delta: Tensor, threshold: Tensor) -> Tensor:
    """The closed form of Cao, Sun and Xu 2013 (Journal of Visual Communication and Image Representation 24(1))."""
    lam, size = 2 * threshold.clamp(min=1e-12), delta.abs()
    over = size > 2 / 3 * power(3 * lam**3, 0.25)
    ratio = torch.where(over, 27 / 16 * size.square() * power(lam, -1.5), 2.0)
    third = power(ratio + (ratio.square() - 1).sqrt(), 1 / 3)  # cosh(acosh(ratio)/3) is its mean with its inverse
    a = 2 / math.sqrt(3) * power(lam, 0.25) * ((third + 1 / third) / 2).sqrt()
    root = (2 * torch.where(over, size, 1.0) / a - a.square()).clamp(min=0).sqrt()
    return torch.where(over, delta.sign() * ((a + root) / 2) ** 3, 0.0)
