"""Sigmoid and tanh: convex below zero, concave above."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from clinch.network.ops.base import Interval, Lines, Operator, Shape
from clinch.network.ops.elementwise import ScalarFunction
from clinch.network.ops.reading import from_aten, from_onnx

#: bisection steps for the point of tangency; what is left of the bracket costs tightness, never soundness
_STEPS = 40


@dataclass(frozen=True, eq=False)
class SShaped(ScalarFunction):
    """An increasing function that is convex below zero, concave above, and point-symmetric about ``(0, f(0))``.

    Upper line on ``[l, u]`` (the lower one by symmetry): the chord where it lies above the function, that is where
    ``f'(u) >= (f(u) − f(l))/(u − l)``; otherwise the tangent at t, which lies above the function on ``[l, u]`` for
    every ``t >= d``, d the point whose tangent passes through ``(l, f(l))``. Of those the one of least area is taken:
    its point is the midpoint of ``[l, u]``, or d if that is further right (Zhang et al. 2018, arXiv 1811.00866,
    section 3, with d found by bisection and the least-area choice added). Lines are moved outwards by a few units of
    rounding.
    """

    increasing: ClassVar[bool] = True

    def turns(self) -> tuple[float, ...]:
        """The inflection."""
        return (0.0,)

    @property
    def centre(self) -> float:
        """``f(0)``."""
        raise NotImplementedError

    def relax(self, inputs: Sequence[Interval], shapes: Sequence[Shape]) -> Lines:
        """A tangent or chord above, and the mirror image below."""
        lower, upper = inputs[0]
        upper_slope, upper_offset = self._above(lower, upper)
        lower_slope, mirrored = self._above(-upper, -lower)
        return Lines(lower_slope, 2 * self.centre - mirrored, upper_slope, upper_offset)

    def _above(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Slope and offset of the upper line."""
        at_lower, at_upper, width = self.forward(lower), self.forward(upper), upper - lower
        steepest = float(self.derivative(torch.zeros(())))
        chord = torch.where(
            width > 0, (at_upper - at_lower) / torch.where(width > 0, width, 1.0), self.derivative(lower)
        )
        chord = chord.clamp(0.0, steepest)
        # Tangency: g(t) = f(t) + f'(t)(l − t) − f(l) is negative left of d and not negative from d on.
        left, right = lower.clamp(min=0), upper.clamp(min=0)
        for _ in range(_STEPS):
            middle = (left + right) / 2
            enough = self.forward(middle) + self.derivative(middle) * (lower - middle) >= at_lower
            right = torch.where(enough, middle, right)
            left = torch.where(enough, left, middle)
        tangent = torch.where(lower >= 0, lower, right)
        point = torch.maximum(tangent, (lower + upper) / 2)
        by_chord = (upper <= 0) | (self.derivative(upper) >= chord)
        slope = torch.where(by_chord, chord, self.derivative(point))
        through = torch.where(by_chord, lower, point)
        value = torch.where(by_chord, at_lower, self.forward(point))
        rounding = 8 * torch.finfo(lower.dtype).eps * (1 + slope * (lower.abs() + upper.abs()))
        return slope, value - slope * through + rounding


@dataclass(frozen=True, eq=False)
class Sigmoid(SShaped):
    """``f(x) = 1/(1 + e^(−x))``."""

    named: ClassVar[str | None] = "sigmoid"

    def forward(self, *inputs: Tensor) -> Tensor:
        """``1/(1 + e^(−x))``."""
        return inputs[0].sigmoid()

    def derivative(self, x: Tensor) -> Tensor:
        """``f(x)·f(−x)``."""
        return x.sigmoid() * (-x).sigmoid()

    @property
    def centre(self) -> float:
        """``f(0)``."""
        return 0.5


@dataclass(frozen=True, eq=False)
class Tanh(SShaped):
    """``f(x) = tanh x``."""

    named: ClassVar[str | None] = "tanh"

    def forward(self, *inputs: Tensor) -> Tensor:
        """``tanh x``."""
        return inputs[0].tanh()

    def derivative(self, x: Tensor) -> Tensor:
        """``1 − tanh² x = 4 σ(2x) σ(−2x)``."""
        return 4 * (2 * x).sigmoid() * (-2 * x).sigmoid()

    @property
    def centre(self) -> float:
        """``f(0)``."""
        return 0.0


@from_aten("aten.sigmoid")
@from_onnx("Sigmoid")
def _sigmoid(call: object) -> Operator:
    return Sigmoid()


@from_aten("aten.tanh")
@from_onnx("Tanh")
def _tanh(call: object) -> Operator:
    return Tanh()
