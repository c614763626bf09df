"""A normalisation in front of a network, so that inputs, ranges and radii are in the units of the pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

from clinch.errors import NetworkError
from clinch.network.graph import Graph, Node
from clinch.network.network import Network
from clinch.network.ops.scale import Scale

#: a network, with symbols or without
AnyNetwork = TypeVar("AnyNetwork", bound=Network)


def normalised(network: AnyNetwork, mean: float | Sequence[float], std: float | Sequence[float]) -> AnyNetwork:
    """The network ``x ↦ f((x − mean)/std)``, for an f that was trained on normalised images.

    Distances are then in pixels: an ℓ∞ ball of radius ε around pixels is a box of half-widths ``ε/std_c`` for f.

    Args:
        network: f, from :func:`clinch.load`.
        mean: one number, or one for each channel, the first dimension of f's input.
        std: likewise, positive.

    Returns:
        A network of the same input shape. Its point checks divide in the model's dtype, as a preprocessing step would;
        the weights are those of now, also of a network loaded with ``live=True``.

    Raises:
        NetworkError: numbers that do not fit the channels, or a std that is not positive.

    Example:
        >>> net = cl.study.normalised(cl.load("net.onnx"), 0.1307, 0.3081)
    """
    centre, spread = (_per_channel(v, network.input_shape, name) for v, name in ((mean, "mean"), (std, "std")))
    if not bool((spread > 0).all()):
        raise NetworkError(f"std is {std}; give positive numbers.")
    source = network.graph_as(torch.float64, "cpu")
    name = "normalisation" + "_" * sum(other.startswith("normalisation") for other in source.names)
    first = Node(name, Scale(1 / spread, -centre / spread), (0,), network.input_shape, "a normalisation in front")
    moved = [node.moved(lambda j: j + 1) for node in source.nodes[1:]]
    inside, entry = network.original, source.nodes[0].name

    def original(x: Tensor, names: list[str]) -> dict[str, Tensor]:
        like = {"dtype": x.dtype, "device": x.device}
        z = (x - centre.to(**like)) / spread.to(**like)
        own = {entry: x, name: z}
        found = inside(z, [layer for layer in names if layer not in own])
        return {layer: own[layer] if layer in own else found[layer] for layer in names}

    graph = Graph((source.nodes[0], first, *moved))
    return type(network)(graph, original, dtype=network.dtype, device=network.device, name=network.name)


def _per_channel(numbers: float | Sequence[float], shape: tuple[int, ...], what: str) -> Tensor:
    """``(C, 1, ...)``, or a scalar."""
    values = torch.as_tensor(numbers, dtype=torch.float64).flatten()
    if len(values) not in (1, shape[0]) or not all(math.isfinite(v) for v in values.tolist()):
        raise NetworkError(
            f"{what} is {numbers}: give one finite number, or one for each of the {shape[0]} channels of the input."
        )
    return values.reshape(-1, *[1] * (len(shape) - 1)) if len(values) > 1 else values.reshape(())
