"""The error function."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from clinch.network.ops.elementwise import ScalarFunction, spelled


@spelled("aten.erf", "aten.special_erf", "Erf")
@dataclass(frozen=True, eq=False)
class Erf(ScalarFunction):
    """``f(x) = 2/√π ∫₀ˣ e^(−t²) dt``."""

    increasing: ClassVar[bool] = True
    named: ClassVar[str | None] = "erf"

    def forward(self, *inputs: Tensor) -> Tensor:
        """The error function."""
        return inputs[0].erf()

    def derivative(self, x: Tensor) -> Tensor:
        """``2/√π e^(−x²)``."""
        return 2 / math.sqrt(math.pi) * (-x * x).exp()

    def turns(self) -> tuple[float, ...]:
        """The inflection."""
        return (0.0,)
