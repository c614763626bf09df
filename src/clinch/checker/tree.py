"""The tree of a certificate: what holds on its leaves, and why they cover the whole region."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from clinch.checker.certificate import Certificate
from clinch.checker.layers import Array, Refused
from clinch.checker.lines import Box
from clinch.checker.question import CertifiedQuery, input_ends

#: kinds of nodes
LEAF, AT_RELU, AT_INPUT, AT_CLAUSE, AT_NODE = 0, 1, 2, 3, 4


class Leaves(NamedTuple):
    """What holds on each of D leaves, read off the path from the root.

    Attributes:
        signs: ``(D, U)`` of the ReLUs' inputs, all ReLU layers in a row; lower, upper: ``(D, n + V)`` or ``(1, n)`` of
        the input's elements and of V activations; choice: ``(D, C)`` the atom of each clause that holds, −1 where none
        was chosen.
    """

    signs: Array
    lower: Array
    upper: Array
    choice: Array


def root_of(lower: Array, upper: Array, relus: int, clauses: list[Array]) -> Leaves:
    """What holds on the whole region: the atoms of clauses of one."""
    chosen = [int(atoms[0]) if len(atoms) == 1 else -1 for atoms in clauses]
    return Leaves(np.zeros((1, relus), np.int8), lower[None], upper[None], np.array([chosen], dtype=np.int64))


def leaves_of(c: Certificate, query: CertifiedQuery, box: Box, relus: int, activations: int) -> tuple[Leaves, Array]:
    """What holds on the leaves, and the V activations that are split, numbered in a row.

    The tree is walked from its root: every inner node's children cover it, so that the leaves cover the region.

    A node at a ReLU has the children "input >= 0" and "input <= 0", one at an input element x_i "x_i <= t" and
    "x_i >= t", one at an activation the same, one at a clause a child per atom. Children stand side by side from the
    position ``tree.first`` on.
    Where an atom is a limit of one input element, its leaves' boxes are cut to that.

    Raises:
        Refused: some node is no child of exactly one other, or splits what is split or cannot be.
    """
    lower, upper, clauses, ends = box.lower[0], box.upper[0], query.clauses, input_ends(query)
    count = len(c.tensors.get("tree.kind", ()))
    kind = c.whole("tree.kind", (count,), LEAF, AT_NODE)
    first = c.whole("tree.first", (count,), -1, count - 1)
    index = c.whole("tree.index", (count,), -1, max(relus, len(lower), len(clauses), activations))
    threshold = c.numbers("tree.threshold", (count,))
    extents = np.array([0, relus, len(lower), len(clauses), activations])
    inner = kind != LEAF
    if not count or (inner & ((index < 0) | (index >= extents[kind]))).any():
        raise Refused("A node of the tree splits something that is not there.")
    # before there is room for what holds on every leaf: signs take a byte, limits and choices eight
    most, each = max((len(atoms) for atoms in clauses), default=0), relus // 8 + len(clauses)
    boxed = np.array([False, False, True, np.isfinite(ends[1:]).any(), True])
    which, boxes = np.unique(index[kind == AT_NODE]), bool(boxed[kind].any())
    c.room(int((~inner).sum()) * (each + 2 * (len(lower) + len(which)) * boxes) + most * len(clauses))
    # limits of input elements and of activations stand in a row
    index = np.where(kind == AT_NODE, len(lower) + np.searchsorted(which, index), index)
    padded = [np.append(atoms, np.full(most - len(atoms), -1)) for atoms in clauses]
    table = np.array(padded, dtype=np.int64).reshape(len(clauses), most)
    sizes = np.append((table >= 0).sum(1), 0)
    children = np.where(kind == AT_CLAUSE, sizes[np.where(kind == AT_CLAUSE, index, -1)], np.where(inner, 2, 0))
    # before there is room for each of them
    if children.sum() != count - 1:
        raise Refused("The tree does not cover the region: its nodes have more children, or fewer, than there are.")
    parent, side = _positions(children)
    child = first[parent] + side
    if (np.sort(child) != np.arange(1, count)).any() or (child <= parent).any():
        raise Refused("The tree does not cover the region: a node is missing, or belongs to two others.")
    free = np.full(len(which), np.inf)
    limits = (np.append(lower, -free), np.append(upper, free)) if boxes else (free, free)
    state, level = root_of(*limits, relus, clauses), np.zeros(1, dtype=np.int64)
    found: list[tuple[Array, Leaves]] = []
    while len(level):
        ended = ~inner[level]
        found.append((level[ended], Leaves(*(t[ended] for t in state))))
        above, side = _positions(children[level])
        at = level[above]
        state = _step(Leaves(*(t[above] for t in state)), [kind[at], index[at], threshold[at]], side, table, ends)
        level = first[at] + side
    order = np.argsort(np.concatenate([nodes for nodes, _ in found]))
    leaves = Leaves(*(np.concatenate(parts)[order] for parts in zip(*(leaf for _, leaf in found))))
    return (leaves if boxes else leaves._replace(lower=lower[None], upper=upper[None])), which


def _positions(children: Array) -> tuple[Array, Array]:
    """The parent of every child, parents in order, and which of its children each is."""
    parent = np.repeat(np.arange(len(children)), children)
    return parent, np.arange(len(parent)) - (np.cumsum(children) - children)[parent]


def _step(state: Leaves, split: list[Array], side: Array, table: Array, ends: Sequence[Array]) -> Leaves:
    """What holds on children whose parents' ``state`` is given, one row each; kind, index, threshold of the split."""
    kind, at, threshold = split
    rows = (kind == AT_RELU).nonzero()[0]
    if (state.signs[rows, at[rows]] != 0).any():
        raise Refused("The tree splits a ReLU twice.")
    state.signs[rows, at[rows]] = np.where(side[rows] == 0, 1, -1)
    for which, limits in ((0, state.upper), (1, state.lower)):
        rows = (((kind == AT_INPUT) | (kind == AT_NODE)) & (side == which)).nonzero()[0]
        inside = (state.lower[rows, at[rows]] <= threshold[rows]) & (threshold[rows] <= state.upper[rows, at[rows]])
        if not inside.all():
            raise Refused("The tree splits an element outside of its limits.")
        limits[rows, at[rows]] = threshold[rows]
    rows = (kind == AT_CLAUSE).nonzero()[0]
    if (state.choice[rows, at[rows]] >= 0).any():
        raise Refused("The tree splits a clause twice.")
    state.choice[rows, at[rows]] = atoms = table[at[rows], side[rows]]
    for limits, end in zip((state.lower, state.upper) if state.lower.size else (), ends[1:]):
        # where that leaves nothing a point stays
        place = rows, ends[0][atoms]
        limits[place] = np.clip(end[atoms], state.lower[place], state.upper[place])
    return state
