"""Projected gradient with normalised, shrinking steps over the region: linear objectives and norms of outputs.

    d = ∇objective/‖·‖ [+ the unit gradients of the violated clauses]
    z ← project(z − s·η·d)                              boxes and Euclidean balls; d is the sign for boxes
    z ← z + s·(L(−d) − z)                               p = 0 and 1: towards the extreme point of the ball

with η the region's own size and s by cosine decay from 1 to 0, from many starts at once. The decay is what lets plain
gradient steps settle instead of cycling around the optimum.
"""

from __future__ import annotations

import torch
from torch import Tensor

from clinch.attacks.lanes import ANY, Lanes, Reading, lanes_of, tightened
from clinch.attacks.result import AttackResult, Best, HasQuery, query_of
from clinch.attacks.schedule import cosine
from clinch.attacks.shrinking import uphill
from clinch.geometry.directions import linear_maximiser, steepest_direction
from clinch.geometry.projection import project_into
from clinch.geometry.region import Ball, Region
from clinch.query import Query

#: lanes per problem for each start asked for
LANES_PER_START = 12
#: elements of all lanes together
MEMORY = 1 << 23
#: reach of a step where the box is unbounded
UNBOUNDED = 1.0


def minimise(problem: HasQuery | Query, *, steps: int = 100, starts: int = 2, seed: int = 0) -> AttackResult:
    """Minimise the objective over the region, by itself and for any objective.

    Args:
        problem: a problem, or its normal form.
        steps: gradient steps per lane.
        starts: groups of 12 random starts per problem; the first start is the region's reference point.
        seed: of the random starts.

    Returns:
        Points, feasibility, values and row counts; see :class:`AttackResult`.
    """
    best = Best(query_of(problem), "projected gradient")
    generator = torch.Generator().manual_seed(seed)
    count = LANES_PER_START * max(1, starts)
    minimise_steps(best, tightened(best), count=count, steps=steps, generator=generator)
    return best.result()


def minimise_steps(
    best: Best, tight: Query, *, count: int, steps: int, generator: torch.Generator, first: Tensor | None = None
) -> None:
    """Run the method for all problems of ``tight``, ``count`` lanes each; what is found goes to ``best``.

    ``first``: points of the region, ``(B, *input_shape)``, where the first lane of each problem begins instead of at
    the region's reference point.
    """
    size = max(1, tight.region.lower[0].numel())
    count = max(1, min(count, MEMORY // (size * max(1, tight.size))))
    problem = torch.arange(tight.size, device=tight.device).repeat_interleave(count)
    lanes = lanes_of(best, tight, problem, torch.full_like(problem, ANY))
    z = _starts(lanes, count, generator, first)
    scale = _reach(lanes.query.region)
    for k in range(steps + 1):
        conditions, slope = _read(lanes, z)
        if k == steps or best.exhausted:
            return
        direction = _direction(conditions, slope).reshape(z.shape)
        moved = _step(lanes.query.region, z, direction, cosine(1.0, 0.0, k, steps + 1), scale)
        z = torch.where(torch.isfinite(moved), moved, z)


def _read(lanes: Lanes, z: Tensor) -> tuple[Reading | None, Tensor]:
    """What the clauses say, and the gradient ``(L, n)`` of the objective; keeps feasible points."""
    z = z.detach().requires_grad_()
    with torch.enable_grad():
        value, _ = lanes.query.evaluate(z)
    reading = lanes.read(z.detach()) if lanes.query.clauses else None
    if reading is None:
        lanes.best.update(z, value, lanes.query.region.contains(z.detach()), lanes.problem)
    lanes.best.count(lanes.problem, forward=1, backward=1)
    if not value.requires_grad:
        return reading, torch.zeros_like(z).flatten(1)
    (slope,) = torch.autograd.grad(value.nan_to_num().sum(), z)
    return reading, slope.flatten(1).nan_to_num(0.0, 0.0, 0.0)


def _direction(reading: Reading | None, slope: Tensor) -> Tensor:
    """Downhill of the objective, plus the way out of violated clauses."""
    length = torch.linalg.vector_norm(slope, dim=1, keepdim=True)
    uphill_ = slope / torch.where(length > 0, length, 1.0)
    if reading is None:
        return -uphill_
    violated = ((reading.primary > 0) | (reading.secondary > 0)).unsqueeze(1)
    # twice the weight: where both pull against each other the clause has to win
    return -(uphill_ + torch.where(violated, 2 * uphill(reading), torch.zeros_like(uphill_)))


def _step(region: Region, z: Tensor, direction: Tensor, size: float, scale: Tensor) -> Tensor:
    """One step of relative length ``size`` in (0, 1]."""
    ball = region.balls[0] if region.balls else None
    if ball is None or not bool(torch.isfinite(ball.radius).all()):
        return project_into(region, z + size * scale * steepest_direction(direction, torch.inf))
    if ball.p == 2:
        length = ball.radius.view(-1, *[1] * (z.dim() - 1))
        return project_into(region, z + size * length * steepest_direction(direction, 2, ball.weights))
    extreme = linear_maximiser(direction, region.lower, region.upper, ball)
    extreme = torch.where(torch.isfinite(extreme), extreme, z)
    return project_into(region, extreme if ball.p == 0 else z + size * (extreme - z))


def _reach(region: Region) -> Tensor:
    """Half the width of the box, element by element."""
    half = (region.upper - region.lower) / 2
    return torch.where(torch.isfinite(half), half, torch.full_like(half, UNBOUNDED))


def _starts(lanes: Lanes, count: int, generator: torch.Generator, first: Tensor | None) -> Tensor:
    """The reference or given point first, then points drawn uniformly from the box and brought into the region."""
    region, anchor = lanes.query.region, lanes.best.anchor[lanes.problem]
    draw = torch.rand(anchor.shape, generator=generator, dtype=torch.float64).to(anchor)
    width = region.upper - region.lower
    spread = torch.where(torch.isfinite(width), region.lower + draw * width, anchor + (2 * draw - 1) * UNBOUNDED)
    z = project_into(region, spread)
    for ball in region.balls:
        z = _inside(ball, z, anchor, draw.flatten(1)[:, 0])
    leading = torch.arange(lanes.size, device=z.device) % count == 0
    begin = anchor if first is None else first.to(anchor)[lanes.problem]
    return torch.where(leading.view(-1, *[1] * (z.dim() - 1)), begin, project_into(region, z))


def _inside(ball: Ball, z: Tensor, anchor: Tensor, share: Tensor) -> Tensor:
    """Not all starts on the sphere: a random part of the way back to the anchor."""
    if ball.p == 0:
        return z
    return anchor + share.view(-1, *[1] * (z.dim() - 1)) * (z - anchor)
