"""Interval bounds: each operator's interval rule, one after the other (Gowal et al. 2018, arXiv 1810.12715)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from clinch.bounds.rows import layer_forms
from clinch.geometry.region import Region
from clinch.network.graph import Graph
from clinch.network.network import Network
from clinch.network.ops.base import Interval
from clinch.query import Forms


def interval_bounds(graph: Graph, region: Region, wanted: Iterable[int] | None = None) -> dict[int, Interval]:
    """Limits of the wanted nodes (default: the output) and of everything they depend on, over the region's box.

    Args:
        graph: the network, in the region's dtype.
        region: B regions; only their boxes matter here (a ball has already cut its box).
        wanted: positions of nodes.

    Returns:
        Node position -> limits of shape ``(B, *node_shape)``.
    """
    wanted = [graph.output] if wanted is None else wanted
    limits = {0: Interval(region.lower, region.upper)}
    for i in graph.ancestors(wanted):
        if i:
            limits[i] = graph.interval(i, [limits[j] for j in graph.nodes[i].inputs])
    return limits


def form_interval(graph: Graph, forms: Forms, region: Region) -> Tensor:
    """Certified lower limits of linear forms from interval limits of the activations that they look at.

    Needs the memory of a few forward passes and no matrix of relaxations.

    Args:
        graph: the network, in the region's dtype.
        forms: R forms for each of B problems.
        region: B regions.

    Returns:
        ``(B, R)``; minus infinity where nothing follows.

    Raises:
        UnsupportedOperator: a layer below has no interval rule.
    """
    limits = interval_bounds(graph, region, forms.nodes or [0])
    least = forms.constant
    for node, rows in forms.coefficients.items():
        lower, upper = (t.flatten(1).unsqueeze(1) for t in limits[node])
        flat = rows.flatten(2)
        terms = torch.where(flat > 0, flat * lower, torch.where(flat < 0, flat * upper, torch.zeros_like(flat)))
        # the sum's rounding: at most γ of the terms' sizes
        count = flat.shape[2] + 2
        least = least + terms.sum(2) - count * torch.finfo(flat.dtype).eps * terms.abs().sum(2)
    return least.nan_to_num(-torch.inf, torch.inf, -torch.inf).expand(region.size, -1)


def interval(network: Network, region: Region, c: Tensor | None = None, *, layer: str | None = None) -> Tensor:
    """Certified lower limits of ``c_r · layer(x)`` over a region by interval arithmetic, the rows folded into the last
    affine layer (Kolter and Madry's ``interval_based_bound``).

    Args:
        network: from :func:`clinch.load`.
        region: from :func:`clinch.bounds.box` or :func:`clinch.bounds.ball`, B inputs.
        c: ``(R, size)`` or ``(B, R, size)`` rows on the layer's activations; None: the activations themselves.
        layer: name of a layer; None: the output.

    Returns:
        ``(B, R)`` float64.

    Raises:
        UnknownLayer, ShapeError, UnsupportedOperator: there is no such layer, rows do not fit it, or a layer below has
            no interval rule.
    """
    graph, node, blocks = layer_forms(network, region, c, layer)
    limits = interval_bounds(graph, region, [node])
    return torch.cat([_through_last_layer(graph, node, forms, region, limits) for forms in blocks], 1)


def _through_last_layer(
    graph: Graph, node: int, forms: Forms, region: Region, limits: Mapping[int, Interval]
) -> Tensor:
    """Lower limits ``(B, R)`` of forms of a node, the affine layers it ends in folded into them."""
    rows, offset = forms.coefficients[node], forms.constant
    while graph.nodes[node].op.affine and len(graph.nodes[node].inputs) == 1:
        carried, constant = graph.relax(node, []).backward(rows)
        rows, offset, node = carried[0], offset + constant, graph.nodes[node].inputs[0]
    rows = rows.flatten(2).expand(region.size, -1, -1)
    lower, upper = limits[node].lower.flatten(1).unsqueeze(1), limits[node].upper.flatten(1).unsqueeze(1)
    least = torch.where(rows > 0, rows * lower, torch.where(rows < 0, rows * upper, torch.zeros_like(rows)))
    return (least.sum(2) + offset).nan_to_num(-torch.inf, torch.inf, -torch.inf)  # infinities that met
