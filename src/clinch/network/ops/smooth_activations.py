"""Smooth activations: softplus, GELU, SiLU, Mish, the exponential linear units, softsign and their kin."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from clinch.network.ops.base import Shape, Statement
from clinch.network.ops.elementwise import Jump, ScalarFunction, spelled
from clinch.network.ops.reading import Call, from_aten, from_onnx


@dataclass(frozen=True, eq=False)
class Softplus(ScalarFunction):
    """``f(x) = ln (1 + e^(βx))/β``, x itself where βx is beyond the threshold (a tiny jump)."""

    beta: float = 1.0
    threshold: float = torch.inf

    increasing: ClassVar[bool] = True

    def forward(self, *inputs: Tensor) -> Tensor:
        """The softplus."""
        (x,) = inputs
        if math.isfinite(self.threshold):
            return functional.softplus(x, self.beta, self.threshold)
        return torch.logaddexp(self.beta * x, x.new_zeros(())) / self.beta

    def derivative(self, x: Tensor) -> Tensor:
        """``σ(βx)``, 1 beyond the threshold."""
        return torch.where(x * self.beta > self.threshold, torch.ones_like(x), (self.beta * x).sigmoid())

    def turns(self) -> tuple[float, ...]:
        """The jump."""
        return tuple(jump.at for jump in self.jumps())

    def jumps(self) -> tuple[Jump, ...]:
        """From the softplus to x."""
        at = self.threshold / self.beta
        below = at + math.log1p(math.exp(-self.threshold)) / self.beta
        return (Jump(at, below, at),) if math.isfinite(at) else ()

    def statement(self, shapes: Sequence[Shape], shape: Shape) -> Statement:
        """The softplus, and where it ends."""
        at = [] if math.isinf(self.threshold) else [self.threshold / self.beta]
        return {"kind": "function", "name": "softplus until" if at else "softplus", "parameters": [self.beta, *at]}, {}

    def absolute_error(self, *inputs: Tensor) -> Tensor:
        """That of the logarithm of about 1."""
        return torch.ones_like(inputs[0]) / self.beta


@spelled("aten.log_sigmoid")
@dataclass(frozen=True, eq=False)
class LogSigmoid(ScalarFunction):
    """``f(x) = ln σ(x)``."""

    named: ClassVar[str | None] = "log sigmoid"

    increasing: ClassVar[bool] = True

    def forward(self, *inputs: Tensor) -> Tensor:
        """``ln σ(x)``."""
        return functional.logsigmoid(inputs[0])

    def derivative(self, x: Tensor) -> Tensor:
        """``σ(−x)``."""
        return (-x).sigmoid()


@spelled("aten.gelu", "Gelu")
@dataclass(frozen=True, eq=False)
class GELU(ScalarFunction):
    """``f(x) = x·Φ(x)``, Φ the normal distribution function; ``approximate`` is "none" or "tanh"."""

    approximate: str = "none"

    def forward(self, *inputs: Tensor) -> Tensor:
        """``x·Φ(x)``."""
        return functional.gelu(inputs[0], approximate=self.approximate)

    def derivative(self, x: Tensor) -> Tensor:
        """``Φ(x) + x·φ(x)``, or that of ``x/2·(1 + tanh u)``."""
        if self.approximate == "none":
            density = (-x * x / 2).exp() / math.sqrt(2 * math.pi)
            return 0.5 * (-x / math.sqrt(2)).erfc() + torch.where(density > 0, x * density, 0.0)
        c = math.sqrt(2 / math.pi)
        twice = 2 * c * (x + 0.044715 * x**3)
        bell = twice.sigmoid() * (-twice).sigmoid()
        slope = 2 * c * (1 + 3 * 0.044715 * x * x)
        return twice.sigmoid() + torch.where(bell > 0, x * bell * slope, 0.0)

    def turns(self) -> tuple[float, ...]:
        """The inflections: ±√2, or where the approximation has them."""
        at = math.sqrt(2) if self.approximate == "none" else 1.4185040087908283
        return -at, at

    def statement(self, shapes: Sequence[Shape], shape: Shape) -> Statement:
        """Either of the two functions."""
        return {
            "kind": "function",
            "name": {"none": "gelu", "tanh": "gelu tanh"}[self.approximate],
            "parameters": [],
        }, {}

    def absolute_error(self, *inputs: Tensor) -> Tensor:
        """x times that of Φ."""
        return inputs[0].abs()


@spelled("aten.silu")
@dataclass(frozen=True, eq=False)
class SiLU(ScalarFunction):
    """``f(x) = x·σ(x)``."""

    named: ClassVar[str | None] = "silu"

    def forward(self, *inputs: Tensor) -> Tensor:
        """``x·σ(x)``."""
        return functional.silu(inputs[0])

    def derivative(self, x: Tensor) -> Tensor:
        """``σ(x)·(1 + x·σ(−x))``."""
        return x.sigmoid() + torch.where(x.isinf(), 0.0, x * x.sigmoid() * (-x).sigmoid())

    def turns(self) -> tuple[float, ...]:
        """The inflections."""
        return -2.399357280515467, 2.399357280515467

    def absolute_error(self, *inputs: Tensor) -> Tensor:
        """x times that of σ."""
        return inputs[0].abs()


@spelled("aten.mish", "Mish")
@dataclass(frozen=True, eq=False)
class Mish(ScalarFunction):
    """``f(x) = x·tanh (ln (1 + e^x))``."""

    named: ClassVar[str | None] = "mish"

    def forward(self, *inputs: Tensor) -> Tensor:
        """``x·tanh (softplus x)``."""
        return functional.mish(inputs[0])

    def derivative(self, x: Tensor) -> Tensor:
        """``t + x·(1 − t²)·σ(x)`` with ``t = tanh (softplus x)``."""
        soft = torch.logaddexp(x, x.new_zeros(()))
        squashed = soft.tanh()
        bell = 4 * (2 * soft).sigmoid() * (-2 * soft).sigmoid() * x.sigmoid()
        return squashed + torch.where(bell > 0, x * bell, 0.0)

    def turns(self) -> tuple[float, ...]:
        """The inflections."""
        return -2.256376396360793, 1.4905711794854284

    def absolute_error(self, *inputs: Tensor) -> Tensor:
        """x times that of the hyperbolic tangent."""
        return inputs[0].abs()


@dataclass(frozen=True, eq=False)
class ELU(ScalarFunction):
    """``f(x) = s·x`` for x > 0, ``s·a·(e^(cx) − 1)`` for x <= 0: ELU, SELU and CELU.

    Attributes:
        alpha: a >= 0; scale: s > 0; input_scale: c > 0.
    """

    named: ClassVar[str | None] = "elu"

    alpha: float = 1.0
    scale: float = 1.0
    input_scale: float = 1.0

    increasing: ClassVar[bool] = True

    def forward(self, *inputs: Tensor) -> Tensor:
        """The unit."""
        (x,) = inputs
        below = self.alpha * (self.input_scale * x.clamp(max=0)).expm1()
        return self.scale * torch.where(x > 0, x, below)

    def derivative(self, x: Tensor) -> Tensor:
        """``s``, or ``s·a·c·e^(cx)``."""
        below = self.alpha * self.input_scale * (self.input_scale * x.clamp(max=0)).exp()
        return self.scale * torch.where(x > 0, torch.ones_like(x), below)

    def turns(self) -> tuple[float, ...]:
        """Where the two meet."""
        return (0.0,)


@spelled("Softsign")
@dataclass(frozen=True, eq=False)
class Softsign(ScalarFunction):
    """``f(x) = x/(1 + |x|)``."""

    named: ClassVar[str | None] = "softsign"

    increasing: ClassVar[bool] = True

    def forward(self, *inputs: Tensor) -> Tensor:
        """``x/(1 + |x|)``."""
        return functional.softsign(inputs[0])

    def derivative(self, x: Tensor) -> Tensor:
        """``1/(1 + |x|)²``."""
        return (1 + x.abs()).reciprocal().square()

    def turns(self) -> tuple[float, ...]:
        """The inflection."""
        return (0.0,)


@dataclass(frozen=True, eq=False)
class Tanhshrink(ScalarFunction):
    """``f(x) = x − tanh x``."""

    named: ClassVar[str | None] = "tanhshrink"

    increasing: ClassVar[bool] = True

    def forward(self, *inputs: Tensor) -> Tensor:
        """``x − tanh x``."""
        return inputs[0] - inputs[0].tanh()

    def derivative(self, x: Tensor) -> Tensor:
        """``tanh² x``."""
        return x.tanh().square()

    def turns(self) -> tuple[float, ...]:
        """The inflection."""
        return (0.0,)


@from_aten("aten.softplus")
@from_onnx("Softplus")
def _softplus(call: Call) -> Softplus | None:
    beta = call.number("beta", 1.0)
    return Softplus(beta, call.number("threshold", torch.inf)) if beta > 0 else None


@from_aten("aten.elu")
@from_onnx("Elu")
def _elu(call: Call) -> ELU | None:
    return _unit(call.number("alpha", 1.0), call.number("scale", 1.0), call.number("input_scale", 1.0))


@from_aten("aten.celu")
@from_onnx("Celu")
def _celu(call: Call) -> ELU | None:
    alpha = call.number("alpha", 1.0)
    return _unit(alpha, 1.0, 1 / alpha) if alpha > 0 else None


@from_aten("aten.selu")
@from_onnx("Selu")
def _selu(call: Call) -> ELU | None:
    alpha = 1.6732632423543772 if "self" in call.arguments else call.number("alpha", 1.0)
    return _unit(alpha, 1.0507009873554805 if "self" in call.arguments else call.number("gamma", 1.0), 1.0)


def _unit(alpha: float, scale: float, input_scale: float) -> ELU | None:
    return ELU(alpha, scale, input_scale) if alpha >= 0 and scale > 0 and input_scale > 0 else None
