"""Folding: chains of affine layers become one layer, so that bounds and encodings have less to do."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from clinch.network.graph import Graph, Node
from clinch.network.ops.base import Affine
from clinch.network.ops.scale import Scale
from clinch.network.ops.select import Take
from clinch.network.ops.shape import Reshape


def fold(graph: Graph, keep: Collection[int] = ()) -> tuple[Graph, dict[int, int]]:
    """Merge affine layers into the ones that follow them, and drop layers that change nothing or that nobody needs.

    A layer is merged into its successor only where nobody else reads it and nobody keeps it: normalisation into the
    first layer, batch norm into a convolution, a bias into a matrix product, one dense layer into the next where that
    does not grow. The function is the same up to rounding; fold the float64 graph.

    Args:
        graph: any graph.
        keep: positions of nodes whose values must remain available; input and output always are.

    Returns:
        The folded graph, and the new position of every node whose value is still there (all of ``keep`` are).
    """
    return _Folding(graph, {0, graph.output, *keep}).result()


def with_scales(graph: Graph) -> Graph:
    """Batch norms, and whatever else scales and shifts what one affine layer alone gives, taken into that layer.

    ``s ⊙ (W x + b) + t`` is computed from x as ``(s ⊙ W) x + (s ⊙ b + t)``. No node moves and every name means what it
    meant: the affine layer itself stays beside it, for whoever asks for its value, and nothing else reads it. The
    function is the same up to rounding; fold the float64 graph.

    Args:
        graph: any graph.
    """
    nodes = list(graph.nodes)
    readers = Counter(k for node in nodes for k in node.reads)
    for i, node in enumerate(nodes):
        if len(node.inputs) != 1 or readers[node.inputs[0]] != 1:
            continue
        earlier = nodes[node.inputs[0]]
        factors = node.op.as_factors([earlier.shape])
        inner = [nodes[k].shape for k in earlier.inputs]
        if (
            factors is None
            or earlier.whole
            or not isinstance(earlier.op, Affine)
            or earlier.op.as_factors(inner) is not None
        ):
            continue
        op = earlier.op.scaled(*factors, earlier.shape)
        # a shift that varies by place would make the bias a whole layer
        by_channel = factors.shift is None or earlier.op.scaled(factors.shift, None, earlier.shape) is not None
        if op is not None and by_channel:
            nodes[i] = replace(node, op=op, inputs=earlier.inputs)
    return Graph(tuple(nodes))


def with_channels(graph: Graph) -> Graph:
    """Reshapes, transposes and slices that together only choose channels of an image, each image as one choice.

    A shuffle of channels written as view, transpose, view (Zhang et al. 2017, arXiv 1707.01083) takes images apart;
    as a choice of channels it leaves places where they are. No node moves: the parts stay beside it, as in
    :func:`with_scales`.

    Args:
        graph: any graph.
    """
    nodes = list(graph.nodes)
    for i, node in enumerate(nodes):
        if len(node.shape) < 2 or node.whole or not _chooses(node) or nodes[node.inputs[0]].shape[1:] == node.shape[1:]:
            continue
        chain = [i]
        while _chooses(nodes[chain[-1]]):
            (k,) = nodes[chain[-1]].inputs
            if nodes[k].shape[1:] == node.shape[1:] and (indices := _channels(graph, k, chain)) is not None:
                nodes[i] = replace(node, op=Take(0, indices), inputs=(k,))
                break
            chain.append(k)
    return Graph(tuple(nodes))


def _chooses(node: Node) -> bool:
    return len(node.inputs) == 1 and node.op.affine and node.op.selects and not node.whole


def _channels(graph: Graph, k: int, chain: Sequence[int]) -> Tensor | None:
    """The channels of node k that a chain of nodes chooses, the last one first; None where it does anything else."""
    shape = graph.nodes[k].shape
    places = torch.arange(math.prod(shape), dtype=torch.float64).reshape(1, *shape)
    found = places
    for n in reversed(chain):
        op = graph.nodes[n].op
        found = op.to(torch.float64, "cpu").forward(found)
    channels = found[0].flatten(1)[:, 0].long() // math.prod(shape[1:])
    inside = bool(((channels >= 0) & (channels < shape[0])).all())
    return channels if inside and torch.equal(places[:, channels], found) else None


class _Folding:
    """The new nodes, in the order of the old ones; None where one was merged into a later one."""

    def __init__(self, graph: Graph, keep: set[int]) -> None:
        self.nodes: list[Node | None] = []
        #: how many nodes of the old graph read each new one, those to come included
        self.readers: list[int] = []
        #: new nodes that must stay as they are
        self.fixed: set[int] = set()
        self.place: dict[int, int] = {}
        readers, needed = [0] * len(graph.nodes), graph.needed(keep)
        for i in needed:
            for j in graph.nodes[i].reads:
                readers[j] += 1
        for i in needed:
            node = graph.nodes[i].moved(self.place)
            if self._changes_nothing(node, i == graph.output):
                self.place[i] = node.inputs[0]
                self.readers[node.inputs[0]] += readers[i] - 1
            else:
                self.nodes.append(self._absorb(node))
                self.readers.append(readers[i])
                self.place[i] = len(self.nodes) - 1
            if i in keep:
                self.fixed.add(self.place[i])

    def at(self, j: int) -> Node:
        """The new node there."""
        node = self.nodes[j]
        assert node is not None
        return node

    def _changes_nothing(self, node: Node, last: bool) -> bool:
        if len(node.inputs) != 1 or node.whole or not node.op.is_identity([self.at(node.inputs[0]).shape]):
            return False
        # the output must stay the last node
        return not last or node.inputs[0] == len(self.nodes) - 1

    def _absorb(self, node: Node) -> Node:
        """Take in the nodes before this one as long as that is possible."""
        while isinstance(node.op, Affine) and len(node.inputs) == 1:
            (j,) = node.inputs
            earlier = self.at(j)
            if (
                self.readers[j] != 1
                or j in self.fixed
                or not isinstance(earlier.op, Affine)
                or earlier.whole
                or len(earlier.inputs) != 1
            ):
                break
            before = self.at(earlier.inputs[0]).shape
            if isinstance(node.op, Reshape) and isinstance(earlier.op, Scale) and before == earlier.shape:
                return self._swap(node, node.op, j, earlier, earlier.op)
            op = node.op.after(earlier.op, before, earlier.shape)
            if op is None:
                break
            self.nodes[j] = None
            self._forget(j)
            node = replace(node, op=op, inputs=earlier.inputs)
        return node

    def _swap(self, node: Node, reshape: Reshape, j: int, earlier: Node, scale: Scale) -> Node:
        """A scaling moves behind a reshape, where the next layer can take it in."""
        moved = scale.reshaped(earlier.shape, node.shape)
        if moved is None:
            return node
        self.nodes[j] = replace(
            earlier, name=f"{node.name} before {earlier.name}", aliases=(), op=reshape, shape=node.shape
        )
        self._forget(j)
        return replace(node, op=moved)

    def _forget(self, j: int) -> None:
        """The value of this new node is no longer that of any old one."""
        self.place = {old: new for old, new in self.place.items() if new != j}

    def result(self) -> tuple[Graph, dict[int, int]]:
        """Close the gaps that merged nodes left."""
        order = {j: new for new, j in enumerate(j for j, node in enumerate(self.nodes) if node is not None)}
        nodes = [n.moved(order) for n in self.nodes if n is not None]
        return Graph(tuple(nodes)), {old: order[j] for old, j in self.place.items()}
