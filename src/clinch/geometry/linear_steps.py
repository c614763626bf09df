"""The two best steps under a linear model, for every p >= 1: the shortest to a goal, and the best of a given length.

Steps are measured from where they start, inside the box. For 1 < p < infinity both are ``η_i(t) = −sign(g_i)·min(t·r_i,
room_i)`` with ``r_i = |g_i|^(q−1)``: what a step gains, and the p-th power of its length, are piecewise linear and
increasing in t and in t^p, so that one number is searched for whatever p is.
"""

from __future__ import annotations

import torch
from torch import Tensor

from clinch.geometry.elementwise import power
from clinch.geometry.halfspace import halfspace_distance
from clinch.geometry.linear_minimum import corner, linear_minimum, saturating_root
from clinch.geometry.norms import NORMS, dual_exponent
from clinch.geometry.region import Ball


def dual_norm(rows: Tensor, p: float, weights: Tensor | None = None) -> Tensor:
    """``‖g/w‖_q`` over the last axis, ``q = p/(p−1)``: the most that ``<g, η>`` changes for ``‖w ⊙ η‖_p <= 1``.

    Args:
        rows: ``(…, n)``.
        p: any number from 1 on, or infinity.
        weights: broadcastable to rows; where one is zero the norm is infinite unless g is zero there too.
    """
    if weights is not None:
        rows = torch.where(rows == 0, 0.0, rows / weights)
    return torch.linalg.vector_norm(rows, ord=dual_exponent(p), dim=-1)


def least_step(
    rows: Tensor, need: Tensor, lower: Tensor, upper: Tensor, p: float, weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """``min ‖w ⊙ η‖_p  subject to  need + <g, η> <= 0,  lower <= η <= upper`` (Balda et al.'s equation 8 with a box).

    Without limits ``η = −(need/‖g‖_q)·v`` with the steepest direction v of unit length.

    Args:
        rows: ``(B, R, n)`` the gradients g.
        need: ``(B, R)``; nothing is done where it is not positive.
        lower: ``(B, n)``, at most 0; may be −infinity.
        upper: ``(B, n)``, at least 0; may be infinity.
        p: 0, any number from 1 on, or infinity.
        weights: ``(B, n)``, non-negative, for p = 0, 1, 2 and infinity; None stands for ones.

    Returns:
        Lengths ``(B, R)``, infinity where the box has no such step; steps ``(B, R, n)``, there the one that comes
        closest, zero where g is zero.
    """
    if p in NORMS:
        found = halfspace_distance(rows, need, lower, upper, torch.zeros_like(lower), p, weights)
        return found.distance, torch.where(rows.ne(0).any(-1, keepdim=True), found.point, 0.0)
    unit, size, room = _scaled(rows, lower, upper)
    high = unit.abs() * room
    target = need.clamp(min=0) / size
    reachable = high.sum(-1) * (1 + 32 * torch.finfo(rows.dtype).eps) >= target
    rate = power(unit.abs(), dual_exponent(p))
    t, _ = saturating_root(rate, None, high, target)
    step = -unit.sign() * torch.minimum(t.unsqueeze(-1) * power(unit.abs(), dual_exponent(p) - 1), room)
    length = torch.linalg.vector_norm(step, ord=p, dim=-1)
    return torch.where(reachable, length, torch.inf), step


def best_step(
    rows: Tensor, radius: Tensor, lower: Tensor, upper: Tensor, p: float, weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """``min <g, η>  subject to  ‖w ⊙ η‖_p <= radius,  lower <= η <= upper`` (Balda et al.'s GNII with a box).

    Without limits ``η = −radius·v``, with the value ``−radius·‖g‖_q`` (Balda et al. 2018, arXiv 1803.03607,
    proposition 2).

    Args:
        rows: ``(B, R, n)`` the gradients g.
        radius: ``(B,)``, positive.
        lower: ``(B, n)``, at most 0; may be −infinity.
        upper: ``(B, n)``, at least 0; may be infinity.
        p: any number from 1 on, or infinity.
        weights: ``(B, n)``, non-negative, for p = 1, 2 and infinity; None stands for ones.

    Returns:
        Values ``(B, R)`` and steps ``(B, R, n)``.
    """
    if p in NORMS:
        with torch.no_grad():
            return linear_minimum(rows, lower, upper, Ball(torch.zeros_like(lower), radius, p, weights))
    unit, size, room = _scaled(rows, lower, upper)
    q = dual_exponent(p)
    budget = power(radius, p).unsqueeze(-1).expand(rows.shape[:2])
    total, _ = saturating_root(power(unit.abs(), q), None, power(room, p), budget)
    reach = torch.minimum(power(total, 1 / p).unsqueeze(-1) * power(unit.abs(), q - 1), room)
    step = -unit.sign() * reach
    return (unit * step).sum(-1) * size, step


def _scaled(rows: Tensor, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients with largest element one, the scale ``(B, R)``, and how far each element can go; 0 where g is 0."""
    size = rows.abs().amax(-1)
    size = torch.where(size > 0, size, torch.ones_like(size))
    low, high = lower.unsqueeze(1), upper.unsqueeze(1)
    room = corner(rows, low, high, torch.zeros_like(low)).abs()
    return rows / size.unsqueeze(-1), size, room
