"""Functions of one number: exponential, logarithm, powers and roots."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from clinch.network.ops.base import Interval, Operator
from clinch.network.ops.bilinear import multiply
from clinch.network.ops.elementwise import Jump, ScalarFunction, spelled
from clinch.network.ops.reading import Call, Value, from_aten, from_onnx
from clinch.network.ops.rests import rounded_quotient
from clinch.network.ops.scale import Scale, per_sample, sides


@spelled("aten.exp", "Exp")
@dataclass(frozen=True, eq=False)
class Exp(ScalarFunction):
    """``f(x) = e^x``."""

    named: ClassVar[str | None] = "exp"

    increasing: ClassVar[bool] = True

    def forward(self, *inputs: Tensor) -> Tensor:
        """``e^x``."""
        return inputs[0].exp()

    def derivative(self, x: Tensor) -> Tensor:
        """``e^x``."""
        return x.exp()


@spelled("aten.expm1", "aten.special_expm1")
@dataclass(frozen=True, eq=False)
class Expm1(Exp):
    """``f(x) = e^x − 1``, accurate near zero."""

    named: ClassVar[str | None] = "expm1"

    def forward(self, *inputs: Tensor) -> Tensor:
        """``e^x − 1``."""
        return inputs[0].expm1()


@spelled("aten.log", "Log")
@dataclass(frozen=True, eq=False)
class Log(ScalarFunction):
    """``f(x) = ln x`` for x >= 0."""

    named: ClassVar[str | None] = "log"

    increasing: ClassVar[bool] = True

    def forward(self, *inputs: Tensor) -> Tensor:
        """``ln x``."""
        return inputs[0].log()

    def derivative(self, x: Tensor) -> Tensor:
        """``1/x``."""
        return 1 / x

    def domain(self) -> tuple[float, float]:
        """From zero on."""
        return 0.0, torch.inf


@spelled("aten.log1p", "aten.special_log1p")
@dataclass(frozen=True, eq=False)
class Log1p(ScalarFunction):
    """``f(x) = ln (1 + x)`` for x >= −1."""

    named: ClassVar[str | None] = "log1p"

    increasing: ClassVar[bool] = True

    def forward(self, *inputs: Tensor) -> Tensor:
        """``ln (1 + x)``."""
        return inputs[0].log1p()

    def derivative(self, x: Tensor) -> Tensor:
        """``1/(1 + x)``."""
        return 1 / (1 + x)

    def domain(self) -> tuple[float, float]:
        """From −1 on."""
        return -1.0, torch.inf


@spelled("aten.sqrt", "Sqrt")
@dataclass(frozen=True, eq=False)
class Sqrt(ScalarFunction):
    """``f(x) = √x`` for x >= 0.

    Attributes:
        of_norm: gradients through zero are zero, as those of torch's norms are, so that attacks can follow them.
    """

    of_norm: bool = field(default=False, compare=False)

    named: ClassVar[str | None] = "sqrt"

    increasing: ClassVar[bool] = True

    def forward(self, *inputs: Tensor) -> Tensor:
        """``√x``."""
        if not self.of_norm:
            return inputs[0].sqrt()
        zero = inputs[0] == 0
        return torch.where(zero, 0.0, torch.where(zero, 1.0, inputs[0]).sqrt())

    def derivative(self, x: Tensor) -> Tensor:
        """``1/(2√x)``."""
        return 0.5 / x.sqrt()

    def domain(self) -> tuple[float, float]:
        """From zero on."""
        return 0.0, torch.inf


@spelled("aten.reciprocal", "Reciprocal")
@dataclass(frozen=True, eq=False)
class Reciprocal(ScalarFunction):
    """``f(x) = 1/x``."""

    named: ClassVar[str | None] = "reciprocal"

    def forward(self, *inputs: Tensor) -> Tensor:
        """``1/x``."""
        return inputs[0].reciprocal()

    def derivative(self, x: Tensor) -> Tensor:
        """``−1/x²``."""
        return -(x.reciprocal().square())

    def turns(self) -> tuple[float, ...]:
        """The pole."""
        return (0.0,)

    def jumps(self) -> tuple[Jump, ...]:
        """The pole."""
        return (Jump(0.0, -torch.inf, torch.inf),)


@dataclass(frozen=True, eq=False)
class Power(ScalarFunction):
    """``f(x) = x^p``, for x >= 0 where p is no whole number."""

    named: ClassVar[str | None] = "power"

    exponent: float

    @property
    def _whole(self) -> bool:
        return float(self.exponent).is_integer()

    def forward(self, *inputs: Tensor) -> Tensor:
        """``x^p``."""
        return inputs[0].pow(self.exponent)

    def derivative(self, x: Tensor) -> Tensor:
        """``p·x^(p − 1)``."""
        return self.exponent * x.pow(self.exponent - 1)

    def turns(self) -> tuple[float, ...]:
        """Zero: the inflection of odd powers, the pole of negative ones."""
        return (0.0,) if self._whole and (self.exponent < 0 or self.exponent % 2 == 1) else ()

    def jumps(self) -> tuple[Jump, ...]:
        """The pole of negative powers."""
        sign = -1.0 if self.exponent % 2 == 1 else 1.0
        return (Jump(0.0, sign * torch.inf, torch.inf),) if self._whole and self.exponent < 0 else ()

    def interval(self, *inputs: Interval) -> Interval:
        """Even powers are not below zero, by rounding either: roots may follow."""
        limits = super().interval(*inputs)
        return limits if self.exponent % 2 else Interval(limits.lower.clamp(min=0), limits.upper)

    def domain(self) -> tuple[float, float]:
        """From zero on, unless p is a whole number."""
        return (-torch.inf if self._whole else 0.0), torch.inf


def power(call: Call, x: Value, exponent: float) -> Value:
    """``x^p``: nothing for p = 1, a root for p = 1/2."""
    if exponent == 1:
        return x
    special: dict[float, Operator] = {0.5: Sqrt(), -1.0: Reciprocal()}
    return call.emit(special.get(exponent, Power(float(exponent))), x)


@from_aten("aten.pow")
@from_onnx("Pow")
def _power(call: Call) -> Value | None:
    names = ("self", "exponent") if "self" in call.arguments else ("X", "Y")
    base, exponent = call.operand(names[0]), call.operand(names[1])
    if isinstance(base, Tensor):
        # b^x = e^(x ln b)
        if isinstance(exponent, Tensor) or not bool((base > 0).all()):
            return None
        return call.emit(Exp(), call.emit(Scale(per_sample(call, base.log(), len(exponent.shape))), exponent))
    if isinstance(exponent, Tensor) and exponent.numel() > 1:
        # x^c = e^(c ln x)
        return call.emit(Exp(), call.emit(Scale(per_sample(call, exponent, len(base.shape))), call.emit(Log(), base)))
    if not isinstance(exponent, Tensor):
        return None
    if float(exponent) == 0:
        return call.emit(Scale(*(torch.tensor(n, dtype=torch.float64) for n in (0.0, 1.0))), base)
    return power(call, base, float(exponent))


@from_aten("aten.square")
def _square(call: Call) -> Value:
    return power(call, call.activation("self"), 2.0)


@from_aten("aten.rsqrt")
def _rsqrt(call: Call) -> Value:
    return power(call, call.activation("self"), -0.5)


@from_aten("aten.div", "aten.divide", "aten.true_divide")
@from_onnx("Div")
def _divide(call: Call) -> Value | None:
    quotient, mode = _quotient(call, *sides(call)), call.get("rounding_mode")
    if quotient is None or mode is None:
        return quotient
    return rounded_quotient(call, quotient, mode)


def _quotient(call: Call, a: Value | Tensor, b: Value | Tensor) -> Value | None:
    if isinstance(b, Tensor):
        return None if isinstance(a, Tensor) else call.emit(Scale(1.0 / per_sample(call, b, len(a.shape))), a)
    inverse = call.emit(Reciprocal(), b)
    if isinstance(a, Tensor):
        return call.emit(Scale(per_sample(call, a, len(b.shape))), inverse)
    return multiply(call, a, inverse)
