"""What a network's layers give for many inputs, and the class that it gives them."""

from __future__ import annotations

import torch
from torch import Tensor

from clinch.errors import ShapeError
from clinch.network.network import Network
from clinch.runtime.arguments import as_tensor

#: inputs evaluated at once
CHUNK = 4096


@torch.no_grad()
def activations(network: Network, x: Tensor, *layers: str) -> list[Tensor]:
    """Activations of the named layers, evaluated in the model's dtype and returned as float64 on the CPU.

    Args:
        network: what ``clinch.load`` returned.
        x: inputs, shape ``(N, *input_shape)``.
        layers: names.

    Returns:
        One tensor ``(N, *layer_shape)`` per name.

    Raises:
        UnknownLayer: the network has no such layer. ShapeError: inputs that do not fit.
    """
    x = as_tensor(x, "x", "a tensor (N, *input_shape)")
    if tuple(x.shape[1:]) != network.input_shape:
        raise ShapeError(f"x has shape {tuple(x.shape)}; expected (N, {', '.join(map(str, network.input_shape))}).")
    nodes = [network.position(layer) for layer in layers]
    graph = network.graph_as(network.dtype, network.device)
    parts = [graph.forward(part.to(network.device, network.dtype), nodes) for part in x.split(CHUNK)]
    return [torch.cat([part[node].to("cpu", torch.float64) for part in parts]) for node in nodes]


def predicted(network: Network, x: Tensor) -> Tensor:
    """The class that the network gives each input, shape ``(N,)``.

    Args:
        network: what ``clinch.load`` returned.
        x: inputs, shape ``(N, *input_shape)``.
    """
    return activations(network, x, network.layers[-1])[0].argmax(1)
