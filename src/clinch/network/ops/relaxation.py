"""Linear relaxations: linear lower limits of linear forms of an operator's output, in terms of its inputs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from clinch.geometry.inner_products import products
from clinch.network.ops.interval import Shape
from clinch.network.ops.symbols import ROUNDINGS, SymbolicLimits, between, plus_constant

#: coefficients at most of all outputs on all inputs, for one problem, that are looked at to carry symbols forward
MOST_COEFFICIENTS = 2**22


class Picks(NamedTuple):
    """``x[below] <= y <= slope·x[above] + offset`` of each output element: ``(B, channels, places)`` each, the flat
    places of two input elements of its channel."""

    below: Tensor
    above: Tensor
    slope: Tensor
    offset: Tensor


class ByPlace(NamedTuple):
    """``Σ_k below_k·x_k + lower <= y <= Σ_k above_k·x_k + upper``, element by element of inputs of the output's shape.

    Attributes:
        slopes: below and above for each input ``(B, *shape)``; empty: none of them matters.
        lower, upper: ``(B, *shape)``.
    """

    slopes: tuple[tuple[Tensor, Tensor], ...]
    lower: Tensor
    upper: Tensor


class Relaxation:
    """Linear lower limits of ``<rows, op(inputs)>`` in terms of the operator's inputs, for any rows."""

    def backward(self, rows: Tensor) -> tuple[list[Tensor], Tensor]:
        """Carry linear forms of the output back to the inputs.

        Args:
            rows: coefficients on the output, shape ``(B, R, *output_shape)``.

        Returns:
            One tensor ``(B, R, *input_shape)`` per input and an offset ``(B, R)`` such that
            ``<rows, op(x)> >= sum_i <returned_i, x_i> + offset`` for all inputs within the bounds
            the relaxation was made for.
        """
        raise NotImplementedError

    def forward(self, rows: Tensor, *inputs: Tensor) -> Tensor:
        """The limits that rows choose, as functions of the inputs: for each output element the lower one where its
        coefficient is not negative, the upper one otherwise.

        Args:
            rows: one row per sample, ``(B, 1, *output_shape)``.
            inputs: ``(B, *input_shape)`` each.
        """
        raise NotImplementedError

    def symbolic(self, inputs: Sequence[SymbolicLimits], shape: Shape) -> SymbolicLimits | None:
        """Linear limits of the output in the symbols of the inputs' limits; None where that costs too much.

        Args:
            inputs: limits that hold of each input.
            shape: of the output.
        """
        first, size = inputs[0].middle, math.prod(shape)
        if size * sum(math.prod(x.middle.shape[2:]) for x in inputs) > MOST_COEFFICIENTS:
            return None
        unit = torch.eye(size, dtype=first.dtype, device=first.device).reshape(1, size, *shape)
        both = []
        for sign in (1, -1):
            rows, offset = self.backward((sign * unit).expand(len(first), *unit.shape[1:]))
            columns = first.new_zeros(*first.shape[:2], size)
            for row, x in zip(rows, inputs):
                flat = row.flatten(2).mT.expand(len(first), -1, -1)
                columns = columns + x.middle.flatten(2) @ flat
                wide = x.half.flatten(2) @ flat.abs()
                columns = torch.cat([columns[:, : wide.shape[1]] - wide, columns[:, wide.shape[1] :]], 1)
            both.append(sign * plus_constant(columns, offset.expand(len(first), -1)).unflatten(2, shape))
            sizes = sum(x.size.flatten(1).unsqueeze(1) @ row.flatten(2).abs().mT for row, x in zip(rows, inputs))
            terms = sum(math.prod(x.middle.shape[2:]) for x in inputs) + ROUNDINGS
            room = terms * torch.finfo(first.dtype).eps * (sizes[:, 0] + offset.abs())  # type: ignore[index]
            both[-1] = plus_constant(both[-1], -sign * room.reshape(-1, *shape))
        return between(*both)

    def by_place(self) -> ByPlace | None:
        """The relaxation as lines in the elements at one place, where it is that and the same for all rows."""
        return None

    def picks(self) -> Picks | None:
        """The relaxation as lines in one element each, where it is that."""
        return None

    def take(self, problems: Tensor | slice) -> Self:
        """The relaxation of the chosen problems (views for a slice): every tensor field has the batch in front."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}  # type: ignore[arg-type]
        return dataclasses.replace(self, **{k: v[problems] for k, v in fields.items() if isinstance(v, Tensor)})  # type: ignore[type-var]

    def to(self, dtype: torch.dtype, device: torch.device | str) -> Self:
        """A copy with the given dtype and device."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}  # type: ignore[arg-type]
        moved = {
            k: v.to(device, dtype) if v.is_floating_point() else v.to(device)
            for k, v in fields.items()
            if isinstance(v, Tensor)
        }
        return dataclasses.replace(self, **moved)  # type: ignore[type-var]


@dataclasses.dataclass(frozen=True, eq=False)
class Lines(Relaxation):
    """A lower and an upper line per element: ``lower_slope·x + lower_offset <= f(x) <= upper_slope·x + upper_offset``.

    Each tensor has shape ``(B, *shape)``, or ``(B, R, *shape)`` where the lines differ from row to row.

    Attributes:
        below_at_zero: every lower line passes through the origin: ``lower_offset`` is zero and need not be looked at.
    """

    lower_slope: Tensor
    lower_offset: Tensor
    upper_slope: Tensor
    upper_offset: Tensor
    below_at_zero: bool = False

    def backward(self, rows: Tensor) -> tuple[list[Tensor], Tensor]:
        """A positive coefficient takes the lower line, a negative one the upper line.

        Written as ``rows ⊙ upper + max(rows, 0) ⊙ (lower − upper)``: rows are read and written once less that way.
        """
        rise = self.lower_slope - self.upper_slope
        gap = None if self.below_at_zero else self.lower_offset - self.upper_offset
        carried, offset = through_lines(rows, self.upper_slope, rise, self.upper_offset, gap)
        if bool(offset.isnan().any()):
            offset = asked(rows.clamp(min=0), self.lower_offset) + asked(rows.clamp(max=0), self.upper_offset)
        return [carried], offset

    def forward(self, rows: Tensor, *inputs: Tensor) -> Tensor:
        """The lower line, the upper one where the coefficient is negative."""
        below = self.lower_slope * inputs[0] + self.lower_offset
        return torch.where(rows[:, 0] >= 0, below, self.upper_slope * inputs[0] + self.upper_offset)

    def symbolic(self, inputs: Sequence[SymbolicLimits], shape: Shape) -> SymbolicLimits | None:
        """A line of slope a below takes ``a⁺·lower + a⁻·upper``, so that of both sides' means and differences only
        ``a`` and ``|a|`` are needed."""
        (x,) = inputs
        if self.upper_slope.dim() != x.middle.dim() - 1:
            return None
        low, at_low, high, at_high = self
        halves = ((high + low) / 2, (high.abs() - low.abs()) / 2, (high - low) / 2, (high.abs() + low.abs()) / 2)
        mean, turn, gap, steep = (t.unsqueeze(1) for t in halves)
        wide = x.half.shape[1]
        middle, half = mean * x.middle, gap * x.middle
        if wide == x.middle.shape[1]:
            middle, half = middle + turn * x.half, half + steep * x.half
        else:
            middle = plus_constant(middle, (turn * x.half)[:, 0])
            half = plus_constant(half, (steep * x.half)[:, 0])
        room = torch.finfo(middle.dtype).eps * ROUNDINGS
        room = room * ((low.abs() + high.abs()) * x.size + at_low.abs() + at_high.abs())
        return SymbolicLimits(
            plus_constant(middle, (at_high + at_low) / 2), plus_constant(half, (at_high - at_low) / 2 + room)
        )

    def by_place(self) -> ByPlace:
        """Itself."""
        return ByPlace(((self.lower_slope, self.upper_slope),), self.lower_offset, self.upper_offset)

    def __iter__(self) -> Any:
        return iter((self.lower_slope, self.lower_offset, self.upper_slope, self.upper_offset))


def through_lines(
    rows: Tensor, slope: Tensor, rise: Tensor, offset: Tensor, gap: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Rows carried back through lines that are written as the upper ones and what the lower ones differ by.

    Args:
        rows: ``(B, R, *shape)``.
        slope: of the upper lines, ``(B, *shape)``, or ``(B, R, *shape)`` where they differ from row to row.
        rise: slope of the lower lines minus that of the upper ones; offset: of the upper lines.
        gap: offset of the lower lines minus that of the upper ones; None: minus the offset.

    Returns:
        Rows ``(B, R, *shape)`` and offsets ``(B, R)``.
    """
    positive = rows.clamp(min=0)
    if slope.dim() != rows.dim():
        carried = (rows * slope.unsqueeze(1)).addcmul_(positive, rise.unsqueeze(1))
    else:
        carried = (rows * slope).addcmul_(positive, rise)
    upper = products(rows, offset)
    return carried, upper - products(positive, offset) if gap is None else upper + products(positive, gap)


def asked(rows: Tensor, offset: Tensor) -> Tensor:
    """``<rows, offset>`` as :func:`products` has it, where a row of zero asks for nothing, not even of a line that does
    not exist.
    """
    offset = offset if offset.dim() == rows.dim() else offset.unsqueeze(1)
    return torch.where(rows != 0, rows * offset, 0.0).flatten(2).sum(2)
