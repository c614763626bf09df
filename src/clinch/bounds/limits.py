"""Limits of layers by name: what other bounds start from, what monitors are compared with, what a solution reports."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from clinch.bounds.crown import activation_bounds, form_bounds, never, read_nodes, relaxations_from
from clinch.bounds.interval import interval_bounds
from clinch.bounds.refine import element_bounds
from clinch.bounds.rows import loaded, unit_forms
from clinch.errors import ProblemError, ShapeError
from clinch.geometry.region import Region
from clinch.network.graph import Graph
from clinch.network.network import Network
from clinch.network.ops.base import Interval
from clinch.query import Forms

#: how :func:`layer_limits` can bound layers
METHODS = ("interval", "fast_dual", "crown", "alpha_crown")


def layer_limits(
    network: Network, region: Region, layers: Sequence[str] | None = None, *, method: str = "crown"
) -> dict[str, Interval]:
    """Proven limits of the activations of layers over a region.

    Args:
        network: from :func:`clinch.load`.
        region: from :func:`clinch.bounds.box` or :func:`clinch.bounds.ball`, B inputs.
        layers: names of layers. None: those that the output's relaxation needs, that is, those that a non-affine layer
            reads; there, elements whose limits make no difference to it may keep wider ones.
        method: ``"interval"``, ``"fast_dual"``, ``"crown"`` or ``"alpha_crown"``; each of the last three takes the
            better of its own limits and the interval rule's.

    Returns:
        Name of a layer -> limits ``(B, *layer_shape)``, float64.

    Raises:
        ProblemError: no such method. UnknownLayer, ShapeError, UnsupportedOperator: there is no such layer, the region
            does not fit, or a layer below has no interval rule or no linear relaxation.

    Example:
        >>> clinch.bounds.layer_limits(net, region, ["relu2"])["relu2"].upper.shape
        torch.Size([8, 16])
    """
    if method not in METHODS:
        raise ProblemError(f"method is {method!r}; choose one of {', '.join(METHODS)}.")
    network = loaded(network, region)
    graph = network.differentiable_graph(region.lower.dtype, region.lower.device)
    if region.lower.shape[1:] != graph.input_shape:
        raise ShapeError(
            f"The region has inputs of shape {tuple(region.lower.shape[1:])}, the network takes {graph.input_shape}."
        )
    if layers is None:
        held = _read_limits(graph, region, {graph.output}, method, never)
        return {graph.nodes[i].name: limits for i, limits in sorted(held.items())}
    if isinstance(layers, str):
        raise ProblemError(f"layers is the text '{layers}'; give a list of names, such as ['{layers}'].")
    nodes = [network.position(name) for name in layers]
    found = node_limits(graph, region, nodes, method=method)
    return {name: found[i] for name, i in zip(layers, nodes)}


def node_limits(
    graph: Graph,
    region: Region,
    nodes: Sequence[int],
    *,
    method: str = "crown",
    stop: Callable[[], bool] = never,
) -> dict[int, Interval]:
    """Proven limits of whole nodes, both sides of every element.

    Args:
        graph: the network, in the region's dtype.
        region: B regions.
        nodes: positions.
        method: see :func:`layer_limits`.
        stop: asked now and then; once true, what is left keeps limits that are valid but wider.
    """
    held = _read_limits(graph, region, nodes, method, stop)
    limits = {0: Interval(region.lower, region.upper)}
    for i in graph.ancestors(nodes):
        if i:
            limits[i] = graph.interval(i, [limits[j] for j in graph.nodes[i].inputs])
        if i in held:
            limits[i] = limits[i].intersect(held[i])
    for i in nodes:
        if i and method != "interval" and not stop():
            limits[i] = limits[i].intersect(_both_sides(graph, region, i, held, method, stop))
    return {i: limits[i] for i in nodes}


def _read_limits(
    graph: Graph, region: Region, wanted: Iterable[int], method: str, stop: Callable[[], bool]
) -> dict[int, Interval]:
    """Limits of what non-affine nodes below the wanted ones read, by one of the methods."""
    if method == "crown":
        return activation_bounds(graph, region, wanted, stop=stop)
    if method == "alpha_crown":
        from clinch.bounds.alpha import alpha_activation_bounds

        return alpha_activation_bounds(graph, region, wanted, stop=stop)
    if method == "fast_dual":
        from clinch.bounds.fast_dual import dual_activation_bounds

        return dual_activation_bounds(graph, region, wanted, stop=stop)
    limits = interval_bounds(graph, region, wanted)
    return {j: limits[j] for j in read_nodes(graph, wanted)}


def _both_sides(
    graph: Graph, region: Region, i: int, held: Mapping[int, Interval], method: str, stop: Callable[[], bool]
) -> Interval:
    """Both limits of each element of a node, given limits of what lies below."""
    if method == "crown":
        return element_bounds(graph, i, region, relaxations_from(graph, held, [i]), stop)
    lower, upper = (
        torch.cat([sign * _form_bounds(graph, forms, region, held, method, stop) for forms in blocks], 1)
        for sign, blocks in ((1, unit_forms(graph, i, region)), (-1, unit_forms(graph, i, region, -1.0)))
    )
    shape = (region.size, *graph.nodes[i].shape)
    return Interval(lower.reshape(shape), upper.reshape(shape))


def _form_bounds(
    graph: Graph, forms: Forms, region: Region, held: Mapping[int, Interval], method: str, stop: Callable[[], bool]
) -> Tensor:
    if method == "alpha_crown":
        from clinch.bounds.alpha import alpha_form_bounds

        return alpha_form_bounds(graph, forms, region, held, stop=stop)
    from clinch.bounds.fast_dual import dual_relaxations

    return form_bounds(graph, forms, region, dual_relaxations(graph, held, forms.nodes))
