"""Projected gradient with normalised, shrinking steps over the region: linear objectives and norms of outputs.

    d = ∇objective/‖·‖ [+ the unit gradients of the violated clauses]
    z ← project(z − s·η·d)                              boxes and Euclidean balls; d is the sign for boxes
    z ← z + s·(L(−d) − z)                               p = 0 and 1: towards the extreme point of the ball

with η the region's own size and s by cosine decay from 1 to 0, from many starts at once. The decay is what lets plain
gradient steps settle instead of cycling around the optimum.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from clinch.attacks.core.arguments import lowering_objective
from clinch.attacks.core.attack_query import Answer
from clinch.attacks.core.batches import along
from clinch.attacks.core.best_points import BestPoints, Progress
from clinch.attacks.core.draws import Draws
from clinch.attacks.core.gradient_steps import cosine, together
from clinch.attacks.core.objective import AttackObjective
from clinch.attacks.core.result import AttackResult, HasQuery
from clinch.attacks.core.settings import AttackSettings, Fields
from clinch.attacks.core.units import TYPICAL
from clinch.errors import ProblemError
from clinch.geometry.directions import linear_maximiser, steepest_direction
from clinch.geometry.projection import project_into
from clinch.geometry.region import Ball, Region
from clinch.query import Query
from clinch.runtime.gradients import with_gradients
from clinch.solver.settings import Positive, Some


@dataclass(frozen=True)
class MinimiseSettings(AttackSettings):
    """Of :func:`minimise`.

    Attributes:
        runs: of each problem, for each start asked for.
        memory: elements of all runs together.
        out: weight of the way out of violated clauses beside the objective: where both pull against each other the
            clause has to win.
    """

    runs: Some = 12
    memory: Some = 1 << 23
    out: Positive = 2.0


@with_gradients
def minimise(
    problem: HasQuery | Query,
    *,
    steps: int = 100,
    starts: int = 2,
    settings: MinimiseSettings | Fields | None = None,
    seed: int = 0,
    history: bool = False,
    progress: Progress | None = None,
) -> AttackResult:
    """Minimise the objective over the region, by itself and for any objective.

    Args:
        problem: a problem, or its normal form.
        steps: gradient steps per run.
        starts: groups of 12 random starts per problem; the first start is the region's reference point.
        settings: the numbers that the method was tuned with: an object, or its fields by name; results record them.
        seed: of the random starts.
        history: whether to keep the course of the attack; its distances are the objective.
        progress: called after each step with the numbers of steps done and planned.

    Returns:
        Points, feasibility, values and row counts; see :class:`AttackResult`.

    Raises:
        ProblemError: steps or starts below 1.

    Example:
        >>> -minimise(cl.Problem(cl.Maximize(net.output[0]), [net.input >= -1, net.input <= 1])).value
        tensor([37.2140], dtype=torch.float64)
    """
    numbers = MinimiseSettings.of(settings)
    if min(steps, starts) < 1:
        raise ProblemError(f"steps={steps} and starts={starts} must be at least 1.")
    objective = lowering_objective(problem)
    best_points = BestPoints(objective, settings=numbers, record=history, progress=progress, steps=steps + 1)
    minimise_steps(objective, best_points, count=numbers.runs * starts, steps=steps, draws=objective.draws(seed))
    return best_points.result()


def minimise_steps(
    objective: AttackObjective,
    best_points: BestPoints,
    *,
    count: int,
    steps: int,
    draws: Draws,
    first: Tensor | None = None,
) -> None:
    """Run the method for all problems of a goal, ``count`` runs each; what is found goes to its track.

    ``first``: points of the region, ``(B, *input_shape)``, where the first run of each problem begins instead of at
    the region's reference point.
    """
    size, memory = max(1, objective.x[0].numel()), objective.numbers(MinimiseSettings).memory
    sharing = (
        objective.size if best_points.ledger is not None else 1
    )  # under one limit of time all get their turn, with less
    count = max(1, min(count, memory // (size * max(1, sharing))))
    start = objective.start if first is None else first.to(objective.x)
    for problems in torch.arange(objective.size, device=objective.x.device).split(max(1, memory // (size * count))):
        indices = problems.repeat_interleave(count)
        z = random_starts(objective.region.take(indices), start[indices], count, draws.runs(indices))
        _descend(objective, best_points, indices, z, steps)


def _descend(objective: AttackObjective, best_points: BestPoints, indices: Tensor, z: Tensor, steps: int) -> None:
    """All steps of runs ``(L,)`` from z."""
    region = objective.region.take(indices)
    scale, out = _reach(region), objective.numbers(MinimiseSettings).out
    for k in range(steps + 1):
        slopes = objective.slopes(z, indices, _losses if objective.query.clauses else _value)
        best_points.note_gradient(slopes.gradients, indices)
        best_points.update(z, indices, slopes.margin, slopes.losses[:, 0])
        best_points.step()
        if k == steps or best_points.exhausted:
            return
        direction = _direction(slopes.losses, slopes.gradients, out)
        moved = _step(region, z, direction, cosine(1.0, 0.0, k, steps + 1), scale)
        z = torch.where(torch.isfinite(moved), moved, z)


def _value(answer: Answer, which: Tensor) -> Tensor:
    """The objective alone."""
    assert answer.value is not None
    return answer.value.unsqueeze(1)


def _losses(answer: Answer, which: Tensor) -> Tensor:
    """The objective first, then what must become negative."""
    return torch.cat([_value(answer, which), answer.conditions()], 1)


def _direction(losses: Tensor, gradients: Tensor, weight: float) -> Tensor:
    """Downhill of the objective, plus the way out of violated clauses with some weight."""
    own = together(losses[:, :1], gradients[:, :1])
    if losses.shape[1] == 1 or bool((losses[:, 1:] <= 0).all()):
        return -own
    unmet = losses[:, 1:].amax(1) > 0
    out = together(losses[:, 1:], gradients[:, 1:])
    return -(own + along(weight * unmet.to(out), out) * together(losses[:, :1], out.unsqueeze(1)))


def _step(region: Region, z: Tensor, direction: Tensor, size: float, scale: Tensor) -> Tensor:
    """One step of relative length ``size`` in (0, 1]."""
    ball = region.balls[0] if region.balls else None
    finite = None if ball is None else torch.isfinite(ball.radius)
    if ball is None or finite is None or not bool(finite.all()):
        wide = project_into(region, z + size * scale * steepest_direction(direction, torch.inf))
        if ball is None or finite is None or not bool(finite.any()):
            return wide
        return torch.where(along(finite, z), _ball_step(region, ball, z, direction, size), wide)
    return _ball_step(region, ball, z, direction, size)


def _ball_step(region: Region, ball: Ball, z: Tensor, direction: Tensor, size: float) -> Tensor:
    if ball.norm.smooth:
        length = along(ball.radius, z)
        return project_into(region, z + size * length * steepest_direction(direction, ball.norm, ball.weights))
    extreme = linear_maximiser(direction, region.lower, region.upper, ball)
    extreme = torch.where(torch.isfinite(extreme), extreme, z)
    return project_into(region, extreme if ball.norm.counts else z + size * (extreme - z))


def _reach(region: Region) -> Tensor:
    """Half the width of the box, element by element."""
    half = (region.upper - region.lower) / 2
    return torch.where(torch.isfinite(half), half, torch.full_like(half, TYPICAL))


def random_starts(region: Region, anchor: Tensor, count: int, draws: Draws) -> Tensor:
    """For each problem the reference point first, then ``count − 1`` points drawn uniformly from the box and brought
    into the region; regions and anchors ``(L, *input_shape)``, those of a problem beside each other."""
    draw = draws.uniform(anchor)
    width = region.upper - region.lower
    spread = torch.where(torch.isfinite(width), region.lower + draw * width, anchor + (2 * draw - 1) * TYPICAL)
    z = project_into(region, spread)
    for ball in region.balls:
        z = _inside(ball, z, anchor, draw.flatten(1)[:, 0])
    first = torch.arange(len(z), device=z.device) % count == 0
    return torch.where(along(first, z), anchor, project_into(region, z))


def _inside(ball: Ball, z: Tensor, anchor: Tensor, share: Tensor) -> Tensor:
    """Not all starts on the sphere: a random part of the way back to the anchor."""
    if ball.norm.counts:
        return z
    return anchor + along(share, z) * (z - anchor)
