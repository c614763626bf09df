"""What α-CROWN is free to choose at a node: the slope of a ReLU's lower line, or a mixture of a function's valid lines.

Every choice, for each linear functional and element by itself, gives valid lines and so a proven bound; the bound is
piecewise linear in each choice given the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Self

import torch
from torch import Tensor

from clinch.network.ops.base import Interval, Lines, Operator, Shape
from clinch.network.ops.views import TwoPieces

#: where in [l, u] the lines that are mixed with CROWN's are the tightest
PLACES = (0.1, 0.9)


@dataclass(frozen=True)
class FreeLines:
    """The lines of one node of n elements for b problems, up to a choice α of m numbers for each of r functionals.

    Attributes:
        least, most: of the choice, ``(b, 1, m)``; equal where nothing is to choose.
        start: CROWN's choice, ``(b, 1, m)``.
    """

    least: Tensor
    most: Tensor
    start: Tensor

    def backward(self, rows: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rows ``(b, r, n)`` through the chosen lines: rows, offsets ``(b, r)``, and what the other two ask for."""
        raise NotImplementedError

    def forward(self, v: Tensor, seen: Tensor, alpha: Tensor) -> Tensor:
        """The lines that the rows chose, at inputs v ``(b, r, n)``."""
        raise NotImplementedError

    def gradient(self, v: Tensor, seen: Tensor, alpha: Tensor) -> Tensor:
        """Of each bound by its choice, ``(b, r, m)``, where v is the node's input at the bound's minimiser."""
        raise NotImplementedError

    def alive(self) -> Tensor | None:
        """``(n,)`` elements whose lines are not zero for some problem; None: all."""
        return None

    def take(self, elements: Tensor) -> Self:
        """The lines of the chosen elements."""
        return replace(self, **{f.name: getattr(self, f.name)[..., elements] for f in fields(self)})

    def to(self, dtype: torch.dtype) -> Self:
        """A copy in another dtype."""
        return replace(self, **{f.name: getattr(self, f.name).to(dtype) for f in fields(self)})


@dataclass(frozen=True)
class OpenLines(FreeLines):
    """Of two pieces that meet at zero: the slope of the lower line, which passes through zero, is the choice.

    Attributes:
        chord, rise: the upper line of each element, ``(b, 1, n)``.
    """

    chord: Tensor
    rise: Tensor

    @staticmethod
    def of(op: TwoPieces, limits: Interval) -> OpenLines:
        """From limits ``(b, *shape)`` of the node's input."""
        lower, upper = (t.flatten(1).unsqueeze(1) for t in limits)
        lines = op.relax([Interval(lower, upper)], ())
        is_open = (lower < 0) & (upper > 0)
        least = torch.where(is_open, torch.full_like(lower, op.negative_slope), lines.lower_slope)
        most = torch.where(is_open, torch.ones_like(lower), lines.lower_slope)
        return OpenLines(least, most, lines.lower_slope, lines.upper_slope, lines.upper_offset)

    def backward(self, rows: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A positive coefficient takes the lower line; the positive parts are kept."""
        positive = rows.clamp(min=0)
        negative = rows - positive
        offset = torch.bmm(negative, self.rise.transpose(1, 2)).squeeze(2)
        return negative.mul_(self.chord).addcmul_(positive, alpha), offset, positive

    def forward(self, v: Tensor, seen: Tensor, alpha: Tensor) -> Tensor:
        """The lower line, or the chord."""
        return torch.where(seen > 0, v * alpha, torch.addcmul(self.rise, v, self.chord))

    def gradient(self, v: Tensor, seen: Tensor, alpha: Tensor) -> Tensor:
        """``max(rows, 0) ⊙ v``."""
        return seen * v

    def alive(self) -> Tensor:
        """Not those that are off for all problems."""
        return ((self.most != 0) | (self.chord != 0)).any(0)[0]


@dataclass(frozen=True)
class MixedLines(FreeLines):
    """Of any function: CROWN's line (α = 0) mixed with the one that is tightest further left (−1) or right (1).

    The choice has 2n numbers: for the lower lines, then for the upper ones.

    Attributes:
        slope, offset: CROWN's lines, lower then upper ones, ``(b, 1, 2n)``.
        slope_left, offset_left, slope_right, offset_right: by how much the other lines differ from them.
    """

    slope: Tensor
    offset: Tensor
    slope_left: Tensor
    offset_left: Tensor
    slope_right: Tensor
    offset_right: Tensor

    @staticmethod
    def of(op: Operator, limits: Interval, shapes: Sequence[Shape]) -> MixedLines | None:
        """From limits ``(b, *shape)`` of the node's input; None where the operator has one pair of lines only."""
        others = op.lines_at(limits, PLACES)
        first = op.relax([limits], shapes) if others else None
        if not isinstance(first, Lines):
            return None
        slope, offset = _both(first)
        parts = []
        for lines in others:
            rise, gap = (theirs - ours for theirs, ours in zip(_both(lines), (slope, offset)))
            usable = torch.isfinite(rise) & torch.isfinite(gap)
            parts += [torch.where(usable, rise, 0.0), torch.where(usable, gap, 0.0)]
        one = torch.ones_like(slope)
        return MixedLines(-one, one, torch.zeros_like(slope), slope, offset, *parts)

    def backward(self, rows: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A positive coefficient takes the lower line, a negative one the upper line; both parts are kept."""
        signed = torch.cat([rows.clamp(min=0), rows.clamp(max=0)], 2)
        slope, offset = self._chosen(alpha)
        below, above = (signed * slope).chunk(2, 2)
        # a row of zero asks for nothing, not even of a line that does not exist
        return below + above, torch.where(signed != 0, signed * offset, 0.0).sum(2), signed

    def forward(self, v: Tensor, seen: Tensor, alpha: Tensor) -> Tensor:
        """The lower line, or the upper one."""
        slope, offset = self._chosen(alpha)
        below, above = torch.addcmul(offset, torch.cat([v, v], 2), slope).chunk(2, 2)
        return torch.where(seen.chunk(2, 2)[0] > 0, below, above)

    def gradient(self, v: Tensor, seen: Tensor, alpha: Tensor) -> Tensor:
        """``rows ⊙`` what the line rises by at v; at CROWN's lines in the direction in which the bound rises more."""
        twice = torch.cat([v, v], 2)
        to_right = seen * torch.addcmul(self.offset_right, twice, self.slope_right)
        to_left = seen * torch.addcmul(self.offset_left, twice, self.slope_left)
        either = torch.where(to_right >= to_left, to_right.clamp(min=0), -to_left.clamp(min=0))
        return torch.where(alpha > 0, to_right, torch.where(alpha < 0, -to_left, either))

    def _chosen(self, alpha: Tensor) -> tuple[Tensor, Tensor]:
        left, right = (-alpha).clamp(min=0), alpha.clamp(min=0)
        slope = torch.addcmul(torch.addcmul(self.slope, left, self.slope_left), right, self.slope_right)
        return slope, torch.addcmul(torch.addcmul(self.offset, left, self.offset_left), right, self.offset_right)


def _both(lines: Lines) -> tuple[Tensor, Tensor]:
    """Slopes and offsets ``(b, 1, 2n)``, those of the lower lines first."""
    low, low_at, high, high_at = (t.flatten(1) for t in lines)
    return torch.cat([low, high], 1).unsqueeze(1), torch.cat([low_at, high_at], 1).unsqueeze(1)


def lines_of(op: Operator, limits: Interval, shapes: Sequence[Shape]) -> FreeLines | None:
    """What is free to choose at a node with limits ``(b, *shape)`` of its one input, or None."""
    pieces = op.two_pieces()
    return OpenLines.of(pieces, limits) if pieces is not None else MixedLines.of(op, limits, shapes)
