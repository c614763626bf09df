"""What is known of a value beside how it is computed: a probability lies between 0 and 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from clinch.network.ops.base import Elementwise, Interval, Lines, Shape, Statement

#: how far beyond what is known limits must reach, relative to it, before they are not worth following
FAR = 0.25


@dataclass(frozen=True, eq=False)
class Within(Elementwise):
    """``f(x) = x``, where x is known to lie in [low, high]: its limits, which were found without, need not."""

    low: float
    high: float

    def forward(self, *inputs: Tensor) -> Tensor:
        """The number itself."""
        return inputs[0]

    def statement(self, shapes: Sequence[Shape], shape: Shape) -> Statement:
        """The same elements: a certificate's limits are its own."""
        return {"kind": "reshape", "shape": list(shape)}, {}

    def interval(self, *inputs: Interval) -> Interval:
        """What both say; where they exclude each other by rounding, the known end."""
        lower, upper = inputs[0]
        return Interval(lower.clamp(self.low, self.high), upper.clamp(self.low, self.high))

    def relax(self, inputs: Sequence[Interval], shapes: Sequence[Shape]) -> Lines:
        """x itself, or the known end where limits reach far beyond it."""
        return self.lines_at(inputs[0], (0.5,))[0]

    def lines_at(self, bounds: Interval, places: Sequence[float], *, quick: bool = False) -> list[Lines]:
        """At the middle what is better there, x itself for places left of it and the known ends right of it."""
        lower, upper = bounds
        room, finite = FAR * (self.high - self.low), torch.isfinite(lower) & torch.isfinite(upper)
        near = finite & (lower >= self.low - room), finite & (upper <= self.high + room)
        chosen = (near if place == 0.5 else [finite & (place < 0.5)] * 2 for place in places)
        return [self._lines(bounds, below, above) for below, above in chosen]

    def _lines(self, limits: Interval, below: Tensor, above: Tensor) -> Lines:
        found = []
        for follow, end in ((below, self.low), (above, self.high)):
            zero = torch.zeros_like(limits.lower)
            found += [torch.where(follow, zero + 1, zero), torch.where(follow, zero, zero + end)]
        return Lines(*found)
