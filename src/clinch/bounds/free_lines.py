"""What α-CROWN is free to choose at a node: the slope of a ReLU's lower line, or a mixture of valid lines or planes.

Every choice, for each linear functional and element by itself, gives valid lines and so a proven bound; the bound is
piecewise linear in each choice given the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Self

import torch
from torch import Tensor

from clinch.network.graph import Graph
from clinch.network.ops.base import Interval, Lines, Operator, Relaxation, Shape
from clinch.network.ops.planes import Pattern, Planes
from clinch.network.ops.views import TwoPieces

#: where in [l, u] the lines that are mixed with CROWN's are the tightest
PLACES = (0.1, 0.9)
#: products of one node beyond which their planes are CROWN's
MOST_TERMS = 2**14


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

    def backward(self, rows: Tensor, alpha: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        """Rows ``(b, r, n)`` through the chosen lines: rows on each input, offsets ``(b, r)``, and what the other two
        ask for.
        """
        raise NotImplementedError

    def forward(self, inputs: Sequence[Tensor], seen: Tensor, alpha: Tensor) -> Tensor:
        """The lines that the rows chose, at inputs ``(b, r, ·)``: ``(b, r, n)``."""
        raise NotImplementedError

    def gradient(self, inputs: Sequence[Tensor], seen: Tensor, alpha: Tensor) -> Tensor:
        """Of each bound by its choice, ``(b, r, m)``, where the inputs are the node's at the bound's minimiser."""
        raise NotImplementedError

    def slopes(self, alpha: Tensor) -> Tensor | None:
        """Slopes ``(b, 2, inputs, terms)`` of the lines below and above that a choice ``(b, 1, m)`` means; None for two
        pieces, whose choice is the slope."""
        return None

    def alive(self) -> Tensor | None:
        """``(n,)`` elements whose lines are not zero for some problem; None: all."""
        return None

    def take(self, elements: Tensor) -> Self:
        """The lines of the chosen elements."""
        return replace(self, **{name: t[..., elements] for name, t in self._tensors()})

    def on(self, problems: Tensor) -> Self:
        """The lines of the chosen problems."""
        return replace(self, **{name: t[problems] for name, t in self._tensors()})

    def to(self, dtype: torch.dtype) -> Self:
        """A copy in another dtype."""
        return replace(self, **{name: t.to(dtype) for name, t in self._tensors()})

    def _tensors(self) -> list[tuple[str, Tensor]]:
        found = ((f.name, getattr(self, f.name)) for f in fields(self))
        return [(name, t) for name, t in found if isinstance(t, Tensor)]


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

    def backward(self, rows: Tensor, alpha: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        """A positive coefficient takes the lower line; the positive parts are kept."""
        positive = rows.clamp(min=0)
        negative = rows - positive
        offset = torch.bmm(negative, self.rise.transpose(1, 2)).squeeze(2)
        return [negative.mul_(self.chord).addcmul_(positive, alpha)], offset, positive

    def forward(self, inputs: Sequence[Tensor], seen: Tensor, alpha: Tensor) -> Tensor:
        """The lower line, or the chord."""
        (v,) = inputs
        return torch.where(seen > 0, v * alpha, torch.addcmul(self.rise, v, self.chord))

    def gradient(self, inputs: Sequence[Tensor], seen: Tensor, alpha: Tensor) -> Tensor:
        """``max(rows, 0) ⊙ v``."""
        return seen * inputs[0]

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
        return MixedLines.between(first, others) if isinstance(first, Lines) else None

    @staticmethod
    def between(first: Lines, others: Sequence[Lines]) -> MixedLines:
        """Mixtures of one pair of lines with one that is better further left, and one that is further right."""
        slope, offset = _both(first)
        parts = []
        for lines in others:
            rise, gap = (theirs - ours for theirs, ours in zip(_both(lines), (slope, offset)))
            usable = torch.isfinite(rise) & torch.isfinite(gap)
            parts += [torch.where(usable, rise, 0.0), torch.where(usable, gap, 0.0)]
        one = torch.ones_like(slope)
        return MixedLines(-one, one, torch.zeros_like(slope), slope, offset, *parts)

    def backward(self, rows: Tensor, alpha: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        """A positive coefficient takes the lower line, a negative one the upper line; both parts are kept."""
        signed = torch.cat([rows.clamp(min=0), rows.clamp(max=0)], 2)
        slope, offset = self._chosen(alpha)
        below, above = (signed * slope).chunk(2, 2)
        # a row of zero asks for nothing, not even of a line that does not exist
        return [below + above], torch.where(signed != 0, signed * offset, 0.0).sum(2), signed

    def forward(self, inputs: Sequence[Tensor], seen: Tensor, alpha: Tensor) -> Tensor:
        """The lower line, or the upper one."""
        (v,) = inputs
        slope, offset = self._chosen(alpha)
        below, above = torch.addcmul(offset, torch.cat([v, v], 2), slope).chunk(2, 2)
        return torch.where(seen.chunk(2, 2)[0] > 0, below, above)

    def gradient(self, inputs: Sequence[Tensor], seen: Tensor, alpha: Tensor) -> Tensor:
        """``rows ⊙`` what the line rises by at v."""
        twice = torch.cat([inputs[0], inputs[0]], 2)
        to_right = seen * torch.addcmul(self.offset_right, twice, self.slope_right)
        to_left = seen * torch.addcmul(self.offset_left, twice, self.slope_left)
        return _towards(alpha, to_left, to_right)

    def slopes(self, alpha: Tensor) -> Tensor:
        """Those of one input."""
        return self._chosen(alpha)[0].reshape(len(alpha), 2, 1, -1)

    def _chosen(self, alpha: Tensor) -> tuple[Tensor, Tensor]:
        return (
            _mixed(alpha, self.slope, self.slope_left, self.slope_right),
            _mixed(alpha, self.offset, self.offset_left, self.offset_right),
        )


def _mixed(alpha: Tensor, own: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """CROWN's numbers for α = 0, moved by ``left`` for −1 and by ``right`` for 1."""
    return torch.addcmul(torch.addcmul(own, (-alpha).clamp(min=0), left), alpha.clamp(min=0), right)


def _towards(alpha: Tensor, to_left: Tensor, to_right: Tensor) -> Tensor:
    """The derivative by α from what the bound gains on either side; at 0 in the direction in which it rises more."""
    either = torch.where(to_right >= to_left, to_right.clamp(min=0), -to_left.clamp(min=0))
    return torch.where(alpha > 0, to_right, torch.where(alpha < 0, -to_left, either))


def _both(lines: Lines) -> tuple[Tensor, Tensor]:
    """Slopes and offsets ``(b, 1, 2n)``, those of the lower lines first."""
    low, low_at, high, high_at = (t.flatten(1) for t in lines)
    return torch.cat([low, high], 1).unsqueeze(1), torch.cat([low_at, high_at], 1).unsqueeze(1)


@dataclass(frozen=True)
class MixedPlanes(FreeLines):
    """Of sums of T products: CROWN's plane for each product (α = 0) mixed with McCormick's first (1) or second (−1).

    The choice has 2T numbers: for the lower planes, then for the upper ones.

    Attributes:
        pattern: which products are summed.
        own: CROWN's slopes on either factor and offsets, ``(b, 1, 3, 2T)``.
        left, right: by how much those of the other planes differ from them.
    """

    pattern: Pattern
    own: Tensor
    left: Tensor
    right: Tensor

    @staticmethod
    def of(op: Operator, limits: Sequence[Interval], shapes: Sequence[Shape]) -> MixedPlanes | None:
        """From limits ``(b, *shape)`` of the factors; None where the operator is no sum of products, or of too many."""
        others = op.planes_at(limits, shapes, (-1.0, 1.0))
        if not others or others[0].lower[0].numel() > MOST_TERMS:
            return None
        first = op.relax(limits, shapes)
        assert isinstance(first, Planes)
        own = _all_three(first)
        parts = []
        for planes in others:
            moved = _all_three(planes) - own
            usable = moved.isfinite().all(2, keepdim=True)
            parts.append(torch.where(usable, moved, 0.0))
        one = torch.ones_like(own[:, :, 0])
        return MixedPlanes(-one, one, torch.zeros_like(one), first.pattern, own, *parts)

    def backward(self, rows: Tensor, alpha: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        """A positive coefficient takes the lower planes, a negative one the upper planes; both parts are kept."""
        slope_x, slope_y, offset = self._chosen(alpha)
        shape = (*rows.shape[:2], *self.pattern.shapes[2])
        below, above = (t.reshape(shape) for t in (rows.clamp(min=0), rows.clamp(max=0)))
        carried = [
            (self.pattern.back(below, low, side) + self.pattern.back(above, high, side)).reshape(*rows.shape[:2], -1)
            for side, (low, high) in enumerate(self._halves(t) for t in (slope_x, slope_y))
        ]
        signed = torch.cat([self._spread(t.reshape(*rows.shape[:2], -1), 2) for t in (below, above)], 2)
        return carried, torch.where(signed != 0, signed * offset, 0.0).sum(2), signed

    def forward(self, inputs: Sequence[Tensor], seen: Tensor, alpha: Tensor) -> Tensor:
        """The lower planes, or the upper ones."""
        below, above = self._at(inputs, *self._chosen(alpha)).chunk(2, 2)
        chosen = torch.where(seen.chunk(2, 2)[0] > 0, below, above)
        return self.pattern.total(chosen.reshape(-1, *self.pattern.extents)).reshape(*chosen.shape[:2], -1)

    def gradient(self, inputs: Sequence[Tensor], seen: Tensor, alpha: Tensor) -> Tensor:
        """``rows ⊙`` what the plane rises by at the factors."""
        to_left, to_right = (seen * self._at(inputs, *t.unbind(2)) for t in (self.left, self.right))
        return _towards(alpha, to_left, to_right)

    def slopes(self, alpha: Tensor) -> Tensor:
        """Those of either factor."""
        x, y, _ = self._chosen(alpha)
        return torch.stack([t.reshape(len(alpha), 2, -1) for t in (x, y)], 2)

    def _halves(self, t: Tensor) -> list[Tensor]:
        return [half.reshape(*t.shape[:2], *self.pattern.extents) for half in t.chunk(2, 2)]

    def _spread(self, t: Tensor, side: int) -> Tensor:
        """Numbers ``(b, r, ·)`` of a factor or the output, for each product: ``(b, r, T)``."""
        flat = self.pattern.spread(t.reshape(-1, *self.pattern.shapes[side]), side)
        return flat.expand(-1, *self.pattern.extents).reshape(*t.shape[:2], -1)

    def _at(self, inputs: Sequence[Tensor], slope_x: Tensor, slope_y: Tensor, offset: Tensor) -> Tensor:
        x, y = (self._spread(v, side) for side, v in enumerate(inputs))
        return offset + slope_x * torch.cat([x, x], 2) + slope_y * torch.cat([y, y], 2)

    def _chosen(self, alpha: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, y, offset = _mixed(alpha.unsqueeze(2), self.own, self.left, self.right).unbind(2)
        return x, y, offset


def _all_three(planes: Planes) -> Tensor:
    """Slopes on either factor and offsets ``(b, 1, 3, 2T)``, those of the lower planes first."""
    below, above = (planes.lower_x, planes.lower_y, planes.lower), (planes.upper_x, planes.upper_y, planes.upper)
    flat = (len(planes.lower), -1)
    halves = [torch.stack([t.expand(planes.lower.shape).reshape(flat) for t in side], 1) for side in (below, above)]
    return torch.cat(halves, 2).unsqueeze(1)


def lines_of(op: Operator, limits: Sequence[Interval], shapes: Sequence[Shape]) -> FreeLines | None:
    """What is free to choose at a node with limits ``(b, *shape)`` of its inputs, or None."""
    if len(limits) > 1:
        return MixedPlanes.of(op, limits, shapes)
    pieces = op.two_pieces()
    return OpenLines.of(pieces, limits[0]) if pieces is not None else MixedLines.of(op, limits[0], shapes)


def quick_relax(made: dict[int, FreeLines]) -> Callable[[Graph, int, Sequence[Interval]], Relaxation]:
    """Relaxations for searches that make them all the time: of functions of one number about the tightest lines, with
    what is free to choose beside them.

    Args:
        made: receives that of every node it was made for.
    """

    def relax(graph: Graph, i: int, inputs: Sequence[Interval]) -> Relaxation:
        found = graph.nodes[i].op.lines_at(inputs[0], (0.5, *PLACES), quick=True) if len(inputs) == 1 else []
        if not found:
            return graph.relax(i, inputs)
        made[i] = MixedLines.between(found[0], found[1:])
        return found[0]

    return relax
