"""Distance to a half-space for searches that ask again and again: a few Newton steps from the last answer.

The same problem as :mod:`clinch.geometry.halfspace` without weights, p = 2 and infinity, the centre inside a finite
box. A search changes its half-spaces a little in every step, so that the multiplier of the last step is nearly right;
and the dual value at any multiplier is a lower bound of the distance, so that nearly is enough.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

#: elements worked on at once: a block and its temporaries fit into a core's cache
BLOCK = 1 << 16
#: Newton steps from a cold start, at most
COLD_STEPS = 30


class WarmDistance(NamedTuple):
    """Lower bounds of the distances ``(D,)``, points relative to the centre ``(D, n)``, multipliers ``(D,)``, and the
    number ``(D,)`` to start from next time.
    """

    bound: Tensor
    delta: Tensor
    multiplier: Tensor
    start: Tensor


def applies(p: float, lower: Tensor, upper: Tensor) -> bool:
    """Whether :func:`warm_distance` takes this norm and these limits relative to the centre."""
    inside = bool((lower <= 0).all() & (upper >= 0).all())
    return p in (2, math.inf) and inside and bool(torch.isfinite(lower).all() & torch.isfinite(upper).all())


def warm_distance(
    rows: Tensor,
    need: Tensor,
    rounding: Tensor,
    lower: Tensor,
    upper: Tensor,
    p: float,
    start: Tensor | None,
    steps: int,
) -> WarmDistance:
    """Lower bound of ``min ‖δ‖_p  subject to  lower <= δ <= upper,  <row, δ> + need <= 0``.

    Args:
        rows: ``(D, n)``.
        need: ``(D,)``; nothing has to move where it is not positive.
        rounding: ``(D,)`` error of ``need``; a half-space is called out of reach only beyond it.
        lower: ``(D, n)`` or ``(1, n)``, not positive, finite.
        upper: likewise, not negative.
        p: 2 or infinity.
        start: ``(D,)`` what the last call returned, or None.
        steps: Newton steps from a given start.

    Returns:
        The bounds, infinity where the half-space is out of the box's reach. For p = 2 the bound is the dual value at
        the last multiplier. For p = infinity the gain is concave in the distance, so that a Newton step ends at or left
        of the root, and the farthest such end is the bound.
    """
    height = max(1, BLOCK // rows.shape[1])
    step = _euclid if p == 2 else _largest
    parts = []
    for first in range(0, len(rows), height):
        b = slice(first, first + height)
        low, high = (t if t.shape[0] == 1 else t[b] for t in (lower, upper))
        begin = None if start is None else start[b]
        parts.append(step(rows[b], need[b], rounding[b], low, high, begin, steps))
    if not parts:
        return WarmDistance(need, rows, need, need)
    return WarmDistance(*(torch.cat(column) for column in zip(*parts)))


def _euclid(
    rows: Tensor, need: Tensor, rounding: Tensor, low: Tensor, high: Tensor, start: Tensor | None, steps: int
) -> WarmDistance:
    """``δ(t) = clip(−t·row)``; the gain ``−<row, δ(t)>`` is concave and rises to what the box allows."""
    corner = torch.where(rows > 0, low, high)
    most = -(rows * corner).sum(1)
    reachable = ~(most + rounding < need)
    goal = torch.minimum(need, most).clamp(min=0)
    square = rows.square()
    t = goal / square.sum(1).clamp(min=1e-300) if start is None else start
    for _ in range(COLD_STEPS if start is None else steps):
        wish = rows * -t.unsqueeze(1)
        delta = torch.minimum(torch.maximum(wish, low), high)
        gain = -torch.linalg.vecdot(rows, delta)
        slope = torch.linalg.vecdot(square, (delta == wish).to(rows.dtype))
        missing = goal - gain
        # where everything is at its limit the gain is flat: come back from the right
        flat = torch.where(missing < 0, 0.5 * t, t)
        t_next = torch.where(slope > 0, t + missing / slope.clamp(min=1e-300), flat).clamp(min=0)
        done = bool(((t_next - t).abs() <= 1e-12 * t_next).all())
        t = t_next
        if done:
            break
    delta = torch.minimum(torch.maximum(rows * -t.unsqueeze(1), low), high)
    dual = 0.5 * delta.square().sum(1) + t * (need + torch.linalg.vecdot(rows, delta))
    bound = torch.where(reachable, (2 * dual.clamp(min=0)).sqrt(), torch.inf)
    return WarmDistance(bound, torch.where(reachable.unsqueeze(1), delta, corner), t, t)


def _largest(
    rows: Tensor, need: Tensor, rounding: Tensor, low: Tensor, high: Tensor, start: Tensor | None, steps: int
) -> WarmDistance:
    """Every element may move by the whole distance T or to its limit: the gain is concave in T."""
    corner = torch.where(rows > 0, low, high)
    size, room = rows.abs(), corner.abs()
    gains = size * room
    most = gains.sum(1)
    reachable = ~(most + rounding < need)
    goal = torch.minimum(need, most).clamp(min=0)
    radius = torch.zeros_like(goal) if start is None else start
    certain, slope = torch.zeros_like(goal), size.sum(1)
    for _ in range(COLD_STEPS if start is None else steps):
        gain = torch.minimum(size * radius.unsqueeze(1), gains).sum(1)
        slope = torch.linalg.vecdot(size, (room > radius.unsqueeze(1)).to(rows.dtype))
        following = (radius + (goal - gain) / slope.clamp(min=1e-300)).clamp(min=0)
        # where everything is at its limit the gain is flat and no step lands anywhere: come back from the right
        following = torch.where(slope > 0, following, 0.5 * radius)
        certain = torch.where(slope > 0, torch.maximum(certain, following), certain)
        done = bool(((following - radius).abs() <= 1e-12 * following).all())
        radius = following
        if done:
            break
    radius = torch.maximum(radius, certain)
    move = torch.minimum(room, radius.unsqueeze(1))
    delta = torch.where(rows > 0, -move, move)
    bound = torch.where(reachable, certain, torch.inf)
    delta = torch.where(reachable.unsqueeze(1), delta, corner)
    return WarmDistance(bound, delta, 1 / slope.clamp(min=1e-300), radius)
