"""CROWN's limits of single activations: of those elements of a layer that interval arithmetic leaves open."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from clinch.bounds import backward
from clinch.bounds.backward import block_shape, bounds_at, through_affine_layers
from clinch.bounds.centred import Centred
from clinch.bounds.demand import Demand
from clinch.bounds.ends import end_of
from clinch.bounds.narrow import narrow_bounds
from clinch.bounds.patches import patch_bounds, screened
from clinch.bounds.windows import convolves
from clinch.geometry.region import Region
from clinch.network.graph import Graph
from clinch.network.ops.base import Interval, Relaxation
from clinch.query import Forms


def refined(
    graph: Graph,
    j: int,
    limits: Interval,
    region: Region,
    relaxations: Mapping[int, Relaxation],
    demand: Demand,
    stop: Callable[[], bool],
    centred: Centred | None = None,
) -> Interval:
    """The limits of node j, intersected with CROWN's on the elements that CROWN can improve.

    Args:
        graph: the network.
        j: position of the node.
        limits: ``(B, *node_shape)`` that hold already.
        region: B regions.
        relaxations: of every node that j depends on.
        demand: which elements matter.
        stop: asked between blocks; once true, the other elements keep their limits.
        centred: the network around these regions; None: made anew.
    """
    lower, upper = limits.lower.flatten(1), limits.upper.flatten(1)
    open_ = demand.open(limits).flatten(1)
    if stop() or not bool(open_.any()):
        return limits
    lower, upper = lower.clone(), upper.clone()
    write_bounds(graph, j, open_, region, relaxations, (lower, upper), stop, centred, demand.at_zero)
    shape = limits.lower.shape
    return limits.intersect(Interval(lower.reshape(shape), upper.reshape(shape)))


def element_bounds(
    graph: Graph,
    j: int,
    region: Region,
    relaxations: Mapping[int, Relaxation],
    stop: Callable[[], bool] = lambda: False,
) -> Interval:
    """CROWN's limits ``(B, *node_shape)`` of every element of node j, and nothing else's.

    Args:
        graph: the network.
        j: position of the node.
        region: B regions.
        relaxations: of every node that j depends on.
        stop: asked between blocks; once true, the other elements have no limits.
    """
    shape = (region.size, *graph.nodes[j].shape)
    lower = region.lower.new_full((region.size, graph.nodes[j].size), -torch.inf)
    upper, every = -lower, torch.ones_like(lower, dtype=torch.bool)
    write_bounds(graph, j, every, region, relaxations, (lower, upper), stop)
    return Interval(lower.reshape(shape), upper.reshape(shape))


def write_bounds(
    graph: Graph,
    j: int,
    open_: Tensor,
    region: Region,
    relaxations: Mapping[int, Relaxation],
    limits: tuple[Tensor, Tensor],
    stop: Callable[[], bool],
    centred: Centred | None = None,
    at_zero: bool = False,
) -> None:
    """Write CROWN's limits of the open elements of node j into ``limits``: by fixed matrices where inputs are few, as
    patches where that works, else as rows; where signs alone matter, and rows are many, first in float32.

    Arguments: see :func:`clinch.bounds.patches.patch_bounds` and :func:`refined`.
    """
    if narrow_bounds(graph, j, open_, region, relaxations, limits, stop):
        return
    if convolves(graph, [j]):
        centred = Centred(graph, region) if centred is None else centred
        open_ = screened(graph, j, open_, region, relaxations, limits, stop, centred, at_zero)
        if not bool(open_.any()) or patch_bounds(graph, j, open_, region, relaxations, limits, stop, centred):
            return
    _by_rows(graph, j, open_, region, relaxations, limits, stop)


def _by_rows(
    graph: Graph,
    j: int,
    open_: Tensor,
    region: Region,
    relaxations: Mapping[int, Relaxation],
    limits: tuple[Tensor, Tensor],
    stop: Callable[[], bool],
) -> None:
    """Write CROWN's limits of the open elements of node j into ``limits``, each ``(B, size)``."""
    needed = graph.ancestors([j])
    widest = max(graph.nodes[i].size for i in needed)
    end = end_of(graph, [j], region, relaxations)
    lower, upper = limits
    for which in open_.any(0).nonzero().flatten().split(max(1, 2 * backward.BLOCK // widest)):
        forms = through_affine_layers(graph, _unit_forms(graph, j, which, lower, end.node), relaxations, until=end.node)
        shared = _with_negatives(forms)
        open_here = open_[:, which]
        for problems in _blocks(open_here, lambda count: block_shape(graph, needed, end.node, count)[0]):
            if stop():
                return
            columns, forms = _open_rows(shared, open_here[problems])
            # a slice takes views
            block = slice(int(problems), int(problems) + 1) if len(problems) == 1 else problems
            local = {i: relaxations[i].take(block) for i in needed if i > end.node}
            better = bounds_at(graph, forms, end.take(block), local)
            at, count = (problems.unsqueeze(1), which[columns]), columns.shape[1]
            # what only fills up a block stays as it is: a problem's limits do not depend on its neighbours
            lower[at] = torch.where(open_[at], better[:, :count], lower[at])
            upper[at] = torch.where(open_[at], -better[:, count:], upper[at])


def _unit_forms(graph: Graph, j: int, which: Tensor, like: Tensor, until: int) -> Forms:
    """The forms "element k of node j" for the chosen elements; of a matrix before which rows do not end they are its
    rows."""
    node = graph.nodes[j]
    if until < j and (matrix := graph.matrix(j)) is not None:
        rows = matrix.weight[which].unsqueeze(0)
        bias = rows.new_zeros(1, len(which)) if matrix.bias is None else matrix.bias[which].unsqueeze(0)
        return Forms({node.inputs[0]: rows}, bias)
    unit = like.new_zeros(len(which), node.size)
    unit[torch.arange(len(which), device=like.device), which] = 1.0
    return Forms({j: unit.reshape(1, len(which), *node.shape)}, like.new_zeros(1, len(which)))


def _blocks(open_: Tensor, height_of: Callable[[int], int]) -> Iterator[Tensor]:
    """Problems in the order of their number of open elements, in blocks of about as many open ones each.

    ``height_of`` says how many problems with a given number of rows make a block.

    A block pads its problems to one number of rows, so that equals stay together; problems without open elements are in
    none.
    """
    counts, order = open_.sum(1).sort(descending=True)
    sizes = counts.tolist()
    first = 0
    while first < len(sizes) and sizes[first]:
        height = height_of(2 * sizes[first])
        last = first
        while last < min(first + height, len(sizes)) and 2 * sizes[last] > sizes[first]:
            last += 1
        yield order[first:last]
        first = last


def _with_negatives(forms: Forms) -> Forms:
    """R forms, and then their negatives: lower limits of these are upper limits of those."""
    both = {node: torch.cat([c, -c], 1) for node, c in forms.coefficients.items()}
    return Forms(both, torch.cat([forms.constant, -forms.constant], 1))


def _open_rows(shared: Forms, open_: Tensor) -> tuple[Tensor, Forms]:
    """For each problem the forms it needs, padded with others to one count, and then their negatives.

    Args:
        shared: R forms common to all problems, and then their negatives.
        open_: ``(B, R)`` which of them each problem needs.

    Returns:
        columns ``(B, m)`` of the chosen forms, and ``2m`` forms.
    """
    size, count = open_.shape
    most = int(open_.sum(1).max())
    if most == count:
        columns = torch.arange(count, device=open_.device).expand(size, -1)
        return columns, Forms(shared.coefficients, shared.constant.expand(size, -1))
    if size == 1:
        columns = open_.nonzero()[:, 1].unsqueeze(0)
    else:
        columns = open_.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :most]
    both = torch.cat([columns, columns + count], 1)
    rows = {
        node: c[0].index_select(0, both.flatten()).reshape(*both.shape, *c.shape[2:])
        for node, c in shared.coefficients.items()
    }
    return columns, Forms(rows, shared.constant[0][both])
