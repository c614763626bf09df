"""Linear forms of activations carried back to the input through linear relaxations, in blocks that fit a cache."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from clinch.geometry.linear_minimum import minimum_over
from clinch.geometry.region import Region
from clinch.network.graph import Graph
from clinch.network.ops.base import AffineRelaxation, Lines, Relaxation
from clinch.network.ops.dense import Dense
from clinch.query import Forms

#: coefficients carried back at once: blocks that fit a core's cache are several times faster than whole batches
BLOCK = 2**17
#: share of a layer that must be live for its dead elements to be carried along: gathering costs about as much
MOSTLY_LIVE = 0.9


def linear_lower(graph: Graph, forms: Forms, relaxations: Mapping[int, Relaxation]) -> tuple[Tensor, Tensor]:
    """Linear lower limits of linear forms of activations, in terms of the input.

    Args:
        graph: the network.
        forms: R forms for B problems.
        relaxations: of every node the forms depend on.

    Returns:
        rows ``(B, R, *input_shape)`` and offset ``(B, R)`` with ``form_r(x) >= <rows_r, x> + offset_r`` wherever the
        relaxations hold. Gradients flow to the forms and to the relaxations' parameters.
    """
    offset = forms.constant
    pending = dict(forms.coefficients)
    for i in sorted(graph.ancestors(pending), reverse=True):
        if i and i in pending:
            offset = _carry(graph, i, pending, offset, relaxations[i])
    rows = pending.get(0)
    if rows is None:
        rows = offset.new_zeros(1, forms.count, *graph.input_shape)
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
    widest = max((graph.nodes[i].size for i in needed), default=1)
    height = max(1, BLOCK // (widest * forms.count))
    width = max(1, BLOCK // widest)
    blocks = []
    for first in range(0, region.size, height):
        problems = slice(first, first + height)
        block, where = forms.take(problems), region.take(problems)
        local = without_dead(graph, forms.nodes, {i: relaxations[i].take(problems) for i in needed if i})
        parts = []
        for start in range(0, forms.count, width):
            rows, offset = linear_lower(graph, block.select(slice(start, start + width)), local)
            parts.append(minimum_over(where, rows) + offset)
        blocks.append(torch.cat(parts, 1) if len(parts) > 1 else parts[0])
    return torch.cat(blocks) if len(blocks) > 1 else blocks[0]


# --- dead elements ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _LiveLines(Relaxation):
    """Lines of a layer of which only the elements ``live`` have any slope or offset: rows come back for those alone."""

    lines: Lines
    live: Tensor

    def backward(self, rows: Tensor) -> tuple[list[Tensor], Tensor]:
        """As :meth:`Lines.backward`, but the carried rows have one column per live element."""
        return self.lines.backward(rows.index_select(2, self.live))


def without_dead(graph: Graph, wanted: list[int], relaxations: dict[int, Relaxation]) -> dict[int, Relaxation]:
    """The relaxations with dead elements left out where a dense layer feeds the lines and nobody else reads it.

    An element is dead where both its lines are zero for all problems of the block: a ReLU whose input is never
    positive. Its column of the dense layer's weight need not be multiplied.

    Args:
        graph: the network.
        wanted: nodes with coefficients of their own, whose width must stay.
        relaxations: of everything the wanted nodes depend on, for the problems of one block.
    """
    readers: dict[int, int] = dict.fromkeys(wanted, 1)
    for i in relaxations:
        for j in graph.nodes[i].inputs:
            readers[j] = readers.get(j, 0) + 1
    thinned = dict(relaxations)
    for i, lines in relaxations.items():
        j = graph.nodes[i].inputs[0]
        feeding = graph.nodes[j].op
        if not isinstance(lines, Lines) or not isinstance(feeding, Dense) or lines.upper_slope.dim() != 2:
            continue
        if readers[j] != 1 or not lines.below_at_zero or lines.upper_slope.requires_grad:
            continue
        size = graph.nodes[i].size
        live = ((lines.upper_slope != 0) | (lines.upper_offset != 0)).any(0).nonzero().flatten()
        if len(live) < MOSTLY_LIVE * size:
            bias = None if feeding.bias is None else feeding.bias[live]
            part = Dense(feeding.weight.index_select(0, live), bias)
            thinned[i] = _LiveLines(_columns(lines, live), live)
            thinned[j] = AffineRelaxation(part, graph.shapes(j))
    return thinned


def _columns(lines: Lines, live: Tensor) -> Lines:
    """The lines of the chosen elements."""
    return replace(
        lines,
        lower_slope=lines.lower_slope.index_select(1, live),
        lower_offset=lines.lower_offset.index_select(1, live),
        upper_slope=lines.upper_slope.index_select(1, live),
        upper_offset=lines.upper_offset.index_select(1, live),
    )
