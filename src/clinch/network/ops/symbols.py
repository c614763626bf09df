"""Linear limits of a layer in terms of a few symbols: what regions of few free inputs carry forward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from clinch.network.ops.interval import Interval

#: roundings of a few operations on one number, by which limits are moved outwards
ROUNDINGS = 16


@dataclass(frozen=True, eq=False)
class SymbolicLimits:
    """``|y − (m_0 + Σ_k m_k e_k)| <= h_0 + Σ_k h_k e_k`` for all symbols ``e`` in ``[−1, 1]^K``.

    Sum and difference of the two sides are a linear upper and a linear lower limit of every activation. Rounding is
    part of ``h_0``: the limits hold for the exact values of the numbers that stand here.

    Attributes:
        middle: ``(B, 1 + K, *shape)``.
        half: likewise, or ``(B, 1, *shape)`` where it is constant.
    """

    middle: Tensor
    half: Tensor

    @staticmethod
    def constant(limits: Interval, count: int) -> SymbolicLimits:
        """Limits ``(B, *shape)`` as they are, for ``count`` symbols."""
        lower, upper = limits
        centre, rounding = (lower + upper) / 2, ROUNDINGS * torch.finfo(lower.dtype).eps
        middle = centre.new_zeros(len(centre), 1 + count, *centre.shape[1:])
        half = (upper - lower) / 2 + rounding * (lower.abs() + upper.abs())
        return SymbolicLimits(plus_constant(middle, centre), half.unsqueeze(1))

    @property
    def size(self) -> Tensor:
        """``(B, *shape)``, what rounding is relative to."""
        return self.middle.abs().sum(1) + self.half.abs().sum(1)

    def widened(self, by: Tensor) -> SymbolicLimits:
        """Limits that are wider by ``(B, *shape)``."""
        return SymbolicLimits(self.middle, plus_constant(self.half, by))

    def limits(self) -> Interval:
        """Their extremes ``(B, *shape)`` over all symbols; NaN where infinities met."""
        middle, half, constant = self.middle[:, 1:], self.half[:, 1:], self.half[:, 0]
        rounding = (ROUNDINGS + self.middle.shape[1]) * torch.finfo(middle.dtype).eps * self.size
        if half.shape[1]:
            below, above = (middle - half).abs().sum(1), (middle + half).abs().sum(1)
        else:
            below = above = middle.abs().sum(1)
        centre = self.middle[:, 0]
        return Interval(centre - constant - below - rounding, centre + constant + above + rounding)


def plus_constant(columns: Tensor, constant: Tensor) -> Tensor:
    """Columns ``(B, 1 + K, *shape)`` with something added to the first."""
    first = columns[:, :1] + constant.unsqueeze(1)
    return first if columns.shape[1] == 1 else torch.cat([first, columns[:, 1:]], 1)


def alike(columns: Sequence[Tensor]) -> list[Tensor]:
    """Columns ``(B, 1 or 1 + K, *shape)`` filled up with zeros to the largest number of them."""
    count = max(c.shape[1] for c in columns)
    return [
        c if c.shape[1] == count else torch.cat([c, c.new_zeros(len(c), count - 1, *c.shape[2:])], 1) for c in columns
    ]


def between(lower: Tensor, upper: Tensor) -> SymbolicLimits:
    """What lies between two linear functions of the symbols, each ``(B, 1 + K, *shape)``; without rounding."""
    return SymbolicLimits((lower + upper) / 2, (upper - lower) / 2)
