"""The exact minimum of linear forms over a box cut by one norm ball: where every linear bound becomes a number.

``min <row, x>  subject to  lower <= x <= upper,  ‖w ⊙ (x − center)‖_p <= radius``

How it is found is the norm's own affair (:mod:`clinch.geometry.norms`): without a ball, and for p = infinity, it is a
corner of a box; for p > 1 the dual has one multiplier; for p = 1 and 0 it is a fractional knapsack.

For p > 1 the value is that of the dual function, so that an inexact multiplier can only lower it. For p = 0 with
unequal weights the knapsack is relaxed: a valid lower bound, exact where all positive weights are equal.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from clinch.geometry.inner_products import products
from clinch.geometry.norms.base import corner
from clinch.geometry.region import Ball, Region
from clinch.runtime import deadline

#: elements worked on at once; a block and its temporaries should fit into a core's cache
BLOCK = 1 << 18


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
            center, radius = ball.center[b].unsqueeze(1), ball.radius[b].unsqueeze(1)
            below, above = low - center, high - center
            base = torch.zeros_like(below).clamp(
                below, above
            )  # the box's element next to the centre, whatever the norm
            delta, slack, empty = ball.norm.linear_minimum(part, below, above, base, radius, weights)
            point = center + delta
    value = (part * point).sum(-1)
    if slack is not None and empty is not None:
        value = torch.where(empty, torch.inf, value + slack)
    return value, point
