"""Parts of the region: the nodes of a search that cuts the input and what non-affine nodes read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from clinch.search.node_store import Nodes


@dataclass(frozen=True)
class Parts(Nodes):
    """D parts, with the split that comes next.

    Attributes:
        lower, upper: ``(D, *input_shape)``.
        limits: ``(D, 2, S)`` of the site elements, in the columns of :class:`clinch.bounds.part_dual.Layout`.
        cut: ``(D, S)`` site elements that were split: their limits need not follow from the box.
        choice: ``(D, C)`` chosen atom of each clause, −1 where none is chosen.
        alpha: ``(D, A)``; beta: ``(D, S)``; mu: ``(D, K)``; pace: ``(D,)``: multipliers found so far, NaN where there
            are none, and how fast they are to move.
        element: ``(D,)`` what to split next: an input element, n + a site element, −1 for nothing; in children what
            their parent was split at.
        point: ``(D,)`` where. side: ``(D,)`` int8, in children: −1 at most the point, 1 at least, 0 neither.
        clause: ``(D,)`` a clause to split instead, −1 for none.
    """

    lower: Tensor
    upper: Tensor
    limits: Tensor
    cut: Tensor
    choice: Tensor
    alpha: Tensor
    beta: Tensor
    mu: Tensor
    pace: Tensor
    element: Tensor
    point: Tensor
    side: Tensor
    clause: Tensor

    LIGHT: ClassVar[frozenset[str]] = frozenset({"alpha", "beta", "mu"})

    @classmethod
    def whole(cls, lower: Tensor, upper: Tensor, choice: Tensor, width: int, freedom: int, atoms: int) -> Parts:
        """One part per problem, about which nothing is known.

        Args:
            choice: ``(B, C)``; width: S; freedom: A; atoms: K.
        """
        size = len(lower)
        none = choice.new_full((size,), -1)
        limits = lower.new_full((size, 2, width), torch.inf)
        limits[:, 0] = -torch.inf
        return Parts(
            problem=torch.arange(size, device=lower.device), bound=lower.new_full((size,), -torch.inf),
            place=torch.arange(size, device=lower.device),
            lower=lower, upper=upper, limits=limits, cut=torch.zeros_like(limits[:, 0], dtype=torch.bool),
            choice=choice, alpha=lower.new_full((size, freedom), torch.nan), beta=lower.new_zeros(size, width),
            mu=lower.new_full((size, atoms), torch.nan), pace=lower.new_ones(size), element=none,
            point=lower.new_zeros(size), side=none.new_zeros(size, dtype=torch.int8), clause=none,
        )  # fmt: skip

    def allowed(self) -> Tensor:
        """``(D, K)`` which atoms are chosen."""
        count = self.mu.shape[1]
        mask = self.cut.new_zeros(len(self), count + 1)
        mask.scatter_(1, torch.where(self.choice < 0, count, self.choice), True)
        return mask[:, :count]

    def halves(self, inputs: int) -> Self:
        """Both sides of every part's split, all lower sides first.

        Args:
            inputs: number n of input elements.
        """
        site = self.element >= inputs
        at_input, at_site = (self.element * ~site).unsqueeze(1), ((self.element - inputs) * site).unsqueeze(1)
        point = self.point.unsqueeze(1)
        cut = (
            self.cut.scatter(1, at_site, site.unsqueeze(1) | self.cut.gather(1, at_site))
            if self.cut.shape[1]
            else self.cut
        )
        sides = []
        for side in (-1, 1):
            low, high = self.lower.flatten(1), self.upper.flatten(1)
            box, limits = (high, self.limits[:, 1]) if side < 0 else (low, self.limits[:, 0])
            box = box.scatter(1, at_input, torch.where(site.unsqueeze(1), box.gather(1, at_input), point))
            if self.cut.shape[1]:
                moved = torch.where(site.unsqueeze(1), point, limits.gather(1, at_site))
                limits = limits.scatter(1, at_site, moved)
            shaped = box.reshape(self.lower.shape)
            both = [self.limits[:, 0], limits] if side < 0 else [limits, self.limits[:, 1]]
            sides.append(
                replace(
                    self, limits=torch.stack(both, 1), cut=cut, side=torch.full_like(self.side, side),
                    **({"upper": shaped} if side < 0 else {"lower": shaped}),
                )
            )  # fmt: skip
        return self.cat(sides)
