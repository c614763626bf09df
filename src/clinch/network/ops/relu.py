"""ReLU and leaky ReLU: two linear pieces that meet at zero."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from clinch.network.ops.add import Add
from clinch.network.ops.base import Elementwise, Interval, Lines, Operator, Pullback, Shape, Statement
from clinch.network.ops.encoder import Expression, OperatorEncoder
from clinch.network.ops.reading import Call, Value, from_aten, from_onnx
from clinch.network.ops.scale import Scale, per_sample
from clinch.network.ops.views import Maximum, TwoPieces


@dataclass(frozen=True, eq=False)
class LeakyReLU(Elementwise):
    """``f(x) = max(x, a·x)`` with ``a < 1``; ``a = 0`` is the ReLU, ``a = −1`` the absolute value.

    Relaxation of an unstable element (``l < 0 < u``): above, the chord ``(u − a·l)/(u − l)·(x − l) + a·l``; below, a
    line through zero of any slope in ``[a, 1]``. The default slope is CROWN's (Zhang et al. 2018, arXiv 1811.00866,
    section 3): the steeper one where ``u > −l``.
    """

    negative_slope: float = 0.0

    increasing: ClassVar[bool] = True

    @property
    def label(self) -> str:
        """ReLU where nothing leaks."""
        return {0.0: "ReLU", -1.0: "Abs"}.get(self.negative_slope, "LeakyReLU")

    def interval(self, *inputs: Interval) -> Interval:
        """The limits go through; where the function falls left of zero, its least value is there."""
        lower, upper = inputs[0]
        if self.negative_slope >= 0:
            return super().interval(*inputs)
        first, last = self.forward(lower), self.forward(upper)
        least = torch.where((lower < 0) & (upper > 0), 0.0, torch.minimum(first, last))
        return Interval(least, torch.maximum(first, last))

    def forward(self, *inputs: Tensor) -> Tensor:
        """``max(x, a·x)``."""
        (x,) = inputs
        if self.negative_slope == 0.0:
            return x.relu()
        return torch.nn.functional.leaky_relu(x, self.negative_slope)

    def two_pieces(self) -> TwoPieces:
        """Itself."""
        return self

    def pullback(self, shapes: Sequence[Shape]) -> Pullback | None:
        """1 right of zero, a elsewhere."""
        if self.negative_slope == 0.0:
            return lambda gradient, inputs, output: [torch.ops.aten.threshold_backward(gradient, output, 0.0)]
        back, a = torch.ops.aten.leaky_relu_backward, self.negative_slope
        return lambda gradient, inputs, output: [back(gradient, inputs[0], a, False)]

    def as_maximum(self, shapes: Sequence[Shape]) -> Maximum:
        """``max(x, a·x)``."""
        index = torch.arange(math.prod(shapes[0])).expand(2, -1)
        return Maximum(index, torch.tensor([1.0, self.negative_slope], dtype=torch.float64))

    def statement(self, shapes: Sequence[Shape], shape: Shape) -> Statement | None:
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
def _leaky_relu(call: Call) -> Value:
    slope = float(call["negative_slope"] if "negative_slope" in call.arguments else call.get("alpha", 0.01))
    return two_pieces(call, call.activations[0], slope)


@from_aten("aten.rrelu")
def _random_leaky_relu(call: Call) -> Value:
    if call.get("training", False):
        raise call.refuse("it draws its slopes at random, as in training mode")
    return two_pieces(call, call.activations[0], (call.number("lower", 1 / 8) + call.number("upper", 1 / 3)) / 2)


@from_aten("aten.abs", "aten.absolute")
@from_onnx("Abs")
def _absolute(call: Call) -> Operator:
    return LeakyReLU(-1.0)


@from_aten("aten.prelu")
def _prelu(call: Call) -> Value | None:
    slope, x = call.tensor("weight"), call.activation("self")
    if slope is None:
        return None
    return _by_channel(call, x, slope if slope.numel() == 1 else slope.reshape(-1, *[1] * (len(x.shape) - 1)))


@from_onnx("PRelu")
def _onnx_prelu(call: Call) -> Value | None:
    slope, x = call.tensor("slope"), call.activation("X")
    return None if slope is None else _by_channel(call, x, per_sample(call, slope, len(x.shape)))


def two_pieces(call: Call, x: Value, slope: float) -> Value:
    """x right of zero, ``a·x`` left of it, for any slope a: above 1 it is ``−a·max(−x, −x/a)``."""
    if not math.isfinite(slope):
        raise call.refuse(f"its negative slope is {slope}")
    if slope == 1:
        return x
    if slope < 1:
        return call.emit(LeakyReLU(slope), x)
    minus, back = (Scale(torch.tensor(factor, dtype=torch.float64)) for factor in (-1.0, -slope))
    return call.emit(back, call.emit(LeakyReLU(1 / slope), call.emit(minus, x)))


def _by_channel(call: Call, x: Value, slope: Tensor) -> Value:
    """One slope, or ``a ⊙ x + (1 − a) ⊙ max(x, 0)`` where it differs from channel to channel."""
    if slope.numel() == 1:
        return two_pieces(call, x, float(slope))
    bent = call.emit(Scale(1 - slope), call.emit(LeakyReLU(), x))
    return call.emit(Add(), call.emit(Scale(slope), x), bent)
