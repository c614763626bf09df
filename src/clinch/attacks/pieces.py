"""The linear piece of a network at a point: its sign pattern, and the affine functions that hold on it.

An operator that ``splits_at_zero`` is replaced by its slope on one side of zero, element by element. A network that
bends nowhere else is then exactly affine, whatever point it is linearised at; other operators (max pool, sigmoid) are
linearised at the point itself.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from clinch.network.graph import Graph
from clinch.query import Activations

#: node -> whether each element is on its positive side, ``(1, *node_shape)``
Pattern = dict[int, Tensor]


def kinks(graph: Graph, wanted: list[int]) -> list[int]:
    """Nodes with two pieces among the ancestors of the wanted ones."""
    return [i for i in graph.ancestors(wanted) if i and graph.nodes[i].op.splits_at_zero]


def pattern_at(graph: Graph, x: Tensor, wanted: list[int]) -> Pattern:
    """Signs at one point ``(1, *input_shape)``."""
    nodes = kinks(graph, wanted)
    before = graph.forward(x, [graph.nodes[i].inputs[0] for i in nodes]) if nodes else {}
    return {i: before[graph.nodes[i].inputs[0]] > 0 for i in nodes}


def forward_on(graph: Graph, x: Tensor, pattern: Pattern, wanted: list[int]) -> Activations:
    """Activations ``(N, …)`` of the wanted nodes on one piece, for points ``(N, *input_shape)``."""
    one = torch.ones(1, dtype=x.dtype, device=x.device)

    def fixed(i: int, h: Tensor) -> Tensor:
        op = graph.nodes[i].op
        return torch.where(pattern[i], op.forward(one), -op.forward(-one)) * h

    return graph.forward(x, wanted, {i: partial(fixed, i) for i in pattern})


def linearise(function: Callable[[Tensor], Tensor], x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Values ``(count,)`` and gradients ``(count, n)`` at a point ``(1, *input_shape)``.

    ``function`` maps ``(count, *input_shape)`` to ``(count,)``: its i-th result looks at the i-th row only.
    """
    rows = x.expand(count, *x.shape[1:]).clone().requires_grad_()
    with torch.enable_grad():
        values = function(rows)
    if not values.requires_grad:
        return values.detach(), torch.zeros(count, x[0].numel(), dtype=x.dtype, device=x.device)
    (slopes,) = torch.autograd.grad(values.sum(), rows, allow_unused=True)
    slopes = torch.zeros_like(rows) if slopes is None else slopes
    return values.detach(), slopes.flatten(1)
