"""Small random networks for tests: every kind of layer the exact engines take, few enough kinks to enumerate."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from clinch.modeling.model import SymbolicNetwork
from clinch.network.graph import Graph, Input, Node
from clinch.network.ops.add import Add
from clinch.network.ops.base import Operator, Shape
from clinch.network.ops.convolution import Convolution
from clinch.network.ops.dense import Dense
from clinch.network.ops.max_pool import MaxPool
from clinch.network.ops.relu import LeakyReLU
from clinch.network.ops.shape import Reshape


def network_of(
    layers: list[tuple[str, Operator, tuple[int, ...]]], input_shape: Shape, name: str = "test"
) -> SymbolicNetwork:
    """A float64 network from ``(name, operator, positions of its inputs)``; position 0 is the input.

    Example:
        >>> network_of([("relu", LeakyReLU(), (0,))], (3,)).layers
        ['input', 'relu']
    """
    nodes = [Node("input", Input(), (), input_shape)]
    for layer, op, inputs in layers:
        out = op.forward(*(torch.zeros(1, *nodes[j].shape, dtype=torch.float64) for j in inputs))
        nodes.append(Node(layer, op, inputs, tuple(out.shape[1:])))
    graph = Graph(tuple(nodes))

    def original(x: Tensor, names: list[str]) -> dict[str, Tensor]:
        with torch.no_grad():
            values = graph.forward(x, [graph.names[n] for n in names])
        return {n: values[graph.names[n]] for n in names}

    return SymbolicNetwork(graph, original, dtype=torch.float64, device="cpu", name=name)


def dense(rng: torch.Generator, inputs: int, outputs: int) -> Dense:
    """A dense layer with normal weights of variance 2 / inputs and small biases."""
    weight = torch.randn(outputs, inputs, generator=rng, dtype=torch.float64) * (2 / inputs) ** 0.5
    return Dense(weight, 0.3 * torch.randn(outputs, generator=rng, dtype=torch.float64))


def multilayer(rng: torch.Generator, slope: float = 0.0) -> SymbolicNetwork:
    """3 inputs, two hidden layers of 4, 3 outputs."""
    act = LeakyReLU(slope)
    layers = [
        ("fc1", dense(rng, 3, 4), (0,)), ("relu1", act, (1,)), ("fc2", dense(rng, 4, 4), (2,)), ("relu2", act, (3,)),
        ("fc3", dense(rng, 4, 3), (4,)),
    ]  # fmt: skip
    return network_of(layers, (3,), "multilayer")


def leaky(rng: torch.Generator) -> SymbolicNetwork:
    """:func:`multilayer` with leaky ReLUs of slope 0.2."""
    return multilayer(rng, 0.2)


def residual(rng: torch.Generator) -> SymbolicNetwork:
    """3 inputs, a block whose output is added to its input, 3 outputs."""
    layers = [
        ("fc1", dense(rng, 3, 4), (0,)), ("relu1", LeakyReLU(), (1,)), ("fc2", dense(rng, 4, 4), (2,)),
        ("add", Add(), (3, 1)), ("relu2", LeakyReLU(), (4,)), ("fc3", dense(rng, 4, 3), (5,)),
    ]  # fmt: skip
    return network_of(layers, (3,), "residual")


def convolutional(rng: torch.Generator) -> SymbolicNetwork:
    """A 1 × 3 × 3 image, a 2 × 2 filter, a hidden layer of 2, 3 outputs: 6 kinks."""
    kernel = 0.7 * torch.randn(1, 1, 2, 2, generator=rng, dtype=torch.float64)
    bias = 0.2 * torch.randn(1, generator=rng, dtype=torch.float64)
    layers = [
        ("conv", Convolution(kernel, bias, (1, 1), (0, 0), (1, 1), 1), (0,)), ("relu1", LeakyReLU(), (1,)),
        ("flatten", Reshape((4,)), (2,)), ("fc1", dense(rng, 4, 2), (3,)), ("relu2", LeakyReLU(), (4,)),
        ("fc2", dense(rng, 2, 3), (5,)),
    ]  # fmt: skip
    return network_of(layers, (1, 3, 3), "convolutional")


def max_pooled(rng: torch.Generator) -> SymbolicNetwork:
    """A 1 × 3 × 3 image, one 2 × 2 filter, ReLU, 2 × 2 max pool of stride 1, 3 outputs."""
    kernel = 0.7 * torch.randn(1, 1, 2, 2, generator=rng, dtype=torch.float64)
    layers = [
        ("conv", Convolution(kernel, None, (1, 1), (0, 0), (1, 1), 1), (0,)), ("relu", LeakyReLU(), (1,)),
        ("pool", MaxPool((2, 1), (1, 1), ((0, 0), (0, 0)), (1, 1)), (2,)), ("flatten", Reshape((2,)), (3,)),
        ("fc", dense(rng, 2, 3), (4,)),
    ]  # fmt: skip
    return network_of(layers, (1, 3, 3), "max pooled")


#: networks on which branch and bound ends in affine pieces
KINKED: tuple[Callable[[torch.Generator], SymbolicNetwork], ...] = (multilayer, leaky, residual, convolutional)
#: all networks that have an exact encoding
ENCODABLE = (*KINKED, max_pooled)
