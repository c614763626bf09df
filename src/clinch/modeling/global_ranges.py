"""The range of a layer's activations whatever the input is: a ReLU has nothing below zero.

With it, conditions are decided before any work: monitors fitted to data ask of many neurons to be at least zero.
"""

from __future__ import annotations

import torch
from torch import Tensor

from clinch.errors import UnsupportedOperator
from clinch.modeling.expressions import LinearExpression
from clinch.network.graph import Graph
from clinch.network.ops.base import Interval


def range_of(graph: Graph, node: int) -> Interval:
    """Limits ``(1, *shape)`` of a node's activations for all inputs in R^n, infinite where there are none.

    They hold for every execution in floating point too: no number is rounded to find them.
    """
    op, shape = graph.nodes[node].op, graph.nodes[node].shape
    nothing = torch.full((1, *shape), torch.inf, dtype=torch.float64)
    inputs = [graph.nodes[i] for i in graph.nodes[node].inputs]
    if op.selects:
        return op.interval(*(range_of(graph, i) for i in graph.nodes[node].inputs)).without_nan()
    if not inputs or op.affine:
        return Interval(-nothing, nothing)
    anything = [torch.full((1, *layer.shape), torch.inf, dtype=torch.float64) for layer in inputs]
    try:
        return op.interval(*(Interval(-one, one) for one in anything)).without_nan()
    except UnsupportedOperator:
        return Interval(-nothing, nothing)


def decided_by_ranges(stack: LinearExpression, batch: int) -> tuple[Tensor, Tensor]:
    """Which atoms ``expression <= 0`` are true and which are false whatever the input is, each ``(B, A)``.

    Only where every term is zero at the end of its range that matters, so that nothing is rounded.
    """
    kept = torch.ones(batch, stack.size, dtype=torch.bool)
    low, high = kept, kept.clone()
    for node, part in stack.terms.items():
        layer = stack.network.graph.nodes[node]
        merged = part.coalesced(layer.size)
        limits = range_of(stack.network.graph, node)
        least, most = (side.flatten()[merged.col] for side in limits)
        value, at = merged.value.expand(batch, -1), merged.row.expand(batch, -1)
        # a term that is never positive, or never negative
        falls = (value == 0) | ((value < 0) & (least >= 0)) | ((value > 0) & (most <= 0))
        rises = (value == 0) | ((value > 0) & (least >= 0)) | ((value < 0) & (most <= 0))
        low = low & ~torch.zeros(batch, stack.size).scatter_add(1, at, (~falls).float()).bool()
        high = high & ~torch.zeros(batch, stack.size).scatter_add(1, at, (~rises).float()).bool()
    d = stack.constant.expand(batch, -1)
    return low & (d <= 0), high & (d > 0)
