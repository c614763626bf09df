"""Functions that jump from one whole number to the next: an index of the largest element, what reads whole numbers.

Between jumps they are constant. So there is nothing to relax: the least and the largest value are all that is known.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from clinch.network.ops.base import Interval, Operator, Relaxation, Shape
from clinch.network.ops.lazy import Lazy, RowFunction, Slot, is_sequence
from clinch.network.ops.relaxation import ByPlace, asked

#: combinations of whole numbers that are tried at most, and how many at once
MOST_COMBINATIONS, AT_ONCE = 2**13, 2**22
#: boxes whose limits are kept
MOST_KNOWN = 16


@dataclass(frozen=True, eq=False)
class Enclosure(Relaxation):
    """``lower <= y <= upper``, whatever the inputs.

    Attributes:
        lower, upper: ``(B, *shape)``.
        shapes: of the inputs.
    """

    lower: Tensor
    upper: Tensor
    shapes: tuple[Shape, ...]

    def backward(self, rows: Tensor) -> tuple[list[Tensor], Tensor]:
        """A constant."""
        offset = asked(rows.clamp(min=0), self.lower) + asked(rows.clamp(max=0), self.upper)
        return [rows.new_zeros(*offset.shape, *shape) for shape in self.shapes], offset

    def by_place(self) -> ByPlace:
        """Constants."""
        return ByPlace((), self.lower, self.upper)

    def forward(self, rows: Tensor, *inputs: Tensor) -> Tensor:
        """The lower limit, the upper one where the coefficient is negative."""
        return torch.where(rows[:, 0] >= 0, self.lower, self.upper)


@dataclass(frozen=True, eq=False)
class Piecewise(Operator):
    """An operator whose interval rule is its relaxation."""

    enclosed: ClassVar[bool] = True

    def relax(self, inputs: Sequence[Interval], shapes: Sequence[Shape]) -> Relaxation:
        """The limits of the interval rule."""
        return Enclosure(*self.interval(*inputs), tuple(shapes))

    @classmethod
    def supports(cls, fact: str) -> bool:
        """Limits that hold, and nothing exact."""
        return fact in ("interval", "relax")


@dataclass(frozen=True, eq=False)
class ArgMax(Piecewise):
    """The index of the largest element along a dimension of a sample, which stays with extent one; of several the
    first."""

    dim: int

    def forward(self, *inputs: Tensor) -> Tensor:
        """The index as a real number."""
        return inputs[0].argmax(self.dim + 1, keepdim=True).to(inputs[0].dtype)

    def interval(self, *inputs: Interval) -> Interval:
        """Of those whose upper limit reaches the largest lower limit the first and the last."""
        lower, upper = inputs[0]
        count = lower.shape[self.dim + 1]
        index = torch.arange(count, dtype=lower.dtype, device=lower.device)
        index = index.reshape(-1, *[1] * (lower.dim() - self.dim - 2))
        possible = ~(upper < lower.amax(self.dim + 1, keepdim=True))
        return Interval(
            torch.where(possible, index, count - 1.0).amin(self.dim + 1, keepdim=True),
            torch.where(possible, index, 0.0).amax(self.dim + 1, keepdim=True),
        )


@dataclass(frozen=True, eq=False)
class WholeFunction(Piecewise):
    """A function that looks at the whole parts of its activations alone, as places of a patch in an image.

    Attributes:
        call: the function.
    """

    call: RowFunction

    has_absolute_error: ClassVar[bool] = False

    def forward(self, *inputs: Tensor) -> Tensor:
        """The call."""
        return self.call.forward(*inputs)

    def interval(self, *inputs: Interval) -> Interval:
        """The least and the largest of its values at all whole numbers between the limits; of very many nothing."""
        limits = [self._of_problem([t.take(slice(b, b + 1)) for t in inputs]) for b in range(len(inputs[0].lower))]
        return Interval(*(torch.cat(side) for side in zip(*limits)))

    @cached_property
    def _known(self) -> dict[object, Interval]:
        """The last limits, by those of the inputs: they are asked for again and again, of few boxes."""
        return {}

    def _of_problem(self, inputs: Sequence[Interval]) -> Interval:
        first, last = (torch.cat([side.flatten() for side in sides]).trunc() for sides in zip(*inputs))
        key = (tuple(first.tolist()), tuple(last.tolist()), first.dtype)
        if key not in self._known:
            found = self._between(first, last, inputs)
            if len(self._known) >= MOST_KNOWN:
                self._known.clear()
            self._known[key] = found
        return self._known[key]

    def _between(self, first: Tensor, last: Tensor, inputs: Sequence[Interval]) -> Interval:
        like, shape = first, self.call.shape
        counts = last - first + 1
        if not bool(counts.isfinite().all()) or float(counts.prod()) > MOST_COMBINATIONS:
            infinite = like.new_full((1, *shape), torch.inf)
            return Interval(-infinite, infinite)
        ranges = [torch.arange(int(n), dtype=like.dtype, device=like.device) + a for n, a in zip(counts, first)]
        combinations = torch.cartesian_prod(*ranges).reshape(-1, len(ranges))
        sizes = [t.lower.numel() for t in inputs]
        least = most = None
        height = max(1, AT_ONCE // max(1, math.prod(shape)))
        for rows in combinations.split(height):
            pieces = [t.reshape(-1, *i.lower.shape[1:]) for t, i in zip(rows.split(sizes, 1), inputs)]
            values = self.call.forward(*pieces)
            low, high = values.amin(0, keepdim=True), values.amax(0, keepdim=True)
            least = low if least is None else torch.minimum(least, low)
            most = high if most is None else torch.maximum(most, high)
        assert least is not None and most is not None
        return Interval(least, most)

    def with_an_axis(self, shapes: Sequence[Shape]) -> WholeFunction:
        """As its call does."""
        return replace(self, call=self.call.with_an_axis(shapes))

    def to(self, dtype: torch.dtype, device: torch.device | str) -> Self:
        """A copy whose constants have the given dtype and device."""
        return replace(self, call=self.call.to(dtype, device))

    @property
    def label(self) -> str:
        """The function's name."""
        return self.call.label


def looks_at_whole_parts(value: Any, cuts: Any) -> bool:
    """Whether every activation in a tree of calls is cut to a whole number before anything else is done with it.

    Args:
        value: the tree.
        cuts: whether a call cuts its activation off.
    """
    done: set[int] = set()

    def fine(v: Any, cut: bool) -> bool:
        if isinstance(v, Slot):
            return cut
        if is_sequence(v):
            return all(fine(w, False) for w in v)
        if isinstance(v, dict):
            return all(fine(w, False) for w in v.values())
        if not isinstance(v, Lazy) or id(v) in done:
            return True
        done.add(id(v))
        here = bool(cuts(v))
        return all(fine(w, here) for w in v.arguments) and fine(v.keywords, False)

    return fine(value, False)
