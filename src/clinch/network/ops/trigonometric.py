"""Functions of one number: trigonometric and hyperbolic ones, and their inverses."""

from __future__ import annotations

import math
from dataclasses import dataclass
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
