"""The exact minimum of linear forms over a box cut by one norm ball: where every linear bound becomes a number.

``min <row, x>  subject to  lower <= x <= upper,  ‖w ⊙ (x − center)‖_p <= radius``

===== ==========================================================================================================
p     how
===== ==========================================================================================================
none  ``x_i = lower_i`` where the coefficient is positive, ``upper_i`` where it is negative
inf   the ball is a box: the same over the intersection
2     dual in one multiplier: ``x(t) = clip(center − t·row/w², box)`` with the ``t`` that puts it on the sphere
1     fractional knapsack: the budget is spent on the largest ``|row_i|/w_i`` first
0     fractional knapsack of whole elements: the budget is spent on the largest gain per weight first
===== ==========================================================================================================

The p = 2 value is that of the dual function, so that an inexact multiplier can only lower it. For p = 0 with unequal
weights the knapsack is relaxed: a valid lower bound, exact where all positive weights are equal.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from clinch.geometry.inner_products import products
from clinch.geometry.region import Ball, Region
from clinch.runtime import deadline

#: elements worked on at once; a block and its temporaries should fit into a core's cache
BLOCK = 1 << 18
#: relative excess of the distance to the box over the radius from which on "no point" counts as proven
EMPTY = 1e-9
#: Newton steps on a piecewise linear function; it ends after a handful, the limit guards against NaN
STEPS = 100


def linear_minimum(rows: Tensor, lower: Tensor, upper: Tensor, ball: Ball | None = None) -> tuple[Tensor, Tensor]:
    """Minimum of ``<row, x>`` over box ∩ ball, and where it is taken.

    Gradients flow to ``rows`` (by the envelope theorem the gradient is the minimising point), to nothing else.

    Args:
        rows: ``(B, R, n)``; may be an expanded view.
        lower: ``(B, n)``; may be −infinity.
        upper: ``(B, n)``; may be infinity.
        ball: with centre and weights of shape ``(B, n)``; the centre may lie outside the box. None: the box alone.

    Returns:
        Values ``(B, R)``, −infinity where unbounded, infinity where box and ball do not meet; points ``(B, R, n)`` (a
        coefficient of zero leaves an element as close to the centre as the box allows). For p = 0 with unequal
        weights the point is that of the relaxation and may change more elements than the radius allows.

    Example:
        >>> rows = torch.tensor([[[3.0, -4.0]]])
        >>> box = torch.full((1, 2), 10.0)
        >>> linear_minimum(rows, -box, box, Ball(torch.zeros(1, 2), torch.tensor([1.0]), 2.0))[0]
        tensor([[-5.]])
    """
    batch, count = rows.shape[:2]
    blocks = [_block(rows, lower, upper, ball, b, r) for b, r in _blocks(rows)]
    if not blocks:
        return rows.new_zeros(batch, count), rows.new_zeros(rows.shape)
    if len(blocks) == 1:
        return blocks[0]
    return _assemble([v for v, _ in blocks], rows), _assemble([p for _, p in blocks], rows)


def minimum_over(region: Region, rows: Tensor) -> Tensor:
    """A lower bound of ``<row, x>`` over a region: exact for at most one ball.

    With several balls the largest of the minima over box ∩ one ball is taken, which is a valid lower bound.

    Args:
        region: B regions.
        rows: ``(B, R, *shape)``; gradients flow to them.

    Returns:
        Shape ``(B, R)``; infinity where box and some ball do not meet.
    """
    flat = rows.flatten(2)
    lower, upper = region.lower.flatten(1), region.upper.flatten(1)
    if not region.balls:
        return _over_box(flat, lower, upper)
    best: Tensor | None = None
    for ball in region.balls:
        part = flatten_ball(ball)
        values = [_block(flat, lower, upper, part, b, r)[0] for b, r in _blocks(flat)]
        value = _assemble(values, flat) if values else flat.new_zeros(flat.shape[:2])
        best = value if best is None else torch.maximum(best, value)
    assert best is not None
    return best


def flatten_ball(ball: Ball) -> Ball:
    """The same balls with centre and weights of shape ``(B, n)``."""
    return Ball(ball.center.flatten(1), ball.radius, ball.p, None if ball.weights is None else ball.weights.flatten(1))


def _over_box(rows: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """The box alone: ``<row, middle> − <|row|, half the width>`` where the limits are finite."""
    middle, half = lower / 2 + upper / 2, upper / 2 - lower / 2
    if not bool(torch.isfinite(half.sum() + middle.sum())):
        values = [_block(rows, lower, upper, None, b, r)[0] for b, r in _blocks(rows)]
        return _assemble(values, rows) if values else rows.new_zeros(rows.shape[:2])
    shared = rows[:1] if rows.stride(0) == 0 else rows
    return products(shared, middle) - products(shared.abs(), half)


# --- blocks: rows worked on at once ------------------------------------------------------------------------------


def _blocks(rows: Tensor) -> Iterator[tuple[slice, slice]]:
    """Slices of problems and rows with about BLOCK elements each; expanded views stay views."""
    batch, count, size = rows.shape
    width = max(1, min(count, BLOCK // max(size, 1)))
    height = max(1, BLOCK // max(size * count, 1)) if width == count else 1
    for b in range(0, batch, height):
        for r in range(0, count, width):
            yield slice(b, b + height), slice(r, r + width)


def _assemble(blocks: list[Tensor], rows: Tensor) -> Tensor:
    """Put the results of :func:`_blocks` back into shape ``(B, R, …)``."""
    batch, count = rows.shape[:2]
    return torch.cat([block.flatten(0, 1) for block in blocks]).reshape(batch, count, *blocks[0].shape[2:])


def _block(rows: Tensor, lower: Tensor, upper: Tensor, ball: Ball | None, b: slice, r: slice) -> tuple[Tensor, Tensor]:
    """Value and point of one block."""
    deadline.look()
    part = rows[b, r]
    low, high = lower[b].unsqueeze(1), upper[b].unsqueeze(1)
    with torch.no_grad():
        if ball is None:
            point = corner(part, low, high, torch.zeros_like(low).clamp(low, high))
            slack, empty = None, None
        else:
            weights = None if ball.weights is None else ball.weights[b].unsqueeze(1)
            point, slack, empty = _in_ball(
                part, low, high, ball.center[b].unsqueeze(1), ball.radius[b].unsqueeze(1), ball.p, weights
            )
    value = (part * point).sum(-1)
    if slack is not None and empty is not None:
        value = torch.where(empty, torch.inf, value + slack)
    return value, point


# --- one block ---------------------------------------------------------------------------------------------------


def corner(rows: Tensor, lower: Tensor, upper: Tensor, rest: Tensor) -> Tensor:
    """The corner of the box with the least ``<row, x>``; ``rest`` where the coefficient is zero."""
    return torch.where(rows > 0, lower, torch.where(rows < 0, upper, rest))


def _in_ball(
    rows: Tensor, lower: Tensor, upper: Tensor, center: Tensor, radius: Tensor, p: float, weights: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Point ``(b, r, n)``, what to add to ``<row, point>`` ``(b, r)``, whether box and ball do not meet ``(b, 1)``."""
    a, b = lower - center, upper - center
    base = torch.zeros_like(a).clamp(a, b)  # the element of the box next to the centre, for every p at once
    if p == 0:
        delta, slack, empty = _counted(rows, a, b, base, radius, weights)
    elif p == 1:
        delta, slack, empty = _summed(rows, a, b, base, radius, weights)
    elif p == 2:
        delta, slack, empty = _euclidean(rows, a, b, base, radius, weights)
    else:
        scale = 1.0 if weights is None else weights
        nearest = (base.abs() * scale).amax(-1)
        wide = torch.maximum(radius, nearest).unsqueeze(-1)
        reach = wide if weights is None else torch.where(weights > 0, wide / weights, torch.inf)
        a, b = torch.maximum(a, -reach), torch.minimum(b, reach)
        delta, slack, empty = corner(rows, a, b, base), torch.zeros_like(radius), _missed(nearest, radius)
    return center + delta, slack, empty


def _missed(nearest: Tensor, radius: Tensor) -> Tensor:
    """Whether the distance from the centre to the box exceeds the radius by more than rounding explains."""
    return nearest > radius * (1 + EMPTY) + torch.finfo(radius.dtype).tiny


def _counted(
    rows: Tensor, a: Tensor, b: Tensor, base: Tensor, radius: Tensor, weights: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """p = 0: elements whose box excludes the centre are changed anyway and hence free, like those of weight zero."""
    cost = torch.ones_like(a) if weights is None else weights
    forced = base != 0
    nearest = (cost * forced).sum(-1)
    budget = (radius - nearest).clamp(min=0)
    unit = common_weight(cost)
    budget = torch.where(unit > 0, (budget / unit).floor() * unit, budget)
    full = corner(rows, a, b, base)
    gain = torch.where(rows == 0, 0.0, -rows * full)
    free = forced | (cost == 0)
    open_cost = torch.where(free, 0.0, cost).expand_as(gain)
    density = torch.where(free, 0.0, gain / torch.where(free, 1.0, cost))
    spent = fill(density, open_cost, budget)
    share = torch.where(free, 1.0, spent / torch.where(free, 1.0, cost))
    delta = torch.where(share > 0, torch.where(share < 1, share * full, full), torch.zeros_like(full))
    return delta, torch.zeros_like(radius), nearest > radius


def _summed(
    rows: Tensor, a: Tensor, b: Tensor, base: Tensor, radius: Tensor, weights: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """p = 1: what is left of the radius after reaching the box is spent on the steepest elements."""
    full = corner(rows, a, b, base)
    room = (full - base).abs()
    if weights is None:
        nearest = base.abs().sum(-1)
        spent = fill(rows.abs(), room, (radius - nearest).clamp(min=0))
        moved = spent
    else:
        free = weights == 0
        scale = torch.where(free, 1.0, weights)
        nearest = (base.abs() * weights).sum(-1)
        density = torch.where(free, 0.0, rows.abs() / scale)
        spent = fill(density, torch.where(free, 0.0, room * scale), (radius - nearest).clamp(min=0))
        moved = torch.where(free, room, torch.minimum(spent / scale, room))
    delta = torch.where(moved >= room, full, base - rows.sign() * moved)
    return delta, torch.zeros_like(radius), _missed(nearest, radius)


def _euclidean(
    rows: Tensor, a: Tensor, b: Tensor, base: Tensor, radius: Tensor, weights: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """p = 2: Newton's method for the multiplier, then the dual function's value there."""
    free = None if weights is None else weights == 0
    scaled = _divided(rows, weights)
    size = scaled.abs().amax(-1, keepdim=True)
    size = torch.where(size > 0, size, torch.ones_like(size))
    scaled = scaled / size  # the largest is one: no square can underflow that matters
    direction = _divided(scaled, weights)
    full = corner(rows, a, b, base)
    inner, outer = _squares(base, weights, free), _squares(full, weights, free)
    nearest = inner.sum(-1)
    room = torch.maximum(radius.square(), nearest)
    inside = outer.sum(-1) <= room
    cap = torch.minimum(outer, room.unsqueeze(-1))
    shifted = bool((base != 0).any())
    step = saturating_root(scaled.square(), inner.expand_as(cap) if shifted else None, cap, room)[0].sqrt()
    delta = torch.maximum(torch.minimum(-step.unsqueeze(-1) * direction, b), a)
    delta = torch.where(inside.unsqueeze(-1), full, delta)
    if free is not None:
        delta = torch.where(free, full, delta)
    excess = _squares(delta, weights, free).sum(-1) - room
    slack = torch.where(inside | (step == 0), 0.0, size.squeeze(-1) / (2 * step) * excess)
    return delta, slack, _missed(nearest.sqrt(), radius)


def _divided(rows: Tensor, weights: Tensor | None) -> Tensor:
    """``rows / weights``, zero for free elements."""
    if weights is None:
        return rows
    return torch.where(weights == 0, 0.0, rows / torch.where(weights == 0, 1.0, weights))


def _squares(delta: Tensor, weights: Tensor | None, free: Tensor | None) -> Tensor:
    """``(w ⊙ δ)²``, zero for free elements even where they are infinite."""
    if weights is None or free is None:
        return delta.square()
    return torch.where(free, 0.0, delta * weights).square()


# --- two small solvers shared with the other files of this folder -------------------------------------------------


def common_weight(cost: Tensor) -> Tensor:
    """``(…)`` the one value of all positive weights of a row ``(…, n)``, 1 where there are none, NaN where they differ:
    then counting is a knapsack."""
    least = torch.where(cost > 0, cost, torch.inf).amin(-1)
    least = torch.where(least.isinf(), 1.0, least)
    return torch.where((cost <= least.unsqueeze(-1)).all(-1), least, torch.nan)


def fill(density: Tensor, cost: Tensor, budget: Tensor) -> Tensor:
    """Spend a budget on items in the order of density, the last one in part: the fractional knapsack.

    Args:
        density: ``(…, n)``; items of density zero get nothing.
        cost: ``(…, n)`` what the whole item costs, non-negative, may be infinite.
        budget: ``(…)`` or broadcastable to it, non-negative, may be infinite.

    Returns:
        What is spent on each item, ``(…, n)``.
    """
    budget = budget.expand(density.shape[:-1]).reshape(-1, 1)
    size = density.shape[-1]
    return _filled(density.reshape(-1, size), cost.reshape(-1, size), budget, 64).reshape(density.shape)


def _filled(density: Tensor, cost: Tensor, budget: Tensor, few: int) -> Tensor:
    """:func:`fill` for rows ``(L, n)``, by their ``few`` densest items; rows that need more get more, and no others:
    which of equal items are sorted to the front may depend on how many are asked for."""
    few = min(density.shape[-1], few)
    top, order = density.topk(few)
    taken = cost.gather(-1, order)
    before = functional.pad(taken[..., :-1].cumsum(-1), (1, 0))
    left = torch.where(torch.isinf(budget), torch.inf, budget - before)
    spent = torch.where(top > 0, torch.minimum(left.clamp(min=0), taken), torch.zeros_like(taken))
    filled = torch.zeros_like(density).scatter(-1, order, spent)
    enough = (taken.sum(-1, keepdim=True) >= budget) | (top[..., -1:] <= 0)
    rest = (~enough).nonzero()[:, 0] if few < density.shape[-1] else order.new_empty(0)
    if not len(rest):
        return filled
    return filled.index_copy(0, rest, _filled(density[rest], cost[rest], budget[rest], 8 * few))


def saturating_root(
    rate: Tensor, low: Tensor | None, high: Tensor, target: Tensor, start: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The smallest ``s`` with ``Σ_i clamp(s·rate_i, low_i, high_i) >= target``, and the slope it was reached from.

    Without ``low``, and in rows where it is zero, the sum is concave from ``start`` on, and Newton's method climbs to
    the root from the left in finitely many steps. In other rows its steps are kept inside a shrinking bracket.

    Args:
        rate: ``(…, n)``, non-negative.
        low: ``(…, n)`` with ``0 <= low <= high``; None stands for zeros.
        high: ``(…, n)``; may be infinite in rows where ``low`` is zero.
        target: ``(…)``.
        start: ``(…)`` a value at or left of the root; None stands for zero. Only without ``low``.

    Returns:
        ``s`` and slope, both of shape ``(…)``; where the target is out of reach, ``s`` saturates every item.
    """
    target = target.expand(rate.shape[:-1])
    if low is not None:
        return _from_low(rate, low, high, target)
    s = torch.zeros_like(target) if start is None else start.expand_as(target).clone()
    slope = torch.zeros_like(target)
    for _ in range(STEPS):
        value = s.unsqueeze(-1) * rate
        total = torch.minimum(value, high).sum(-1)
        ahead = (rate * (value < high)).sum(-1)
        going = (total < target) & (ahead > 0)
        following = torch.where(going, s + (target - total) / torch.where(going, ahead, 1.0), s)
        slope = torch.where(going, ahead, slope)
        if not bool((following > s).any()):
            break
        s = torch.maximum(s, following)
    return s, slope


def _from_low(rate: Tensor, low: Tensor, high: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Each row by the method that it needs."""
    shifted = (low != 0).any(-1)
    if not bool(shifted.any()):
        return saturating_root(rate, None, high, target)
    if bool(shifted.all()):
        return _bracketed_root(rate, low, high, target)
    s, slope = torch.empty_like(target), torch.empty_like(target)
    low, high = low.expand_as(rate), high.expand_as(rate)
    s[shifted], slope[shifted] = _bracketed_root(*(t[shifted] for t in (rate, low, high, target)))
    s[~shifted], slope[~shifted] = saturating_root(rate[~shifted], None, high[~shifted], target[~shifted])
    return s, slope


def _bracketed_root(rate: Tensor, low: Tensor, high: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """:func:`saturating_root` for items that start at ``low``: the sum is no longer concave."""
    moving = (rate > 0) & (high > low)
    right = torch.where(moving, high / torch.where(moving, rate, 1.0), 0.0).amax(-1)
    left = torch.zeros_like(right)
    s, slope = right.clone(), torch.zeros_like(right)
    eps = torch.finfo(rate.dtype).eps
    for _ in range(2 * STEPS):
        value = s.unsqueeze(-1) * rate
        total = torch.minimum(torch.maximum(value, low), high).sum(-1)
        ahead = (rate * (value >= low) * (value < high)).sum(-1)
        slope = torch.where(ahead > 0, ahead, slope)
        below = total < target
        left, right = torch.where(below, s, left), torch.where(below, right, s)
        open_ = (right - left > 4 * eps * right) & ((total - target).abs() > 4 * eps * target.abs())
        if not bool(open_.any()):
            break
        newton = s + (target - total) / torch.where(ahead > 0, ahead, 1.0)
        usable = (ahead > 0) & (newton > left) & (newton < right)
        middle = torch.where(left > 0, (left * right).sqrt(), right * 1e-3)
        s = torch.where(open_, torch.where(usable, newton, middle), s)
    return s, slope
