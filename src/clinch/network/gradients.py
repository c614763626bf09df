"""Gradients of plain networks without autograd: operators say how gradients go back through them.

Autograd takes notes of every operation and walks them back; on a network of a few small layers that takes longer than
the layers do. Operators state ``Jᵀ gradient`` themselves (:meth:`~clinch.network.ops.base.Operator.pullback`); where
each one does, their calls one after the other are the gradient, and autograd's is the same up to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from clinch.network.graph import Graph, Input, Node
from clinch.network.ops.base import Operator, Pullback, Shape
from clinch.network.ops.convolution import Convolution
from clinch.network.ops.dense import Dense
from clinch.network.ops.relu import LeakyReLU
from clinch.network.ops.s_shaped import Sigmoid, Tanh
from clinch.network.ops.shape import Reshape
from clinch.runtime import deadline


class Step(NamedTuple):
    """One operator of a network: where its value goes, what it reads, and both ways through it."""

    place: int
    inputs: tuple[int, ...]
    forward: Callable[..., Tensor]
    pull: Pullback


class Gradients:
    """Values of one node of a graph, and gradients of them with respect to the input.

    Args:
        steps: in the order of evaluation; place 0 is the input.
    """

    def __init__(self, steps: list[Step]) -> None:
        self.steps = steps

    @staticmethod
    def of(graph: Graph, node: int) -> Gradients | None:
        """None: an operator below the node does not say how gradients go back through it."""
        steps = []
        for i in graph.evaluated([node]):
            if i:
                op, inputs = graph.nodes[i].computed
                pull = op.pullback(tuple(graph.nodes[j].shape for j in inputs))
                if pull is None:
                    return None
                steps.append(Step(i, inputs, op.forward, pull))
        return Gradients(steps) if steps else None

    def values(self, x: Tensor) -> dict[int, Tensor]:
        """Of all nodes at points ``(B, *input_shape)``, the wanted one being the last; without autograd."""
        deadline.look()
        values = {0: x}
        with torch.no_grad():
            for place, inputs, forward, _ in self.steps:
                values[place] = forward(*(values[j] for j in inputs))
        return values

    def back(self, values: dict[int, Tensor], gradient: Tensor) -> Tensor:
        """``Jᵀ gradient`` ``(B, *input_shape)`` for the values of :meth:`values`."""
        gradients: dict[int, Tensor] = {self.steps[-1].place: gradient}
        with torch.no_grad():
            for place, inputs, _, pull in reversed(self.steps):
                own = gradients.pop(place, None)
                if own is not None:
                    for j, part in zip(inputs, pull(own, [values[j] for j in inputs], values[place])):
                        gradients[j] = part if j not in gradients else gradients[j] + part
        return gradients.get(0, torch.zeros_like(values[0]))


def _flattened(layer: nn.Flatten, shape: Shape) -> Operator | None:
    return Reshape((math.prod(shape),)) if (layer.start_dim, layer.end_dim) == (1, -1) else None


def _convolved(layer: nn.Conv1d | nn.Conv2d | nn.Conv3d, shape: Shape) -> Operator | None:
    if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        return None
    return Convolution(layer.weight, layer.bias, layer.stride, layer.padding, layer.dilation, layer.groups)


#: layers of torch as operators that share their weights, given the shape of a sample; None: not that one
LAYERS: dict[type[nn.Module], Callable[..., Operator | None]] = {
    nn.Linear: lambda layer, shape: Dense(layer.weight, layer.bias),
    nn.ReLU: lambda layer, shape: LeakyReLU(),
    nn.LeakyReLU: lambda layer, shape: LeakyReLU(layer.negative_slope),
    nn.Tanh: lambda layer, shape: Tanh(),
    nn.Sigmoid: lambda layer, shape: Sigmoid(),
    nn.Flatten: _flattened,
    nn.Conv1d: _convolved,
    nn.Conv2d: _convolved,
    nn.Conv3d: _convolved,
}
#: layers that do nothing outside of training
NOTHING = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


def plain_graph(module: nn.Module, x: Tensor) -> Graph | None:
    """A sequence of plain layers as a graph that shares their weights, read without running anything but the layers.

    Args:
        module: in evaluation mode.
        x: ``(B, *input_shape)`` some inputs.

    Returns:
        None where there is any other layer, a hook, or a method that is not the class's own.
    """
    nodes = [Node("input", Input(), (), tuple(x.shape[1:]))]
    value = x[:1].detach()
    for layer in _layers(module):
        read = LAYERS.get(type(layer))
        op = None if read is None or not _untouched(layer) else read(layer, tuple(value.shape[1:]))
        if op is None:
            return None
        with torch.no_grad():
            value = op.forward(value)
        nodes.append(Node(str(len(nodes)), op, (len(nodes) - 1,), tuple(value.shape[1:])))
    return Graph(tuple(nodes)) if len(nodes) > 1 else None


def _layers(module: nn.Module) -> list[nn.Module]:
    """The layers of nested sequences, one after the other."""
    if type(module) is nn.Sequential and _untouched(module):
        return [layer for part in module for layer in _layers(part)]
    return [] if type(module) in NOTHING and _untouched(module) else [module]


def _untouched(module: nn.Module) -> bool:
    """Whether calling it is calling its class's own method on weights of the usual kind, and nothing else."""
    own = vars(module)
    hooks = (own.get(name) for name in own if name.endswith("_hooks") and "state_dict" not in name)
    plain = all(type(weight) is nn.Parameter for weight in own["_parameters"].values() if weight is not None)
    return "forward" not in own and plain and not any(hooks)
