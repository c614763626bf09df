"""Goals of searches that report to a ledger."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from clinch.search.node_store import Nodes
from clinch.solver.ledger import Ledger
from clinch.solver.solution import Proof


class LedgerGoal:
    """Bounds of some of a ledger's problems, until all are closed or the time is over.

    Args:
        ledger: as the search's device sees it.
        problems: ``(B,)`` the ledger's problem of each of the search's.
        who: name of the search.
    """

    def __init__(self, ledger: Ledger, problems: Tensor, who: str) -> None:
        self.ledger, self.problems, self.who = ledger, problems, who

    @property
    def exhausted(self) -> bool:
        """Whether all is closed or the time is over."""
        return self.ledger.exhausted

    @property
    def seconds(self) -> float:
        """Present time."""
        return self.ledger.seconds

    @property
    def remaining(self) -> float:
        """Seconds left, whatever slice of the time is at work: the size of a round depends on it."""
        return self.ledger.left

    @property
    def value(self) -> Tensor:
        """``(B,)`` the incumbents' objectives, infinity where there is none."""
        return self.ledger.value[self.problems]

    def over(self) -> bool:
        """Whether the time is over: what is begun in a slice of it is finished, as half of it would be worth little."""
        return self.ledger.left <= 0

    def targets(self) -> Tensor:
        """``(B,)`` what closes a problem; −infinity where it is closed."""
        return torch.where(self.ledger.closed, -torch.inf, self.ledger.target)[self.problems]

    def offer(self, found: Any) -> None:
        """No points are looked for."""

    def finish(self, nodes: Nodes) -> None:
        """Nobody asks."""

    def prove(self, bound: Tensor) -> None:
        """Report the bounds."""
        self.ledger.prove(bound, Proof.TREE, self.who, self.problems)
