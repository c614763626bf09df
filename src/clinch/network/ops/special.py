"""Functions of one number: the normal distribution, the gamma function, entropy, Bessel's function of order zero."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from clinch.network.ops.elementwise import ScalarFunction, spelled


@spelled("aten.special_erfcx")
@dataclass(frozen=True, eq=False)
class Erfcx(ScalarFunction):
    """``f(x) = e^(x²) (1 − erf x)``, convex and falling."""

    def forward(self, *inputs: Tensor) -> Tensor:
        """The scaled complement of the error function."""
        return torch.special.erfcx(inputs[0])

    def derivative(self, x: Tensor) -> Tensor:
        """``2x·f(x) − 2/√π``, which for large x is what is left of two large numbers: ``−1/(√π x²)``."""
        near = 2 * x * torch.special.erfcx(x) - 2 / math.sqrt(math.pi)
        inverse = 1 / torch.where(x > 1, x * x, 1.0)
        far = -inverse / math.sqrt(math.pi) * (1 - 1.5 * inverse * (1 - 2.5 * inverse))
        return torch.where(x > 50, far, near)


@spelled("aten.special_log_ndtr")
@dataclass(frozen=True, eq=False)
class LogNdtr(ScalarFunction):
    """``f(x) = ln Φ(x)``, Φ the normal distribution function; concave."""

    increasing: ClassVar[bool] = True

    def forward(self, *inputs: Tensor) -> Tensor:
        """The logarithm."""
        return torch.special.log_ndtr(inputs[0])

    def derivative(self, x: Tensor) -> Tensor:
        """``φ(x)/Φ(x)``."""
        return math.sqrt(2 / math.pi) / torch.special.erfcx(-x / math.sqrt(2))


@spelled("aten.special_entr")
@dataclass(frozen=True, eq=False)
class Entropy(ScalarFunction):
    """``f(x) = −x ln x`` for x >= 0."""

    named: ClassVar[str | None] = "entropy"

    def forward(self, *inputs: Tensor) -> Tensor:
        """``−x ln x``, 0 at zero."""
        return torch.special.entr(inputs[0])

    def derivative(self, x: Tensor) -> Tensor:
        """``−1 − ln x``."""
        return -1 - x.log()

    def domain(self) -> tuple[float, float]:
        """From zero on."""
        return 0.0, torch.inf


@spelled("aten.lgamma", "aten.special_gammaln")
@dataclass(frozen=True, eq=False)
class LogGamma(ScalarFunction):
    """``f(x) = ln Γ(x)`` for x > 0, convex."""

    def forward(self, *inputs: Tensor) -> Tensor:
        """``ln Γ(x)``."""
        return torch.lgamma(inputs[0])

    def derivative(self, x: Tensor) -> Tensor:
        """``ψ(x)``."""
        return torch.digamma(x)

    def domain(self) -> tuple[float, float]:
        """From zero on."""
        return 0.0, torch.inf


@spelled("aten.digamma", "aten.special_digamma", "aten.special_psi")
@dataclass(frozen=True, eq=False)
class Digamma(ScalarFunction):
    """``ψ(x) = (ln Γ(x))'`` for x > 0, concave."""

    increasing: ClassVar[bool] = True

    def forward(self, *inputs: Tensor) -> Tensor:
        """``ψ(x)``."""
        return torch.digamma(inputs[0])

    def derivative(self, x: Tensor) -> Tensor:
        """``ψ'(x)``."""
        return torch.polygamma(1, x)

    def domain(self) -> tuple[float, float]:
        """From zero on."""
        return 0.0, torch.inf


@spelled("aten.i0", "aten.special_i0")
@dataclass(frozen=True, eq=False)
class BesselI0(ScalarFunction):
    """``I₀(x)``, even and convex."""

    def forward(self, *inputs: Tensor) -> Tensor:
        """``I₀(x)``."""
        return torch.special.i0(inputs[0])

    def derivative(self, x: Tensor) -> Tensor:
        """``I₁(x)``."""
        return torch.special.i1(x)
