"""Boxes of the input: the nodes of a search over the input."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from clinch.search.node_store import Nodes

#: in place of the elements to halve: the box has to be bounded first
UNBOUNDED = -2


@dataclass(frozen=True)
class Boxes(Nodes):
    """D boxes of the input.

    Attributes:
        lower: ``(D, *input_shape)``.
        upper: ``(D, *input_shape)``.
        limits: ``(D, M)`` limits of activations that hold in the box, in the bounder's own layout, NaN where nothing is
            known; M may be 0.
        elements: ``(D, L)`` input elements to halve next, the best first, −1 where there is none.
    """

    lower: Tensor
    upper: Tensor
    limits: Tensor
    elements: Tensor

    SPARE: ClassVar[frozenset[str]] = frozenset({"limits"})

    @classmethod
    def whole(cls, lower: Tensor, upper: Tensor, limits: int = 0, levels: int = 1) -> Boxes:
        """One box per problem, about which nothing is known: its elements are :data:`UNBOUNDED`.

        Args:
            limits: M; levels: L.
        """
        problem = torch.arange(len(lower), device=lower.device)
        elements = problem.new_full((len(lower), levels), UNBOUNDED)
        bound = torch.full_like(problem, -torch.inf, dtype=torch.float64)
        nothing = lower.new_full((len(lower), limits), torch.nan)
        return Boxes(problem, bound, torch.full_like(problem, -1), lower, upper, nothing, elements)

    def halves(self) -> Self:
        """Both halves of every box along its first element, which is used up: all lower halves, then all upper ones."""
        at = self.elements[:, :1]
        low, high = self.lower.flatten(1), self.upper.flatten(1)
        middle = (low.gather(1, at) + high.gather(1, at)) / 2
        below = high.scatter(1, at, middle).reshape(self.upper.shape)
        above = low.scatter(1, at, middle).reshape(self.lower.shape)
        used = replace(self, elements=torch.cat([self.elements[:, 1:], torch.full_like(at, -1)], 1))
        return self.cat([replace(used, upper=below), replace(used, lower=above)])
