"""What all searches for a proof want: leaves, within a time and a number of nodes, and no points."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from clinch.runtime import deadline
from clinch.search.tree import SearchTree


class ProofGoal:
    """The part of :class:`clinch.search.branch_and_bound.Goal` that does not depend on how leaves are bounded.

    Attributes:
        end: reading of the clock at which the search stops.
        most: nodes of the tree at which it does.
        tree: of the certificate.
    """

    end: float
    most: float
    tree: SearchTree

    def _over(self) -> bool:
        return deadline.clock() > self.end or len(self.tree) > self.most

    @property
    def exhausted(self) -> bool:
        """Whether to stop."""
        return self._over()

    @property
    def seconds(self) -> float:
        """Present time."""
        return deadline.clock()

    @property
    def remaining(self) -> float:
        """Seconds left."""
        return self.end - deadline.clock()

    def offer(self, found: Any) -> None:
        """No points are looked for."""

    def prove(self, bound: Tensor) -> None:
        """At the end only."""
