"""Exact Euclidean projections onto a box cut by one norm ball.

``argmin ‖x − z‖₂  subject to  lower <= x <= upper,  ‖w ⊙ (x − center)‖_p <= radius``

With ``δ = x − center`` the solution is known up to one multiplier: ``clip(z/(1 + μ·w²), box)`` for p = 2,
``clip(sign(z)·(|z| − μ·w)₊, box)`` for p = 1 (Duchi et al. 2008; with the box Croce and Hein 2021, arXiv 2103.01208).
For p = 0 the elements whose change saves most stay changed. Clipping after a projection onto the ball alone, or the
other way round, is not this projection.
"""

from __future__ import annotations

import torch
from torch import Tensor

from clinch.geometry.linear_minimum import flatten_ball
from clinch.geometry.planes import Planes
from clinch.geometry.region import Ball, Region

#: rounds of cyclic projection where a region has several balls
ROUNDS = 50
#: secants of the ray from a ball's centre where the region has planes too
SECANTS = 12


def project(x: Tensor, lower: Tensor, upper: Tensor, ball: Ball | None = None) -> Tensor:
    """The nearest point of box ∩ ball in the Euclidean norm; a point inside is returned bit for bit.

    The result satisfies both in the arithmetic of its dtype, so that projecting twice changes nothing. Where box and
    ball do not meet, the box's point next to the centre is returned. Feasible but not always nearest: for p = 0 with
    unequal weights the choice of elements is the greedy one of the knapsack.

    Args:
        x: ``(B, *shape)``.
        lower: ``(B, *shape)``; may be −infinity.
        upper: ``(B, *shape)``; may be infinity.
        ball: B balls; None: the box alone.

    Returns:
        Shape ``(B, *shape)``.

    Example:
        >>> box = torch.full((1, 2), 2.0)
        >>> project(torch.tensor([[3.0, 4.0]]), -box, box, Ball(torch.zeros(1, 2), torch.tensor([2.5]), 2.0))
        tensor([[1.5000, 2.0000]])
    """
    clipped = torch.maximum(torch.minimum(x, upper), lower)
    if ball is None:
        return clipped
    inside = ball.distance(clipped) <= ball.radius
    if bool(inside.all()) and not ball.norm.counts:
        return clipped
    flat = flatten_ball(ball)
    center = flat.center
    a, b, z = lower.flatten(1) - center, upper.flatten(1) - center, x.flatten(1) - center
    base = torch.zeros_like(a).clamp(a, b)
    delta = ball.norm.project(z, a, b, base, flat.radius, flat.weights)
    found = _settled(delta, base, lower.flatten(1), upper.flatten(1), flat)
    keep = inside.unsqueeze(1) & torch.isfinite(clipped.flatten(1)).all(1, keepdim=True)
    return torch.where(keep, clipped.flatten(1), found).reshape(x.shape)


def project_into(region: Region, x: Tensor) -> Tensor:
    """The nearest point of a region: exact for at most one ball, cyclic projections for several.

    With planes it is exact without a ball and with a Euclidean one whose centre lies in box and planes: the ball's
    multiplier is a point of the ray from the centre, ``P(c + s·(x − c))``. For other balls the point found so is
    feasible, not always nearest.

    Args:
        region: B regions.
        x: ``(B, *shape)``.

    Returns:
        Shape ``(B, *shape)``; inside box and last ball, and inside the others where the cycle has converged.
    """
    if region.planes is not None:
        return _project_onto_planes(region, region.planes, x)
    if not region.balls:
        return project(x, region.lower, region.upper)
    for _ in range(ROUNDS):
        for ball in region.balls:
            x = project(x, region.lower, region.upper, ball)
        if len(region.balls) == 1 or bool(region.contains(x).all()):
            break
    return x


def _project_onto_planes(region: Region, planes: Planes, x: Tensor) -> Tensor:
    found = planes.project(x, region.lower, region.upper)
    for ball in region.balls:
        if ball.norm.counts:
            # the elements that a sparse point changes have to make up for each other
            sparse = project(found, region.lower, region.upper, ball)
            fixed = sparse == ball.center
            low, high = (torch.where(fixed, sparse, limit) for limit in (region.lower, region.upper))
            found = planes.project(sparse, low, high)
            continue
        out = (ball.distance(found) > ball.radius).nonzero().flatten()
        if len(out):
            inner = _on_ray(region.take(out), ball.take(out), x[out])
            found = found.index_copy(0, out, inner)
    return found


def _on_ray(region: Region, ball: Ball, x: Tensor) -> Tensor:
    """``P(c + s·(x − c))`` with the largest s that stays in the ball; the length grows with s."""
    assert region.planes is not None
    shape, whole = (-1, *[1] * (x.dim() - 1)), x - ball.center
    inner = region.planes.project(ball.center, region.lower, region.upper)
    low, high = x.new_zeros(len(x)), x.new_ones(len(x))
    # how far the ends are from the sphere; an end that stays twice counts half (the Illinois rule)
    short, long = ball.distance(inner) - ball.radius, torch.full_like(low, torch.inf)
    last = torch.ones_like(low, dtype=torch.bool)
    for k in range(SECANTS):
        share = torch.where(
            long.isfinite() & (short < 0), (low * long - high * short) / (long - short), (low + high) / 2
        )
        share = torch.ones_like(share) if not k else share
        trial = region.planes.project(ball.center + share.reshape(shape) * whole, region.lower, region.upper)
        away = ball.distance(trial) - ball.radius
        near = away <= 0
        low, high = torch.where(near, share, low), torch.where(near, high, share)
        again = near == last
        short = torch.where(near, away, torch.where(again, short / 2, short))
        long, last = torch.where(near, torch.where(again, long / 2, long), away), near
        inner = torch.where(near.reshape(shape), trial, inner)
    return inner


def _settled(delta: Tensor, base: Tensor, lower: Tensor, upper: Tensor, ball: Ball) -> Tensor:
    """``center + delta``, pulled towards ``base`` by as many roundings as it takes to lie in the ball exactly."""
    point = torch.maximum(torch.minimum(ball.center + delta, upper), lower)
    if ball.norm.counts:
        return torch.where(delta == 0, torch.maximum(torch.minimum(ball.center, upper), lower), point)
    scale = torch.linalg.vector_norm(ball.center.nan_to_num(), ord=torch.inf, dim=1) / ball.radius.clamp(min=1e-12)
    shrink = 4 * torch.finfo(delta.dtype).eps * (1 + scale)
    for _ in range(20):
        outside = ball.distance(point) > ball.radius
        if not bool(outside.any()):
            break
        delta = torch.where(outside.unsqueeze(1), base + (delta - base) * (1 - shrink.clamp(max=1)).unsqueeze(1), delta)
        point = torch.maximum(torch.minimum(ball.center + delta, upper), lower)
        shrink = 2 * shrink
    return point
