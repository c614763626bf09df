"""Networks and queries made by hand, so that the attacks are tested without the problem language."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn

from clinch.geometry.region import Region
from clinch.network.graph import Graph, Input, Node
from clinch.network.network import Network
from clinch.network.ops.base import Operator
from clinch.network.ops.dense import Dense
from clinch.network.ops.relu import LeakyReLU
from clinch.network.ops.shape import Reshape
from clinch.query import Distance, Forms, Query


class SmoothStep(Operator):
    """A sigmoid: an operator without pieces."""

    def forward(self, *inputs):
        return torch.sigmoid(inputs[0])


def network(layers: list[nn.Module], shape: tuple[int, ...], dtype=torch.float32, smooth=False) -> Network:
    """A flat network of dense layers with an activation after each but the last."""
    size = int(torch.tensor(shape).prod())
    nodes = [Node("input", Input(), (), shape), Node("flat", Reshape((size,)), (0,), (size,))]
    modules = nn.Sequential(nn.Flatten(), *layers).to(dtype).eval()
    for i, layer in enumerate(layers):
        if isinstance(layer, nn.Linear):
            op: Operator = Dense(layer.weight.detach().double(), layer.bias.detach().double())
            size = layer.out_features
        else:
            op = SmoothStep() if smooth else LeakyReLU(0.0)
        nodes.append(Node(f"{i}", op, (len(nodes) - 1,), (size,)))

    def original(x, names):
        found, h = {"input": x}, x
        with torch.no_grad():
            for name, module in zip(("flat", *map(str, range(len(layers)))), modules):
                h = found[name] = module(h)
        return {name: found[name] for name in names}

    return Network(Graph(tuple(nodes)), original, dtype=dtype, device="cpu", name="test")


def mlp(widths: list[int], seed: int, dtype=torch.float32, smooth=False, shape=None) -> Network:
    """A random multilayer perceptron."""
    generator = torch.Generator().manual_seed(seed)
    layers: list[nn.Module] = []
    for i, (a, b) in enumerate(pairwise(widths)):
        layer = nn.Linear(a, b)
        layer.weight.data = torch.randn(b, a, generator=generator) / a**0.5 * 1.5
        layer.bias.data = torch.randn(b, generator=generator) * 0.3
        layers += [layer] if i == len(widths) - 2 else [layer, nn.Sigmoid() if smooth else nn.ReLU()]
    return network(layers, shape or (widths[0],), dtype, smooth)


def query(
    net: Network, x0, rows, constants, clause, p, *, lower=0.0, upper=1.0, node=None, weights=None, balls=()
) -> Query:
    """Nearest input with the given atoms on one node; rows ``(K, m)`` or ``(B, K, m)``, constants ``(B, K)``."""
    x0 = x0.double()
    node = net.graph.output if node is None else node
    rows = rows.double()[None] if rows.dim() == 2 else rows.double()
    region = Region(torch.full_like(x0, lower), torch.full_like(x0, upper), tuple(balls))
    return Query(
        net, net.graph_as(torch.float64, "cpu"), region, Distance(x0, p, weights),
        Forms({node: rows}, constants.double()), torch.as_tensor(clause),
    )  # fmt: skip


def other_class(net: Network, x0, p, margin=1e-3, **options) -> Query:
    """Any class but the present one: one clause with an atom for each other class."""
    logits = net.graph_as(torch.float64, "cpu").forward(x0.double())[net.graph.output]
    classes, label = logits.shape[1], logits.argmax(1)
    rows = []
    for y in label.tolist():
        others = [c for c in range(classes) if c != y]
        row = torch.zeros(classes - 1, classes)
        row[range(classes - 1), others], row[:, y] = -1.0, 1.0
        rows.append(row)
    constants = torch.full((len(x0), classes - 1), margin)
    return query(net, x0, torch.stack(rows), constants, [0] * (classes - 1), p, **options)
