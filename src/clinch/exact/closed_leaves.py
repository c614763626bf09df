"""The leaves that a search by ReLU splits has closed, for whoever wants to prove its bound once more.

Kept only where the ledger asks for them (:attr:`clinch.ledger.Ledger.trees`). Leaves are written down without their
order in the tree: which elements are split and to which side, and the multipliers that bounded them. They are hints:
nothing here is trusted, and a reader has to find out whether they cover the region.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from clinch.bounds.domains import Domains, Kink

#: bytes that the leaves of one search may take; a search with more keeps none
MEMORY = 2**29


class Leaves(NamedTuple):
    """L leaves of one problem.

    Attributes:
        places: node -> flat positions of its elements that have columns, nodes in the order of columns.
        domains: L domains with U columns, on the CPU, multipliers in single precision.
        finished: whether the search came to its end; its bound may be far below that of most leaves where it did not.
    """

    places: dict[int, Tensor]
    domains: Domains
    finished: bool = True


@dataclass
class ClosedLeaves:
    """What one search has closed so far, and what it has left open.

    Attributes:
        problem: ``(R,)`` the ledger's problem of each branch.
        places: see :class:`Leaves`.
        full: whether they took too much memory, so that none are kept.
    """

    problem: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    places: dict[int, Tensor] = field(default_factory=dict)
    full: bool = False
    _closed: list[Domains] = field(default_factory=list)
    _open: list[Domains] = field(default_factory=list)
    _bytes: int = 0

    def lay_out(self, problem: Tensor, kinks: tuple[Kink, ...]) -> None:
        """State the branches' problems and what the columns of domains stand for."""
        self.problem = problem.cpu()
        self.places = {kink.node: kink.which.cpu() for kink in kinks}

    def add(self, d: Domains) -> None:
        """Take closed domains in; ``d.problem`` is their branch."""
        if len(d) and not self.full:
            self._closed.append(self._light(d))

    def leave_open(self, d: Domains | None) -> None:
        """Domains that are still open, in place of those of the last call."""
        self._open = [] if d is None or self.full else [self._light(d)]

    def forget(self, branches: Tensor) -> None:
        """Drop the leaves of branches that are searched again from their roots."""
        gone = branches.cpu()
        self._closed = [d.take((~torch.isin(d.problem, gone)).nonzero().flatten()) for d in self._closed]

    def of(self, problem: int) -> Leaves | None:
        """The leaves of one problem of the ledger; None where there are none."""
        parts = [] if self.full else [*self._closed, *self._open]
        if not parts:
            return None
        d = Domains.cat(parts)
        rows = (self.problem[d.problem] == problem).nonzero().flatten()
        left = any(bool((self.problem[part.problem] == problem).any()) for part in self._open)
        return Leaves(self.places, d.take(rows), not left) if len(rows) else None

    def _light(self, d: Domains) -> Domains:
        found = Domains(*(getattr(d, name).detach().cpu() for name in Domains.__dataclass_fields__))
        found = replace(found, alpha=found.alpha.float(), beta=found.beta.float(), mu=found.mu.float())
        self._bytes += sum(getattr(found, name).nbytes for name in Domains.__dataclass_fields__)
        if self._bytes > MEMORY:
            self.full = True
            self._closed, self._open = [], []
        return found
