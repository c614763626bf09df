"""The tree of a search, written down while it grows: what every node is split at, and what closed its leaves.

A proof can be made from it (:mod:`clinch.certificates`), a picture, or another search. Nothing in it is trusted:
whoever reads it has to bound the leaves once more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from clinch.bounds.domains import Domains

#: what a node is split at: nothing, a ReLU's sign (children "input >= 0", "input <= 0"), an input element x_i (children
#: "x_i <= threshold", "x_i >= threshold"), a clause (a child per atom), an element of a node of the network (children
#: as those of an input element); the numbers of the certificate format
LEAF, AT_RELU, AT_INPUT, AT_CLAUSE, AT_NODE = 0, 1, 2, 3, 4
#: bytes that the closed leaves of one search may take; a search with more keeps none
MEMORY = 2**29


class SearchTree:
    """Nodes in arrays, each after its parent; the children of a node stand side by side.

    Args:
        roots: number of trees.
    """

    def __init__(self, roots: int = 1) -> None:
        self._kind, self._index = torch.zeros(0, dtype=torch.uint8), torch.zeros(0, dtype=torch.long)
        self._threshold, self._first = torch.zeros(0, dtype=torch.float64), torch.zeros(0, dtype=torch.long)
        self._node = self._first.clone()
        self._size = 0
        self._add(roots)

    def __len__(self) -> int:
        return self._size

    @property
    def kind(self) -> Tensor:
        """``(T,)`` what each node is split at."""
        return self._kind[: self._size]

    @property
    def index(self) -> Tensor:
        """``(T,)`` which ReLU, input element or clause; −1 at leaves."""
        return self._index[: self._size]

    @property
    def node(self) -> Tensor:
        """``(T,)`` node of the network whose element is split; 0 is the input."""
        return self._node[: self._size]

    @property
    def threshold(self) -> Tensor:
        """``(T,)`` where elements are split."""
        return self._threshold[: self._size]

    @property
    def first(self) -> Tensor:
        """``(T,)`` the first child; −1 at leaves."""
        return self._first[: self._size]

    def split(
        self, places: Tensor, kind: int, index: Tensor, children: int = 2, threshold: Tensor | None = None,
        node: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Split leaves, each into so many; returns the children's places ``(D, children)``."""
        first = self._size + children * torch.arange(len(places))
        self._add(children * len(places))
        at = places.cpu()
        self._kind[at], self._index[at], self._first[at] = kind, index.cpu(), first
        if threshold is not None:
            self._threshold[at] = threshold.cpu().to(torch.float64)
        if node is not None:
            self._node[at] = node.cpu()
        return (first.unsqueeze(1) + torch.arange(children)).to(places.device)

    def restart(self, places: Tensor) -> None:
        """Make nodes leaves again; what has grown below them belongs to nobody from now on."""
        at = places.cpu()
        self._kind[at], self._index[at], self._first[at], self._threshold[at] = LEAF, -1, -1, 0.0
        self._node[at] = 0

    def _add(self, count: int) -> None:
        by = self._size + count - len(self._kind)
        if by > 0:
            by = max(by, len(self._kind))
            self._kind = torch.cat([self._kind, self._kind.new_full((by,), LEAF)])
            self._threshold, self._node = (torch.cat([t, t.new_zeros(by)]) for t in (self._threshold, self._node))
            self._index, self._first = (torch.cat([t, t.new_full((by,), -1)]) for t in (self._index, self._first))
        self._size += count


class Recorded(NamedTuple):
    """The tree of one problem.

    Attributes:
        tree: as it grew; what is not below the root belongs to others. root: its place.
        elements: node of the network -> flat positions of its elements that the splits at ReLUs count, in their order.
        places: ``(L,)`` places in the tree of the leaves whose multipliers are known.
        domains: these leaves, multipliers in single precision.
        finished: whether the search came to its end; its bound may be far below that of most leaves where it did not.
        sharpened: whether bounds of activations were refined while it grew.
    """

    tree: SearchTree
    root: int
    elements: Mapping[int, Tensor]
    places: Tensor
    domains: Domains
    finished: bool = True
    sharpened: bool = False

    @property
    def leaves(self) -> int:
        """Number of leaves whose multipliers are known."""
        return len(self.domains)


class TreeRecorder:
    """What one search writes down about all of its problems.

    Args:
        problems: ``(B,)`` the ledger's problems; the tree has a root for each, in that order.

    Attributes:
        tree: of all of them. elements: see :class:`Recorded`.
        full: whether the leaves took too much memory, so that none are kept.
        sharpened: see :class:`Recorded`.
    """

    def __init__(self, problems: Tensor) -> None:
        self.problems, self.tree = problems.cpu(), SearchTree(len(problems))
        self.elements: dict[int, Tensor] = {}
        self.full = self.sharpened = False
        self._closed: list[tuple[Tensor, Tensor, Domains]] = []
        self._open: list[tuple[Tensor, Tensor, Domains]] = []
        self._bytes = 0

    def close(self, problem: Tensor, places: Tensor, d: Domains) -> None:
        """Note leaves that are closed: ``(D,)`` positions of their problems among the search's, and places."""
        if len(d) and not self.full:
            self._closed.append(self._light(problem, places, d))

    def leave_open(self, problem: Tensor, places: Tensor, d: Domains) -> None:
        """Note leaves that are still open, in place of those of the last call."""
        self._open = [] if self.full else [self._light(problem, places, d)]

    def of(self, problem: int) -> Recorded | None:
        """The tree of one problem of the ledger; None where there is none."""
        root = (self.problems == problem).nonzero().flatten()
        parts = [] if self.full or not len(root) else [*self._closed, *self._open]
        if not parts:
            return None
        owner, places = torch.cat([owner for owner, _, _ in parts]), torch.cat([places for _, places, _ in parts])
        d = Domains.cat([d for _, _, d in parts])
        rows = (owner == int(root)).nonzero().flatten()
        left = any(bool((part[0] == int(root)).any()) for part in self._open)
        if not len(rows):
            return None
        return Recorded(self.tree, int(root), self.elements, places[rows], d.take(rows), not left, self.sharpened)

    def _light(self, problem: Tensor, places: Tensor, d: Domains) -> tuple[Tensor, Tensor, Domains]:
        found = Domains(*(getattr(d, name).detach().cpu() for name in Domains.__dataclass_fields__))
        found = replace(found, alpha=found.alpha.float(), beta=found.beta.float(), mu=found.mu.float())
        found = replace(found, held=found.held[:, :, :0])  # a proof starts from its problem's own limits
        self._bytes += sum(getattr(found, name).nbytes for name in Domains.__dataclass_fields__)
        if self._bytes > MEMORY:
            self.full = True
            self._closed, self._open = [], []
        return problem.cpu(), places.cpu(), found
