"""Masks in front of a softmax: minus infinity at constant places, and numbers so low that they mean it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from clinch.network.ops.base import Elementwise, Interval, Lines, Operator, Shape, Statement


@dataclass(frozen=True, eq=False)
class Masked(Operator):
    """``f(x) = x`` at chosen places and −∞ at all others: what a softmax behind it drops.

    Attributes:
        keep: truth values that broadcast to a sample.
    """

    keep: Tensor

    def forward(self, *inputs: Tensor) -> Tensor:
        """Minus infinity at the others."""
        return torch.where(self.keep, inputs[0], -torch.inf)


@dataclass(frozen=True, eq=False)
class Inside(Elementwise):
    """``f(x) = x`` for ``|x| <= limit``; of other x nothing is stated, so that no bound follows from them.

    Scores to which a softmax adds −1e9 may be any as long as the sum stays far below all others.
    """

    limit: float

    selects: ClassVar[bool] = True

    def forward(self, *inputs: Tensor) -> Tensor:
        """The number itself."""
        return inputs[0]

    def statement(self, shapes: Sequence[Shape], shape: Shape) -> Statement:
        """The same elements: that limits hold was seen where the bound was found."""
        return {"kind": "reshape", "shape": list(shape)}, {}

    def _known(self, bounds: Interval) -> Tensor:
        return (bounds.lower >= -self.limit) & (bounds.upper <= self.limit)

    def interval(self, *inputs: Interval) -> Interval:
        """The limits, infinite where they reach too far."""
        beyond, (lower, upper) = ~self._known(inputs[0]), inputs[0]
        return Interval(lower.masked_fill(beyond, -torch.inf), upper.masked_fill(beyond, torch.inf))

    def relax(self, inputs: Sequence[Interval], shapes: Sequence[Shape]) -> Lines:
        """x itself, infinite constants where limits reach too far."""
        known = self._known(inputs[0])
        slope = known.to(inputs[0].lower.dtype)
        nothing = [torch.where(known, 0.0, end).to(slope) for end in (-torch.inf, torch.inf)]
        return Lines(slope, nothing[0], slope, nothing[1])
