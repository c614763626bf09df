"""Element-wise limits of activations, the ground on which every fact of an operator stands."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

#: of activations, without the batch
Shape = tuple[int, ...]


class Interval(NamedTuple):
    """Element-wise limits of a batch of activations: two tensors of shape ``(B, *shape)``, ``lower <= upper``."""

    lower: Tensor
    upper: Tensor

    def take(self, problems: Tensor | slice) -> Interval:
        """The limits of the chosen rows of the batch, in that order; those of a slice are views."""
        return Interval(self.lower[problems], self.upper[problems])

    def without_nan(self) -> Interval:
        """The same limits, infinite where they are NaN: nothing is known there. Gradients flow to the others."""
        inf = torch.inf
        return Interval(self.lower.nan_to_num(-inf, inf, -inf), self.upper.nan_to_num(inf, inf, -inf))

    def intersect(self, other: Interval) -> Interval:
        """The limits that hold when both do; a limit that is NaN does not count.

        Rounding may cross them by an ulp: the midpoint then stands for both.
        """
        lower = torch.fmax(self.lower, other.lower)
        upper = torch.fmin(self.upper, other.upper)
        crossed = lower > upper
        middle = (lower + upper) / 2
        return Interval(torch.where(crossed, middle, lower), torch.where(crossed, middle, upper))
