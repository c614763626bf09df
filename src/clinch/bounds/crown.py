"""CROWN: linear bounds carried backward through linear relaxations (Zhang et al. 2018, arXiv 1811.00866).

Three steps, each a function of its own. :func:`linear_lower` carries linear forms of activations back to the input,
:func:`clinch.geometry.linear_minimum.minimum_over` takes their exact minimum over box ∩ ball, and
:func:`activation_bounds` uses both, layer by layer, to bound what the relaxations need.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from clinch.bounds.rows import layer_forms
from clinch.geometry.linear_minimum import minimum_over
from clinch.geometry.region import Region
from clinch.network.graph import Graph, Input
from clinch.network.network import Network
from clinch.network.ops.base import Affine, Interval, Relaxation
from clinch.query import Forms

#: coefficients carried back at once: blocks that fit a core's cache are several times faster than whole batches
BLOCK = 2**20


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
    """Proven lower limits ``(B, R)`` of linear forms over the region, in blocks of problems and forms."""
    widest = max(graph.nodes[i].size for i in graph.ancestors(forms.nodes or [0]))
    height = max(1, BLOCK // (widest * max(forms.count, 1)))
    width = max(1, BLOCK // widest)
    blocks = []
    for problems in torch.arange(region.size).split(height):
        block, where = forms.take(problems), region.take(problems)
        local = {i: relaxations[i].take(problems) for i in graph.ancestors(forms.nodes) if i}
        parts = []
        for which in torch.arange(forms.count).split(width):
            rows, offset = linear_lower(graph, block.select(which), local)
            parts.append(minimum_over(where, rows) + offset)
        blocks.append(torch.cat(parts, 1) if parts else block.constant)
    return torch.cat(blocks)


def through_affine_layers(graph: Graph, forms: Forms, relaxations: Mapping[int, Relaxation]) -> Forms:
    """The same forms in terms of the input and of non-affine nodes only: what all problems can share."""
    offset, pending = forms.constant, dict(forms.coefficients)
    for i in sorted(graph.ancestors(pending), reverse=True):
        if i and i in pending and graph.nodes[i].op.affine:
            carried, constant = relaxations[i].backward(pending.pop(i))
            offset = offset + constant
            for j, rows in zip(graph.nodes[i].inputs, carried):
                pending[j] = pending[j] + rows if j in pending else rows
    return Forms(pending, offset)


def never() -> bool:
    """Nobody asks to stop."""
    return False


def activation_bounds(
    graph: Graph,
    region: Region,
    wanted: Iterable[int] | None = None,
    known: Mapping[int, Interval] | None = None,
    *,
    include_wanted: bool = False,
    stop: Callable[[], bool] = never,
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
        stop: asked now and then; once true, what is left keeps its interval limits, which are valid too.

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
            limits[j] = _refined(graph, j, limits[j], region, relaxations, signs_only, stop)
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
    graph: Graph,
    j: int,
    limits: Interval,
    region: Region,
    relaxations: Mapping[int, Relaxation],
    signs_only: bool,
    stop: Callable[[], bool],
) -> Interval:
    """CROWN on the elements of node j that it can improve."""
    if not region.balls and _interval_is_exact(graph, j):
        return limits
    shape = limits.lower.shape
    lower, upper = limits.lower.flatten(1).clone(), limits.upper.flatten(1).clone()
    open_ = (lower < 0) & (upper > 0) if signs_only else lower < upper
    widest = max(graph.nodes[i].size for i in graph.ancestors([j]))
    if stop() or not bool(open_.any()):
        return limits
    for which in open_.any(0).nonzero().flatten().split(max(1, 2 * BLOCK // widest)):
        eye = lower.new_zeros(len(which), lower.shape[1])
        eye[torch.arange(len(which)), which] = 1.0
        units = Forms({j: eye.reshape(1, len(which), *shape[1:])}, lower.new_zeros(1, len(which)))
        shared = through_affine_layers(graph, units, relaxations)
        height = max(1, 4 * BLOCK // (widest * len(which)))
        for problems in torch.arange(region.size).split(height):
            if stop():
                break
            columns, forms = _open_rows(shared, open_[problems][:, which])
            if not columns.numel():
                continue
            local = {i: r.take(problems) for i, r in relaxations.items()}
            better = form_bounds(graph, forms, region.take(problems), local)
            at = problems.unsqueeze(1), which[columns]
            lower[at], upper[at] = better[:, : columns.shape[1]], -better[:, columns.shape[1] :]
    return limits.intersect(Interval(lower.reshape(shape), upper.reshape(shape)))


def _open_rows(shared: Forms, open_: Tensor) -> tuple[Tensor, Forms]:
    """For each problem the forms it needs, padded with others to one count, and then their negatives.

    Args:
        shared: R forms common to all problems.
        open_: ``(B, R)`` which of them each problem needs.

    Returns:
        columns ``(B, m)`` of the chosen forms, and ``2m`` forms.
    """
    size, most = open_.shape[0], int(open_.sum(1).max())
    if most > 0.7 * open_.shape[1]:  # gathering would cost more than it saves
        columns = torch.arange(open_.shape[1], device=open_.device).expand(size, -1)
        chosen = Forms(shared.coefficients, shared.constant.expand(size, -1))
    else:
        columns = open_.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :most]
        rows = {node: c[0][columns] for node, c in shared.coefficients.items()}
        chosen = Forms(rows, shared.constant[0][columns])
    both = {node: torch.cat([c, -c], 1) for node, c in chosen.coefficients.items()}
    return columns, Forms(both, torch.cat([chosen.constant, -chosen.constant], 1))


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
