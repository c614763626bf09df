"""The nonlinear problem ``max ‖f(x) − f(x0)‖₂`` in the problem language, and its linear parts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from clinch.modeling.constraints import Constraint
from clinch.modeling.expressions import LinearExpression
from clinch.modeling.model import SymbolicNetwork
from clinch.modeling.norms import norm
from clinch.modeling.problem import Maximize, Problem


@dataclass(frozen=True, eq=False)
class Statement:
    """B inputs, their balls and their outputs.

    Attributes:
        network: what ``clinch.load`` returned.
        x: ``(B, *input_shape)`` float64 of numbers of the model's dtype.
        radius: ``(B,)``; ``p`` 1, 2 or infinity.
        range: limits of the inputs, or None.
        start: ``(B, m)`` the outputs at x, float64.
        axes: ``(B, m, m)`` orthonormal rows in which outputs are measured (the norm is the same); None: their own.
    """

    network: SymbolicNetwork
    x: Tensor
    radius: Tensor
    p: float
    range: tuple[float, float] | None
    start: Tensor
    axes: Tensor | None

    def problem(self) -> Problem:
        """``maximise ‖axes @ (f(x) − f(x0))‖₂`` over the ball."""
        everyone = torch.arange(len(self.x))
        difference = self._difference(everyone)
        turned = difference if self.axes is None else self.axes @ difference
        return Problem(Maximize(norm(turned, 2)), self._region(everyone))

    def along(self, rows: Tensor, units: Tensor) -> Problem:
        """``maximise <u, f(x) − f(x0)>`` for the inputs ``rows (L,)`` and unit vectors ``(L, m)``."""
        projected = (units.unsqueeze(1) @ self._difference(rows))[0]
        return Problem(Maximize(projected), self._region(rows))

    def _difference(self, rows: Tensor) -> LinearExpression:
        return self.network.output.flatten() - self.start[rows]

    def _region(self, rows: Tensor) -> list[Constraint]:
        x = self.network.input
        ball: list[Constraint] = [norm(x - self.x[rows], self.p) <= self.radius[rows]]
        return ball if self.range is None else [*ball, x >= self.range[0], x <= self.range[1]]
