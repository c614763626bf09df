"""α-CROWN: CROWN with optimised slopes (Xu et al. 2020, arXiv 2011.13824).

Where the paper differentiates the final bound through all intermediate bounds at once, this tightens layer by layer:
every intermediate bound is maximised by itself, over slopes of its own, and the next layer is relaxed with the result.
Tighter limits never make a later bound looser, so that the two have the same optimum; one step is cheaper here, and the
intermediate bounds are as tight as they get, for whatever question comes next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from clinch.bounds.crown import activation_bounds, form_bounds, never, relaxations_from, through_affine_layers
from clinch.bounds.rows import layer_forms
from clinch.bounds.slopes import SEARCH, ascend
from clinch.errors import ProblemError
from clinch.geometry.region import Region
from clinch.network.graph import Graph
from clinch.network.network import Network
from clinch.network.ops.base import Interval
from clinch.query import Forms

#: coefficients of one block, over all layers: its passes and moments should fit a core's cache
BLOCK = 2**18


def alpha_activation_bounds(
    graph: Graph,
    region: Region,
    wanted: Iterable[int] | None = None,
    known: Mapping[int, Interval] | None = None,
    *,
    steps: int = 20,
    include_wanted: bool = False,
    stop: Callable[[], bool] = never,
) -> dict[int, Interval]:
    """Proven limits of every activation that a non-affine node reads: :func:`activation_bounds`, then slopes optimised.

    Slopes are spent only on elements whose relaxation they can change: for ReLUs those whose sign CROWN leaves open.

    Args:
        graph: the network, in the region's dtype (float64).
        region: B regions.
        wanted: only what these nodes depend on is looked at (default: the output).
        known: limits that hold already, to be intersected with.
        steps: evaluations of each element's bounds.
        include_wanted: bound the wanted nodes themselves too.
        stop: asked after every step; once true, what is left keeps CROWN's or interval limits, which are valid too.

    Returns:
        Node position -> limits ``(B, *node_shape)``, nowhere wider than those of :func:`activation_bounds`.

    Raises:
        UnsupportedOperator: a layer has no interval rule or no linear relaxation; names it.
    """
    wanted = {graph.output} if wanted is None else set(wanted)
    crown = activation_bounds(graph, region, wanted, known, include_wanted=include_wanted, stop=stop)
    light = graph.to(SEARCH, region.lower.device)
    limits: dict[int, Interval] = {0: Interval(region.lower, region.upper)}
    result: dict[int, Interval] = {}

    def tighten(j: int, signs_only: bool) -> None:
        if j not in result:
            limits[j] = limits[j].intersect(crown[j])
            limits[j] = _tightened(graph, light, j, limits[j], region, result, steps, signs_only, stop)
            result[j] = limits[j]

    for i in graph.ancestors(wanted):
        node = graph.nodes[i]
        if not i:
            continue
        if not node.op.affine:
            for j in node.inputs:
                tighten(j, _only_signs_matter(graph, j))
        limits[i] = graph.interval(i, [limits[j] for j in node.inputs])
        if known and i in known:
            limits[i] = limits[i].intersect(known[i])
    if include_wanted:
        for j in sorted(wanted):
            tighten(j, False)
    return result


def _only_signs_matter(graph: Graph, j: int) -> bool:
    """Whether the non-affine readers of node j all split at zero: limits on one side of zero are as good as any."""
    readers = [node.op for node in graph.nodes if j in node.inputs and not node.op.affine]
    return all(op.splits_at_zero for op in readers)


def _tightened(
    graph: Graph,
    light: Graph,
    j: int,
    limits: Interval,
    region: Region,
    known: Mapping[int, Interval],
    steps: int,
    signs_only: bool,
    stop: Callable[[], bool],
) -> Interval:
    """The limits of node j with slopes optimised for each element that it can help."""
    if all(graph.nodes[i].op.affine for i in graph.ancestors([j]) if i):
        return limits  # there is no slope below
    shape = limits.lower.shape
    lower, upper = (t.flatten(1).clone() for t in limits)
    is_open = (lower < 0) & (upper > 0) if signs_only else lower < upper
    counts = is_open.sum(1)
    which = is_open.any(0).nonzero().flatten()
    if not len(which) or stop():
        return limits
    shared = _elements(graph, j, which, limits)
    width = _width(graph, shared)
    # problems with about as many open elements go together: a block is as wide as its widest problem
    order = counts.argsort(descending=True)
    at = 0
    while at < len(order) and int(counts[order[at]]) and not stop():
        most = int(counts[order[at]])
        problems = order[at : at + max(1, BLOCK // (2 * most * width))]
        at += len(problems)
        columns = is_open[problems][:, which].to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :most]
        local = {i: known[i].take(problems) for i in known if i in graph.ancestors(shared.nodes)}
        for part in columns.split(max(1, BLOCK // (2 * width)), 1):
            better = ascend(graph, light, _both_signs(shared, part), region.take(problems), local, steps, stop)
            rows, elements = problems.unsqueeze(1), which[part]
            lower[rows, elements] = torch.maximum(lower[rows, elements], better[:, : part.shape[1]])
            upper[rows, elements] = torch.minimum(upper[rows, elements], -better[:, part.shape[1] :])
    return Interval(lower.reshape(shape), upper.reshape(shape)).intersect(limits)


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


def _width(graph: Graph, forms: Forms) -> int:
    """Coefficients of one form in all nodes that its bound passes through."""
    return sum(graph.nodes[i].size for i in graph.ancestors(forms.nodes) if not i or not graph.nodes[i].op.affine)


def alpha_form_bounds(
    graph: Graph,
    forms: Forms,
    region: Region,
    limits: Mapping[int, Interval],
    *,
    steps: int = 20,
    stop: Callable[[], bool] = never,
) -> Tensor:
    """Proven lower limits ``(B, R)`` of linear forms over the region, slopes optimised for every form by itself.

    Args:
        graph: the network in float64.
        forms: R forms for B problems.
        region: B regions.
        limits: of the inputs of non-affine nodes, as :func:`alpha_activation_bounds` returns them; not tightened here.
        steps: evaluations of each bound.
        stop: asked after every step.

    Returns:
        Nowhere below :func:`clinch.bounds.crown.form_bounds` with the same limits.
    """
    best = form_bounds(graph, forms, region, relaxations_from(graph, limits, forms.nodes))
    light = graph.to(SEARCH, region.lower.device)
    needed = [i for i in limits if i in set(graph.ancestors(forms.nodes))]
    width = _width(graph, forms)
    everything = torch.arange(forms.count, device=region.lower.device)
    for problems in torch.arange(region.size, device=region.lower.device).split(
        max(1, BLOCK // (width * max(forms.count, 1)))
    ):
        local = {i: limits[i].take(problems) for i in needed}
        for which in everything.split(max(1, BLOCK // width)):
            if stop():
                return best
            part = forms.take(problems).select(which)
            found = ascend(graph, light, part, region.take(problems), local, steps, stop)
            at = problems.unsqueeze(1), which
            best[at] = torch.maximum(best[at], found)
    return best


def alpha_crown(
    network: Network, region: Region, c: Tensor | None = None, *, layer: str | None = None, steps: int = 20
) -> Tensor:
    """Certified lower limits of ``c_r · layer(x)`` over a region by α-CROWN.

    Args:
        network: from :func:`clinch.load`.
        region: from :func:`clinch.bounds.box` or :func:`clinch.bounds.ball`, B inputs.
        c: ``(R, size)`` or ``(B, R, size)`` rows on the layer's activations; None: the activations themselves.
        layer: name of a layer; None: the output.
        steps: evaluations of every bound, intermediate and final; 1 gives CROWN.

    Returns:
        ``(B, R)`` float64.

    Raises:
        UnknownLayer, ShapeError, UnsupportedOperator: there is no such layer, rows do not fit it, or a layer below has
            no linear relaxation. ProblemError: steps is not a positive whole number.
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ProblemError(f"steps is {steps}; give a whole number of 1 or more, such as 20.")
    graph, forms = layer_forms(network, region, c, layer)
    limits = alpha_activation_bounds(graph, region, forms.nodes, steps=steps)
    return alpha_form_bounds(graph, forms, region, limits, steps=steps)
