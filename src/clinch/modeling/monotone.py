"""Atoms of what an increasing function gives, as atoms of what goes into it, which has bounds that close.

``σ(h) >= 0.9`` is ``h >= t`` with the smallest t of the model's dtype whose sigmoid is at least 0.9, both as the model
and as float64 compute it: a limit is a number of the model's dtype, as for inputs (:mod:`clinch.modeling.limits`). One
of two probabilities is a sigmoid of the difference of the numbers that a softmax takes; of two of its elements the
larger is that of the larger number, and what a log-softmax gives differs as what goes into it does.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from clinch.modeling.sparse_maps import Terms

if TYPE_CHECKING:
    from clinch.modeling.expressions import LinearExpression
    from clinch.network.ops.base import Operator

#: where limits are looked for, halvings, and how many numbers of the dtype around what they give
FAR, HALVINGS, NEAR = 1e6, 100, 64


class Moved(NamedTuple):
    """Rows of an expression that look at another layer instead: its node, which rows, their terms and constants."""

    node: int
    rows: Tensor
    terms: Terms
    constant: Tensor


def before_monotone(e: LinearExpression, *, atoms: bool = False) -> LinearExpression:
    """The expression, or atoms ``e <= 0`` that hold for the same inputs, of what goes into increasing functions.

    Args:
        e: one-dimensional.
        atoms: whether only its sign matters.
    """
    graph = e.network.graph
    for node in sorted(e.terms, reverse=True):
        computed = graph.nodes[node].computed
        op, size = computed.op, graph.nodes[node].size
        if node == 0 or not (op.shifts or (atoms and (op.keeps_argmax or op.strictly_increasing))):
            continue
        if len(graph.nodes[node].shape) != 1 and not op.strictly_increasing:
            continue
        part = e.terms[node].coalesced(size)
        mine = _only(e, node)
        for moved in _moved(e, part, mine, op, computed.inputs[0], size, atoms):
            e = _with(e, moved)
    return e


def _only(e: LinearExpression, node: int) -> Tensor:
    """``(rows)`` that look at no other layer."""
    others = torch.zeros(e.size, dtype=torch.bool)
    for other, part in e.terms.items():
        if other != node:
            others[part.row] = True
    return ~others


def _moved(
    e: LinearExpression, part: Terms, mine: Tensor, op: Operator, before: int, size: int, atoms: bool
) -> Iterator[Moved]:
    """The rows that can be asked of the layer before the function."""
    count = torch.bincount(part.row, minlength=e.size)
    total = part.value.new_zeros(part.value.shape[0], e.size).index_add(1, part.row, part.value)
    balanced = mine & (count > 1) & (total == 0).all(0)
    constant = e.constant
    kept = balanced if op.shifts else balanced & (count == 2) & (constant == 0).all(0)
    rows = kept.nonzero().flatten()
    if len(rows):
        yield Moved(before, rows, _of(part, kept), constant[:, rows])
    single = mine & ~kept & (count == 1)
    if not atoms or not bool(single.any()):
        return
    pair = op.of_difference() if size == 2 else None
    function = op if op.strictly_increasing else pair
    if function is None:
        return
    chosen = single[part.row]
    rows, column, factor = part.row[chosen], part.col[chosen], part.value[:, chosen]
    limit = preimage(function, -constant[:, rows] / factor, factor < 0, e.network.dtype)
    usable = limit.isfinite().all(0) & (factor != 0).all(0)
    rows, column, sign, limit = rows[usable], column[usable], factor[:, usable].sign(), limit[:, usable]
    terms = Terms(rows, column, sign)
    if function is pair:
        terms = Terms.joined([terms, Terms(rows, 1 - column, -sign)])
    if len(rows):
        yield Moved(before, rows, terms, -sign * limit)


def _of(part: Terms, chosen: Tensor) -> Terms:
    """The entries of chosen rows."""
    entries = chosen[part.row]
    return Terms(part.row[entries], part.col[entries], part.value[:, entries])


def _with(e: LinearExpression, moved: Moved) -> LinearExpression:
    """The expression with some of its rows replaced."""
    from clinch.modeling.expressions import LinearExpression

    kept = torch.ones(e.size, dtype=torch.bool)
    kept[moved.rows] = False
    terms = {node: _of(part, kept) for node, part in e.terms.items()}
    terms[moved.node] = Terms.joined([terms[moved.node], moved.terms]) if moved.node in terms else moved.terms
    batch = max(e.constant.shape[0], moved.constant.shape[0])
    constant = e.constant.expand(batch, -1).clone()
    constant[:, moved.rows] = moved.constant
    terms = {node: part for node, part in terms.items() if len(part.row)}
    return LinearExpression(e.network, e.shape, terms, constant, e.batch)


def preimage(f: Operator, values: Tensor, above: Tensor, dtype: torch.dtype) -> Tensor:
    """The smallest numbers of a dtype where f is at least a value, or the largest where it is at most that.

    Args:
        f: strictly increasing.
        values: ``(B, m)``.
        above: ``(B, m)`` or ``(1, m)``: whether it must be at least the value.
        dtype: f is looked at in it and in float64.

    Returns:
        ``(B, m)`` float64, infinite where there is none near.
    """
    above = above.expand_as(values)
    low, high = torch.full_like(values, -FAR), torch.full_like(values, FAR)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        less = f.forward(middle) < values
        low, high = torch.where(less, middle, low), torch.where(less, high, middle)
    towards = torch.where(above, torch.inf, -torch.inf).to(dtype)
    at = high.to(dtype)
    for _ in range(NEAR // 8):
        at = torch.nextafter(at, -towards)
    # zero has more numbers around it than any other
    found = torch.where(f.forward(torch.zeros_like(values)) == values, 0.0, torch.inf)
    for _ in range(NEAR):
        met = torch.ones_like(above)
        for x in (at, at.to(torch.float64)):
            y = f.forward(x).to(torch.float64)
            met = met & torch.where(above, y >= values, y <= values)
        found = torch.where(met & found.isinf() & (at.abs() < FAR / 2), at.to(torch.float64), found)
        at = torch.nextafter(at, towards)
    return found
