"""Linear forms of activations carried back to the input through linear relaxations, in blocks that fit a cache."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from clinch.bounds.ends import End, end_of
from clinch.geometry.region import Region
from clinch.network.graph import Graph
from clinch.network.ops.base import Relaxation
from clinch.query import Forms
from clinch.runtime import deadline

#: coefficients carried back at once: blocks that fit a core's cache are several times faster than whole batches
BLOCK = 2**18


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


def through_affine_layers(
    graph: Graph, forms: Forms, relaxations: Mapping[int, Relaxation], *, until: int = 0
) -> Forms:
    """The same forms in terms of non-affine nodes and of node ``until`` (the input) only: what problems can share."""
    offset, pending = forms.constant, dict(forms.coefficients)
    for i in sorted(graph.ancestors(pending), reverse=True):
        if i > until and i in pending and graph.nodes[i].op.affine:
            offset = _carry(graph, i, pending, offset, relaxations[i])
    return Forms(pending, offset)


def _carry(graph: Graph, i: int, pending: dict[int, Tensor], offset: Tensor, relaxation: Relaxation) -> Tensor:
    """Replace the coefficients on node i by coefficients on its inputs; returns the new offset."""
    deadline.look()
    carried, constant = relaxation.backward(pending.pop(i))
    for j, rows in zip(graph.nodes[i].inputs, carried):
        pending[j] = pending[j] + rows if j in pending else rows
    return offset + constant


def form_bounds(graph: Graph, forms: Forms, region: Region, relaxations: Mapping[int, Relaxation]) -> Tensor:
    """Proven lower limits ``(B, R)`` of linear forms over the region, in blocks of problems and forms."""
    return bounds_at(graph, forms, end_of(graph, forms.nodes, region, relaxations), relaxations)


def bounds_at(graph: Graph, forms: Forms, end: End, relaxations: Mapping[int, Relaxation]) -> Tensor:
    """:func:`form_bounds` where the end of the way back is known already."""
    size = forms.constant.shape[0]
    if not forms.count or not size:
        return forms.constant
    needed = graph.ancestors(forms.nodes)
    height, width = block_shape(graph, needed, end.node, forms.count)
    local = {i: relaxations[i] for i in needed if i > end.node}
    if height >= size:
        return _block_bounds(graph, forms, end, local, width)
    blocks = []
    for start in range(0, size, height):
        block = slice(start, start + height)
        here = {i: relaxation.take(block) for i, relaxation in local.items()}
        blocks.append(_block_bounds(graph, forms.take(block), end.take(block), here, width))
    return torch.cat(blocks)


def _block_bounds(graph: Graph, forms: Forms, end: End, relaxations: Mapping[int, Relaxation], width: int) -> Tensor:
    """:func:`form_bounds` for one block of problems, ``width`` forms at a time."""
    parts = []
    for start in range(0, forms.count, width):
        part = forms if width >= forms.count else forms.select(slice(start, start + width))
        rows, offset = linear_lower(graph, part, relaxations, until=end.node)
        parts.append(end.least(rows) + offset)
    bound = torch.cat(parts, 1) if len(parts) > 1 else parts[0]
    return bound.nan_to_num(-torch.inf, torch.inf, -torch.inf)  # infinities that met: nothing follows


def block_shape(graph: Graph, needed: Collection[int], until: int, count: int) -> tuple[int, int]:
    """How many problems and how many of ``count`` forms to carry back to node ``until`` at once."""
    widest = max((graph.nodes[i].size for i in needed if i >= until), default=1)
    width = max(1, min(count, BLOCK // widest))
    return max(1, BLOCK // (widest * width)), width
