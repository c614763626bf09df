"""The open domains of a search: a store that grows, with cheap access to those of smallest bound."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from clinch.bounds.domains import Domains

#: slots added at once, at most: doubling a large store would take seconds
CHUNK = 2**15


class Waiting(NamedTuple):
    """Domains with the splits that come next: open elements ``(D, L)`` or a clause ``(D,)``, −1 for none."""

    domains: Domains
    elements: Tensor
    clause: Tensor

    def __len__(self) -> int:
        return len(self.domains)

    def take(self, index: Tensor) -> Waiting:  # type: ignore[override]
        """The chosen ones."""
        return Waiting(self.domains.take(index), self.elements[index], self.clause[index])


class Pool:
    """Open domains. Slots are re-used, so that a pop costs a pass over the bounds and a copy of what is taken.

    Multipliers wait in single precision: any multipliers give a valid bound, and they are most of the memory.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self._rows: list[Tensor] = []
        self._bound = torch.zeros(0, dtype=torch.float64, device=device)
        self._live = torch.zeros(0, dtype=torch.bool, device=device)

    def __len__(self) -> int:
        return int(self._live.sum())

    def push(self, waiting: Waiting) -> None:
        """Take domains in."""
        count = len(waiting)
        if not count:
            return
        d = waiting.domains
        packed = [d.problem, d.split, d.choice, d.alpha.float(), d.beta.float(), d.mu.float(), d.pace, waiting.elements,
                  waiting.clause]  # fmt: skip
        if not self._rows:
            self._rows = [t.new_zeros(0, *t.shape[1:]) for t in packed]
            self._bound, self._live = d.bound.new_zeros(0), d.split.new_zeros(0, dtype=torch.bool)
            self._dtype = d.alpha.dtype
        free = (~self._live).nonzero().flatten()
        if len(free) < count:
            self._grow(max(count, min(len(self._live), CHUNK)))
            free = (~self._live).nonzero().flatten()
        at = free[:count]
        for store, rows in zip(self._rows, packed):
            store[at] = rows
        self._bound[at], self._live[at] = d.bound, True

    def _grow(self, by: int) -> None:
        self._rows = [torch.cat([t, t.new_zeros(by, *t.shape[1:])]) for t in self._rows]
        self._bound = torch.cat([self._bound, self._bound.new_zeros(by)])
        self._live = torch.cat([self._live, self._live.new_zeros(by)])

    def bounds(self) -> tuple[Tensor, Tensor]:
        """Problem and bound of every open domain."""
        at = self._live.nonzero().flatten()
        return (self._rows[0][at], self._bound[at]) if len(at) else (at, self._bound[at])

    def drop(self, finished: Tensor) -> None:
        """Remove some, given by a mask over :meth:`bounds`."""
        self._live[self._live.nonzero().flatten()[finished]] = False

    def pop(self, order: Tensor) -> Waiting:
        """Take out the domains at the given places of :meth:`bounds`."""
        at = self._live.nonzero().flatten()[order]
        found = self._read(at)
        self._live[at] = False
        return found

    def domains(self) -> Domains | None:
        """All open domains, which stay; None before the first."""
        return self._read(self._live.nonzero().flatten()).domains if self._rows else None

    def _read(self, at: Tensor) -> Waiting:
        problem, split, choice, alpha, beta, mu, pace, elements, clause = (t[at] for t in self._rows)
        alpha, beta, mu = (t.to(self._dtype) for t in (alpha, beta, mu))
        return Waiting(Domains(problem, split, choice, alpha, beta, mu, self._bound[at], pace), elements, clause)


def smallest_in_turns(group: Tensor, bound: Tensor) -> Tensor:
    """An order of positions: the smallest bound of every group first, then the second smallest of every group, …"""
    order = bound.argsort(stable=True)
    group = group[order]
    by_group = group.argsort(stable=True)
    grouped = group[by_group]
    rank = torch.empty_like(order)
    rank[by_group] = torch.arange(len(group), device=group.device) - torch.searchsorted(grouped, grouped)
    return order[rank.argsort(stable=True)]
