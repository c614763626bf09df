"""APGD as a minimum-norm attack: a binary search over the radius of its ball, for each input."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from clinch.attacks.apgd import ApgdSettings, adaptive_steps
from clinch.attacks.core.arguments import Attacked, attack_method, check_norm, nearest_objective_of
from clinch.attacks.core.best_points import BestPoints, Progress, line_search_to_input
from clinch.attacks.core.classification import ClassQuery
from clinch.attacks.core.draws import Draws
from clinch.attacks.core.losses import loss_of
from clinch.attacks.core.objective import AttackObjective
from clinch.attacks.core.restarts import starts
from clinch.attacks.core.result import AttackResult
from clinch.attacks.core.settings import Fields
from clinch.attacks.linear_model import ratios
from clinch.errors import ProblemError

#: factor of radii that were too small while none is known to be large enough, and how near to the last point found
#: the next radius is at most
GROWTH, NEARER = 2.0, 0.98
#: what is lowered for labels
LOSS = "probability margin"


@attack_method
def minimal_apgd(
    net: Attacked,
    x: Tensor | None = None,
    y: Tensor | None = None,
    *,
    norm: float = torch.inf,
    steps: int = 20,
    searches: int = 10,
    halvings: int = 5,
    loss: str | None = LOSS,
    targets: int = 0,
    settings: ApgdSettings | Fields | None = None,
    target: Tensor | int | None = None,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    seed: int = 0,
    history: bool = False,
    progress: Progress | None = None,
) -> AttackResult:
    """The smallest ball in which APGD finds something, by bisection: one run of :func:`apgd` for each radius.

    ``r ← (r₋ + r₊)/2``, with r₋ the largest radius without success and r₊ the distance of the nearest point found;
    ``2·r₋`` while there is none. APGD is that of Croce and Hein 2020 (arXiv 2003.01690); its search over radii is among
    the best ℓ∞ attacks in Cinà et al. 2025 (arXiv 2404.19460, AttackBench). Where we differ from the implementations
    measured there: the first radius is the distance of the linearised boundary instead of the largest one possible, an
    input that falls leaves its run at once, r₊ is the distance found, drawn back on its ray, instead of the radius,
    every other run starts at random, and the loss is that of Xie et al. 2024 (arXiv 2411.15210), for a problem the
    margin.

    Args:
        norm: 1, 2 or ``cl.inf``.
        steps: of APGD for each radius; ``searches`` radii, and ``halvings`` of the way back after each.
        searches: see there.
        halvings: see there.
        targets: aim at so many of the nearest classes, one run each; 0: at none alone.

    Example:
        >>> minimal_apgd(net, x, y).distance.median()
        tensor(0.0901, dtype=torch.float64)
    """
    numbers = ApgdSettings.of(settings)
    if min(steps, searches) < 1 or min(halvings, targets) < 0:
        raise ProblemError(
            f"steps={steps} and searches={searches} must be at least 1, halvings={halvings} and targets={targets} at "
            "least 0."
        )
    objective = check_norm(
        nearest_objective_of(net, x, y, target=target, bounds=bounds, norm=norm), "APGD", (1.0, 2.0, torch.inf)
    )
    loss = loss if isinstance(objective.query, ClassQuery) or loss != LOSS else "margin"
    loss_of(objective.query, loss)
    best_points = BestPoints(objective, settings=numbers, record=history, progress=progress, steps=searches)
    radius = _first(best_points)
    low, high = torch.zeros_like(radius), best_points.distance.double()
    draws = objective.draws(seed)
    for k in range(searches if len(objective.todo) else 0):
        found = _run(best_points, radius, steps, loss, targets, halvings, draws.at(k), noisy=k % 2 == 1)
        low = torch.where(found, low, torch.maximum(low, radius))
        high = best_points.distance.double()
        low = torch.minimum(low, high)
        radius = torch.where(high.isfinite(), torch.minimum((low + high) / 2, NEARER * high), GROWTH * radius)
        radius = radius.clamp(min=torch.finfo(objective.x.dtype).tiny)
        best_points.step()
    return best_points.result()


def _first(best_points: BestPoints) -> Tensor:
    """Radii ``(B,)`` that reach the linearised boundary."""
    objective = best_points.objective
    indices, radius = objective.todo, objective.x.new_ones(objective.size, dtype=torch.float64)
    if len(indices):
        slope = objective.slope(objective.start[indices], indices)
        best_points.note_gradient(slope.gradient, indices)
        reach = ratios(objective, indices, slope.margin.unsqueeze(1), slope.gradient.unsqueeze(1)).squeeze(1)
        radius[indices] = torch.where(reach.isfinite() & (reach > 0), reach, 1.0)
    return radius


def _run(
    best_points: BestPoints, radius: Tensor, steps: int, loss: str | None, targets: int, halvings: int, draws: Draws,
    noisy: bool,
) -> Tensor:  # fmt: skip
    """APGD in balls of radii ``(B,)``; whether it found something there ``(B,)``."""
    objective = best_points.objective
    rest: AttackObjective = copy.copy(objective)  # counts its passes in the same place
    own = BestPoints(rest, settings=objective.settings)
    adaptive_steps(own, starts(own, radius, targets=targets, draws=draws, noisy=noisy), radius, steps, loss)
    line_search_to_input(own, halvings)
    found = own.success & (own.distance.double() <= radius * (1 + 1e-6))
    near = objective.todo[found[objective.todo]]
    if len(near):
        best_points.update(own.x[near], near, own.margin[near])
    best_points.note_gradients_of(own)
    return found
