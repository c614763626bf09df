"""Which products a sum of products sums, and linear lower and upper limits of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from clinch.geometry.inner_products import products
from clinch.network.ops.interval import Shape
from clinch.network.ops.relaxation import ByPlace, Relaxation, asked


@dataclass(frozen=True)
class Pattern:
    """Which products are summed: a letter for each dimension of x, of y and of the output that is larger than one.

    Attributes:
        x, y, out: their letters.
        shapes: of x, y and the output, with the dimensions of one element.
    """

    x: str
    y: str
    out: str
    shapes: tuple[Shape, Shape, Shape]

    @staticmethod
    def of(letters: Sequence[str], shapes: Sequence[Shape], out: Shape) -> Pattern:
        """From letters of all dimensions: those of one element do nothing, and are left out."""
        given = (*shapes, out)
        x, y, o = ("".join(c for c, n in zip(names, shape) if n > 1) for names, shape in zip(letters, given))
        return Pattern(x, y, o, (given[0], given[1], given[2]))

    @cached_property
    def terms(self) -> str:
        """The letters of the single products: those of the output, then those that are summed."""
        return self.out + "".join(dict.fromkeys(c for c in self.x + self.y if c not in self.out))

    @cached_property
    def extents(self) -> Shape:
        """Of the single products."""
        found: dict[str, int] = {}
        for letters, shape in zip((self.x, self.y, self.out), self.shapes):
            found |= dict(zip(letters, (n for n in shape if n > 1)))
        return tuple(found[c] for c in self.terms)

    @property
    def summed(self) -> bool:
        """Whether an output is a sum of several products."""
        return len(self.terms) > len(self.out)

    def spread(self, t: Tensor, side: int) -> Tensor:
        """Numbers ``(*front, *shape)`` of x (side 0), y (1) or the output (2) beside the products; the dimensions that
        they do not have are of one element. ``front`` is one dimension.
        """
        letters = (self.x, self.y, self.out)[side]
        kept = t.reshape(len(t), *(n for n in self.shapes[side] if n > 1))
        order = sorted(range(len(letters)), key=lambda d: self.terms.index(letters[d]))
        shape = iter([kept.shape[1 + d] for d in order])
        return kept.permute(0, *(1 + d for d in order)).reshape(
            len(t), *(next(shape) if c in letters else 1 for c in self.terms)
        )

    def total(self, t: Tensor) -> Tensor:
        """Sums ``(*front, *out)`` of numbers for the single products, ``front`` of one dimension."""
        if self.summed:
            t = t.sum(list(range(1 + len(self.out), t.dim())))
        return t.reshape(len(t), *self.shapes[2])

    def back(self, rows: Tensor, slopes: Tensor, side: int) -> Tensor:
        """``Σ rows_o · slopes`` over the products that each element of x (side 0) or y (1) is in.

        Args:
            rows: ``(B, R, *out)``; slopes: ``(B, *terms)``, or ``(B, R, *terms)``; with dimensions of one element for
                letters that do not matter.
        """
        letters, own = (self.x, self.y)[side], slopes.dim() == len(self.terms) + 2
        kept = rows.reshape(*rows.shape[:2], *(n for n in self.shapes[2] if n > 1))
        if self.summed:
            used = [c for d, c in enumerate(self.terms) if slopes.shape[d - len(self.terms)] > 1 or c in letters]
            slim = slopes.reshape(
                *slopes.shape[: 1 + own],
                *(n for n, c in zip(slopes.shape[1 + own :], self.terms) if c in used),
            )
            front = "YZ" if own else "Y"
            carried = torch.einsum(f"YZ{self.out},{front}{''.join(used)}->YZ{letters}", kept, slim)
        else:
            carried = kept * (slopes if own else slopes.unsqueeze(1))
            gone = [2 + d for d, c in enumerate(self.terms) if c not in letters]
            carried = carried.sum(gone) if gone else carried
            left = [c for c in self.terms if c in letters]
            carried = carried.permute(0, 1, *(2 + left.index(c) for c in letters))
        return carried.reshape(*carried.shape[:2], *self.shapes[side])


@dataclass(frozen=True, eq=False)
class Planes(Relaxation):
    """``lower_x·x + lower_y·y + lower <= x·y <= upper_x·x + upper_y·y + upper`` for each product of a pattern.

    Attributes:
        pattern: which products.
        lower_x, lower_y, upper_x, upper_y: slopes, ``(B, *terms)``.
        lower, upper: offsets, likewise.
    """

    pattern: Pattern
    lower_x: Tensor
    lower_y: Tensor
    upper_x: Tensor
    upper_y: Tensor
    lower: Tensor
    upper: Tensor

    @cached_property
    def offsets(self) -> tuple[Tensor, Tensor]:
        """Those of the output elements, ``(B, *out)``: below, and above."""
        return self.pattern.total(self.lower), self.pattern.total(self.upper)

    def by_place(self) -> ByPlace | None:
        """Of products of elements at the same place."""
        pattern = self.pattern
        if pattern.summed or len(set(pattern.shapes)) > 1 or not pattern.x == pattern.y == pattern.out:
            return None
        given = (self.lower_x, self.upper_x, self.lower_y, self.upper_y, self.lower, self.upper)
        below_x, above_x, below_y, above_y, lower, upper = (t.reshape(len(t), *pattern.shapes[2]) for t in given)
        return ByPlace(((below_x, above_x), (below_y, above_y)), lower, upper)

    def backward(self, rows: Tensor) -> tuple[list[Tensor], Tensor]:
        """A positive coefficient takes the lower planes, a negative one the upper planes."""
        rows = rows.expand(max(len(rows), len(self.lower)), *rows.shape[1:])
        positive, negative = rows.clamp(min=0), rows.clamp(max=0)
        slopes = ((self.lower_x, self.upper_x), (self.lower_y, self.upper_y))
        carried = [
            self.pattern.back(positive, below, side) + self.pattern.back(negative, above, side)
            for side, (below, above) in enumerate(slopes)
        ]
        below, above = self.offsets
        total = products(positive, below) + products(negative, above)
        if bool(total.isnan().any()):
            total = asked(positive, below) + asked(negative, above)
        return carried, total

    def forward(self, rows: Tensor, *inputs: Tensor) -> Tensor:
        """The lower planes, the upper ones where the coefficient is negative."""
        x, y = (self.pattern.spread(t, side) for side, t in enumerate(inputs))
        below = self.pattern.total(self.lower_x * x + self.lower_y * y + self.lower)
        above = self.pattern.total(self.upper_x * x + self.upper_y * y + self.upper)
        return torch.where(rows[:, 0] >= 0, below, above)
