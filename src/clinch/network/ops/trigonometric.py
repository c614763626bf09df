"""Functions of one number: trigonometric and hyperbolic ones, and their inverses."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import torch
from torch import Tensor

from clinch.network.ops.base import Interval
from clinch.network.ops.elementwise import ROUNDINGS, Pieces, ScalarFunction, spelled


@spelled("aten.sinh", "Sinh")
@dataclass(frozen=True, eq=False)
class Sinh(ScalarFunction):
    """``f(x) = sinh x``."""

    named: ClassVar[str | None] = "sinh"

    increasing: ClassVar[bool] = True

    def forward(self, *inputs: Tensor) -> Tensor:
        """``sinh x``."""
        return inputs[0].sinh()

    def derivative(self, x: Tensor) -> Tensor:
        """``cosh x``."""
        return x.cosh()

    def turns(self) -> tuple[float, ...]:
        """The inflection."""
        return (0.0,)


@spelled("aten.cosh", "Cosh")
@dataclass(frozen=True, eq=False)
class Cosh(ScalarFunction):
    """``f(x) = cosh x``."""

    named: ClassVar[str | None] = "cosh"

    def forward(self, *inputs: Tensor) -> Tensor:
        """``cosh x``."""
        return inputs[0].cosh()

    def derivative(self, x: Tensor) -> Tensor:
        """``sinh x``."""
        return x.sinh()


@spelled("aten.atan", "aten.arctan", "Atan")
@dataclass(frozen=True, eq=False)
class Atan(ScalarFunction):
    """``f(x) = arctan x``."""

    named: ClassVar[str | None] = "atan"

    increasing: ClassVar[bool] = True

    def forward(self, *inputs: Tensor) -> Tensor:
        """``arctan x``."""
        return inputs[0].atan()

    def derivative(self, x: Tensor) -> Tensor:
        """``1/(1 + x²)``."""
        return 1 / (1 + x * x)

    def turns(self) -> tuple[float, ...]:
        """The inflection."""
        return (0.0,)


@spelled("aten.asinh", "aten.arcsinh", "Asinh")
@dataclass(frozen=True, eq=False)
class Asinh(ScalarFunction):
    """``f(x) = arsinh x``."""

    named: ClassVar[str | None] = "asinh"

    increasing: ClassVar[bool] = True

    def forward(self, *inputs: Tensor) -> Tensor:
        """``arsinh x``."""
        return inputs[0].asinh()

    def derivative(self, x: Tensor) -> Tensor:
        """``1/√(1 + x²)``."""
        return (1 + x * x).rsqrt()

    def turns(self) -> tuple[float, ...]:
        """The inflection."""
        return (0.0,)


@spelled("aten.asin", "aten.arcsin", "Asin")
@dataclass(frozen=True, eq=False)
class Asin(ScalarFunction):
    """``f(x) = arcsin x`` for x in [−1, 1]."""

    named: ClassVar[str | None] = "asin"

    increasing: ClassVar[bool] = True

    def forward(self, *inputs: Tensor) -> Tensor:
        """``arcsin x``."""
        return inputs[0].asin()

    def derivative(self, x: Tensor) -> Tensor:
        """``1/√(1 − x²)``."""
        return (1 - x * x).rsqrt()

    def turns(self) -> tuple[float, ...]:
        """The inflection."""
        return (0.0,)

    def domain(self) -> tuple[float, float]:
        """From −1 to 1."""
        return -1.0, 1.0


@spelled("aten.acos", "aten.arccos", "Acos")
@dataclass(frozen=True, eq=False)
class Acos(ScalarFunction):
    """``f(x) = arccos x`` for x in [−1, 1]."""

    named: ClassVar[str | None] = "acos"

    def forward(self, *inputs: Tensor) -> Tensor:
        """``arccos x``."""
        return inputs[0].acos()

    def derivative(self, x: Tensor) -> Tensor:
        """``−1/√(1 − x²)``."""
        return -(1 - x * x).rsqrt()

    def turns(self) -> tuple[float, ...]:
        """The inflection."""
        return (0.0,)

    def domain(self) -> tuple[float, float]:
        """From −1 to 1."""
        return -1.0, 1.0


@spelled("aten.atanh", "aten.arctanh", "Atanh")
@dataclass(frozen=True, eq=False)
class Atanh(ScalarFunction):
    """``f(x) = artanh x`` for x in [−1, 1]."""

    named: ClassVar[str | None] = "atanh"

    increasing: ClassVar[bool] = True

    def forward(self, *inputs: Tensor) -> Tensor:
        """``artanh x``."""
        return inputs[0].atanh()

    def derivative(self, x: Tensor) -> Tensor:
        """``1/(1 − x²)``."""
        return 1 / (1 - x * x)

    def turns(self) -> tuple[float, ...]:
        """The inflection."""
        return (0.0,)

    def domain(self) -> tuple[float, float]:
        """From −1 to 1."""
        return -1.0, 1.0


@spelled("aten.acosh", "aten.arccosh", "Acosh")
@dataclass(frozen=True, eq=False)
class Acosh(ScalarFunction):
    """``f(x) = arcosh x`` for x >= 1."""

    named: ClassVar[str | None] = "acosh"

    increasing: ClassVar[bool] = True

    def forward(self, *inputs: Tensor) -> Tensor:
        """``arcosh x``."""
        return inputs[0].acosh()

    def derivative(self, x: Tensor) -> Tensor:
        """``1/√(x² − 1)``."""
        return (x * x - 1).rsqrt()

    def domain(self) -> tuple[float, float]:
        """From 1 on."""
        return 1.0, torch.inf


@spelled("aten.tan", "Tan")
@dataclass(frozen=True, eq=False)
class Tan(ScalarFunction):
    """``f(x) = tan x``, of which the branch between the poles around zero is known."""

    named: ClassVar[str | None] = "tan"

    increasing: ClassVar[bool] = True

    def forward(self, *inputs: Tensor) -> Tensor:
        """``tan x``."""
        return inputs[0].tan()

    def derivative(self, x: Tensor) -> Tensor:
        """``1 + tan² x``."""
        return 1 + x.tan().square()

    def turns(self) -> tuple[float, ...]:
        """The inflection."""
        return (0.0,)

    def domain(self) -> tuple[float, float]:
        """The poles; beyond them nothing is stated."""
        return -math.pi / 2, math.pi / 2


#: inflections of ``sin z/z``: where ``tan z = 2z/(2 − z²)``
_SINC_TURNS = 6
#: its least value
_SINC_LEAST = -0.21723362821122166


@cache
def _sinc_turns() -> tuple[float, ...]:
    """Inflections of ``sin πx/(πx)`` right of zero: one between any two zeros."""
    found = []
    for k in range(_SINC_TURNS):
        low, high = (0.5, 1.0) if k == 0 else (float(k), float(k + 1))

        def bend(x: float) -> float:
            z = math.pi * x
            return (2 - z * z) * math.sin(z) - 2 * z * math.cos(z)

        first = bend(low) > 0
        for _ in range(100):
            middle = (low + high) / 2
            low, high = (middle, high) if (bend(middle) > 0) == first else (low, middle)
        found.append((low + high) / 2)
    return tuple(found)


@spelled("aten.sinc", "aten.special_sinc")
@dataclass(frozen=True, eq=False)
class Sinc(ScalarFunction):
    """``f(x) = sin πx/(πx)``; beyond the sixth zero its range alone is known."""

    def forward(self, *inputs: Tensor) -> Tensor:
        """``sin πx/(πx)``, 1 at zero."""
        return inputs[0].sinc()

    def derivative(self, x: Tensor) -> Tensor:
        """``(cos πx − sin πx/(πx))/x``; near zero ``−π²x/3·(1 − π²x²/10)``."""
        z = math.pi * x
        near = -math.pi * z / 3 * (1 - z * z / 10)
        return torch.where(x.abs() < 1e-3, near, (z.cos() - x.sinc()) / torch.where(x == 0, 1.0, x))

    def turns(self) -> tuple[float, ...]:
        """The inflections up to the sixth zero on either side."""
        right = _sinc_turns()
        return (*(-x for x in reversed(right)), *right)

    def domain(self) -> tuple[float, float]:
        """Up to the sixth zero."""
        return -float(_SINC_TURNS), float(_SINC_TURNS)

    def interval(self, *inputs: Interval) -> Interval:
        """Within the range, however far limits reach."""
        limits = super().interval(*inputs)
        return Interval(limits.lower.clamp(min=_SINC_LEAST), limits.upper.clamp(max=1.0))


@dataclass(frozen=True, eq=False)
class Wave(ScalarFunction):
    """A sine with inflections at ``first + n·π``, rising through zero at ``first`` itself."""

    #: inflections that are looked at: limits that hold more of them know the range alone
    most: ClassVar[int] = 4

    @property
    def first(self) -> float:
        """Where the wave rises through zero."""
        raise NotImplementedError

    def pieces(self, lower: Tensor, upper: Tensor) -> Pieces:
        """Between the inflections inside [l, u]: concave from an even one on, convex from an odd one on."""
        number = ((lower - self.first) / math.pi).ceil()
        count = torch.arange(self.most, device=lower.device).reshape(-1, *[1] * lower.dim())
        turns = torch.clamp(self.first + math.pi * (number + count), lower, upper)
        edges = torch.cat([lower.unsqueeze(0), turns, upper.unsqueeze(0)])
        steps = torch.arange(self.most + 1, device=lower.device).reshape(-1, *[1] * lower.dim())
        convex = (number + steps - 1) % 2 == 1
        complete = (upper <= self.first + math.pi * (number + self.most)) & ~self._wild(lower, upper)
        return Pieces(edges[:-1], edges[1:], convex, complete)

    @staticmethod
    def _wild(lower: Tensor, upper: Tensor) -> Tensor:
        """Where numbers are so large that rounding hides where the wave is."""
        return ~(lower.abs() + upper.abs() < torch.finfo(lower.dtype).eps ** -0.5)

    def interval(self, *inputs: Interval) -> Interval:
        """1 and −1 where a crest or a trough lies inside [l, u], else the ends."""
        lower, upper = inputs[0]
        first, last = self.forward(lower), self.forward(upper)
        margin = ROUNDINGS * torch.finfo(lower.dtype).eps
        least, most = torch.minimum(first, last) - margin, torch.maximum(first, last) + margin
        wild = self._wild(lower, upper)

        def passes(at: float) -> Tensor:
            return wild | (((upper - at) / (2 * math.pi)).floor() >= ((lower - at) / (2 * math.pi)).ceil())

        least = torch.where(passes(self.first - math.pi / 2), -1.0, least)
        most = torch.where(passes(self.first + math.pi / 2), 1.0, most)
        return Interval(least.clamp(min=-1.0), most.clamp(max=1.0))


@spelled("aten.sin", "Sin")
@dataclass(frozen=True, eq=False)
class Sin(Wave):
    """``f(x) = sin x``."""

    named: ClassVar[str | None] = "sin"

    @property
    def first(self) -> float:
        """Zero."""
        return 0.0

    def forward(self, *inputs: Tensor) -> Tensor:
        """``sin x``."""
        return inputs[0].sin()

    def derivative(self, x: Tensor) -> Tensor:
        """``cos x``."""
        return x.cos()


@spelled("aten.cos", "Cos")
@dataclass(frozen=True, eq=False)
class Cos(Wave):
    """``f(x) = cos x``."""

    named: ClassVar[str | None] = "cos"

    @property
    def first(self) -> float:
        """A quarter of a period before the crest at zero."""
        return -math.pi / 2

    def forward(self, *inputs: Tensor) -> Tensor:
        """``cos x``."""
        return inputs[0].cos()

    def derivative(self, x: Tensor) -> Tensor:
        """``−sin x``."""
        return -x.sin()
