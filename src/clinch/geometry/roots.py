"""Where increasing piecewise linear functions, and decreasing convex ones, take a value: the one number that
projections, steps and bounds in a norm search for."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

#: Newton steps on a piecewise linear function; it ends after a handful, the limit guards against NaN
STEPS = 100
#: secant steps on an increasing, concave and piecewise linear function
SECANTS = 5
#: what they may miss, relative to the goal, and the largest argument
CLOSE, FAR = 1e-5, 1e30


def secant_root(rate: Tensor, high: Tensor, target: Tensor) -> Tensor:
    """About the smallest ``s >= 0`` with ``Σ_i min(s·rate_i, high_i) >= target``: :func:`saturating_root` in at most
    five passes, within a per mille where the target is not nearly out of reach.

    Extrapolation by the last chord stays below the root, as the function is concave, and gets there fast.

    Args:
        rate: ``(L, n)``, non-negative.
        high: ``(L, n)``, non-negative and finite.
        target: ``(L,)``; where it is not positive the root is 0.

    Returns:
        Shape ``(L,)``; where the target is out of reach, a number that saturates every item.
    """
    target = target.clamp(min=0)
    tiny = torch.finfo(rate.dtype).tiny
    before, value = torch.zeros_like(target), torch.zeros_like(target)
    step = (target / rate.sum(1).clamp(min=tiny)).clamp(max=FAR)
    for _ in range(SECANTS):
        reached = torch.minimum(step.unsqueeze(1) * rate, high).sum(1)
        slope = (reached - value) / (step - before).clamp(min=tiny)
        missing = target - reached
        if not bool((missing > CLOSE * target).any()):
            break
        before, value = step, reached
        step = torch.where(missing > CLOSE * target, step + missing / slope.clamp(min=tiny), step)
        step = step.clamp(max=FAR)  # infinity times a rate of zero would be NaN
    return step


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


def decreasing_root(function: Callable[[Tensor], tuple[Tensor, Tensor]], target: Tensor) -> Tensor:
    """The smallest ``μ >= 0`` with ``function(μ) <= target``, by Newton steps inside a shrinking bracket.

    ``function`` gives value and slope, both ``(B,)``, and decreases.
    """
    left, right = torch.zeros_like(target), torch.ones_like(target)
    for _ in range(STEPS):
        beyond = function(right)[0] > target
        if not bool(beyond.any()):
            break
        left, right = torch.where(beyond, right, left), torch.where(beyond, (4 * right).clamp(max=FAR), right)
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
