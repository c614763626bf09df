"""APGD: gradient steps whose size halves where progress stalls, so that there is no step size to choose."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from clinch.attacks.core.arguments import Attacked, attack_method, objective_of, radius_of
from clinch.attacks.core.batches import along
from clinch.attacks.core.best_points import BestPoints, Progress
from clinch.attacks.core.losses import loss_of
from clinch.attacks.core.restarts import BallRuns, End, Start, ask, starts
from clinch.attacks.core.result import AttackResult
from clinch.attacks.core.settings import AttackSettings, Fields
from clinch.errors import ProblemError
from clinch.geometry.directions import sparse_direction, steepest_direction, with_room
from clinch.geometry.projection import project_into
from clinch.solver.settings import Positive, Share, Triple


@dataclass(frozen=True)
class ApgdSettings(AttackSettings):
    """Of :func:`apgd`.

    Attributes:
        own: share of a step that is its own, the rest is momentum.
        gaining: share of the steps that have to gain between checkpoints.
        stage_shares: for p = 1, of the steps in a ball of so many radii each, ``stage_radii``.
        share: for p = 1, first share of elements that move.
        shrink: factor by which their number and the step shrink.
        smallest: smallest step in first ones.
    """

    own: Share = 0.75
    gaining: Share = 0.75
    stage_shares: Triple = (0.3, 0.3, 0.4)
    stage_radii: Triple = (3.0, 2.0, 1.0)
    share: Share = 0.2
    shrink: Positive = 1.5
    smallest: Share = 0.1


@attack_method
def apgd(
    net: Attacked,
    x: Tensor | None = None,
    y: Tensor | None = None,
    *,
    eps: float | Tensor | None = None,
    norm: float = torch.inf,
    steps: int = 100,
    loss: str | None = None,
    targets: int = 0,
    restarts: int = 1,
    random_start: bool | None = None,
    settings: ApgdSettings | Fields | None = None,
    target: Tensor | int | None = None,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    seed: int = 0,
    history: bool = False,
    progress: Progress | None = None,
) -> AttackResult:
    """Follow the gradient with momentum, and where it stalls go back to the best point with half the step.

    ``u = P(z_k − η·v(∇L)),   z_{k+1} = P(z_k + .75·(u − z_k) + .25·(z_k − z_{k−1}))`` from ``η = 2·eps``, with
    checkpoints that come closer together: Croce and Hein 2020 (arXiv 2003.01690, algorithm 1). For p = 1 Croce and Hein
    2021 (arXiv 2103.01208, algorithm 1): equal changes of the best elements, whose number follows that of the best
    point, in balls of 3, 2 and 1 eps. We differ in that the momentum starts anew after a return to the best point, and
    in that elements which the range does not let move are not chosen. With ``loss="dlr"`` and ``targets=9`` it is
    APGD-T; targets, restarts and inputs run at the same time, and an input leaves as soon as its goal is reached.

    Args:
        norm: 1, 2 or ``cl.inf``.
        steps: gradient steps of each run.
        targets: aim at so many of the nearest classes, one run each; 0: at none alone.
        restarts: runs for each of those; all but the first start at random points of the ball.
        random_start: whether the first does so too; None: only where there are several.

    Example:
        >>> apgd(net, x, y, eps=0.1, loss="dlr", targets=9).success.double().mean()
        tensor(0.6250, dtype=torch.float64)
    """
    numbers = ApgdSettings.of(settings)
    if steps < 1 or restarts < 1 or targets < 0:
        raise ProblemError(f"steps={steps} and restarts={restarts} must be at least 1, targets={targets} at least 0.")
    objective = objective_of(net, x, y, target=target, bounds=bounds, norm=norm)
    radius, _ = radius_of(objective, eps), loss_of(objective.query, loss)
    if objective.norm.counts:
        raise ProblemError(
            "APGD has no step for norm=0. Take clinch.attacks.frank_wolfe or pgd, or norm 1, 2 or cl.inf."
        )
    best_points = BestPoints(objective, settings=numbers, record=history, progress=progress, steps=steps)
    start = starts(
        best_points, radius, targets=targets, restarts=restarts, draws=objective.draws(seed),
        noisy=restarts > 1 if random_start is None else random_start,
    )  # fmt: skip
    adaptive_steps(best_points, start, radius, steps, loss)
    return best_points.result(radius)


def adaptive_steps(best_points: BestPoints, start: Start, radius: Tensor, steps: int, loss: str | None) -> End:
    """The iteration on L runs; those whose input reaches its goal leave.

    Args:
        best_points: the attack.
        start: where runs begin.
        radius: ``(B,)``.
        steps: number of steps.
        loss: its name.
    """
    s = best_points.objective.numbers(ApgdSettings)
    if not best_points.objective.norm.sparse:
        runs = BallRuns(best_points.objective, start, radius, 2 * radius)
        return _dense_steps(best_points, runs, steps, loss)
    end, left = End(start, start.z, start.z.new_empty(0)), steps
    for stage, (share, factor) in enumerate(zip(s.stage_shares, s.stage_radii)):
        count = left if factor == 1 else round(share * steps)
        left -= count
        reach = factor * radius
        ball = best_points.objective.within(reach[start.indices], start.indices)
        runs = BallRuns(best_points.objective, start._replace(z=project_into(ball, start.z)), reach, reach)
        end = _sparse_steps(best_points, runs, count, loss, radius, reach, fresh=stage == 0)
        start = end.start._replace(z=end.z)
    return end


def _dense_steps(best_points: BestPoints, runs: BallRuns, steps: int, loss: str | None) -> End:
    """p = 2 and infinity."""
    s = best_points.objective.numbers(ApgdSettings)
    marks, last, checked, free = _checkpoints(steps), 0, runs.least, torch.zeros_like(runs.indices, dtype=torch.bool)
    gains = torch.zeros_like(runs.indices)
    for k in range(steps):
        before = runs.loss
        going = ask(best_points, runs, loss)
        gains, checked, free, before = gains[going], checked[going], free[going], before[going]
        if not len(runs.indices):
            break
        gains = gains + (runs.loss < before)
        if k in marks:
            stalled = (gains < s.gaining * (k - last)) | (free & (runs.least >= checked))
            runs.go_back(stalled)
            runs.size = torch.where(stalled, runs.size / 2, runs.size)
            last, checked, free, gains = k, runs.least, ~stalled, torch.zeros_like(gains)
        z, direction = runs.z, steepest_direction(runs.gradient, best_points.objective.p)
        new = project_into(runs.ball, z - along(runs.size, z) * direction)
        own = s.own if k else 1.0
        new = project_into(runs.ball, z + own * (new - z) + (1 - own) * (z - runs.previous))
        runs.z, runs.previous = new, z
        best_points.step()
    return runs.finish(best_points)


def _sparse_steps(
    best_points: BestPoints, runs: BallRuns, steps: int, loss: str | None, radius: Tensor, reach: Tensor, fresh: bool
) -> End:
    """p = 1, in a ball that may be larger than the attack's."""
    s = best_points.objective.numbers(ApgdSettings)
    objective = best_points.objective
    size, changed = runs.z.shape[1:].numel(), runs.changed()
    count = torch.full_like(changed, s.share * size) if fresh else (changed / s.shrink).clamp(min=1)
    every = max(round(0.04 * steps), 1)
    for k in range(steps):
        going = ask(best_points, runs, loss, radius)
        count, changed = count[going], changed[going]
        if not len(runs.indices):
            break
        if k and k % every == 0:
            now, full = runs.changed(), reach[runs.indices].to(runs.z)
            shrunk = now < 0.95 * changed
            count, changed = (now / s.shrink).clamp(min=1), now
            runs.size = torch.where(shrunk, full, torch.maximum(runs.size / s.shrink, s.smallest * full))
            runs.go_back(shrunk)
        z = runs.z
        open_ = with_room(runs.gradient, z, objective.region.take(runs.indices))
        runs.z = project_into(runs.ball, z - along(runs.size, z) * sparse_direction(open_, count))
        best_points.step()
    return runs.finish(best_points, radius)


def _checkpoints(steps: int) -> set[int]:
    """``p_{j+1} = p_j + max(p_j − p_{j−1} − .03, .06)`` of the steps, from .22."""
    marks, share, gap = set(), 0.0, 0.22
    while share < 1:
        share += gap
        marks.add(math.ceil(round(share * steps, 6)))
        gap = max(gap - 0.03, 0.06)
    return marks
