"""The tree of a search over parts, written down while it grows; nothing in it is trusted."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from clinch.bounds.part_dual import Layout
from clinch.search.parts import Parts
from clinch.search.tree import MEMORY, SearchTree


class RecordedParts(NamedTuple):
    """The tree of one problem, over the network as it was loaded.

    A split is (node of the network, flat element, point): ``tree.node``, ``tree.index`` and ``tree.threshold``, node 0
    being the input; the first child is "at most", the second "at least". A child that nobody has bounded is no leaf of
    ``parts``: the incumbent's ball does not reach it, or the search ended first.

    Attributes:
        tree: as it grew; what is not below the root belongs to others. root: its place.
        layout: of the parts' limits and multipliers.
        parts: the leaves that were bounded, their places in :attr:`~clinch.search.node_store.Nodes.place`.
        finished: whether the search came to its end.
    """

    tree: SearchTree
    root: int
    layout: Layout
    parts: Parts
    finished: bool


class PartRecorder:
    """What one search writes down about all of its problems; see :class:`clinch.search.tree.TreeRecorder`.

    Args:
        problems: ``(B,)`` the ledger's problems; the tree has a root for each, in that order.
        layout: of the parts.
    """

    def __init__(self, problems: Tensor, layout: Layout) -> None:
        self.problems, self.layout, self.tree = problems.cpu(), layout, SearchTree(len(problems))
        self._closed: list[Parts] = []
        self._open: list[Parts] = []
        self._bytes = 0

    @property
    def full(self) -> bool:
        """Whether the leaves took too much memory, so that none are kept."""
        return self._bytes > MEMORY

    def of(self, problem: int) -> None:
        """No tree of kinks: :meth:`parts` has what there is."""

    def close(self, parts: Parts) -> None:
        """Note leaves that are closed."""
        if len(parts) and not self.full:
            self._closed.append(self._kept(parts))
            if self.full:
                self._closed, self._open = [], []

    def leave_open(self, parts: Parts | None) -> None:
        """Note leaves that are still open, in place of those of the last call."""
        self._open = [] if self.full or parts is None else [self._kept(parts)]

    def parts(self, problem: int) -> RecordedParts | None:
        """The tree of one problem of the ledger; None where there is none."""
        root, kept = (self.problems == problem).nonzero().flatten(), [*self._closed, *self._open]
        if self.full or not len(root) or not kept:
            return None
        every = Parts.cat(kept)
        left = any(bool((part.problem == int(root)).any()) for part in self._open)
        return RecordedParts(self.tree, int(root), self.layout, every.take(every.problem == int(root)), not left)

    def _kept(self, parts: Parts) -> Parts:
        kept = Parts(**{
            name: t.detach().cpu().float() if name in Parts.LIGHT else t.detach().cpu() for name, t in parts.columns()
        })  # fmt: skip
        self._bytes += sum(t.nbytes for _, t in kept.columns())
        return kept
