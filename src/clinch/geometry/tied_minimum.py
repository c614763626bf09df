"""The minimum of a linear form over box ∩ half-spaces, from below.

    max { min { <r + Σ_k μ_k g_k, x> + o + Σ_k μ_k c_k : x in the box } : μ >= 0 }

is the minimum of ``<r, x> + o`` over the x of the box with ``<g_k, x> + c_k <= 0`` for all k, by duality of linear
programs, and any μ gives a lower limit of it. One multiplier is optimal in closed form: with the box's centre m and
half widths h the value is ``<r + μg, m> + o + μc − <|r + μg|, h>``, concave and piecewise linear with kinks at
``−r_i / g_i``. Sweeps over the multipliers, one after the other, are coordinate ascent (Hildreth 1957); they may end
below the maximum, as the value has kinks.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

#: sweeps over the conditions
SWEEPS = 2


class Tied(NamedTuple):
    """Linear lower limits that count conditions in: ``<rows, x> + offset <= <r, x> + o`` wherever all of them hold.

    Attributes:
        least: ``(D,)`` their minima over the box.
        rows: ``(D, n)``; offset: ``(D,)``.
    """

    least: Tensor
    rows: Tensor
    offset: Tensor


def tied_minimum(
    rows: Tensor, offset: Tensor, conditions: Tensor, limits: Tensor, lower: Tensor, upper: Tensor,
    *, sweeps: int = SWEEPS,
) -> Tied:  # fmt: skip
    """Minima of linear forms over boxes in which linear conditions hold, from below.

    Args:
        rows: ``(D, n)``; offset: ``(D,)``.
        conditions: ``(D, K, n)``; limits: ``(D, K)``: ``<conditions_k, x> + limits_k <= 0``.
        lower: ``(D, n)``, finite; upper: likewise.
        sweeps: over the conditions.

    Example:
        >>> box = torch.zeros(1, 2), torch.ones(1, 2)
        >>> tied_minimum(torch.tensor([[1.0, -1.0]]), torch.zeros(1), torch.tensor([[[-1.0, 1.0]]]),
        ...              torch.tensor([[-0.1]]), *box).least
        tensor([-0.1000])
    """
    middle, half = (lower + upper) / 2, (upper - lower) / 2
    height = torch.einsum("dkn,dn->dk", conditions, middle) + limits
    step = (conditions.abs() * half.unsqueeze(1)).mul_(2)
    multipliers = torch.zeros_like(limits)
    for _ in range(sweeps):
        for k in range(limits.shape[1]):
            before = multipliers[:, k]
            alone = torch.addcmul(rows, before.unsqueeze(1), conditions[:, k], value=-1)
            best = _best_multiplier(alone, conditions[:, k], half, height[:, k], step[:, k])
            rows = torch.addcmul(alone, best.unsqueeze(1), conditions[:, k])
            multipliers[:, k] = best
    offset = offset + torch.linalg.vecdot(multipliers, limits)
    least = torch.linalg.vecdot(rows, middle) + offset - torch.linalg.vecdot(rows.abs(), half)
    return Tied(least, rows, offset)


def _best_multiplier(rows: Tensor, condition: Tensor, half: Tensor, height: Tensor, step: Tensor) -> Tensor:
    """``(D,)`` where ``μ·height − <|rows + μ·condition|, half>`` is largest; 0 where it rises for ever.

    Args:
        step: ``(D, n)`` by how much the slope falls at each kink.
    """
    side = torch.where(rows == 0, condition.sign(), rows.sign())
    slope = height - (side * condition * half).sum(1)
    kink = torch.where(rows * condition < 0, -rows / condition, torch.inf)
    kink, order = kink.sort(1)
    risen = (step.gather(1, order).cumsum(1) < slope.unsqueeze(1)).sum(1, keepdim=True)
    at = kink.gather(1, risen.clamp(max=kink.shape[1] - 1))[:, 0]
    return torch.where((slope > 0) & torch.isfinite(at), at, 0.0)
