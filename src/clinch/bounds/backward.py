"""Linear forms of activations carried back to the input through linear relaxations, in blocks that fit a cache."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import torch
from torch import Tensor

from clinch.geometry.inner_products import products
from clinch.geometry.linear_minimum import minimum_over
from clinch.geometry.region import Region
from clinch.network.graph import Graph
from clinch.network.ops.base import Lines, Relaxation
from clinch.network.ops.dense import Dense
from clinch.network.ops.shape import Reshape
from clinch.query import Forms

#: coefficients carried back at once: blocks that fit a core's cache are several times faster than whole batches
BLOCK = 2**18
#: share of a matrix's rows that must be in use for the others to be multiplied along: choosing costs about as much
MOSTLY_USED = 0.9
#: coefficients on the input looked at once: smaller than a block, because the matrix lies in the cache beside them
PIECE = 2**16


def linear_lower(
    graph: Graph, forms: Forms, relaxations: Mapping[int, Relaxation], *, until: int = 0
) -> tuple[Tensor, Tensor]:
    """Linear lower limits of linear forms of activations, in terms of the input.

    Args:
        graph: the network.
        forms: R forms for B problems.
        relaxations: of every node the forms depend on.
        until: stop at this node instead of the input; every way from the forms to the input must lead through it.

    Returns:
        rows ``(B, R, *input_shape)`` and offset ``(B, R)`` with ``form_r(x) >= <rows_r, x> + offset_r`` wherever the
        relaxations hold. Gradients flow to the forms and to the relaxations' parameters.
    """
    offset = forms.constant
    pending = dict(forms.coefficients)
    for i in sorted(graph.ancestors(pending), reverse=True):
        if i > until and i in pending:
            offset = _carry(graph, i, pending, offset, relaxations[i])
    rows = pending.get(until)
    if rows is None:
        rows = offset.new_zeros(1, forms.count, *graph.nodes[until].shape)
    return rows.expand(offset.shape[0], *rows.shape[1:]), offset


def through_affine_layers(graph: Graph, forms: Forms, relaxations: Mapping[int, Relaxation]) -> Forms:
    """The same forms in terms of the input and of non-affine nodes only: what all problems can share."""
    offset, pending = forms.constant, dict(forms.coefficients)
    for i in sorted(graph.ancestors(pending), reverse=True):
        if i and i in pending and graph.nodes[i].op.affine:
            offset = _carry(graph, i, pending, offset, relaxations[i])
    return Forms(pending, offset)


def _carry(graph: Graph, i: int, pending: dict[int, Tensor], offset: Tensor, relaxation: Relaxation) -> Tensor:
    """Replace the coefficients on node i by coefficients on its inputs; returns the new offset."""
    carried, constant = relaxation.backward(pending.pop(i))
    for j, rows in zip(graph.nodes[i].inputs, carried):
        pending[j] = pending[j] + rows if j in pending else rows
    return offset + constant


def form_bounds(graph: Graph, forms: Forms, region: Region, relaxations: Mapping[int, Relaxation]) -> Tensor:
    """Proven lower limits ``(B, R)`` of linear forms over the region, in blocks of problems and forms."""
    if not forms.count or not region.size:
        return forms.constant
    needed = graph.ancestors(forms.nodes)
    first = None if region.balls else first_dense(graph, forms.nodes)
    until = first or 0
    height, width = block_shape(graph, needed, until, forms.count)
    blocks = []
    for problems in _slices(region.size, height):
        block, where = forms.take(problems), region.take(problems)
        local = {i: relaxations[i].take(problems) for i in needed if i > until}
        used = None if first is None else _used_elements(graph, first, forms.nodes, local)
        parts = []
        for which in _slices(forms.count, width):
            rows, offset = linear_lower(graph, block.select(which), local, until=until)
            least = minimum_over(where, rows) if first is None else _behind_dense(graph, first, rows, where, used)
            parts.append(least + offset)
        blocks.append(torch.cat(parts, 1) if len(parts) > 1 else parts[0])
    return torch.cat(blocks) if len(blocks) > 1 else blocks[0]


def _slices(size: int, step: int) -> Iterator[slice]:
    return (slice(first, first + step) for first in range(0, size, step))


def block_shape(graph: Graph, needed: Collection[int], until: int, count: int) -> tuple[int, int]:
    """How many problems and how many of ``count`` forms to carry back to node ``until`` at once."""
    widest = max((graph.nodes[i].size for i in needed if i >= until), default=1)
    width = max(1, min(count, BLOCK // widest))
    return max(1, BLOCK // (widest * width)), width


# --- a dense layer on the input -------------------------------------------------------------------------------------


def first_dense(graph: Graph, wanted: Collection[int]) -> int | None:
    """The dense layer through which every way from the wanted nodes to the input leads, or None."""
    if 0 in wanted:
        return None
    needed = graph.ancestors(wanted)
    i = 0
    while True:
        readers = [k for k in needed if i in graph.nodes[k].inputs]
        if len(readers) != 1:
            return None
        (i,) = readers
        op = graph.nodes[i].op
        if isinstance(op, Dense) and len(graph.nodes[i].shape) == 1:
            return i
        if not isinstance(op, Reshape) or i in wanted:
            return None


def _used_elements(graph: Graph, first: int, wanted: Collection[int], local: Mapping[int, Relaxation]) -> Tensor | None:
    """Which outputs ``(B, size)`` of a layer matter: not those whose only reader has no slope there; None: all."""
    readers = [k for k in local if first in graph.nodes[k].inputs]
    lines = local[readers[0]] if len(readers) == 1 and first not in wanted else None
    if not isinstance(lines, Lines) or lines.upper_slope.dim() != 2:
        return None
    return (lines.upper_slope != 0) | (lines.lower_slope != 0)


def _behind_dense(graph: Graph, first: int, rows: Tensor, region: Region, used: Tensor | None) -> Tensor:
    """The minimum of ``<rows, W x + b>`` over the region's box, shape ``(B, R)``.

    ``<Wᵀ rows, middle>`` is taken as ``<rows, W middle>``, so that the product of rows and W is looked at only once, for
    its absolute values, while it lies in the cache. Rows of W that are not used are left out: elements that are dead.

    Args:
        graph: the network.
        first: position of the dense layer; the nodes before it only reshape the input.
        rows: ``(B, R, outputs)``.
        region: B boxes.
        used: ``(B, outputs)`` where rows may differ from zero; None: everywhere.
    """
    op = graph.nodes[first].op
    assert isinstance(op, Dense)
    lower, upper = region.lower.flatten(1), region.upper.flatten(1)
    middle, half = lower / 2 + upper / 2, upper / 2 - lower / 2
    if not bool(torch.isfinite(middle.sum() + half.sum())):
        return minimum_over(region, rows @ op.weight) + (0.0 if op.bias is None else rows @ op.bias)
    rows = rows[:1] if rows.stride(0) == 0 else rows
    centre = products(rows, torch.nn.functional.linear(middle, op.weight, op.bias))
    if rows.shape[0] == 1:
        return centre - _spread(rows, op.weight, half, used)
    height = max(1, 2 * PIECE // (rows.shape[1] * op.weight.shape[1]))
    spread = [
        _spread(rows[problems], op.weight, half[problems], None if used is None else used[problems])
        for problems in _slices(rows.shape[0], height)
    ]
    return centre - (torch.cat(spread) if len(spread) > 1 else spread[0])


def _spread(rows: Tensor, weight: Tensor, half: Tensor, used: Tensor | None) -> Tensor:
    """``<|Wᵀ rows|, half>``, shape ``(B, R)``."""
    batch, count, size = rows.shape
    if used is not None:
        columns = used.any(0).nonzero().flatten()
        if len(columns) < MOSTLY_USED * size:
            rows, weight = rows.index_select(2, columns), weight.index_select(0, columns)
    parts = []
    for which in _slices(count, max(1, PIECE // (batch * weight.shape[1]))):
        carried = rows[:, which].flatten(0, 1) @ weight
        absolute = carried.abs() if carried.requires_grad else carried.abs_()
        parts.append(products(absolute.view(batch, -1, weight.shape[1]), half))
    return torch.cat(parts, 1) if len(parts) > 1 else parts[0]
