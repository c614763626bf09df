"""Passes that an attack may still spend, each input's for itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from clinch.attacks.goal import Goal


@dataclass(frozen=True)
class Budget:
    """So many passes for each input, from now on.

    Attributes:
        goal: counts what is spent.
        passes: for each input.
        before: ``(B,)`` what had been spent when the budget was made.
    """

    goal: Goal
    passes: int
    before: Tensor

    @staticmethod
    def of(goal: Goal, passes: int) -> Budget:
        """A budget that begins now."""
        return Budget(goal, passes, goal.forward + goal.backward)

    def left(self, rows: Tensor) -> Tensor:
        """Passes ``(A,)`` that the given inputs still have."""
        return self.passes - (self.goal.forward + self.goal.backward - self.before)[rows]

    def steps(self, lanes: Tensor, each: int, share: float = 1.0, most: float = torch.inf) -> Tensor:
        """Steps ``(L,)`` of lanes, whose inputs are ``lanes (L,)``, that a share of the budget and what is left of it
        pay for, at ``each`` passes of a step; not more than ``most``."""
        cost = each * torch.bincount(lanes, minlength=self.goal.size)[lanes]
        paid = (share * self.passes / cost).clamp(max=most)
        return torch.minimum(paid, self.left(lanes) / cost).clamp(min=0).long()


def groups(plans: Tensor) -> Iterator[tuple[list[int], Tensor]]:
    """Each plan ``(k,)`` among those of some inputs or lanes ``(L, k)``, and which of them follow it: what one of them
    can afford is not cut down to what all can."""
    if not len(plans):
        return
    each, which = plans.unique(dim=0, return_inverse=True)
    for number, plan in enumerate(each.tolist()):
        yield plan, (which == number).nonzero().flatten()
