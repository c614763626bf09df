"""Exact Euclidean projections onto a box cut by one norm ball.

``argmin ‖x − z‖₂  subject to  lower <= x <= upper,  ‖w ⊙ (x − center)‖_p <= radius``

With ``δ = x − center`` the solution is known up to one multiplier: ``clip(z/(1 + μ·w²), box)`` for p = 2,
``clip(sign(z)·(|z| − μ·w)₊, box)`` for p = 1 (Duchi et al. 2008; with the box Croce and Hein 2021, arXiv 2103.01208).
For p = 0 the elements whose change saves most stay changed. Clipping after a projection onto the ball alone, or the
other way round, is not this projection.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from clinch.geometry.linear_minimum import STEPS, fill, flatten_ball, saturating_root
from clinch.geometry.norms import norm
from clinch.geometry.region import Ball, Region

#: rounds of cyclic projection where a region has several balls
ROUNDS = 50


def project(x: Tensor, lower: Tensor, upper: Tensor, ball: Ball | None = None) -> Tensor:
    """The nearest point of box ∩ ball in the Euclidean norm; a point inside is returned bit for bit.

    The result satisfies both in the arithmetic of its dtype, so that projecting twice changes nothing. Where box and
    ball do not meet, the box's point next to the centre is returned. Feasible but not always nearest: for p = 0 with
    unequal weights, where the choice of elements is the greedy one of the knapsack, and for a p other than 0, 1, 2 and
    infinity, where the point is drawn straight towards the centre.

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
    if bool(inside.all()) and ball.p != 0:
        return clipped
    flat = flatten_ball(ball)
    center = flat.center
    a, b, z = lower.flatten(1) - center, upper.flatten(1) - center, x.flatten(1) - center
    base = torch.zeros_like(a).clamp(a, b)
    known = {0.0: _counted, 1.0: _summed, 2.0: _euclidean, torch.inf: _largest}
    solve = known.get(float(ball.p), partial(_drawn, float(ball.p)))
    delta = solve(z, a, b, base, flat.radius, flat.weights)
    found = _settled(delta, base, lower.flatten(1), upper.flatten(1), flat)
    keep = inside.unsqueeze(1) & torch.isfinite(clipped.flatten(1)).all(1, keepdim=True)
    return torch.where(keep, clipped.flatten(1), found).reshape(x.shape)


def project_into(region: Region, x: Tensor) -> Tensor:
    """The nearest point of a region: exact for at most one ball, cyclic projections for several.

    Args:
        region: B regions.
        x: ``(B, *shape)``.

    Returns:
        Shape ``(B, *shape)``; inside box and last ball, and inside the others where the cycle has converged.
    """
    if not region.balls:
        return project(x, region.lower, region.upper)
    for _ in range(ROUNDS):
        for ball in region.balls:
            x = project(x, region.lower, region.upper, ball)
        if len(region.balls) == 1 or bool(region.contains(x).all()):
            break
    return x


def _settled(delta: Tensor, base: Tensor, lower: Tensor, upper: Tensor, ball: Ball) -> Tensor:
    """``center + delta``, pulled towards ``base`` by as many roundings as it takes to lie in the ball exactly."""
    point = torch.maximum(torch.minimum(ball.center + delta, upper), lower)
    if ball.p == 0:
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


def _clip(delta: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.maximum(torch.minimum(delta, b), a)


def _largest(z: Tensor, a: Tensor, b: Tensor, base: Tensor, radius: Tensor, weights: Tensor | None) -> Tensor:
    """p = infinity: a smaller box."""
    reach = radius.unsqueeze(1).expand_as(z)
    if weights is not None:
        reach = torch.where(weights > 0, reach / torch.where(weights > 0, weights, 1.0), torch.inf)
    return _clip(_clip(z, -reach, reach), a, b)


def _drawn(p: float, z: Tensor, a: Tensor, b: Tensor, base: Tensor, radius: Tensor, weights: Tensor | None) -> Tensor:
    """Any other p: straight towards the centre; by convexity of the norm what is returned lies inside."""
    target = _clip(z, a, b)
    near, far = norm(base, p, weights), norm(target, p, weights)
    share = (radius - near).clamp(min=0) / torch.where(far > radius, far - near, 1.0)
    return base + torch.where(far > radius, share, 1.0).unsqueeze(1) * (target - base)


def _counted(z: Tensor, a: Tensor, b: Tensor, base: Tensor, radius: Tensor, weights: Tensor | None) -> Tensor:
    """p = 0: ``gain_i = z_i² − (z_i − clip(z_i))²`` is what changing element i saves."""
    cost = torch.ones_like(z) if weights is None else weights.expand_as(z)
    free = (cost == 0) | (base != 0)
    budget = (radius - torch.where(base != 0, cost, 0.0).sum(1)).clamp(min=0)
    target = _clip(z, a, b)
    gain = torch.where(free, 0.0, (z.square() - (z - target).square()).clamp(min=0))
    spent = fill(gain / torch.where(free, 1.0, cost), torch.where(free, 0.0, cost), budget)
    return torch.where(free | ((spent >= cost) & (gain > 0)), target, torch.zeros_like(z))


def _euclidean(z: Tensor, a: Tensor, b: Tensor, base: Tensor, radius: Tensor, weights: Tensor | None) -> Tensor:
    """p = 2: ``‖w ⊙ clip(z/(1 + μ·w²), box)‖² = radius²``, for weights 0 and 1 piecewise linear in ``1/(1 + μ)²``."""
    if weights is None:
        return _unweighted(z, a, b, base, radius, torch.ones_like(z))
    plain = ((weights == 0) | (weights == 1)).all(1)
    if bool(plain.all()):
        return _unweighted(z, a, b, base, radius, weights)
    found = torch.empty_like(z)
    found[plain] = _unweighted(*(t[plain] for t in (z, a, b, base, radius, weights)))
    found[~plain] = _weighted(*(t[~plain] for t in (z, a, b, radius, weights)))
    return found


def _unweighted(z: Tensor, a: Tensor, b: Tensor, base: Tensor, radius: Tensor, counted: Tensor) -> Tensor:
    """Weights 0 and 1."""
    end = _clip(z, a, b)
    low, high = base.square() * counted, end.square() * counted
    rate = torch.where((end != base) & (counted > 0), z.square(), 0.0)
    if not bool((base != 0).any()):
        share = saturating_root(rate, None, high, radius.square())[0]
    else:
        share = saturating_root(rate, torch.minimum(low, high), torch.maximum(low, high), radius.square())[0]
    share = share.clamp(max=1).sqrt().unsqueeze(1)
    return torch.where(counted > 0, _clip(share * z, a, b), end)


def _weighted(z: Tensor, a: Tensor, b: Tensor, radius: Tensor, weights: Tensor) -> Tensor:
    """Any weights."""
    square = weights.square()

    def length(multiplier: Tensor) -> tuple[Tensor, Tensor]:
        inner = z / (1 + multiplier.unsqueeze(1) * square)
        delta = _clip(inner, a, b)
        slope = -2 * square.square() * delta.square() / (1 + multiplier.unsqueeze(1) * square) * (delta == inner)
        return (square * delta.square()).sum(1), slope.sum(1)

    multiplier = _decreasing_root(length, radius.square())
    return _clip(z / (1 + multiplier.unsqueeze(1) * square), a, b)


def _summed(z: Tensor, a: Tensor, b: Tensor, base: Tensor, radius: Tensor, weights: Tensor | None) -> Tensor:
    """p = 1: ``Σ w·|clip(sign(z)·(|z| − μ·w)₊, box)| = radius``, piecewise linear in μ."""
    w = torch.ones_like(z) if weights is None else weights.expand_as(z)

    def soft(multiplier: Tensor) -> tuple[Tensor, Tensor]:
        inner = z.sign() * (z.abs() - multiplier.unsqueeze(1) * w).clamp(min=0)
        return _clip(inner, a, b), inner

    def length(multiplier: Tensor) -> tuple[Tensor, Tensor]:
        delta, inner = soft(multiplier)
        return (w * delta.abs()).sum(1), -(w.square() * ((delta == inner) & (inner != 0))).sum(1)

    return soft(_decreasing_root(length, radius))[0]


def _decreasing_root(function: Callable[[Tensor], tuple[Tensor, Tensor]], target: Tensor) -> Tensor:
    """The smallest ``μ >= 0`` with ``function(μ) <= target``, by Newton steps inside a shrinking bracket.

    ``function`` gives value and slope, both ``(B,)``, and decreases.
    """
    left, right = torch.zeros_like(target), torch.ones_like(target)
    for _ in range(STEPS):
        beyond = function(right)[0] > target
        if not bool(beyond.any()):
            break
        left, right = torch.where(beyond, right, left), torch.where(beyond, 4 * right, right)
    eps = torch.finfo(target.dtype).eps
    multiplier = left
    for _ in range(2 * STEPS):
        value, slope = function(multiplier)
        above = value > target
        left, right = torch.where(above, multiplier, left), torch.where(above, right, multiplier)
        open_ = (right - left > 2 * eps * right) & ((value - target).abs() > 2 * eps * target.abs())
        if not bool(open_.any()):
            break
        newton = multiplier + (target - value) / torch.where(slope < 0, slope, -torch.inf)
        usable = (slope < 0) & (newton > left) & (newton < right)
        multiplier = torch.where(open_, torch.where(usable, newton, (left + right) / 2), multiplier)
    return multiplier
