"""Leaving out dead elements: ReLUs that are off over a whole block carry nothing, and their rows and columns cost most.

Only chains of layers that can be pruned are cut, such as ``Dense -> ReLU -> Dense``: there an element is one row of the
matrix before and one column of those behind. The result is the same function on the block's regions.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from clinch.network.graph import Graph, Node

#: share of elements alive from which on copying the matrices costs as much as it saves
MOSTLY_ALIVE = 0.9


def cuttable(graph: Graph, wanted: Collection[int]) -> list[int]:
    """Positions of one-dimensional nodes between dense layers, whose elements can be left out.

    Args:
        graph: the network.
        wanted: what is looked at; a wanted node may be cut itself, but not the dense layer before it.
    """
    needed = graph.ancestors(wanted)
    readers: dict[int, list[int]] = {i: [] for i in needed}
    for i in needed:
        for j in graph.nodes[i].inputs:
            readers[j].append(i)

    none = torch.zeros(0, dtype=torch.long)

    def prunable(i: int, outputs: Tensor | None, inputs: Tensor | None) -> bool:
        node = graph.nodes[i]
        return len(node.inputs) == 1 and node.op.prune(graph.shapes(i), outputs, inputs) is not None

    found = []
    for i in needed:
        node = graph.nodes[i]
        if not i or not node.op.elementwise or len(node.shape) != 1 or not prunable(i, none, none):
            continue
        (j,) = node.inputs
        before = j and j not in wanted and readers[j] == [i] and prunable(j, none, None)
        if before and all(prunable(k, None, none) for k in readers[i]):
            found.append(i)
    return found


def cut(graph: Graph, alive: Mapping[int, Tensor]) -> Graph:
    """The graph with only the chosen elements of some nodes; good for evaluating the wanted nodes alone.

    Args:
        graph: the network.
        alive: position from :func:`cuttable` -> flat positions of the elements to keep.
    """
    nodes = list(graph.nodes)
    for i, kept in alive.items():
        (j,) = nodes[i].inputs
        nodes[j] = _pruned(nodes, j, kept, None)
        nodes[i] = _pruned(nodes, i, kept, kept)
        for k, node in enumerate(nodes):
            if i in node.inputs:
                nodes[k] = _pruned(nodes, k, None, kept)
    return Graph(tuple(nodes))


def _pruned(nodes: list[Node], i: int, outputs: Tensor | None, inputs: Tensor | None) -> Node:
    """Node i with only the chosen elements; readers that are not asked for stay as they are."""
    node = nodes[i]
    op = node.op.prune([nodes[j].shape for j in node.inputs], outputs, inputs)
    if op is None:
        return node
    return replace(node, op=op, shape=node.shape if outputs is None else (len(outputs),))
