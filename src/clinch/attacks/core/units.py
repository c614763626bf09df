"""The units and the dtype in which attacks compute, and the one way from there to an input of the model.

Step sizes, tolerances and floors of the methods are meant for inputs of about the range [0, 1]. So an attack works on
``u = x / unit``, the unit a power of two next to the widest range of an element; where elements have no limits, next
to the width of the ball that reaches the linearised boundary. Powers of two round nothing: attacks of data in other
units take the same steps, bit for bit where the units differ by a power of two. Models of 16 bits are attacked in
float32, for eight bits of mantissa are too few for steps.

A point becomes an input in one place, :meth:`Units.point`: rounded to the model's dtype, towards the clean input, so
that no norm of the difference grows; and clamped to the limits, which ``x + (lower − x)`` may miss by a rounding.
Discrete elements are moved to their nearest values there, and gradients pass as if they had not been (straight-through,
Bengio et al. 2013, arXiv 1308.3432).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from clinch.geometry.discrete import DiscreteSet
from clinch.geometry.region import Ball, Region
from clinch.geometry.rounding import round_down, round_towards, round_up

#: how far an element without limits may move, in units
FARTHEST = 1e4
#: shares of a grid's spacing that are rounding
WHOLE = 1e-3
#: how far it is taken to move where a size of the whole region is needed, in units
TYPICAL = 1.0


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """In what attacks compute points of a model of that dtype."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


@dataclass(frozen=True)
class Units:
    """The units of B inputs.

    Attributes:
        unit: ``(B,)`` in the working dtype, powers of two.
        x: ``(B, *input_shape)`` the inputs in the user's units and the model's dtype.
        lower: ``(B, *input_shape)`` or ``(1, …)``, limits of points in the model's dtype.
        upper: the same.
        discrete: values of discrete elements; None: there are none.
        grid: likewise, spacings in float64 of the values ``x + k·grid`` that elements take, NaN where they take any;
            None: all do.
        inwards: whether points are brought onto the grid towards x, so that they stay in a ball; otherwise to the next
            value.
    """

    unit: Tensor
    x: Tensor
    lower: Tensor
    upper: Tensor
    discrete: DiscreteSet | None = None
    grid: Tensor | None = None
    inwards: bool = False

    @staticmethod
    def of(
        x: Tensor, lower: Tensor, upper: Tensor, dtype: torch.dtype, discrete: DiscreteSet | None = None,
        grid: Tensor | None = None,
    ) -> Units:  # fmt: skip
        """Units of one for inputs and limits of any dtype; limits are rounded inwards."""
        low, high = round_up(lower.double(), dtype).to(dtype), round_down(upper.double(), dtype).to(dtype)
        unit = torch.ones(len(x), dtype=working_dtype(dtype), device=x.device)
        return Units(unit, x.to(dtype), low, high, discrete, grid)

    def inside(self) -> Units:
        """For points that must stay in a ball around x."""
        return self if self.grid is None else replace(self, inwards=True)

    def scaled(self, size: Tensor) -> Units:
        """With units next to sizes ``(B,)``; those that are no positive numbers count as one."""
        size = torch.where(size.isfinite() & (size > 0), size, 1.0).double()
        # farther off the dtype's own range would be left
        limit = 40 if self.unit.dtype == torch.float32 else 400
        exponent = size.log2().round().clamp(-limit, limit)
        return replace(self, unit=torch.exp2(exponent).to(self.unit))

    def take(self, rows: Tensor) -> Units:
        """Those of the chosen inputs, in that order."""
        low, high = _of(self.lower, rows), _of(self.upper, rows)
        grid = None if self.grid is None else _of(self.grid, rows)
        return Units(self.unit[rows], self.x[rows], low, high, self.discrete, grid, self.inwards)

    @property
    def rounds(self) -> bool:
        """Whether inputs are coarser than points: the model's dtype is narrower, or elements are discrete."""
        return self._narrows or self.discrete is not None or self.grid is not None

    @property
    def _narrows(self) -> bool:
        return self.x.dtype != self.unit.dtype

    @cached_property
    def ones(self) -> bool:
        """Whether points are inputs already, up to the limits."""
        return not self.rounds and bool((self.unit == 1).all())

    @property
    def start(self) -> Tensor:
        """``(B, *input_shape)`` the inputs in these units."""
        return self.x.to(self.unit) / self._along(slice(None))

    def region(self, region: Region) -> Region:
        """A region of the user's units in these, in the working dtype."""
        unit, balls = self._along(slice(None)), []
        region = region.to(self.unit.dtype, self.unit.device)
        for ball in region.balls:
            radius = ball.radius if ball.norm.counts else ball.radius / self.unit
            balls.append(Ball(ball.center / unit, radius, ball.p, ball.weights))
        planes = None if region.planes is None else region.planes.scaled(self.unit)
        return Region(region.lower / unit, region.upper / unit, tuple(balls), planes)

    def point(self, u: Tensor, rows: Tensor) -> Tensor:
        """The model's inputs ``(L, *input_shape)`` at points in these units; gradients flow as if none was rounded."""
        return _Placed.apply(u, self, rows)

    def leaf(self, u: Tensor, rows: Tensor) -> Tensor:
        """:meth:`point` as where gradients end: those of it are to be :meth:`pulled` back."""
        return self.placed(u.detach(), rows).requires_grad_()

    def pulled(self, gradients: Tensor, rows: Tensor) -> Tensor:
        """Gradients ``(L, M, *input_shape)`` with respect to the model's inputs, with respect to points."""
        return gradients if self.ones else gradients.to(self.unit) * self._along(rows).unsqueeze(1)

    def back(self, x: Tensor, rows: Tensor) -> Tensor:
        """Inputs in these units, in the working dtype."""
        return x.to(self.unit) / self._along(rows)

    def lengths(self, values: Tensor, rows: Tensor | slice) -> Tensor:
        """Lengths ``(L,)`` in the user's units."""
        return values * self.unit[rows].to(values)

    def shortened(self, values: Tensor) -> Tensor:
        """Lengths ``(B,)`` of the user in these units."""
        return values / self.unit.to(values)

    def placed(self, u: Tensor, rows: Tensor) -> Tensor:
        """:meth:`point` without gradients."""
        if self.ones:
            return torch.clamp(u, _of(self.lower, rows), _of(self.upper, rows))
        x = u * self._along(rows)
        if self.grid is not None:
            x = self._on_grid(x, rows)
        if x.dtype != self.x.dtype:
            x = round_towards(x, self.x[rows].to(x), self.x.dtype)
        lower, upper = _of(self.lower, rows), _of(self.upper, rows)
        x = torch.maximum(torch.minimum(x, upper), lower)
        return x if self.discrete is None else self.discrete.nearest(x, lower, upper)

    def _on_grid(self, x: Tensor, rows: Tensor) -> Tensor:
        """``x + k·grid`` next to points, inside the limits, in float64."""
        assert self.grid is not None
        center, grid = self.x[rows].double(), _of(self.grid, rows)
        steps = (x.double() - center) / grid
        whole = (steps.abs() + WHOLE).floor() * steps.sign() if self.inwards else steps.round()
        least, most = (_of(side, rows).double() for side in (self.lower, self.upper))
        least, most = ((least - center) / grid - WHOLE).ceil(), ((most - center) / grid + WHOLE).floor()
        found = center + torch.maximum(torch.minimum(whole, most), least) * grid
        return torch.where(grid.isnan(), x.double(), found)

    def within_grid(self, lower: Tensor, upper: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Limits around inputs, in these units, moved inwards onto the grid: what lies between them goes to a value
        that does so too."""
        if self.grid is None:
            return lower, upper
        grid = _of(self.grid, rows) / self._along(rows).double()
        center = self.start[rows].double()
        steps = ((lower.double() - center) / grid - WHOLE).ceil(), ((upper.double() - center) / grid + WHOLE).floor()
        found = tuple(
            torch.where(grid.isnan(), side.double(), center + k * grid) for side, k in zip((lower, upper), steps)
        )
        return torch.maximum(found[0], lower.double()).to(lower), torch.minimum(found[1], upper.double()).to(upper)

    def _along(self, rows: Tensor | slice) -> Tensor:
        return self.unit[rows].reshape(-1, *[1] * (self.x.dim() - 1))


def _of(limit: Tensor, rows: Tensor) -> Tensor:
    return limit if len(limit) == 1 else limit[rows]


class _Placed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor, units: Units, rows: Tensor) -> Tensor:  # type: ignore[override]
        ctx.unit = None if units.ones else units._along(rows)
        return units.placed(u, rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        return gradients[0] if ctx.unit is None else gradients[0].to(ctx.unit) * ctx.unit, None, None


def range_of(lower: Tensor, upper: Tensor) -> Tensor:
    """``(B,)`` the widest range of elements that have room; infinity where one of them has none or one limit."""
    width = (upper.double() - lower.double()).flatten(1)
    return width.amax(1) if width.shape[1] else width.new_ones(len(width))
