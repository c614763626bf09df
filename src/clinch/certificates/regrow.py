"""The tree that a search has recorded, grown once more with the ReLUs that a certificate knows.

A certificate's limits differ from those of the search: a ReLU that the search had to split may be stable here, which
leaves one child in place of the node. Whatever is recorded, what is grown covers everything: it consists of splits of
its own. A wrong record costs time, and proves nothing.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from clinch.bounds.domains import Domains, Relaxed
from clinch.search.tree import AT_CLAUSE, AT_RELU, Recorded, SearchTree


class Layout(NamedTuple):
    """What a record's numbers of ReLUs are in another relaxation.

    Attributes:
        column: ``(U',)`` the column of each recorded element, −1 where it has none there;
        sign: ``(U',)`` its sign where it is stable; own: ``(U,)`` the recorded element of each column, −1 for none.
    """

    column: Tensor
    sign: Tensor
    own: Tensor


def layout_of(known: Recorded, relaxed: Relaxed) -> Layout:
    """The recorded elements in the layout of one problem's relaxation."""
    total = sum(len(which) for which in known.elements.values())
    column, sign = torch.full((total,), -1), torch.ones(total, dtype=torch.long)
    own = torch.full((relaxed.width,), -1)
    offsets, start = {}, 0
    for node, which in known.elements.items():
        offsets[node], start = torch.arange(start, start + len(which)), start + len(which)
    for kink in relaxed.kinks:
        which = known.elements.get(kink.node, kink.which[:0])
        recorded = torch.full((relaxed.query.graph.nodes[kink.node].size,), -1)
        recorded[which] = offsets.get(kink.node, which)
        sign[recorded[which]] = torch.where(kink.slope[0, which] == 1, 1, -1)
        own[kink.columns] = recorded[kink.which]
    there = (own >= 0).nonzero().flatten()
    column[own[there]] = there
    return Layout(column, sign, own)


class Regrown(NamedTuple):
    """The leaves of the tree.

    Attributes:
        place: ``(N,)`` in the new tree; leaf: ``(N,)`` the recorded leaf that is to close each, −1 for none;
        split: ``(N, U)`` signs; choice: ``(N, C)`` atoms, as in :class:`clinch.bounds.domains.Domains`.
    """

    place: Tensor
    leaf: Tensor
    split: Tensor
    choice: Tensor


class _Level(NamedTuple):
    """Nodes of the record on their way: where each is there and in the new tree, and what holds on it."""

    at: Tensor
    place: Tensor
    split: Tensor
    choice: Tensor

    def take(self, rows: Tensor) -> _Level:
        return _Level(*(t[rows] for t in self))


def regrow(
    known: Recorded, layout: Layout, start: Tensor, clause: Tensor, tree: SearchTree, columns: Tensor
) -> Regrown:
    """Grow a tree from its root as recorded, all nodes of a level at once.

    Args:
        layout: of the new tree's relaxation, U columns.
        start: ``(C,)`` atom of each clause at the root, −1 where none is chosen.
        clause: ``(K,)`` clause of each atom.
        tree: with nothing but a root; grows.
        columns: ``(U,)`` what the new tree calls each column.
    """
    old, width = known.tree, len(layout.own)
    leaf_of = torch.full((len(old),), -1)
    there = (known.places >= 0) & (known.places < len(old))
    leaf_of[known.places[there]] = there.nonzero().flatten()
    members = [(clause == c).nonzero().flatten() for c in range(len(start))]
    side = (clause.unsqueeze(0) == clause.unsqueeze(1)).tril(-1).sum(1)
    root, place = torch.tensor([known.root]), torch.zeros(1, dtype=torch.long)
    level = _Level(root, place, torch.zeros(1, width, dtype=torch.int8), start[None])
    done: list[Regrown] = []
    while len(level.at):
        kind, index, first = old.kind[level.at], old.index[level.at], old.first[level.at]
        after = (first > level.at) & (first < len(old))
        parts = []
        relu = ((kind == AT_RELU) & after & (index >= 0) & (index < len(layout.column))).nonzero().flatten()
        if len(relu):
            parts += _at_relus(level.take(relu), index[relu], first[relu], layout, tree, columns)
        split = torch.zeros_like(after).index_fill(0, relu, True)
        for c, atoms in enumerate(members):
            rows = ((kind == AT_CLAUSE) & after & (index == c)).nonzero().flatten()
            if len(rows):
                split[rows] = True
                parts += _at_clause(level.take(rows), c, first[rows], atoms, side, tree)
        ended = level.take(~split)
        done.append(Regrown(ended.place, leaf_of[ended.at], ended.split, ended.choice))
        parts = [part.take(part.at < len(old)) if bool((part.at >= len(old)).any()) else part for part in parts]
        level = _Level(*(torch.cat(t) for t in zip(*parts))) if parts else level.take(level.at[:0])
    return Regrown(*(torch.cat(t) for t in zip(*done)))


def _at_relus(
    part: _Level, index: Tensor, first: Tensor, layout: Layout, tree: SearchTree, columns: Tensor
) -> list[_Level]:
    """Children of nodes at ReLUs; the one child that there is where the sign is known."""
    column, row = layout.column[index], torch.arange(len(index))
    known = torch.where(
        column >= 0, part.split[row, column.clamp(min=0)] if part.split.shape[1] else 0, layout.sign[index]
    )
    some, rest = (known != 0).nonzero().flatten(), (known == 0).nonzero().flatten()
    found = [part.take(some)._replace(at=first[some] + (known[some] < 0).long())] if len(some) else []
    if len(rest):
        places = tree.split(part.place[rest], AT_RELU, columns[column[rest]])
        for k, sign in enumerate((1, -1)):
            child = part.take(rest)
            split = child.split.scatter(1, column[rest].unsqueeze(1), sign)
            found.append(child._replace(at=first[rest] + k, place=places[:, k], split=split))
    return found


def _at_clause(part: _Level, c: int, first: Tensor, atoms: Tensor, side: Tensor, tree: SearchTree) -> list[_Level]:
    """Children of nodes at one clause; the one child that there is where its atom is chosen."""
    chosen = part.choice[:, c]
    some, rest = (chosen >= 0).nonzero().flatten(), (chosen < 0).nonzero().flatten()
    found = [part.take(some)._replace(at=first[some] + side[chosen[some]])] if len(some) else []
    if len(rest):
        places = tree.split(part.place[rest], AT_CLAUSE, torch.full_like(rest, c), len(atoms))
        for k, atom in enumerate(atoms.tolist()):
            child = part.take(rest)
            choice = child.choice.clone()
            choice[:, c] = atom
            found.append(child._replace(at=first[rest] + k, place=places[:, k], choice=choice))
    return found


def with_hints(d: Domains, leaf: Tensor, known: Recorded, layout: Layout) -> Domains:
    """The domains with the multipliers of the recorded leaves that are to close them; −1: none is."""
    if not len(known.domains):
        return d
    hint, has = known.domains.take(leaf.clamp(min=0)), (leaf >= 0).unsqueeze(1)
    own = layout.own
    alpha, beta = (
        t[:, own.clamp(min=0)] if t.shape[1] else t.new_zeros(len(t), len(own)) for t in (hint.alpha, hint.beta)
    )
    use = has & (own >= 0)
    alpha, beta, mu = (
        torch.where(which & t.isfinite(), t.to(d.alpha), present)
        for which, t, present in ((use, alpha, d.alpha), (use, beta, d.beta), (has, hint.mu, d.mu))
    )
    return replace(d, alpha=alpha, beta=torch.where(d.split != 0, beta, 0.0), mu=mu)
