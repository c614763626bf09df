"""Discrete elements of an input: values from a list, such as whole numbers, and groups of which one is 1, the others 0.

A list holds closed intervals, most of them single numbers of the model's dtype, so that a value is an input to the last
bit: 8-bit pixels are the 256 numbers that dividing by 255 gives; "nothing, or between 2 and 5" is ``[0, 0], [2, 5]``.
Between two neighbours of a list there is nothing: a box is cut down to what a list has in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor


class _List(NamedTuple):
    """One list ``(V,)``, and the elements that have it."""

    lower: Tensor
    upper: Tensor
    columns: Tensor


@dataclass(frozen=True)
class DiscreteSet:
    """Which of an input's n elements take what values, in all problems of a batch; the others take any.

    Attributes:
        lower: ``(T, V)`` lists of disjoint intervals in float64, increasing, filled up with infinity.
        upper: ``(T, V)``; equal to ``lower`` for single values.
        which: ``(n,)`` the list of each element, −1 where there is none.
        group: ``(n,)`` the group of each element, of which one is 1 and the others 0; −1 where there is none.
    """

    lower: Tensor
    upper: Tensor
    which: Tensor
    group: Tensor

    def on(self, device: torch.device | str) -> DiscreteSet:
        """A copy on a device."""
        return DiscreteSet(*(t.to(device) for t in (self.lower, self.upper, self.which, self.group)))

    @cached_property
    def elements(self) -> Tensor:
        """``(n,)`` which elements have a list."""
        return self.which >= 0

    @cached_property
    def _lists(self) -> list[_List]:
        counts = (self.lower < torch.inf).sum(1).tolist()
        return [
            _List(low[:count], high[:count], (self.which == t).nonzero().flatten())
            for t, (low, high, count) in enumerate(zip(self.lower, self.upper, counts))
        ]

    @cached_property
    def gaps(self) -> int:
        """Number of gaps between the intervals of all elements' lists."""
        return sum((len(one.lower) - 1) * len(one.columns) for one in self._lists)

    @property
    def steps(self) -> bool:
        """Whether some value is left out between others."""
        return self.gaps > 0 or bool((self.group >= 0).any())

    @cached_property
    def groups(self) -> list[Tensor]:
        """The elements of each group."""
        return [(self.group == g).nonzero().flatten() for g in self.group.unique().tolist() if g >= 0]

    def pieces(self, element: int, lower: float, upper: float) -> tuple[Tensor, Tensor]:
        """The intervals ``(V,)`` of a discrete element's list that meet given limits, cut down to them."""
        own = self._lists[int(self.which[element])]
        low, high = own.lower.clamp(min=lower), own.upper.clamp(max=upper)
        return low[low <= high], high[low <= high]

    # --- single values ------------------------------------------------------------------------------------------------

    def below(self, x: Tensor) -> Tensor:
        """The largest values that are at most x ``(…, n)``, −infinity where there is none; of others x itself."""
        found = x.clone()
        for lower, upper, columns in self._lists:
            part = x[..., columns].double().contiguous()
            at = torch.searchsorted(lower, part, right=True) - 1
            value = torch.minimum(part, upper[at.clamp(min=0)])
            found[..., columns] = torch.where(at >= 0, value, -torch.inf).to(found)
        return found

    def above(self, x: Tensor) -> Tensor:
        """The smallest values that are at least x ``(…, n)``, infinity where there is none; of others x itself."""
        found = x.clone()
        for lower, upper, columns in self._lists:
            part = x[..., columns].double().contiguous()
            at = torch.searchsorted(upper, part)
            value = torch.maximum(part, lower[at.clamp(max=len(lower) - 1)])
            found[..., columns] = torch.where(at < len(lower), value, torch.inf).to(found)
        return found

    # --- points and boxes ---------------------------------------------------------------------------------------------

    def nearest(self, x: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        """Points ``(B, *shape)`` with each discrete element at its nearest value, of a group the largest element at 1.

        Args:
            x: points of any dtype that holds the values.
            lower: ``(B, *shape)`` or ``(1, *shape)`` the box, whose discrete limits are values; ``upper`` likewise.
            upper: see there.
        """
        flat = x.flatten(1)
        low, high = lower.flatten(1).to(flat), upper.flatten(1).to(flat)
        down, up = self.below(flat), self.above(flat)
        found = torch.where(flat - down <= up - flat, down, up)
        found = torch.where(self.elements, torch.maximum(torch.minimum(found, high), low), flat)
        for columns in self.groups:
            liking = torch.where(high[:, columns] < 1, -torch.inf, flat[:, columns])
            liking = torch.where(low[:, columns] >= 1, torch.inf, liking)
            found[:, columns] = torch.zeros_like(liking).scatter(1, liking.argmax(1, keepdim=True), 1.0)
        return found.reshape(x.shape)

    def inwards(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes ``(D, *shape)`` cut down to the values in them; ``lower > upper`` somewhere, both finite, where none is
        left.

        In a group an element that must be 1 leaves 0 to the others, and the last one that can be 1 is.
        """
        least, most = lower.flatten(1), upper.flatten(1)
        low, high = self.above(least), self.below(most)
        low, high = torch.where(low == torch.inf, least, low), torch.where(high == -torch.inf, most, high)
        for columns in self.groups:
            least, most = low[:, columns], high[:, columns]
            sure = least >= 1
            most = torch.where(sure.any(1, keepdim=True) & ~sure, most.clamp(max=0), most)
            can = most >= 1
            least = torch.where(can & (can.sum(1, keepdim=True) == 1), 1.0, least)
            # where none can be 1 nothing is left
            least = torch.where(can.any(1, keepdim=True), least, 1.0)
            # nor where two must be
            most = torch.where(sure.sum(1, keepdim=True) > 1, 0.0, most)
            low[:, columns], high[:, columns] = least, most
        return low.reshape(lower.shape), high.reshape(upper.shape)

    def contains(self, x: Tensor) -> Tensor:
        """``(B,)`` whether points ``(B, *shape)`` have values of the lists in all discrete elements."""
        flat = x.flatten(1)
        inside = (self.below(flat) == flat).all(1)
        for columns in self.groups:
            inside &= flat[:, columns].sum(1) == 1
        return inside
