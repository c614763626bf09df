"""The tree of a search over boxes or parts, written down while it grows; nothing in it is trusted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from clinch.bounds.part_dual import Layout
from clinch.search.boxes import Boxes
from clinch.search.parts import Parts
from clinch.search.tree import AT_INPUT, LEAF, MEMORY, SearchTree

N = TypeVar("N", Boxes, Parts)

#: share of an input element's range from which on cutting it off is worth a split, and cuts of a part, at most
WORTH, CUTS = 0.1, 8


class Cut(NamedTuple):
    """One cut of each of some parts.

    Attributes:
        rows: ``(E,)`` which parts; element: the input element; point: where; above: what is above is cut off.
    """

    rows: Tensor
    element: Tensor
    point: Tensor
    above: Tensor


def cuts_to(lower: Tensor, upper: Tensor, kept_lower: Tensor, kept_upper: Tensor) -> Iterator[Cut]:
    """The largest cuts that lead from boxes ``(D, n)`` to smaller ones, one of each part at a time."""
    width, n = upper - lower, lower.shape[1]
    share = torch.cat([kept_lower - lower, upper - kept_upper], 1) / torch.where(width > 0, width, torch.inf).repeat(
        1, 2
    )
    share = share.masked_fill((kept_lower > kept_upper).any(1, keepdim=True), 0.0)
    share, which = share.topk(min(CUTS, 2 * n), 1)
    for k in range(share.shape[1]):
        rows = (share[:, k] >= WORTH).nonzero().flatten()
        if not len(rows):
            return
        element, above = which[rows, k] % n, which[rows, k] >= n
        yield Cut(rows, element, torch.where(above, kept_upper[rows, element], kept_lower[rows, element]), above)


def record_cuts(tree: SearchTree, nodes: N, lower: Tensor, upper: Tensor) -> tuple[N, list[N]]:
    """Nodes cut down to boxes ``(D, n)`` where that is worth a split, and what is cut off, as leaves of the tree."""
    place, low, high = nodes.place.clone(), nodes.lower.flatten(1).clone(), nodes.upper.flatten(1).clone()
    outside = []
    for cut in cuts_to(low, high, lower, upper):
        places = tree.split(place[cut.rows], AT_INPUT, cut.element, threshold=cut.point)
        inner = (~cut.above).long().unsqueeze(1)
        outside.append(replace(nodes.take(cut.rows), place=places.gather(1, 1 - inner)[:, 0]))
        place[cut.rows] = places.gather(1, inner)[:, 0]
        high[cut.rows[cut.above], cut.element[cut.above]] = cut.point[cut.above]
        low[cut.rows[~cut.above], cut.element[~cut.above]] = cut.point[~cut.above]
    shape = nodes.lower.shape
    return replace(nodes, place=place, lower=low.reshape(shape), upper=high.reshape(shape)), outside


class RecordedParts(NamedTuple):
    """The tree of one problem, over the network as it was loaded.

    A split is (node of the network, flat element, point): ``tree.node``, ``tree.index`` and ``tree.threshold``, node 0
    being the input; the first child is "at most", the second "at least". A child that nobody has bounded is no leaf of
    ``parts``: the incumbent's ball does not reach it, or the search ended first.

    Attributes:
        tree: as it grew; what is not below the root belongs to others. root: its place.
        finished: whether the search came to its end.
        layout: of the parts' limits and multipliers; None: the input alone was split.
        parts: the leaves that were bounded, their places in :attr:`~clinch.search.node_store.Nodes.place`; None: of
            leaves nothing is known but their boxes.
    """

    tree: SearchTree
    root: int
    finished: bool
    layout: Layout | None = None
    parts: Parts | None = None

    @property
    def leaves(self) -> int:
        """Number of leaves whose multipliers are known, or of all."""
        return int((self.tree.kind == LEAF).sum()) if self.parts is None else len(self.parts)


class BoxRecorder:
    """What one search over boxes writes down about all of its problems: where it splits, and what it cuts off.

    Args:
        problems: ``(B,)`` the ledger's problems; the tree has a root for each, in that order.
    """

    def __init__(self, problems: Tensor) -> None:
        self.problems, self.tree = problems.cpu(), SearchTree(len(problems))
        self._open: Tensor | None = None

    def halved(self, boxes: Boxes) -> Tensor:
        """Places of both halves of every box along its first element, all lower halves first."""
        at = boxes.elements[:, :1]
        middle = (boxes.lower.flatten(1).gather(1, at) + boxes.upper.flatten(1).gather(1, at)) / 2
        return self.tree.split(boxes.place, AT_INPUT, at[:, 0], threshold=middle[:, 0]).T.flatten()

    def cut(self, boxes: Boxes, lower: Tensor, upper: Tensor) -> Tensor:
        """Places of boxes that are cut down to ``(D, n)``, as far as that is worth a split; the rest is left out."""
        return record_cuts(self.tree, boxes, lower, upper)[0].place

    def leave_open(self, boxes: Boxes | None) -> None:
        """Note boxes that are still open, in place of those of the last call."""
        self._open = torch.zeros(0, dtype=torch.long) if boxes is None else boxes.problem.cpu().unique()

    def of(self, problem: int) -> RecordedParts | None:
        """The tree of one problem of the ledger; None where there is none."""
        root = (self.problems == problem).nonzero().flatten()
        if not len(root) or self._open is None:
            return None
        return RecordedParts(self.tree, int(root), not bool((self._open == root).any()))


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

    def close(self, parts: Parts) -> None:
        """Note leaves that are closed."""
        if len(parts) and not self.full:
            self._closed.append(self._kept(parts))
            if self.full:
                self._closed, self._open = [], []

    def cut(self, parts: Parts, lower: Tensor, upper: Tensor) -> Parts:
        """Parts cut down to boxes ``(D, n)`` where that is worth a split; what is cut off becomes a leaf."""
        inside, outside = record_cuts(self.tree, parts, lower, upper)
        for part in outside:
            self.close(part)
        return inside

    def leave_open(self, parts: Parts | None) -> None:
        """Note leaves that are still open, in place of those of the last call."""
        self._open = [] if self.full or parts is None else [self._kept(parts)]

    def of(self, problem: int) -> RecordedParts | None:
        """The tree of one problem of the ledger; None where there is none."""
        root, kept = (self.problems == problem).nonzero().flatten(), [*self._closed, *self._open]
        if self.full or not len(root) or not kept:
            return None
        every = Parts.cat(kept)
        left = any(bool((part.problem == int(root)).any()) for part in self._open)
        return RecordedParts(self.tree, int(root), not left, self.layout, every.take(every.problem == int(root)))

    def _kept(self, parts: Parts) -> Parts:
        kept = Parts(**{
            name: t.detach().cpu().float() if name in Parts.LIGHT else t.detach().cpu() for name, t in parts.columns()
        })  # fmt: skip
        self._bytes += sum(t.nbytes for _, t in kept.columns())
        return kept
