"""Limits of the activations that relaxations need, layer by layer, by any bound of linear forms.

A bound says how low linear forms can go, given limits of the layers below. :func:`layerwise_bounds` applies it to each
layer in turn, only to elements that it can help, in blocks that fit a core's cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch import Tensor

from clinch.bounds.backward import through_affine_layers
from clinch.bounds.crown import never
from clinch.bounds.demand import Demand, Walk
from clinch.geometry.region import Region
from clinch.network.graph import Graph
from clinch.network.ops.base import Interval
from clinch.query import Forms

#: coefficients of one block, over all layers: what is kept of them should fit a core's cache
BLOCK = 2**18

#: forms ``(b, r)``, regions and limits of the layers below for b problems -> proven lower limits ``(b, r)``
FormBound = Callable[[Forms, Region, Mapping[int, Interval]], Tensor]


def layerwise_bounds(
    graph: Graph,
    region: Region,
    bound: FormBound,
    wanted: Iterable[int] | None = None,
    known: Mapping[int, Interval] | None = None,
    *,
    deep_only: bool = False,
    include_wanted: bool = False,
    stop: Callable[[], bool] = never,
) -> dict[int, Interval]:
    """Proven limits of every activation that a non-affine node reads: the better of the interval rule's and a bound's.

    Args:
        graph: the network, in the region's dtype.
        region: B regions.
        bound: of linear forms; gradients flow through it and to the limits.
        wanted: only what these nodes depend on is looked at (default: the output).
        known: limits that hold already, to be intersected with.
        deep_only: leave out layers with affine layers alone below them.
        include_wanted: bound the wanted nodes themselves too.
        stop: asked after every block; once true, what is left keeps interval and known limits, which are valid too.

    Returns:
        Node position -> limits ``(B, *node_shape)``.

    Raises:
        UnsupportedOperator: a layer has no interval rule; names it.
    """
    wanted = {graph.output} if wanted is None else set(wanted)
    limits: dict[int, Interval] = {}

    def better(j: int, held: Interval, demand: Demand) -> Interval:
        if deep_only and all(graph.nodes[i].op.affine for i in graph.ancestors([j]) if i):
            return held
        return _tightened(graph, j, held, region, bound, _read(graph, limits, j), demand, stop)

    walk = Walk(graph, region, better, limits, known or {})
    return walk.run(wanted, include_wanted=include_wanted, passed=lambda i: None)


def _read(graph: Graph, limits: Mapping[int, Interval], j: int) -> dict[int, Interval]:
    """The limits of what is read by non-affine nodes below node j."""
    below = [graph.nodes[i] for i in graph.ancestors([j]) if i]
    return {k: limits[k] for node in below if not node.op.affine for k in node.inputs}


def _tightened(
    graph: Graph,
    j: int,
    limits: Interval,
    region: Region,
    bound: FormBound,
    known: Mapping[int, Interval],
    demand: Demand,
    stop: Callable[[], bool],
) -> Interval:
    """The limits of node j, with the bound on both sides of each element that it can help."""
    shape = limits.lower.shape
    lower, upper = (t.flatten(1).clone() for t in limits)
    is_open = demand.open(limits).flatten(1)
    which = is_open.any(0).nonzero().flatten()
    if not len(which) or stop():
        return limits
    widest = max(graph.nodes[i].size for i in graph.ancestors([j]))
    for some in which.split(max(1, 8 * BLOCK // widest)):
        shared = _elements(graph, j, some, limits)
        needed = graph.ancestors(shared.nodes)
        for problems, columns in _blocks(is_open[:, some], 2 * width(graph, shared)):
            if stop():
                break
            local = {i: known[i].take(problems) for i in known if i in needed}
            found = bound(_both_signs(shared, columns), region.take(problems), local)
            at, count = (problems.unsqueeze(1), some[columns]), columns.shape[1]
            # what only fills up a block stays as it is: a problem's limits do not depend on its neighbours
            lower[at] = torch.where(is_open[at], torch.maximum(lower[at], found[:, :count]), lower[at])
            upper[at] = torch.where(is_open[at], torch.minimum(upper[at], -found[:, count:]), upper[at])
    return Interval(lower.reshape(shape), upper.reshape(shape)).intersect(limits)


def _blocks(is_open: Tensor, cost: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Problems ``(b,)`` and columns ``(b, m)`` that cover all open elements.

    A block is as wide as its widest problem, so that problems with about as many open elements go together.

    Args:
        is_open: ``(B, n)``.
        cost: coefficients per element.
    """
    counts = is_open.sum(1)
    order = counts.argsort(descending=True)
    ordered = counts[order].tolist()
    at = 0
    while at < len(ordered) and ordered[at]:
        most = ordered[at]
        problems = order[at : at + max(1, BLOCK // (most * cost))]
        at += len(problems)
        columns = is_open[problems].to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :most]
        for part in columns.split(max(1, BLOCK // cost), 1):
            yield problems, part


def _elements(graph: Graph, j: int, which: Tensor, limits: Interval) -> Forms:
    """The chosen elements of node j as forms of the input and of non-affine nodes, common to all problems."""
    node, like = graph.nodes[j], limits.lower
    units = like.new_zeros(len(which), node.size)
    units[torch.arange(len(which), device=like.device), which] = 1.0
    forms = Forms({j: units.reshape(1, len(which), *node.shape)}, like.new_zeros(1, len(which)))
    affine = {i: graph.relax(i, []) for i in graph.ancestors([j]) if i and graph.nodes[i].op.affine}
    return through_affine_layers(graph, forms, affine)


def _both_signs(shared: Forms, columns: Tensor) -> Forms:
    """Forms ``(b, 2m)``: the chosen ones ``(b, m)`` of each problem, and their negatives."""
    rows = {node: c[0][columns] for node, c in shared.coefficients.items()}
    constant = shared.constant[0][columns]
    both = {node: torch.cat([c, -c], 1) for node, c in rows.items()}
    return Forms(both, torch.cat([constant, -constant], 1))


def width(graph: Graph, forms: Forms) -> int:
    """Coefficients of one form on the input and on all non-affine nodes that its bound passes through."""
    passed = graph.ancestors(forms.nodes or [0])
    return sum(graph.nodes[i].size for i in passed if not i or not graph.nodes[i].op.affine)
