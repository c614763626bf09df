"""Frank-Wolfe with averaged gradients: steps towards the extreme points of a ball."""

from __future__ import annotations

import torch
from torch import Tensor

from clinch.attacks.core.arguments import Attacked, attack_method, objective_of, radius_of
from clinch.attacks.core.batches import along
from clinch.attacks.core.best_points import BestPoints, Progress
from clinch.attacks.core.gradient_steps import cosine
from clinch.attacks.core.losses import loss_of
from clinch.attacks.core.restarts import BallRuns, End, Start, ask, starts
from clinch.attacks.core.result import AttackResult
from clinch.errors import ProblemError
from clinch.geometry.directions import linear_maximiser
from clinch.geometry.projection import project_into
from clinch.geometry.region import Region


@attack_method
def frank_wolfe(
    net: Attacked,
    x: Tensor | None = None,
    y: Tensor | None = None,
    *,
    eps: float | Tensor | None = None,
    norm: float = torch.inf,
    steps: int = 100,
    average: float = 0.8,
    last: float = 0.05,
    loss: str | None = "margin",
    targets: int = 0,
    restarts: int = 1,
    target: Tensor | int | None = None,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    seed: int = 0,
    history: bool = False,
    progress: Progress | None = None,
) -> AttackResult:
    """Go a share of the way to the point of the ball where the averaged gradient promises the least loss.

    ``G ← a·G + (1−a)·∇L/‖∇L‖₂,   z ← z + s·(argmin_{v ∈ ball ∩ range} <G, v> − z)`` after Frank and Wolfe 1956; with
    averaged gradients Chen et al. 2018 (arXiv 1811.10828). We differ from them in that s falls from 1 to ``last`` and
    a grows from 0 to ``average``, both along half a cosine, in exact extreme points of ball ∩ range, and in p = 0,
    where s stays 1 since points between extreme points change more elements. No projection is needed, and early steps
    are as long as the ball: that helps where the gradient at x misleads, on adversarially trained networks.

    Args:
        steps: steps of each run.
        average: a at the end.
        last: s at the end.
        targets: aim at so many of the nearest classes, all at the same time; 0: at none alone.
        restarts: runs at the same time; all but the first start at random points of the ball.

    Example:
        >>> frank_wolfe(net, x, y, eps=0.25, targets=4).success.double().mean()
        tensor(1., dtype=torch.float64)
    """
    if steps < 1 or restarts < 1 or targets < 0:
        raise ProblemError(f"steps={steps} and restarts={restarts} must be at least 1, targets={targets} at least 0.")
    if not (0 <= average < 1 and 0 < last <= 1):
        raise ProblemError(f"average={average} must lie in [0, 1) and last={last} in (0, 1].")
    objective = objective_of(net, x, y, target=target, bounds=bounds, norm=norm)
    radius, _ = radius_of(objective, eps), loss_of(objective.query, loss)
    best_points = BestPoints(objective, record=history, progress=progress, steps=steps)
    start = starts(best_points, radius, targets=targets, restarts=restarts, draws=objective.draws(seed))
    extreme_steps(best_points, start, radius, steps, loss, average=average, last=last)
    return best_points.result(radius)


def extreme_steps(
    best_points: BestPoints, start: Start, radius: Tensor, steps: int, loss: str | None, *, average: float = 0.8,
    first: float = 1.0, last: float = 0.05,
) -> End:  # fmt: skip
    """The iteration on L runs; those whose input reaches its goal leave.

    Args:
        best_points: the attack.
        start: where runs begin.
        radius: ``(B,)``.
        steps: number of steps.
        loss: its name.
        average: weight a of past gradients in the last step.
        first: share s in the first step, ``last`` in the last.
        last: see there.
    """
    objective, runs, mean = (
        best_points.objective,
        BallRuns(best_points.objective, start, radius, radius),
        torch.zeros_like(start.z),
    )
    for k in range(steps):
        mean = mean[ask(best_points, runs, loss)]
        if not len(runs.indices):
            break
        z, gradient = runs.z, runs.gradient
        length = torch.linalg.vector_norm(gradient.flatten(1), dim=1)
        a = cosine(0.0, average, k, steps)
        mean = a * mean + (1 - a) * gradient / along(torch.where(length > 0, length, 1.0), gradient)
        share = 1.0 if objective.norm.counts else cosine(first, last, k, steps)
        runs.z = project_into(runs.ball, z + share * (_extreme_point(mean, z, runs.ball) - z))
        best_points.step()
    return runs.finish(best_points)


def _extreme_point(gradient: Tensor, z: Tensor, ball: Region) -> Tensor:
    """The point of ball ∩ range where the linear form is least; where the gradient is zero an element stays."""
    if ball.balls:
        return linear_maximiser(-gradient, ball.lower, ball.upper, ball.balls[-1])
    return torch.where(gradient > 0, ball.lower, torch.where(gradient < 0, ball.upper, z))
