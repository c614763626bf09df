"""Linear limits of layers carried forward in the symbols of a region's few free inputs.

Where K inputs may move, every activation lies between two linear functions of K symbols (Weng et al. 2018, arXiv
1804.09699, and Xu et al. 2020, arXiv 2002.12920, as the forward mode of linear relaxations). Carrying these through a
layer takes about 2 (K + 1) evaluations of it, however many elements it has, where each row that is carried back visits
all layers below. So they come first, and rows are spent only on what stays open: behind one layer of kinks not at all,
since there both ways make the same substitution; further on forward limits are wider.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from clinch.bounds.centred import Centred
from clinch.bounds.demand import Demand
from clinch.bounds.narrow import is_narrow
from clinch.bounds.refine import refined, write_bounds
from clinch.bounds.symbols import mixes, symbols_of
from clinch.geometry.region import Region
from clinch.network.graph import Graph
from clinch.network.ops.base import Interval, Relaxation
from clinch.network.ops.symbols import SymbolicLimits
from clinch.runtime import deadline

#: open elements per symbol from which on carrying symbols forward costs less than carrying rows back
ENOUGH_OPEN = 2
#: coefficients that one problem's rows would have on all layers below: with fewer of them they are quick anyway
ENOUGH_WORK = 2**19
#: share of the open elements that symbols must decide to be asked again further on
ENOUGH_CLOSED = 0.2
#: a limit so near zero, as a share of a layer's largest limit, may be zero but for the rounding of symbols
NEAR_ZERO = 1e-9


class Symbols:
    """Linear limits of the layers below some nodes, each made when it is asked for.

    Args:
        graph: the network.
        region: B regions.
        limits: of nodes by position, filled while the network is walked through.
        relaxations: likewise.
    """

    def __init__(
        self, graph: Graph, region: Region, limits: Mapping[int, Interval], relaxations: Mapping[int, Relaxation]
    ) -> None:
        self.graph, self.region = graph, region
        self.limits, self.relaxations = limits, relaxations
        self.centred = Centred(graph, region, limits)
        self.held: dict[int, SymbolicLimits] = {}
        #: whether they decided enough where they were asked last
        self.pays = True
        #: nodes that no symbols pass through
        self.rough: set[int] = set()

    def refined(self, j: int, demand: Demand, stop: Callable[[], bool]) -> Interval:
        """The limits of node j, intersected with those that symbols give, and with CROWN's where that helps.

        Arguments: see :func:`clinch.bounds.refine.refined`.
        """
        limits = self.limits[j]
        if self._pays(j, limits, demand) and not stop():
            before = limits
            limits = limits.intersect(self.at(j).limits())
            if self._complete(j):
                return self._without_rounding(j, limits, stop) if demand.at_zero else limits
            # what is above is wider still
            was, left = (int(demand.open(t).sum()) for t in (before, limits))
            self.pays = not demand.at_zero or was - left >= ENOUGH_CLOSED * was
        return refined(self.graph, j, limits, self.region, self.relaxations, demand, stop, self.centred)

    def _pays(self, j: int, limits: Interval, demand: Demand) -> bool:
        graph = self.graph
        work = sum(graph.nodes[i].size for i in graph.ancestors([j]))
        if not self.pays or work * graph.nodes[j].size < ENOUGH_WORK or is_narrow(graph, j):
            return False
        count = int(demand.open(limits).flatten(1).sum(1).max())
        if work * count < ENOUGH_WORK:
            return False
        if 0 not in self.held and (first := symbols_of(self.region, sum(n.size for n in graph.nodes))) is not None:
            self.held[0] = first
        return 0 in self.held and count > ENOUGH_OPEN * self.held[0].middle.shape[1]

    def _without_rounding(self, j: int, limits: Interval, stop: Callable[[], bool]) -> Interval:
        """The same limits, by rows where rounding may have opened an element whose limit is zero."""
        lower, upper = (t.flatten(1) for t in limits)
        near = NEAR_ZERO * (upper - lower).amax(1, keepdim=True)
        doubtful = _open(Interval(lower, upper)) & ((lower > -near) | (upper < near))
        if not bool(doubtful.any()):
            return limits
        flat = lower.clone(), upper.clone()
        write_bounds(self.graph, j, doubtful, self.region, self.relaxations, flat, stop, self.centred)
        return limits.intersect(Interval(*(t.reshape(limits.lower.shape) for t in flat)))

    def at(self, j: int) -> SymbolicLimits:
        """Linear limits of node j."""
        graph, held = self.graph, self.held
        for i in graph.ancestors([j]):
            if i in held:
                continue
            deadline.look()
            node = graph.nodes[i]
            found = self.relaxations[i].symbolic([held[k] for k in node.inputs], node.shape)
            if found is None:
                self.rough.add(i)
                found = SymbolicLimits.constant(self.limits[i], held[0].middle.shape[1] - 1)
            held[i] = found
        return held[j]

    def _complete(self, j: int) -> bool:
        """Whether rows would make the same substitutions: at most one layer of kinks on every way to the input, and one
        layer that adds up elements above it.
        """
        graph, above, below = self.graph, {j}, self.graph.ancestors([j])
        if self.region.balls or not self.rough.isdisjoint(below):
            return False
        mixing, seen = 0, 0
        for i in reversed(below):
            node = graph.nodes[i]
            if i not in above:
                continue
            if not node.op.affine:
                if any(not graph.nodes[k].op.affine for k in graph.ancestors(node.inputs) if k):
                    return False
                continue
            if i and _bent(graph, i):
                mixing += mixes(graph, i)
                seen += len(node.inputs)
                above.update(node.inputs)
        return mixing <= 1 and seen < len(above)


def _open(limits: Interval) -> Tensor:
    return (limits.lower < 0) & (limits.upper > 0)


def _bent(graph: Graph, i: int) -> bool:
    return any(k and not graph.nodes[k].op.affine for k in graph.ancestors([i]))
