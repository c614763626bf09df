"""Boxes cut down by what must hold in them: linear inequalities joined into clauses, and norm balls.

``x_i <= −(offset + Σ_{j≠i} min_box row_j·x_j) / row_i`` for every x of the box with ``<row, x> + offset <= 0`` and
``row_i > 0``, and the mirror image where ``row_i < 0``. Nothing that satisfies the inequalities is cut off: limits are
moved outwards by what rounding may have cost, and NaN cuts nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from clinch.geometry.region import Ball

#: units of rounding that one inequality's sums may be off by, relative to the size of what is summed
ROUNDING = 64


def clip_to_clauses(
    lower: Tensor, upper: Tensor, rows: Tensor, offset: Tensor, clause: Tensor, *, rounds: int = 2
) -> tuple[Tensor, Tensor]:
    """A box that contains every x of the given one with ``<rows_k, x> + offset_k <= 0`` for some k of every clause.

    One inequality's box is closed form; a clause's is the hull of its inequalities' boxes; all clauses' boxes are
    intersected. (The clipping of α,β-CROWN's input split, Zhou et al. 2024, extended to disjunctions.)

    Args:
        lower: ``(D, n)``, finite.
        upper: ``(D, n)``, finite.
        rows: ``(D, K, n)``.
        offset: ``(D, K)``.
        clause: ``(K,)`` clause of each inequality, ``0 … C−1``.
        rounds: how often; later rounds start from the smaller box.

    Returns:
        The limits; ``lower > upper`` somewhere proves that no such x exists.

    Example:
        >>> box = -torch.ones(1, 2), torch.ones(1, 2)
        >>> clip_to_clauses(*box, torch.tensor([[[1.0, 1.0]]]), torch.tensor([[1.5]]), torch.tensor([0]))[1]
        tensor([[-0.5000, -0.5000]])
    """
    count = len(clause)
    if not count:
        return lower, upper
    joined = int(clause.max()) + 1 < count
    index = clause.view(1, -1, 1).expand(len(lower), -1, lower.shape[1])
    slope = torch.where(rows == 0, 1.0, rows)
    rising, falling = rows > 0, rows < 0
    for _ in range(rounds):
        low, high = lower.unsqueeze(1), upper.unsqueeze(1)
        least = torch.where(rising, rows * low, rows * high)
        size = torch.maximum(low.abs(), high.abs()) * rows.abs()
        rounding = ROUNDING * torch.finfo(rows.dtype).eps * (size.sum(2) + offset.abs())
        total = least.sum(2) + offset - rounding
        limit = (least - total.unsqueeze(2)) / slope
        none = (total > 0).unsqueeze(2)
        tops = torch.where(rising & (limit < high), limit, high).masked_fill(none, -torch.inf)
        bottoms = torch.where(falling & (limit > low), limit, low).masked_fill(none, torch.inf)
        if joined:
            clauses = (len(lower), int(clause.max()) + 1, lower.shape[1])
            tops = tops.new_full(clauses, -torch.inf).scatter_reduce(1, index, tops, "amax")
            bottoms = bottoms.new_full(clauses, torch.inf).scatter_reduce(1, index, bottoms, "amin")
        lower, upper = torch.maximum(lower, bottoms.amax(1)), torch.minimum(upper, tops.amin(1))
    return lower, upper


def clip_to_ball(lower: Tensor, upper: Tensor, ball: Ball) -> tuple[Tensor, Tensor]:
    """A box that contains every x of the given one inside the ball.

    What the other elements spend of the radius at least, element i cannot spend: ``w_i |x_i − c_i| <=
    (radius^p − Σ_{j≠i} w_j^p dist(c_j, [lower_j, upper_j])^p)^{1/p}``; for p = 0 an element that cannot pay stays at
    the centre.

    Args:
        lower: ``(D, n)``, finite.
        upper: ``(D, n)``, finite.
        ball: with centre and weights of shape ``(D, n)``.

    Returns:
        The limits; ``lower > upper`` somewhere proves that box and ball do not meet.
    """
    away = torch.maximum(lower - ball.center, ball.center - upper).clamp(min=0)
    weights = torch.ones_like(away) if ball.weights is None else ball.weights
    radius = (ball.radius * (1 + 1e-9)).unsqueeze(1)
    reach = ball.norm.reach(away, radius, weights)
    low, high = ball.center - reach, ball.center + reach
    return torch.where(low > lower, low, lower), torch.where(high < upper, high, upper)
