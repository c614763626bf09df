"""What is known of a value beside how it is computed: a probability lies between 0 and 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from clinch.network.ops.base import Elementwise, Interval, Lines, Shape

#: how far beyond what is known limits must reach, relative to it, before they are not worth following
FAR = 0.5


@dataclass(frozen=True, eq=False)
class Within(Elementwise):
    """``f(x) = x``, where x is known to lie in [low, high]: its limits, which were found without, need not."""

    low: float
    high: float

    def forward(self, *inputs: Tensor) -> Tensor:
        """The number itself."""
        return inputs[0]

    def interval(self, *inputs: Interval) -> Interval:
        """What both say; where they exclude each other by rounding, the known end."""
        lower, upper = inputs[0]
        return Interval(lower.clamp(self.low, self.high), upper.clamp(self.low, self.high))

    def relax(self, inputs: Sequence[Interval], shapes: Sequence[Shape]) -> Lines:
        """x itself, or the known end where limits reach far beyond it."""
        lower, upper = inputs[0]
        room = FAR * (self.high - self.low)
        return self._lines(inputs[0], lower >= self.low - room, upper <= self.high + room)

    def lines_at(self, bounds: Interval, places: Sequence[float]) -> list[Lines]:
        """x itself for the left half, the known ends for the right half."""
        some = torch.isfinite(bounds.lower) & torch.isfinite(bounds.upper)
        return [self._lines(bounds, some & (place < 0.5), some & (place < 0.5)) for place in places]

    def _lines(self, limits: Interval, below: Tensor, above: Tensor) -> Lines:
        found = []
        for follow, end in ((below, self.low), (above, self.high)):
            zero = torch.zeros_like(limits.lower)
            found += [torch.where(follow, zero + 1, zero), torch.where(follow, zero, zero + end)]
        return Lines(*found)
