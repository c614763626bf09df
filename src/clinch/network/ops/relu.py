"""ReLU and leaky ReLU: two linear pieces that meet at zero."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from clinch.network.ops.base import Elementwise, Interval, Lines, Operator, Shape, Statement
from clinch.network.ops.encoder import Expression, OperatorEncoder
from clinch.network.ops.reading import Call, from_aten, from_onnx
from clinch.network.ops.views import Maximum, TwoPieces


@dataclass(frozen=True, eq=False)
class LeakyReLU(Elementwise):
    """``f(x) = max(x, a·x)`` with ``0 <= a < 1``; ``a = 0`` is the ReLU.

    Relaxation of an unstable element (``l < 0 < u``): above, the chord ``(u − a·l)/(u − l)·(x − l) + a·l``; below, a
    line through zero of any slope in ``[a, 1]``. The default slope is CROWN's (Zhang et al. 2018, arXiv 1811.00866,
    section 3): the steeper one where ``u > −l``.
    """

    negative_slope: float = 0.0

    increasing: ClassVar[bool] = True

    @property
    def label(self) -> str:
        """ReLU where nothing leaks."""
        return "ReLU" if self.negative_slope == 0.0 else "LeakyReLU"

    def forward(self, *inputs: Tensor) -> Tensor:
        """``max(x, a·x)``."""
        (x,) = inputs
        if self.negative_slope == 0.0:
            return x.relu()
        return torch.nn.functional.leaky_relu(x, self.negative_slope)

    def two_pieces(self) -> TwoPieces:
        """Itself."""
        return self

    def as_maximum(self, shapes: Sequence[Shape]) -> Maximum:
        """``max(x, a·x)``."""
        index = torch.arange(math.prod(shapes[0])).expand(2, -1)
        return Maximum(index, torch.tensor([1.0, self.negative_slope], dtype=torch.float64))

    def statement(self, shapes: Sequence[Shape], shape: Shape) -> Statement:
        """A ReLU with its slope."""
        return {"kind": "relu", "slope": self.negative_slope}, {}

    def relax(self, inputs: Sequence[Interval], shapes: Sequence[Shape]) -> Lines:
        """The lines with CROWN's slopes."""
        lower, upper = inputs[0]
        steep = torch.ones_like(lower)
        return self.relax_with(inputs[0], torch.where(upper > -lower, steep, self.negative_slope * steep))

    def relax_with(self, bounds: Interval, slope: Tensor) -> Lines:
        """The lines with the given lower slopes in ``[a, 1]`` for unstable elements; gradients flow to the slopes.

        Above a half-line the chord becomes the line through its end that is parallel to the other piece; above the
        whole line there is none, and the offset is infinite.
        """
        lower, upper = bounds
        a = self.negative_slope
        unstable = ~((lower >= 0) | (upper <= 0))  # NaN counts as open
        # two numbers in torch.where would meet in the default dtype and round a
        stable_slope = torch.where(lower >= 0, torch.ones_like(lower), a)
        width = torch.where(unstable, upper - lower, torch.ones_like(lower))
        chord = torch.where(unstable, (upper - a * lower) / width, stable_slope)
        rise = torch.where(unstable, (a - chord) * lower, torch.zeros_like(lower))
        if not bool(torch.isfinite(width).all()):
            chord, rise = _over_half_lines(a, bounds, unstable & ~torch.isfinite(width), chord, rise)
        zero = torch.zeros((), dtype=lower.dtype, device=lower.device).expand_as(lower)
        return Lines(torch.where(unstable, slope, stable_slope), zero, chord, rise, below_at_zero=True)

    def encode(
        self,
        encoder: OperatorEncoder,
        inputs: Sequence[Expression],
        bounds: Sequence[Interval],
        shapes: Sequence[Shape],
    ) -> Expression:
        """One binary per unstable element ; stable elements stay expressions."""
        return encoder.two_pieces(inputs[0], bounds[0], self.negative_slope)


def _over_half_lines(a: float, bounds: Interval, where: Tensor, chord: Tensor, rise: Tensor) -> tuple[Tensor, Tensor]:
    """Slopes and offsets of upper lines, with those of open elements with an infinite (or NaN) limit put right."""
    lower, upper = bounds
    to_the_left = where & torch.isfinite(upper)
    to_the_right = where & torch.isfinite(lower)
    chord = torch.where(where, torch.where(to_the_left, a * torch.ones_like(lower), torch.ones_like(lower)), chord)
    rise = torch.where(where, torch.full_like(rise, torch.inf), rise)
    rise = torch.where(to_the_left, (1 - a) * upper, rise)
    return chord, torch.where(to_the_right, (a - 1) * lower, rise)


@from_aten("aten.relu")
@from_onnx("Relu")
def _relu(call: Call) -> Operator:
    return LeakyReLU()


@from_aten("aten.leaky_relu")
@from_onnx("LeakyRelu")
def _leaky_relu(call: Call) -> Operator:
    slope = float(call["negative_slope"] if "negative_slope" in call.arguments else call.get("alpha", 0.01))
    if not 0 <= slope < 1:
        raise call.refuse(f"its negative slope {slope} is not in [0, 1)")
    return LeakyReLU(slope)
