"""Products of two activations: element by element, of matrices, of any pattern that ``torch.einsum`` can write.

An operator here is a sum of products, ``f(x, y)_o = Σ_k x_a(o, k)·y_b(o, k)``. It states ``forward`` and which letter
each dimension has, as in an einsum. Everything else follows from McCormick's planes (1976, Mathematical Programming 10)
of the single products: with midpoints m and radii r of the limits, ``ξ = (x − m_x)/r_x`` and ``η = (y − m_y)/r_y``,

    ξη >= −1 − t(ξ + η),   ξη <= 1 + s(ξ − η)   for all t and s in [−1, 1],

where ±1 are the two planes on either side and all that lies between mixes them. CROWN takes, for each product, weights
at which the plane's own extreme over the box is that of the product; α-CROWN moves them.
"""

from __future__ import annotations

import math
import string
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from clinch.network.ops.base import Interval, Operator, Shape, Statement
from clinch.network.ops.planes import Pattern, Planes
from clinch.network.ops.reading import Call, Value

#: roundings of a product and of what is made of it, by which planes are moved outwards
ROUNDINGS = 8


@dataclass(frozen=True, eq=False)
class Bilinear(Operator):
    """Sums of products of two activations. A subclass states ``forward`` and ``letters``."""

    def letters(self, shapes: Sequence[Shape]) -> tuple[str, str, str]:
        """A letter for each dimension of x, of y and of the output, as in an einsum; each once in each of the three."""
        raise NotImplementedError(f"{type(self).__name__} states no letters.")

    def pattern(self, shapes: Sequence[Shape]) -> Pattern:
        """What is summed, for samples of the given shapes."""
        letters = self.letters(shapes)
        extents: dict[str, int] = {}
        for names, shape in zip(letters, shapes):
            for c, n in zip(names, shape):
                extents[c] = max(n, extents.get(c, 1))
        return Pattern.of(letters, shapes, tuple(extents[c] for c in letters[2]) or (1,))

    def interval(self, *inputs: Interval) -> Interval:
        """The sums of the exact limits of the products."""
        pattern = self.pattern([tuple(i.lower.shape[1:]) for i in inputs])
        return Interval(*(pattern.total(t) for t in _limits(*_spread(pattern, inputs))))

    def relax(self, inputs: Sequence[Interval], shapes: Sequence[Shape]) -> Planes:
        """Planes whose least (or largest) value over the box is that of the product."""
        return self._planes(inputs, shapes, None)

    def planes_at(self, inputs: Sequence[Interval], shapes: Sequence[Shape], places: Sequence[float]) -> list[Planes]:
        """McCormick's planes themselves for −1 and 1, and mixtures between."""
        return [self._planes(inputs, shapes, place) for place in places]

    def statement(self, shapes: Sequence[Shape], shape: Shape) -> Statement:
        """Which elements each product reads, and where it is summed; nothing where that is element by element."""
        pattern = self.pattern(shapes)
        tensors = {}
        for side, (name, own) in enumerate(zip(("left", "right", "out"), (*shapes, shape))):
            numbers = torch.arange(math.prod(own))
            places = pattern.spread(numbers.reshape(1, *own), side).expand(1, *pattern.extents).flatten()
            if not torch.equal(places, numbers):
                tensors[name] = places.to(torch.int32)
        return {"kind": "product", "shape": list(shape)}, tensors

    def _planes(self, inputs: Sequence[Interval], shapes: Sequence[Shape], place: float | None) -> Planes:
        pattern = self.pattern(shapes)
        x, y = _spread(pattern, inputs)
        least, most = _limits(x, y)
        # the upper planes are the lower ones of −x·y, with x mirrored
        mirrored = Interval(-x.upper, -x.lower)
        below_x, below_y, below = _plane(x, y, least, place)
        above_x, above_y, above = _plane(mirrored, y, -most, place)
        return Planes(pattern, below_x, below_y, above_x, -above_y, below, -above)


def _spread(pattern: Pattern, inputs: Sequence[Interval]) -> tuple[Interval, Interval]:
    x, y = (Interval(*(pattern.spread(t, side) for t in i)) for side, i in enumerate(inputs))
    return x, y


def _limits(x: Interval, y: Interval) -> Interval:
    """Of the single products: the least and the largest at the corners."""
    corners = [a * b for a in x for b in y]
    if not all(bool(t.isfinite().all()) for t in (*x, *y)):
        # zero times infinity is zero at that corner, and the others say the rest
        unknown = x.lower.isnan() | x.upper.isnan() | y.lower.isnan() | y.upper.isnan()
        corners = [torch.where(corner.isnan() & ~unknown, 0.0, corner) for corner in corners]
    a, b, c, d = corners
    return Interval(torch.minimum(torch.minimum(a, b), torch.minimum(c, d)),
                    torch.maximum(torch.maximum(a, b), torch.maximum(c, d)))  # fmt: skip


def _plane(x: Interval, y: Interval, least: Tensor, place: float | None) -> tuple[Tensor, Tensor, Tensor]:
    """Slopes and offset of a plane below ``x·y``: of ``l_y·x + l_x·y − l_x·l_y`` and ``u_y·x + u_x·y − u_x·u_y`` a
    mixture, the one where a limit is infinite, or a constant.

    The plane's least value is the product's for any t between ``m_x/r_x`` and ``m_y/r_y``, within [−1, 1].
    """
    first, second = x.lower * y.lower, x.upper * y.upper
    if place is None:
        a, b = (_balance(t) for t in (x, y))
        share = (2 + a + b) / 4
    else:
        share = torch.full_like(first, (1 + place) / 2)
    one, other = first.isfinite(), second.isfinite()
    share = torch.where(other, torch.where(one, share, 0.0), 1.0)
    rest, usable = 1 - share, one | other
    low_x, low_y, high_x, high_y = (
        torch.where(there, t, 0.0) for there, t in ((one, x.lower), (one, y.lower), (other, x.upper), (other, y.upper))
    )
    slope_x, slope_y = share * low_y + rest * high_y, share * low_x + rest * high_x
    offset = -(share * low_x * low_y + rest * high_x * high_y)
    size = torch.maximum((low_x * low_y).abs(), (high_x * high_y).abs())
    size = size + torch.maximum((low_x * high_y).abs(), (high_x * low_y).abs())
    offset = offset - ROUNDINGS * torch.finfo(offset.dtype).eps * size
    # the offset overflows where the slopes do not: nothing is below
    offset = torch.where(usable, offset.nan_to_num(-torch.inf, -torch.inf, -torch.inf), least)
    return torch.where(usable, slope_x, 0.0), torch.where(usable, slope_y, 0.0), offset


def _balance(limits: Interval) -> Tensor:
    """Midpoint over radius, within [−1, 1]; zero for a single point."""
    total, width = limits.upper + limits.lower, limits.upper - limits.lower
    ratio = total / torch.where(width > 0, width, 1.0)
    return torch.where(width > 0, ratio, 0.0).nan_to_num(0.0, 1.0, -1.0).clamp(-1, 1)


@dataclass(frozen=True, eq=False)
class Multiply(Bilinear):
    """``f(x, y) = x ⊙ y``, broadcast within a sample."""

    def forward(self, *inputs: Tensor) -> Tensor:
        """``x ⊙ y``."""
        x, y = inputs
        return x * y

    def letters(self, shapes: Sequence[Shape]) -> tuple[str, str, str]:
        """The same for all three."""
        same = string.ascii_lowercase[: len(shapes[0])]
        return same, same, same


@dataclass(frozen=True, eq=False)
class MatrixProduct(Bilinear):
    """``f(X, Y) = X Y``: matrices in the last two dimensions of two activations, as attention multiplies them."""

    def forward(self, *inputs: Tensor) -> Tensor:
        """``X Y``."""
        x, y = inputs
        return x @ y

    def letters(self, shapes: Sequence[Shape]) -> tuple[str, str, str]:
        """``…ik, …kj -> …ij``."""
        front = string.ascii_lowercase[: len(shapes[0]) - 2]
        return f"{front}xz", f"{front}zy", f"{front}xy"


def multiply(call: Call, x: Value, y: Value) -> Value:
    """A product of two activations of the same number of dimensions."""
    if len(x.shape) != len(y.shape):
        raise call.refuse(
            f"it multiplies samples of shapes {x.shape} and {y.shape}, so that one meets the other's batch dimension"
        )
    return call.emit(Multiply(), x, y)
