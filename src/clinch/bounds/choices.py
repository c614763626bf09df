"""Relaxations to choose from: what CROWN could as well have taken, where a layer has several.

Of a product every mixture of McCormick's planes is a relaxation, and of a smooth function every tangent; which of them
is best depends on the rows that come back, and is known only afterwards. The largest of several lower limits is one
too. In a network of ReLUs alone nothing is chosen: CROWN is what its authors say it is.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from torch import Tensor

from clinch.bounds.backward import form_bounds
from clinch.bounds.demand import Demand
from clinch.bounds.refine import refined
from clinch.geometry.region import Region
from clinch.network.graph import Graph
from clinch.network.ops.base import Interval, Relaxation
from clinch.network.ops.planes import Planes
from clinch.network.ops.whole import Enclosure
from clinch.query import Forms

#: coefficients of one problem's forms on all layers that they pass, beyond which CROWN's own relaxation alone is taken
CHEAP = 2**20
#: of lower and upper planes of a product, 1 for McCormick's first ones and −1 for the second, and where between the
#: limits lines are tightest; None: CROWN's own
PLANES, LINES = ((1.0, -1.0), (-1.0, 1.0), None), (None, 0.25, 0.75)
#: and slopes of lower lines of open ReLUs, from their least one to 1
SLOPES = (None, 0.0, 1.0)

#: node and limits of its inputs -> a relaxation
Relax = Callable[[Graph, int, Sequence[Interval]], Relaxation]


def best_bounds(
    graph: Graph,
    forms: Forms,
    region: Region,
    limits: Mapping[int, Interval],
    relaxations: Mapping[int, Relaxation],
) -> Tensor:
    """Proven lower limits ``(B, R)`` of linear forms: the best by CROWN's relaxations and by others.

    Args:
        graph: the network.
        forms: R forms for B problems.
        region: B regions.
        limits: of what non-affine nodes below read.
        relaxations: CROWN's, of every node the forms depend on.
    """
    found = form_bounds(graph, forms, region, relaxations)
    needed = graph.ancestors(forms.nodes)
    if forms.count * sum(graph.nodes[i].size for i in needed) > CHEAP:
        return found
    for relax in choices(graph, needed):
        others = _made(graph, needed, relax, limits, relaxations)
        found = torch.maximum(found, form_bounds(graph, forms, region, others))
    return found


def best_limits(
    graph: Graph,
    j: int,
    limits: Interval,
    region: Region,
    known: Mapping[int, Interval],
    relaxations: Mapping[int, Relaxation],
    demand: Demand,
    stop: Callable[[], bool],
) -> Interval:
    """Limits of node j, intersected with those by other relaxations of what lies below, where few rows are open.

    Arguments: see :func:`best_bounds` and :func:`clinch.bounds.refine.refined`.
    """
    needed = graph.ancestors([j])
    rows = int(demand.open(limits).sum())
    if not rows or rows * sum(graph.nodes[i].size for i in needed) > CHEAP:
        return limits
    for relax in choices(graph, needed):
        limits = refined(graph, j, limits, region, _made(graph, needed, relax, known, relaxations), demand, stop)
    return limits


def _made(
    graph: Graph,
    nodes: Collection[int],
    relax: Relax,
    limits: Mapping[int, Interval],
    relaxations: Mapping[int, Relaxation],
) -> dict[int, Relaxation]:
    return {
        i: relaxations[i]
        if graph.nodes[i].op.affine or graph.nodes[i].op.enclosed
        else relax(graph, i, [limits[j] for j in graph.nodes[i].inputs])
        for i in nodes
        if i
    }


def choices(graph: Graph, nodes: Collection[int]) -> list[Relax]:
    """Other relaxations of some nodes; none where they leave no choice."""
    free = [i for i in nodes if _is_free(graph, i)]
    products = any(len(graph.nodes[i].inputs) > 1 for i in free)
    functions = any(len(graph.nodes[i].inputs) == 1 for i in free)
    return [
        _relax(planes, place, slope)
        for planes, place, slope in zip(PLANES, LINES, SLOPES)
        if (products and planes is not None) or (functions and place is not None)
    ]


def _is_free(graph: Graph, i: int) -> bool:
    op = graph.nodes[i].op
    return bool(i) and not op.affine and not op.enclosed and op.two_pieces() is None


def _relax(places: tuple[float, float] | None, place: float | None, slope: float | None) -> Relax:
    def relax(graph: Graph, i: int, inputs: Sequence[Interval]) -> Relaxation:
        op, shapes = graph.nodes[i].op, graph.shapes(i)
        if (two := op.two_pieces()) is not None:
            if slope is None:
                return graph.relax(i, inputs)
            least = two.negative_slope
            return two.relax_with(inputs[0], torch.full_like(inputs[0].lower, least + slope * (1 - least)))
        if len(inputs) > 1 and places is not None and (found := op.planes_at(inputs, shapes, places)):
            low, high = found
            return Planes(low.pattern, low.lower_x, low.lower_y, high.upper_x, high.upper_y, low.lower, high.upper)
        if len(inputs) == 1 and place is not None:
            if op.has_jumps:
                return Enclosure(*op.interval(*inputs), tuple(shapes))
            if lines := op.lines_at(inputs[0], (place,)):
                return lines[0]
        return graph.relax(i, inputs)

    return relax
