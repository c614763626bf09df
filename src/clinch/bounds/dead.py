"""Leaving out dead elements: ReLUs that are off over a whole block carry nothing, and their rows and columns cost most.

Only dense chains are cut, ``Dense -> ReLU -> Dense``: there an element is one row of the matrix before and one column
of those behind. The result is the same function on the block's regions.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from torch import Tensor

from clinch.network.graph import Graph
from clinch.network.ops.dense import Dense

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

    def dense(i: int) -> bool:
        return isinstance(graph.nodes[i].op, Dense) and len(graph.nodes[i].shape) == 1

    found = []
    for i in needed:
        inputs = graph.nodes[i].inputs
        if i and len(inputs) == 1 and not dense(i) and len(graph.nodes[i].shape) == 1:
            (j,) = inputs
            if j and dense(j) and j not in wanted and readers[j] == [i] and all(dense(k) for k in readers[i]):
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
        before = nodes[j].op
        assert isinstance(before, Dense)
        bias = None if before.bias is None else before.bias[kept]
        nodes[j] = replace(nodes[j], op=Dense(before.weight[kept], bias), shape=(len(kept),))
        nodes[i] = replace(nodes[i], shape=(len(kept),))
        for k, node in enumerate(nodes):
            if i in node.inputs and isinstance(node.op, Dense):
                nodes[k] = replace(node, op=Dense(node.op.weight[:, kept], node.op.bias))
    return Graph(tuple(nodes))
