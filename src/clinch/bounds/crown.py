"""CROWN: linear bounds carried backward through linear relaxations (Zhang et al. 2018, arXiv 1811.00866).

Three steps, each a function of its own. :func:`linear_lower` carries linear forms of activations back to the input,
:func:`clinch.geometry.linear_minimum.minimum_over` takes their exact minimum over box ∩ ball, and
:func:`activation_bounds` uses both, layer by layer, to bound what the relaxations need.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from clinch.bounds.rows import layer_forms
from clinch.geometry.linear_minimum import minimum_over
from clinch.geometry.region import Region
from clinch.network.graph import Graph, Input
from clinch.network.network import Network
from clinch.network.ops.base import Affine, Interval, Relaxation
from clinch.query import Forms

#: largest number of float64 coefficients held at once while rows are carried back (0.25 GB)
ROW_BUDGET = 2**25


def linear_lower(graph: Graph, forms: Forms, relaxations: Mapping[int, Relaxation]) -> tuple[Tensor, Tensor]:
    """Linear lower limits of linear forms of activations, in terms of the input.

    Args:
        graph: the network.
        forms: R forms for B problems.
        relaxations: of every node the forms depend on.

    Returns:
        rows ``(B, R, *input_shape)`` and offset ``(B, R)`` with ``form_r(x) >= <rows_r, x> + offset_r`` wherever the
        relaxations hold. Gradients flow to the forms and to the relaxations' parameters.
    """
    offset = forms.constant
    pending = dict(forms.coefficients)
    for i in sorted(graph.ancestors(pending), reverse=True):
        if i and i in pending:
            carried, constant = relaxations[i].backward(pending.pop(i))
            offset = offset + constant
            for j, rows in zip(graph.nodes[i].inputs, carried):
                pending[j] = pending[j] + rows if j in pending else rows
    rows = pending.get(0)
    if rows is None:
        rows = offset.new_zeros(1, forms.count, *graph.input_shape)
    return rows.expand(offset.shape[0], *rows.shape[1:]), offset


def form_bounds(graph: Graph, forms: Forms, region: Region, relaxations: Mapping[int, Relaxation]) -> Tensor:
    """Proven lower limits ``(B, R)`` of linear forms over the region, in chunks that respect the memory budget."""
    per_row = region.size * max(graph.nodes[i].size for i in graph.ancestors(forms.nodes or [0]))
    chunk = max(1, ROW_BUDGET // per_row)
    parts = []
    for which in torch.arange(forms.count, device=forms.constant.device).split(chunk):
        rows, offset = linear_lower(graph, forms.select(which), relaxations)
        parts.append(minimum_over(region, rows) + offset)
    return torch.cat(parts, 1) if parts else forms.constant


def unit_forms(size: int, node: int, shape: tuple[int, ...], which: Tensor, template: Tensor) -> Forms:
    """The activations ``which`` (flat positions) of a node and their negatives as ``2·len(which)`` forms."""
    eye = template.new_zeros(len(which), template.shape[1:].numel())
    eye[torch.arange(len(which)), which] = 1.0
    rows = torch.cat([eye, -eye]).reshape(1, 2 * len(which), *shape)
    return Forms({node: rows}, template.new_zeros(size, 2 * len(which)))


def activation_bounds(
    graph: Graph,
    region: Region,
    wanted: Iterable[int] | None = None,
    known: Mapping[int, Interval] | None = None,
    *,
    include_wanted: bool = False,
) -> dict[int, Interval]:
    """Proven limits of every activation that a non-affine node reads.

    Each limit is the better of the interval rule's and CROWN's; CROWN is spent only on elements whose relaxation it can
    change (for ReLUs: those whose sign is still open).

    Args:
        graph: the network, in the region's dtype.
        region: B regions.
        wanted: only what these nodes depend on is looked at (default: the output).
        known: limits that hold already, to be intersected with.
        include_wanted: bound the wanted nodes themselves too.

    Returns:
        Node position -> limits ``(B, *node_shape)``.

    Raises:
        UnsupportedOperator: a layer has no interval rule or no linear relaxation; names it.
    """
    known = known or {}
    wanted = {graph.output} if wanted is None else set(wanted)
    limits: dict[int, Interval] = {0: Interval(region.lower, region.upper)}
    relaxations: dict[int, Relaxation] = {}
    tight: set[int] = {0}
    result: dict[int, Interval] = {}

    def refine(j: int, signs_only: bool) -> None:
        if j not in tight:
            limits[j] = _refined(graph, j, limits[j], region, relaxations, signs_only)
            tight.add(j)
        result[j] = limits[j]

    for i in graph.ancestors(wanted):
        node = graph.nodes[i]
        if not i:
            continue
        if not node.op.affine:
            for j in node.inputs:
                refine(j, node.op.splits_at_zero)
        inputs = [limits[j] for j in node.inputs]
        relaxations[i] = graph.relax(i, inputs)
        limits[i] = graph.interval(i, inputs)
        if i in known:
            limits[i] = limits[i].intersect(known[i])
    if include_wanted:
        for j in sorted(wanted):
            refine(j, False)
    return result


def relaxations_from(graph: Graph, bounds: Mapping[int, Interval], wanted: Iterable[int]) -> dict[int, Relaxation]:
    """The relaxation of every node the wanted nodes depend on, from :func:`activation_bounds`' limits."""
    made = {}
    for i in graph.ancestors(wanted):
        node = graph.nodes[i]
        if i:
            made[i] = graph.relax(i, [] if node.op.affine else [bounds[j] for j in node.inputs])
    return made


def _refined(
    graph: Graph, j: int, limits: Interval, region: Region, relaxations: Mapping[int, Relaxation], signs_only: bool
) -> Interval:
    """CROWN on the elements of node j that it can improve."""
    if not region.balls and _interval_is_exact(graph, j):
        return limits
    lower, upper = limits.lower.flatten(1), limits.upper.flatten(1)
    open_ = (lower < 0) & (upper > 0) if signs_only else lower < upper
    which = open_.any(0).nonzero().flatten()
    if not len(which):
        return limits
    better = form_bounds(graph, unit_forms(region.size, j, graph.nodes[j].shape, which, lower), region, relaxations)
    new_lower, new_upper = lower.clone(), upper.clone()
    new_lower[:, which], new_upper[:, which] = better.chunk(2, 1)[0], -better.chunk(2, 1)[1]
    shape = limits.lower.shape
    return limits.intersect(Interval(new_lower.reshape(shape), new_upper.reshape(shape)))


def _interval_is_exact(graph: Graph, j: int) -> bool:
    """Whether interval arithmetic over a box is already exact: at most one affine node with signs mixes elements."""
    mixing = 0
    for i in graph.ancestors([j]):
        op = graph.nodes[i].op
        if isinstance(op, Input):
            continue
        if not isinstance(op, Affine):
            return False
        mixing += not op.nonnegative
    consumers = [k for i in graph.ancestors([j]) for k in graph.nodes[i].inputs]
    return mixing <= 1 and len(consumers) == len(set(consumers))


def crown(network: Network, region: Region, c: Tensor | None = None, *, layer: str | None = None) -> Tensor:
    """Certified lower limits of ``c_r · layer(x)`` over a region by CROWN, with CROWN's own bounds of all layers below.

    Where the paper concretises over a ball, this takes the exact minimum over box ∩ ball.

    Args:
        network: from :func:`clinch.load`.
        region: from :func:`clinch.bounds.box` or :func:`clinch.bounds.ball`, B inputs.
        c: ``(R, size)`` or ``(B, R, size)`` rows on the layer's activations; None: the activations themselves.
        layer: name of a layer; None: the output.

    Returns:
        ``(B, R)`` float64.

    Raises:
        UnknownLayer, ShapeError, UnsupportedOperator: there is no such layer, rows do not fit it, or a layer below has
            no linear relaxation.
    """
    graph, forms = layer_forms(network, region, c, layer)
    limits = activation_bounds(graph, region, forms.nodes)
    return form_bounds(graph, forms, region, relaxations_from(graph, limits, forms.nodes))
