"""Passes that an attack may still spend."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from clinch.attacks.goal import Goal


@dataclass(frozen=True)
class Budget:
    """So many passes for each of some inputs, from now on.

    Attributes:
        goal: counts what is spent.
        rows: ``(A,)`` the inputs.
        passes: for each of them.
        before: ``(B,)`` what had been spent when the budget was made.
    """

    goal: Goal
    rows: Tensor
    passes: int
    before: Tensor

    @staticmethod
    def of(goal: Goal, rows: Tensor, passes: int) -> Budget:
        """A budget that begins now."""
        return Budget(goal, rows, passes, goal.forward + goal.backward)

    @property
    def left(self) -> int:
        """Passes that every input still has."""
        if not len(self.rows):
            return 0
        spent = (self.goal.forward + self.goal.backward - self.before)[self.rows]
        return self.passes - int(spent.max())

    def steps(self, lanes: Tensor, each: int, share: float = 1.0, most: float = torch.inf) -> int:
        """Steps of all lanes, whose inputs are ``lanes (L,)``, that a share of the budget and what is left of it pay
        for, at ``each`` passes of a step; not more than ``most``."""
        if not len(lanes):
            return 0
        cost = each * int(torch.bincount(lanes).max())
        return max(0, int(min(share * self.passes / cost, self.left / cost, most)))
