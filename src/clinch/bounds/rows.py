"""Linear forms from the rows that people pass to a bound."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from clinch.errors import NetworkError, NonFiniteError, ProblemError, ShapeError
from clinch.geometry.region import Region
from clinch.network.graph import Graph
from clinch.network.network import Network
from clinch.query import Forms

#: coefficients of unit rows on their layer at once
UNIT_BLOCK = 2**22


def loaded(network: Network | nn.Module, region: Region) -> Network:
    """The network itself; a module is loaded for inputs of the region's shape."""
    if not isinstance(region, Region):
        raise ProblemError(
            f"The region is a {type(region).__name__}. Write clinch.bounds.ball(x, eps, norm) or "
            "clinch.bounds.box(lower, upper)."
        )
    if isinstance(network, Network):
        return network
    from clinch.network.load import load  # start-up time

    try:
        return load(network, tuple(region.lower.shape[1:]))
    except NetworkError as error:
        shape = list(region.lower.shape)
        if "fails on two inputs" not in str(error) or len(shape) > 3:
            raise
        one = f"for one input of shape {tuple(shape)} write ball(x[None], ...)."
        raise NetworkError(f"{error} The region has {shape[0]} inputs of shape {tuple(shape[1:])}: {one}") from error


def layer_forms(
    network: Network | nn.Module, region: Region, c: Tensor | None, layer: str | None
) -> tuple[Graph, int, Iterator[Forms]]:
    """The float64 graph on the region's device, the layer's position, and the rows ``c`` on it as forms, in blocks.

    Args:
        network: the network.
        region: B inputs.
        c: ``(R, size)`` or ``(B, R, size)``; None: one row per activation, so many at a time that a large layer needs
            no matrix of its size squared.
        layer: name of a layer; None: the output.

    Raises:
        UnknownLayer: there is no such layer. ShapeError: region or rows do not fit. NonFiniteError: NaN in the rows.
    """
    network = loaded(network, region)
    graph = network.differentiable_graph(region.lower.dtype, region.lower.device)
    node = graph.output if layer is None else network.position(layer)
    if region.lower.shape[1:] != graph.input_shape:
        raise ShapeError(
            f"The region has inputs of shape {tuple(region.lower.shape[1:])}, the network takes {graph.input_shape}."
        )
    if c is None:
        return graph, node, unit_forms(graph, node, region)
    size, shape = graph.nodes[node].size, graph.nodes[node].shape
    rows = torch.as_tensor(c).to(region.lower.device, region.lower.dtype)
    rows = rows.unsqueeze(0) if rows.dim() == 2 else rows
    if rows.dim() != 3 or rows.shape[2] != size or rows.shape[0] not in (1, region.size):
        raise ShapeError(f"c has shape {tuple(rows.shape)}; give (R, {size}) or ({region.size}, R, {size}).")
    if not bool(torch.isfinite(rows).all()):
        raise NonFiniteError("c contains NaN or infinity; remove it.")
    constant = rows.new_zeros(region.size, rows.shape[1])
    return graph, node, iter([Forms({node: rows.reshape(*rows.shape[:2], *shape)}, constant)])


def unit_forms(graph: Graph, node: int, region: Region, sign: float = 1.0) -> Iterator[Forms]:
    """The forms ``sign · element`` of all elements of a node, in blocks."""
    size, like = graph.nodes[node].size, region.lower
    for which in torch.arange(size, device=like.device).split(max(1, UNIT_BLOCK // size)):
        rows = like.new_zeros(len(which), size)
        rows[torch.arange(len(which), device=like.device), which] = sign
        constant = like.new_zeros(region.size, len(which))
        yield Forms({node: rows.reshape(1, len(which), *graph.nodes[node].shape)}, constant)
