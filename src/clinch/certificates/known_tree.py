"""A binary tree from leaves that a search has closed, which were written down without their order.

The element that all leaves of a tree are split at is one that its root can be split at; what is left on either side are
the leaves of two smaller trees. Whatever leaves are given, what is built covers everything: where none of them lies a
leaf without a proof appears, and leaves that fit in nowhere are left out. A wrong list costs time, and proves nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from clinch.bounds.domains import Domains, Relaxed
from clinch.exact.closed_leaves import Leaves

#: splits leaves of the tree: nodes, column or clause, whether it is a clause, number of children -> ``(D, children)``
Splitter = Callable[[Tensor, Tensor, bool, int], Tensor]


class Hints(NamedTuple):
    """Known leaves with the columns of another relaxation.

    Attributes:
        domains: L domains. known: ``(U,)`` the columns that their multipliers know.
    """

    domains: Domains
    known: Tensor

    def given(self, d: Domains, leaf: Tensor) -> Domains:
        """The domains with the multipliers of the leaves that are to close them; −1: none is."""
        if not len(self.domains):
            return d
        has, hint = (leaf >= 0).unsqueeze(1), self.domains.take(leaf.clamp(min=0))
        alpha, beta, mu = (
            torch.where(has & use & t.isfinite(), t.to(d.alpha), getattr(d, name))
            for name, use in (("alpha", self.known), ("beta", self.known), ("mu", has))
            for t in (getattr(hint, name),)
        )
        return replace(d, alpha=alpha, beta=torch.where(d.split != 0, beta, 0.0), mu=mu)


def aligned(leaves: Leaves, relaxed: Relaxed) -> Hints:
    """The leaves in the layout of one problem's relaxation; those that its stable elements contradict are left out."""
    d, inside = leaves.domains, torch.ones(len(leaves.domains), dtype=torch.bool)
    offsets, start = {}, 0
    for node, which in leaves.places.items():
        offsets[node], start = start, start + len(which)
    columns = []
    for kink in relaxed.kinks:
        size = relaxed.query.graph.nodes[kink.node].size
        which = leaves.places.get(kink.node, kink.which[:0])
        there = torch.full((size,), -1)
        there[which] = offsets.get(kink.node, 0) + torch.arange(len(which))
        columns.append(there[kink.which])
        there[kink.which] = -1
        stable = (there >= 0).nonzero().flatten()
        sign = torch.where(kink.slope[0, stable] == 1, 1, -1)
        inside &= (d.split[:, there[stable]] * sign >= 0).all(1)
    column = torch.cat(columns) if columns else torch.zeros(0, dtype=torch.long)
    known, d = column >= 0, d.take(inside.nonzero().flatten())
    split, alpha, beta = (
        torch.where(known, t[:, column.clamp(min=0)], 0) if start else t.new_zeros(len(d), len(column))
        for t in (d.split, d.alpha, d.beta)
    )
    return Hints(replace(d, split=split.to(torch.int8), alpha=alpha, beta=beta), known)


class Planted(NamedTuple):
    """The leaves of the tree.

    Attributes:
        node: ``(N,)`` their nodes; leaf: ``(N,)`` the given leaf that is to close each, −1 where there is none.
        split: ``(N, U)`` signs; choice: ``(N, C)`` atoms, as in :class:`clinch.bounds.domains.Domains`.
    """

    node: Tensor
    leaf: Tensor
    split: Tensor
    choice: Tensor

    @staticmethod
    def cat(parts: list[Planted]) -> Planted:
        """All of them."""
        return Planted(*(torch.cat(columns) for columns in zip(*parts)))


def plant(split: Tensor, choice: Tensor, start: Tensor, clause: Tensor, divide: Splitter) -> Planted:
    """Build the tree level by level, all nodes of a level at once.

    Args:
        split: ``(L, U)`` signs of the leaves.
        choice: ``(L, C)`` atom of each clause, −1 where none is chosen.
        start: ``(C,)`` the same at the root; clauses decided there are no splits.
        clause: ``(K,)`` clause of each atom.
        divide: called for every group of nodes that are split alike.

    Example:
        >>> plant(torch.tensor([[1], [-1]]), none, none[0], clause, divide).leaf  # one split, two leaves
        tensor([0, 1])
    """
    width, inside = split.shape[1], choice >= 0
    here = clause[choice.clamp(min=0)] == torch.arange(len(start)) if len(clause) else inside
    fits = (~inside | here).all(1)
    index = fits.nonzero().flatten()
    value = torch.cat([split.long(), choice], 1)[index]
    left = torch.cat([split != 0, inside & (start < 0)], 1)[index]
    group = torch.zeros_like(index)
    planted = Planted(torch.zeros(1, dtype=torch.long), group[:0], split.new_zeros(1, width), start[None])
    done: list[Planted] = []
    while True:
        count = torch.zeros(len(planted.node), left.shape[1], dtype=torch.long).index_add_(0, group, left.long())
        # of equally frequent ones a clause first: its atoms' limits differ
        count = 2 * count + (torch.arange(left.shape[1]) >= width) * (count > 0)
        ended, closer = _ended(group, left, index, len(planted.node))
        done.append(Planted(planted.node[ended], closer[ended], planted.split[ended], planted.choice[ended]))
        if bool(ended.all()):
            break
        at = count.argmax(1)
        planted, first, side = _children(planted, (~ended).nonzero().flatten(), at, width, clause, divide)
        at, column = at[group], torch.arange(len(group))
        kept = ~ended[group] & left[column, at]
        group, value, left, index, at = (t[kept] for t in (group, value, left, index, at))
        mine = value[torch.arange(len(group)), at]
        left[torch.arange(len(group)), at] = False
        place = side[mine.clamp(0, len(side) - 1)] if len(side) else mine
        group = first[group] + torch.where(at < width, (mine < 0).long(), place)
    return Planted.cat(done)


def _ended(group: Tensor, left: Tensor, index: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Groups without leaves or with one that has no further split, ``(G,)``, and that leaf, −1 where there is none."""
    over = ~left.any(1)
    closer = torch.full((groups,), -1).scatter_reduce(0, group[over], index[over], "amax")
    some = torch.zeros(groups, dtype=torch.bool).index_fill(0, group, True)
    return ~some | (closer >= 0), closer


def _children(
    planted: Planted, going: Tensor, at: Tensor, width: int, clause: Tensor, divide: Splitter
) -> tuple[Planted, Tensor, Tensor]:
    """Split groups: the children, the position of each group's first one, and each atom's place in its clause."""
    first, parts, total = torch.full_like(planted.node, -1), [], 0
    same = clause.unsqueeze(0) == clause.unsqueeze(1)
    side = same.tril(-1).sum(1)
    kinks = going[at[going] < width]
    jobs = [(kinks, torch.tensor([1, -1]), -1)]
    for c in (at[going][at[going] >= width] - width).unique().tolist():
        jobs.append((going[at[going] == width + c], (clause == c).nonzero().flatten(), c))
    for rows, values, c in jobs:
        count = len(values)
        nodes = divide(planted.node[rows], at[rows] if c < 0 else torch.full_like(rows, c), c >= 0, count)
        first[rows] = total + count * torch.arange(len(rows))
        total += count * len(rows)
        repeated = rows.repeat_interleave(count)
        split, choice = planted.split[repeated], planted.choice[repeated]
        values = values.repeat(len(rows))
        if c < 0:
            split[torch.arange(len(split)), at[repeated]] = values.to(split.dtype)
        else:
            choice[:, c] = values
        parts.append(Planted(nodes.flatten(), torch.full_like(repeated, -1), split, choice))
    return Planted.cat(parts), first, side
