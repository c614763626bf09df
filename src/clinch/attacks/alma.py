"""ALMA: an augmented Lagrangian of distance and margin, with step sizes that adapt (p = 1 and 2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from clinch.attacks.core.arguments import Attacked, attack_method, check_norm, objective_of
from clinch.attacks.core.attack_query import Answer, Loss
from clinch.attacks.core.batches import along
from clinch.attacks.core.best_points import BestPoints, Progress
from clinch.attacks.core.classification import ClassQuery
from clinch.attacks.core.draws import Draws
from clinch.attacks.core.losses import spread
from clinch.attacks.core.objective import AttackObjective
from clinch.attacks.core.result import AttackResult
from clinch.attacks.core.settings import AttackSettings, Fields
from clinch.errors import ProblemError
from clinch.geometry.directions import steepest_direction
from clinch.geometry.elementwise import power
from clinch.geometry.norms import norm_of
from clinch.geometry.projection import project_into
from clinch.geometry.roots import saturating_root
from clinch.solver.settings import Positive, Share

#: distance of the first step, by norm
FIRST_DISTANCE = {1.0: 0.5, 2.0: 0.1}
#: the paper's settings, see :func:`alma`
REDUCTION, AVERAGE, CHECK_EVERY, GROWTH, IMPROVEMENT = 0.01, 0.9, 10, 1.2, 0.95


@dataclass(frozen=True)
class AlmaSettings(AttackSettings):
    """Of :func:`alma`, besides its arguments.

    Attributes:
        smallest: limits of the multiplier, with ``largest``.
        inside: what a point beyond the boundary has to show, in units of the loss, before the multiplier falls.
    """

    smallest: Positive = 1e-6
    largest: Positive = 1e12
    inside: Share = 1e-4


@attack_method
def alma(
    net: Attacked,
    x: Tensor | None = None,
    y: Tensor | None = None,
    *,
    norm: float = 2.0,
    steps: int = 1000,
    first_distance: float | None = None,
    reduction: float = REDUCTION,
    average: float = AVERAGE,
    check_every: int = CHECK_EVERY,
    growth: float = GROWTH,
    improvement: float = IMPROVEMENT,
    settings: AlmaSettings | Fields | None = None,
    target: Tensor | int | None = None,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    seed: int = 0,
    history: bool = False,
    progress: Progress | None = None,
) -> AttackResult:
    """A small ℓ1 or ℓ2 perturbation by an augmented Lagrangian method.

    ``min ‖δ‖_p + P(r, ρ, μ)`` with the difference-of-logits ratio ``r = m/(z_π1 − z_π3)`` and the penalty
    ``P = μr + μρr² + ρ²r³/6`` for r ≥ 0, ``μr/(1 − ρr)`` below. δ follows RMSProp with momentum;
    ``μ ← α·μ + (1−α)·∂P/∂r``; ``ρ ← γ·ρ`` where M steps without a success have not brought r below τ times its value.
    Rony et al. 2021 (arXiv 2011.11857, algorithm 1; penalty P2). The first step size is that which moves by
    ``first_distance``; after the first success it falls to ``reduction`` of that, so that the last few percent of the
    distance need many steps. Where we differ: that step size is exact instead of by bisection, and a problem, or a
    classifier of two classes, for which the ratio says nothing, takes the margin over its value at x for r.

    Args:
        norm: 1 or 2.
        steps: one pass forward and one backward each.
        first_distance: length of the first step; None: 0.5 for p = 1, 0.1 for p = 2 (ours, for images).
        reduction: last step size over the first.
        average: α, also the decay of RMSProp and its momentum.
        check_every: M.
        growth: γ.
        improvement: τ.
        seed: of the random direction that stands for a gradient of zero in the first step.

    Example:
        >>> alma(net, x, y, norm=2, steps=120).distance.median()
        tensor(0.4866, dtype=torch.float64)
    """
    numbers = AlmaSettings.of(settings)
    if steps < 1 or check_every < 1 or (first_distance is not None and first_distance <= 0):
        raise ProblemError(
            f"steps={steps}, check_every={check_every}, first_distance={first_distance}: must be positive."
        )
    objective = check_norm(objective_of(net, x, y, target=target, bounds=bounds, norm=norm), "ALMA", (1.0, 2.0))
    first = FIRST_DISTANCE[objective.p] if first_distance is None else first_distance
    best_points = BestPoints(objective, settings=numbers, record=history, progress=progress, steps=steps)
    penalty = _Penalty(objective, steps, average, check_every, growth, improvement)
    if len(objective.todo):
        _descend(best_points, penalty, steps, first, reduction, objective.draws(seed), objective.p)
    return best_points.result()


def lagrangian_steps(best_points: BestPoints, steps: int, draws: Draws) -> None:
    """ALMA's steps with its usual settings as a part of another attack, on all inputs that are not done yet.

    Where p is neither 1 nor 2 the points are those near in ℓ1 (p = 0) or ℓ2 (p = ∞), a start for others.

    Args:
        best_points: receives the points.
        steps: one pass forward and one backward each.
        draws: ``(B,)`` of the direction that stands for a gradient of zero in the first step.
    """
    objective = best_points.objective
    if steps > 0 and len(objective.todo):
        p = 1.0 if objective.norm.sparse else 2.0
        penalty = _Penalty(objective, steps, AVERAGE, CHECK_EVERY, GROWTH, IMPROVEMENT)
        _descend(best_points, penalty, steps, FIRST_DISTANCE[p], REDUCTION, draws, p)


def _descend(
    best_points: BestPoints, penalty: _Penalty, steps: int, first: float, reduction: float, draws: Draws, p: float
) -> None:
    """RMSProp with momentum on ``‖δ‖_p + P``."""
    s = best_points.objective.numbers(AlmaSettings)
    objective, indices, average = best_points.objective, best_points.objective.todo, penalty.average
    z, region, function = best_points.x[indices], objective.region.take(indices), _ratio(objective)
    squares, momentum = torch.ones_like(z), torch.zeros_like(z)
    size = scale = torch.ones_like(best_points.distance[indices])
    for k in range(steps):
        slope = objective.slope(z, indices, function)
        best_points.note_gradient(slope.gradient, indices)
        best_points.update(z, indices, slope.margin)
        if k == 0 and function is None:
            scale = slope.loss.abs().clamp(min=torch.finfo(scale.dtype).tiny)
        pull = penalty.update(slope.loss / scale + s.inside, slope.margin < 0, k)
        gradient = along(pull / scale, z) * slope.gradient
        if k == 0:
            blind = along(gradient.flatten(1).norm(dim=1) <= 1e-6, z)
            gradient = torch.where(blind, steepest_direction(draws.take(indices).normal(z), 2), gradient)
        else:
            gradient = gradient + _outwards(z - objective.x[indices], p)
        squares = average * squares + (1 - average) * gradient.square()
        change = gradient / (squares.sqrt() + 1e-8)
        if k == 0:
            size = _first_size(objective, z, indices, change, first, p)
        momentum = average * momentum + change
        since = penalty.found_at
        fall = power(torch.full_like(since, reduction), (k - since).clamp(min=0) / (steps - since).clamp(min=1))
        z = project_into(region, z - along(size * fall, z) * momentum)
        best_points.step()
        if best_points.exhausted:
            break


class _Penalty:
    """``P(r, ρ, μ)`` of each run with its multiplier μ and parameter ρ.

    Attributes:
        found_at: ``(L,)`` step of the first success, the number of steps before there is one.
    """

    def __init__(
        self,
        objective: AttackObjective,
        steps: int,
        average: float,
        check_every: int,
        growth: float,
        improvement: float,
    ) -> None:
        self.objective = objective
        self.average, self.check_every, self.growth, self.improvement = average, check_every, growth, improvement
        self.mu = self.rho = self.reference = objective.x.new_ones(len(objective.todo))
        self.found_at, self.steps = self.mu * steps, steps

    def update(self, r: Tensor, inside: Tensor, k: int) -> Tensor:
        """Adapt both at step k; returns ``∂P/∂r``."""
        s = self.objective.numbers(AlmaSettings)
        self.found_at = torch.where(inside & (self.found_at == self.steps), float(k), self.found_at)
        if k == 0:
            self.reference = r
            return self._pull(r)
        if (k + 1) % self.check_every == 0:
            stuck = (self.found_at == self.steps) & (r >= self.improvement * self.reference)
            self.rho = torch.where(stuck, self.growth * self.rho, self.rho)
            self.reference = r
        self.mu = (self.average * self.mu + (1 - self.average) * self._pull(r)).clamp(s.smallest, s.largest)
        return self._pull(r)

    def _pull(self, r: Tensor) -> Tensor:
        outside = self.mu + 2 * self.mu * self.rho * r + self.rho.square() * r.square() / 2
        return torch.where(r >= 0, outside, self.mu / (1 - self.rho * r.clamp(max=0)).square())


def _ratio(objective: AttackObjective) -> Loss | None:
    """The margin over the spread of the largest logits; None where there are too few of them."""
    query = objective.query
    targeted = isinstance(query, ClassQuery) and query.target is not None
    if not isinstance(query, ClassQuery) or query.classes < (4 if targeted else 3):
        return None

    def loss(answer: Answer, indices: Tensor, which: Tensor) -> Tensor:
        assert answer.logits is not None
        below = spread(answer.logits, targeted)
        return answer.margin if below is None else answer.margin / below

    return loss


def _outwards(delta: Tensor, p: float) -> Tensor:
    """Gradient of ``‖δ‖_p``."""
    return delta.sign() if norm_of(p).sparse else steepest_direction(delta, 2)


def _first_size(
    objective: AttackObjective, z: Tensor, indices: Tensor, change: Tensor, distance: float, p: float
) -> Tensor:
    """The step size at which ``clip(z − size·change) − z`` has the given length, as near to it as the range allows."""
    region, change = objective.region.take(indices), change.flatten(1)
    room = torch.where(change > 0, z.flatten(1) - region.lower.flatten(1), region.upper.flatten(1) - z.flatten(1))
    degree = int(p)
    rate = change.abs().pow(degree)
    high = torch.where(change == 0, 0.0, room.clamp(min=0).pow(degree))
    target = torch.minimum(torch.full_like(rate[:, 0], distance**degree), high.sum(1))
    size = saturating_root(rate, None, high, target)[0].pow(1 / degree)
    return torch.where(size.isfinite(), size, 0.0)
