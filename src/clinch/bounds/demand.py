"""What limits are wanted for: those elements whose limits may still change what is made of them, where they are mixed.

A row costs a way back through everything below. So it is spent on an element only where a narrower limit can change the
relaxation of somebody who reads it (a ReLU's sign is open; it may be the largest of its window), and only where it can
narrow the limit: what depends on one element below, of limits that are as good as they get, has limits as good by the
interval rule. Copies in another order are bounded where they come from, in the layout that is best known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass

import torch
from torch import Tensor

from clinch.bounds.symbols import mixes
from clinch.geometry.region import Region
from clinch.network.graph import Graph
from clinch.network.ops.base import Interval


@dataclass(frozen=True)
class Demand:
    """Which elements of a node to bound.

    Attributes:
        open: limits ``(B, *shape)`` -> elements ``(B, *shape)`` whose limits may matter, given these.
        at_zero: on one side of zero none of them matters.
    """

    open: Callable[[Interval], Tensor]
    at_zero: bool


#: both limits of every element
EVERYTHING = Demand(lambda limits: limits.lower < limits.upper, False)

#: position, its limits so far, and what to bound -> better limits
Better = Callable[[int, Interval, Demand], Interval]


def demand(graph: Graph, j: int) -> Demand:
    """What those who read node j, or a copy of it in another order, can make use of."""
    readers = _readers(graph, j)
    if not readers:
        return EVERYTHING
    return Demand(lambda limits: _open(graph, j, limits), all(graph.nodes[r].op.turns_at_zero for r in readers))


def _readers(graph: Graph, j: int) -> list[int]:
    """The non-affine readers of node j and of its rearrangements."""
    found = []
    for r, node in enumerate(graph.nodes):
        if j in node.inputs:
            found += [r] if not node.op.affine else _readers(graph, r) if node.op.rearranges else []
    return found


def _open(graph: Graph, j: int, limits: Interval) -> Tensor:
    found = torch.zeros_like(limits.lower, dtype=torch.bool)
    for r, node in enumerate(graph.nodes):
        if j not in node.inputs:
            continue
        if not node.op.affine:
            found = found | (node.op.undecided(limits) if len(node.inputs) == 1 else limits.lower < limits.upper)
        elif node.op.rearranges:
            moved = Interval(*(node.op.forward(t) for t in limits))
            found = found | node.op.transpose(_open(graph, r, moved), graph.shapes(r))[0]  # type: ignore[attr-defined]
    return found


class Walk:
    """Limits of the layers of a network, each made from those below it, in the order of evaluation.

    Args:
        graph: the network.
        region: B regions.
        better: asked for the limits of what is read, where it can help.
        limits: receives the limits of every node, while they are made.
        known: limits that hold already, to be intersected with.
    """

    def __init__(
        self,
        graph: Graph,
        region: Region,
        better: Better,
        limits: MutableMapping[int, Interval],
        known: Mapping[int, Interval],
    ) -> None:
        self.graph, self.region, self.better, self.limits, self.known = graph, region, better, limits, known
        limits[0] = Interval(region.lower, region.upper)
        self.done = {0}
        #: where no row can narrow limits, ``(B, *shape)`` by node: as of the input, where a ball does not cut it
        self.good = {0: torch.full_like(region.lower, not region.balls, dtype=torch.bool)}

    def run(self, wanted: Iterable[int], *, include_wanted: bool, passed: Callable[[int], None]) -> dict[int, Interval]:
        """Limits of what every non-affine node below the wanted ones reads, and of these themselves if asked for.

        Args:
            wanted: positions of nodes.
            include_wanted: see above.
            passed: told of each node whose inputs have been bounded.
        """
        graph, limits, result = self.graph, self.limits, {}
        wanted = set(wanted)
        for i in graph.ancestors(wanted):
            node = graph.nodes[i]
            if not i:
                continue
            if not node.op.affine:
                for j in node.inputs:
                    self._bound(j, demand(graph, self._source(j)))
                    result[j] = limits[j]
            passed(i)
            limits[i] = graph.interval(i, [limits[j] for j in node.inputs])
            if i in self.known:
                limits[i] = limits[i].intersect(self.known[i])
            self.good[i] = self._as_good(i)
        for j in sorted(wanted) if include_wanted else ():
            self._bound(j, EVERYTHING)
            result[j] = limits[j]
        return result

    def _source(self, j: int) -> int:
        """The node of which node j is a rearrangement, or itself."""
        while self.graph.nodes[j].op.rearranges:
            (j,) = self.graph.nodes[j].inputs
        return j

    def _bound(self, j: int, wanted: Demand) -> None:
        """Bound what is wanted of node j, where it comes from."""
        if j in self.done:
            return
        self.done.add(j)
        if self.graph.nodes[j].op.rearranges:
            (k,) = self.graph.nodes[j].inputs
            self._bound(k, wanted)
            self.limits[j] = self.graph.interval(j, [self.limits[k]]).intersect(self.limits[j])
            self.good[j] = self._as_good(j)
            return
        good = self.good[j]
        here = Demand(lambda limits: wanted.open(limits) & ~good, wanted.at_zero)
        some = here.open(self.limits[j])
        if bool(some.any()):
            self.limits[j] = self.better(j, self.limits[j], here)
            # what a sign decided may have been looked at from one side alone
            self.good[j] = good | (some & here.open(self.limits[j]) if wanted.at_zero else some)

    def _as_good(self, i: int) -> Tensor:
        """``(B, *shape)`` where the interval rule of node i gives what any line on limits below gives, or more: what
        depends on one element alone, or is the largest of some, whose limits are as good as they get.
        """
        graph, node = self.graph, self.graph.nodes[i]
        op, shapes, inputs = node.op, graph.shapes(i), node.inputs
        lower, upper = self.limits[i]
        good, fixed = [self.good[k] for k in inputs], lower == upper
        if not op.affine and op.settles and all(self._source(k) in self.done for k in inputs):
            # what was not asked for of the inputs changes nothing here
            good = [torch.ones_like(t) for t in good]
        if op.enclosed or (not self.region.balls and interval_is_exact(graph, i)):
            return torch.ones_like(fixed)
        if len(inputs) == 1 and (op.elementwise or op.as_factors(shapes) is not None):
            return fixed | good[0]
        if op.selects and op.affine:
            return fixed | (op.forward(*(t.to(lower) for t in good)) > 0.5)
        if op.selects and all(bool(t.all()) for t in good):
            return torch.ones_like(fixed)
        if op.as_sum(shapes) is not None:
            moving = torch.stack([low < high for low, high in (self.limits[k] for k in inputs)])
            return fixed | ((moving.sum(0) <= 1) & (torch.stack(good) | ~moving).all(0))
        return fixed


def interval_is_exact(graph: Graph, j: int) -> bool:
    """Whether interval arithmetic over a box is already exact: of affine nodes alone at most one adds up elements, or
    none has negative coefficients, and nothing is read twice.
    """
    below = graph.ancestors([j])
    ops = [graph.nodes[i].op for i in below if i]
    if not all(op.affine for op in ops):
        return False
    mixing = sum(mixes(graph, i) for i in below if i)
    consumers = [k for i in below for k in graph.nodes[i].inputs]
    monotone = all(op.nonnegative for op in ops)
    return (mixing <= 1 or monotone) and len(consumers) == len(set(consumers))
