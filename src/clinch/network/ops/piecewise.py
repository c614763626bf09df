"""Functions of linear pieces: hard activations, shrinkage, thresholds, steps. Those without jumps become ReLUs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from clinch.network.ops.add import Subtract
from clinch.network.ops.base import Elementwise, Interval, Lines, Operator, Shape
from clinch.network.ops.clamp import clamp
from clinch.network.ops.elementwise import Jump, ScalarFunction, spelled
from clinch.network.ops.reading import Call, Value, from_aten, from_onnx
from clinch.network.ops.relu import LeakyReLU
from clinch.network.ops.scale import Scale


@spelled("aten.hardswish", "HardSwish")
@dataclass(frozen=True, eq=False)
class Hardswish(ScalarFunction):
    """``f(x) = x·min(max(x + 3, 0), 6)/6``."""

    def forward(self, *inputs: Tensor) -> Tensor:
        """The hard swish."""
        return functional.hardswish(inputs[0])

    def derivative(self, x: Tensor) -> Tensor:
        """``x/3 + 1/2`` on [−3, 3], 0 left of it, 1 right of it."""
        return torch.where(x < -3, 0.0, torch.where(x > 3, 1.0, x / 3 + 0.5)).to(x.dtype)

    def turns(self) -> tuple[float, ...]:
        """Where the pieces meet."""
        return -3.0, 3.0


@dataclass(frozen=True, eq=False)
class Threshold(ScalarFunction):
    """``f(x) = x`` for x > threshold, else the value."""

    threshold: float
    value: float

    def forward(self, *inputs: Tensor) -> Tensor:
        """x, or the value."""
        return functional.threshold(inputs[0], self.threshold, self.value)

    def derivative(self, x: Tensor) -> Tensor:
        """1 or 0."""
        return (x > self.threshold).to(x)

    def turns(self) -> tuple[float, ...]:
        """The threshold."""
        return (self.threshold,)

    def jumps(self) -> tuple[Jump, ...]:
        """From the value to the threshold."""
        return (Jump(self.threshold, self.value, self.threshold),)


@dataclass(frozen=True, eq=False)
class Shrink(ScalarFunction):
    """``f(x) = x − bias`` for x > lambd, ``x + bias`` for x < −lambd, else 0."""

    lambd: float = 0.5
    bias: float = 0.0

    def forward(self, *inputs: Tensor) -> Tensor:
        """What is beyond lambd."""
        (x,) = inputs
        beyond = torch.where(x < -self.lambd, x + self.bias, torch.zeros_like(x))
        return torch.where(x > self.lambd, x - self.bias, beyond)

    def derivative(self, x: Tensor) -> Tensor:
        """1 or 0."""
        return (x.abs() > self.lambd).to(x)

    def turns(self) -> tuple[float, ...]:
        """±lambd."""
        return -self.lambd, self.lambd

    def jumps(self) -> tuple[Jump, ...]:
        """To zero and from it."""
        rest = self.lambd - self.bias
        return Jump(-self.lambd, -rest, 0.0), Jump(self.lambd, 0.0, rest)


@spelled("aten.sign", "aten.sgn", "Sign")
@dataclass(frozen=True, eq=False)
class Sign(ScalarFunction):
    """``f(x) = −1, 0 or 1``: the sign."""

    increasing: ClassVar[bool] = True

    def forward(self, *inputs: Tensor) -> Tensor:
        """The sign."""
        return inputs[0].sign()

    def derivative(self, x: Tensor) -> Tensor:
        """0."""
        return torch.zeros_like(x)

    def turns(self) -> tuple[float, ...]:
        """Zero."""
        return (0.0,)

    def jumps(self) -> tuple[Jump, ...]:
        """From −1 to 1."""
        return (Jump(0.0, -1.0, 1.0),)


@dataclass(frozen=True, eq=False)
class Staircase(Elementwise):
    """An increasing function of whole steps with ``x + least <= f(x) <= x + most``."""

    least: ClassVar[float]
    most: ClassVar[float]
    increasing: ClassVar[bool] = True
    has_absolute_error: ClassVar[bool] = True

    def relax(self, inputs: Sequence[Interval], shapes: Sequence[Shape]) -> Lines:
        """Constants, or lines of slope 1 where they are tighter at the middle."""
        lower, upper = inputs[0]
        first, last = self.forward(lower), self.forward(upper)
        middle = lower / 2 + upper / 2
        rising, falling = middle + self.least > first, middle + self.most < last
        return Lines(
            rising.to(lower), torch.where(rising, self.least, first),
            falling.to(lower), torch.where(falling, self.most, last),
        )  # fmt: skip


@spelled("aten.floor", "Floor")
@dataclass(frozen=True, eq=False)
class Floor(Staircase):
    """``f(x) = ⌊x⌋``."""

    least: ClassVar[float] = -1.0
    most: ClassVar[float] = 0.0

    def forward(self, *inputs: Tensor) -> Tensor:
        """``⌊x⌋``."""
        return inputs[0].floor()


@spelled("aten.ceil", "Ceil")
@dataclass(frozen=True, eq=False)
class Ceil(Staircase):
    """``f(x) = ⌈x⌉``."""

    least: ClassVar[float] = 0.0
    most: ClassVar[float] = 1.0

    def forward(self, *inputs: Tensor) -> Tensor:
        """``⌈x⌉``."""
        return inputs[0].ceil()


@dataclass(frozen=True, eq=False)
class Round(Staircase):
    """The nearest whole number, of two the even one."""

    least: ClassVar[float] = -0.5
    most: ClassVar[float] = 0.5

    def forward(self, *inputs: Tensor) -> Tensor:
        """The nearest whole number."""
        return inputs[0].round()


@from_aten("aten.round")
@from_onnx("Round")
def _round(call: Call) -> Round | None:
    return Round() if call.get("decimals", 0) == 0 else None


@from_aten("aten.threshold")
def _threshold(call: Call) -> Value:
    return _above(call, call.activation("self"), call.number("threshold", 0.0), call.number("value", 0.0))


@from_onnx("ThresholdedRelu")
def _onnx_threshold(call: Call) -> Value:
    return _above(call, call.activation("X"), call.number("alpha", 1.0), 0.0)


def _above(call: Call, x: Value, threshold: float, value: float) -> Value:
    """Without a jump it is ``max(x, threshold)``."""
    return clamp(call, x, threshold, None) if threshold == value else call.emit(Threshold(threshold, value), x)


@from_aten("aten.hardshrink")
def _hardshrink(call: Call) -> Value | None:
    return _shrink(call, call.activation("self"), call.number("lambd", 0.5), 0.0)


@from_aten("aten.softshrink")
def _softshrink(call: Call) -> Value | None:
    lambd = call.number("lambd", 0.5)
    return _shrink(call, call.activation("self"), lambd, lambd)


@from_onnx("Shrink")
def _onnx_shrink(call: Call) -> Value | None:
    return _shrink(call, call.activation("input"), call.number("lambd", 0.5), call.number("bias", 0.0))


def _shrink(call: Call, x: Value, lambd: float, bias: float) -> Value | None:
    """Without jumps it is ``max(x − lambd, 0) − max(−x − lambd, 0)``."""
    if lambd < 0:
        return None
    if lambd != bias:
        return call.emit(Shrink(lambd, bias), x)
    right, left = (
        call.emit(LeakyReLU(), _affine(call, x, sign, -lambd)) for sign in (1.0, -1.0)
    )  # fmt: skip
    return call.emit(Subtract(), right, left)


@from_aten("aten.hardsigmoid")
def _hardsigmoid(call: Call) -> Value:
    return clamp(call, _affine(call, call.activation("self"), 1 / 6, 0.5), 0.0, 1.0)


@from_onnx("HardSigmoid")
def _onnx_hardsigmoid(call: Call) -> Value:
    alpha, beta = call.number("alpha", 0.2), call.number("beta", 0.5)
    return clamp(call, _affine(call, call.activation("X"), alpha, beta), 0.0, 1.0)


def _affine(call: Call, x: Value, scale: float, shift: float) -> Value:
    op: Operator = Scale(*(torch.tensor(v, dtype=torch.float64) for v in (scale, shift)))
    return call.emit(op, x)
