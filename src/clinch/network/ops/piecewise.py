"""Functions of linear pieces: hard activations, shrinkage, thresholds, steps. Those without jumps become ReLUs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from clinch.network.ops.add import Add, Subtract
from clinch.network.ops.base import Elementwise, Interval, Lines, Shape, Statement
from clinch.network.ops.clamp import clamp
from clinch.network.ops.elementwise import Jump, ScalarFunction, moved_to, spelled
from clinch.network.ops.reading import Call, Value, from_aten, from_onnx
from clinch.network.ops.relu import LeakyReLU
from clinch.network.ops.scale import Scale


@spelled("aten.hardswish", "HardSwish")
@dataclass(frozen=True, eq=False)
class Hardswish(ScalarFunction):
    """``f(x) = x·min(max(x + 3, 0), 6)/6``."""

    named: ClassVar[str | None] = "hardswish"

    def forward(self, *inputs: Tensor) -> Tensor:
        """The hard swish."""
        return functional.hardswish(inputs[0])

    def derivative(self, x: Tensor) -> Tensor:
        """``x/3 + 1/2`` on [−3, 3], 0 left of it, 1 right of it."""
        return torch.where(x < -3, 0.0, torch.where(x > 3, 1.0, x / 3 + 0.5)).to(x.dtype)

    def turns(self) -> tuple[float, ...]:
        """Where the pieces meet."""
        return -3.0, 3.0


class Line(NamedTuple):
    """``slope·x + shift``."""

    slope: float
    shift: float

    def at(self, x: float) -> float:
        """Its value there."""
        return self.slope * x + self.shift

    def moved(self, scale: float, shift: float) -> Line:
        """``scale·line + shift``."""
        return Line(scale * self.slope, scale * self.shift + shift)

    def plus(self, other: Line) -> Line:
        """The sum of both."""
        return Line(self.slope + other.slope, self.shift + other.shift)

    def followed_by(self, other: Line) -> Line:
        """``other(self(x))``."""
        return self.moved(other.slope, other.shift)

    def times(self, other: Line) -> Line:
        """The product, where one of them is constant; else NaN."""
        a, b = (self, other) if other.slope == 0 else (other, self)
        return a.moved(b.shift, 0.0) if b.slope == 0 else Line(math.nan, math.nan)


@dataclass(frozen=True, eq=False)
class PiecewiseLinear(ScalarFunction):
    """``f(x) = a_i·x + b_i`` on the i-th of the intervals between ascending numbers.

    Attributes:
        breaks: those numbers, where f has a kink or jumps.
        lines: one more than there are breaks.
        closed: whether a break belongs to the interval left of it.
    """

    breaks: tuple[float, ...]
    lines: tuple[Line, ...]
    closed: tuple[bool, ...]

    def forward(self, *inputs: Tensor) -> Tensor:
        """The line of x's interval."""
        (x,) = inputs
        value = self.lines[0].slope * x + self.lines[0].shift
        for at, closed, line in zip(self.breaks, self.closed, self.lines[1:]):
            value = torch.where(x > at if closed else x >= at, line.slope * x + line.shift, value)
        return value

    def derivative(self, x: Tensor) -> Tensor:
        """The slope."""
        value = torch.full_like(x, self.lines[0].slope)
        for at, line in zip(self.breaks, self.lines[1:]):
            value = torch.where(x > at, line.slope, value)
        return value

    def turns(self) -> tuple[float, ...]:
        """The breaks."""
        return self.breaks

    def statement(self, shapes: Sequence[Shape], shape: Shape) -> Statement:
        """Breaks, then slopes and shifts."""
        numbers = [*self.breaks, *(number for line in self.lines for number in line)]
        return {"kind": "function", "name": "piecewise linear", "parameters": [float(n) for n in numbers]}, {}

    def jumps(self) -> tuple[Jump, ...]:
        """Where the lines of two intervals do not meet, up to rounding."""
        sides = ((at, left.at(at), right.at(at)) for at, left, right in zip(self.breaks, self.lines, self.lines[1:]))
        return tuple(Jump(*side) for side in sides if abs(side[1] - side[2]) > MEETS * (1 + abs(side[1])))

    def line_at(self, x: float) -> Line:
        """The line that f follows at x."""
        return self.lines[sum(at < x if closed else at <= x for at, closed in zip(self.breaks, self.closed))]

    def line_right_of(self, x: float) -> Line:
        """The line just right of x."""
        return self.lines[sum(at <= x for at in self.breaks)]


#: how far lines may miss each other where rounding put them
MEETS = 1e-13


def emit_piecewise(emit: Callable[..., Value], x: Value, f: PiecewiseLinear) -> Value:
    """f without jumps by ReLUs, so that it has every fact: one after the other where it is monotone, which keeps its
    limits tight, else a sum.

    Args:
        emit: appends a node, given an operator and its inputs.
        x: an activation.
        f: any function of linear pieces.
    """
    if f.jumps():
        return emit(f, x)
    slopes = [line.slope for line in f.lines]
    first = max(range(len(slopes)), key=lambda k: (abs(slopes[k]), k))  # all others are flatter
    sign = math.copysign(1.0, slopes[first])
    if not f.breaks or (len(f.breaks) > 1 and not all(sign * s > 0 for s in slopes[1:-1])) or not slopes[first]:
        return _sum_of_kinks(emit, x, f)
    if len(f.breaks) > 1 and min(sign * slopes[0], sign * slopes[-1]) < 0:
        return _sum_of_kinks(emit, x, f)
    y = _scaled(emit, x, *f.lines[first])
    for k in range(first, len(f.breaks)):
        y = _bent(emit, y, f.lines[k].at(f.breaks[k]), sign, slopes[k + 1] / slopes[k])
    for k in range(first, 0, -1):
        y = _bent(emit, y, f.lines[k].at(f.breaks[k - 1]), -sign, slopes[k - 1] / slopes[k])
    return y


def _bent(emit: Callable[..., Value], y: Value, at: float, side: float, ratio: float) -> Value:
    """y, of another slope beyond a number: above it for the side 1, below it for −1."""
    if ratio < 1:
        bent = emit(LeakyReLU(ratio), _scaled(emit, y, -side, side * at))
        return _scaled(emit, bent, -side, at)
    bent = emit(LeakyReLU(1 / ratio), _scaled(emit, y, side, -side * at))
    return _scaled(emit, bent, side * ratio, at)


def _sum_of_kinks(emit: Callable[..., Value], x: Value, f: PiecewiseLinear) -> Value:
    """The first line, and a ReLU for each break."""
    total = _scaled(emit, x, *f.lines[0])
    for at, left, right in zip(f.breaks, f.lines, f.lines[1:]):
        bent = _scaled(emit, emit(LeakyReLU(), _scaled(emit, x, 1.0, -at)), right.slope - left.slope, 0.0)
        total = emit(Add(), total, bent)
    return total


def _scaled(emit: Callable[..., Value], x: Value, slope: float, shift: float) -> Value:
    constants = (None if v == n else torch.tensor(v, dtype=torch.float64) for v, n in ((slope, 1.0), (shift, 0.0)))
    return emit(Scale(*constants), x)


@spelled("aten.sign", "aten.sgn", "Sign")
@dataclass(frozen=True, eq=False)
class Sign(ScalarFunction):
    """``f(x) = −1, 0 or 1``: the sign."""

    named: ClassVar[str | None] = "sign"

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

    @property
    def turns_at_zero(self) -> bool:
        """It is constant on either side."""
        return True

    def undecided(self, bounds: Interval) -> Tensor:
        """Where zero lies between the limits or at one of them."""
        lower, upper = bounds
        return (lower <= 0) & (upper >= 0) & (lower < upper)


@dataclass(frozen=True, eq=False)
class Staircase(Elementwise):
    """An increasing function of whole steps with ``x + least <= f(x) <= x + most``."""

    least: ClassVar[float]
    most: ClassVar[float]
    increasing: ClassVar[bool] = True
    has_absolute_error: ClassVar[bool] = True

    def undecided(self, bounds: Interval) -> Tensor:
        """Where there is a step between the limits."""
        return self.forward(bounds.lower) != self.forward(bounds.upper)

    def interval(self, *inputs: Interval) -> Interval:
        """From f at both limits, and at half of a whole number that rounding may have taken them away from."""
        lower, upper = inputs[0]
        nearest = [(2 * side).round() / 2 for side in inputs[0]]
        first, last = moved_to(nearest[0], inputs[0]).lower, moved_to(nearest[1], inputs[0]).upper
        return Interval(
            torch.minimum(self.forward(lower), self.forward(first)),
            torch.maximum(self.forward(upper), self.forward(last)),
        )

    def relax(self, inputs: Sequence[Interval], shapes: Sequence[Shape]) -> Lines:
        """Constants, or lines of slope 1 where they are tighter at the middle."""
        (lower, upper), (first, last) = inputs[0], self.interval(inputs[0])
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

    named: ClassVar[str | None] = "floor"

    least: ClassVar[float] = -1.0
    most: ClassVar[float] = 0.0

    def forward(self, *inputs: Tensor) -> Tensor:
        """``⌊x⌋``."""
        return inputs[0].floor()


@spelled("aten.ceil", "Ceil")
@dataclass(frozen=True, eq=False)
class Ceil(Staircase):
    """``f(x) = ⌈x⌉``."""

    named: ClassVar[str | None] = "ceil"

    least: ClassVar[float] = 0.0
    most: ClassVar[float] = 1.0

    def forward(self, *inputs: Tensor) -> Tensor:
        """``⌈x⌉``."""
        return inputs[0].ceil()


@dataclass(frozen=True, eq=False)
class Round(Staircase):
    """The nearest whole number, of two the even one."""

    named: ClassVar[str | None] = "round"

    least: ClassVar[float] = -0.5
    most: ClassVar[float] = 0.5

    def forward(self, *inputs: Tensor) -> Tensor:
        """The nearest whole number."""
        return inputs[0].round()


@from_aten("aten.heaviside")
def _heaviside(call: Call) -> Value | None:
    """A step; of the value in the middle at zero it is half the sign, shifted."""
    x, middle = call.activation("self"), call.number("values", 0.5)
    if middle == 0.5:
        return _scaled(call.emit, call.emit(Sign(), x), 0.5, 0.5)
    if middle not in (0.0, 1.0):
        return None
    return call.emit(PiecewiseLinear((0.0,), (Line(0.0, 0.0), Line(0.0, 1.0)), (middle == 0.0,)), x)


@from_aten("aten.threshold")
def _threshold(call: Call) -> Value:
    return _above(call, call.activation("self"), call.number("threshold", 0.0), call.number("value", 0.0))


@from_onnx("ThresholdedRelu")
def _onnx_threshold(call: Call) -> Value:
    return _above(call, call.activation("X"), call.number("alpha", 1.0), 0.0)


def _above(call: Call, x: Value, threshold: float, value: float) -> Value:
    """Without a jump it is ``max(x, threshold)``."""
    if threshold == value:
        return clamp(call, x, threshold, None)
    return call.emit(PiecewiseLinear((threshold,), (Line(0.0, value), Line(1.0, 0.0)), (True,)), x)


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
        lines = (Line(1.0, bias), Line(0.0, 0.0), Line(1.0, -bias))
        return call.emit(PiecewiseLinear((-lambd, lambd), lines, (False, True)), x)
    right, left = (
        call.emit(LeakyReLU(), _scaled(call.emit, x, sign, -lambd)) for sign in (1.0, -1.0)
    )  # fmt: skip
    return call.emit(Subtract(), right, left)


@from_aten("aten.hardsigmoid")
def _hardsigmoid(call: Call) -> Value:
    return clamp(call, _scaled(call.emit, call.activation("self"), 1 / 6, 0.5), 0.0, 1.0)


@from_onnx("HardSigmoid")
def _onnx_hardsigmoid(call: Call) -> Value:
    alpha, beta = call.number("alpha", 0.2), call.number("beta", 0.5)
    return clamp(call, _scaled(call.emit, call.activation("X"), alpha, beta), 0.0, 1.0)
