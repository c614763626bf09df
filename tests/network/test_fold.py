"""Folding changes neither the function nor any kept layer."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from clinch.modeling.model import load
from clinch.network.fold import fold
from clinch.network.graph import Graph, Input, Node
from clinch.network.ops.add import Add
from clinch.network.ops.average_pool import AveragePool
from clinch.network.ops.base import Operator
from clinch.network.ops.convolution import Convolution
from clinch.network.ops.dense import Dense
from clinch.network.ops.relu import LeakyReLU
from clinch.network.ops.scale import Scale
from clinch.network.ops.select import Pad, Slice, Take
from clinch.network.ops.shape import Reshape, Transpose

from .test_load_module import residual


def _operator(rng: random.Random, generator: torch.Generator, shape: tuple[int, ...]) -> Operator:
    """Any operator that can follow an activation of this shape."""

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64)

    makers = [
        LeakyReLU,
        lambda: Scale(normal(*shape), None),
        lambda: Scale(None, normal(shape[-1])),
        lambda: Scale(normal(), normal()),
        lambda: Scale(torch.ones((), dtype=torch.float64), None),
        lambda: Reshape(shape),
        lambda: _dense(rng, normal, shape[-1]),
    ]
    if len(shape) == 3:
        makers += [
            lambda: _convolution(rng, normal, shape),
            lambda: _convolution(rng, normal, shape),
            lambda: Scale(normal(shape[0], 1, 1), normal(shape[0], 1, 1)),
            lambda: Reshape((shape[0] * shape[1] * shape[2],)),
            lambda: Transpose((0, 2, 1)),
            lambda: AveragePool((1, 2), (1, 1), (0, 0)) if shape[2] > 1 else LeakyReLU(),
            lambda: Pad((1, 0)),
        ]
    if shape[-1] > 1:
        makers.append(lambda: Slice(len(shape) - 1, 1, shape[-1]))
    return rng.choice(makers)()


def _dense(rng: random.Random, normal, width: int) -> Dense:
    out = rng.choice([2, 6])
    return Dense(normal(out, width), normal(out) if rng.random() < 0.5 else None)


def _convolution(rng: random.Random, normal, shape: tuple[int, ...]) -> Convolution:
    groups = shape[0] if rng.random() < 0.3 else 1
    out = groups * rng.choice([1, 2])
    bias = normal(out) if rng.random() < 0.5 else None
    return Convolution(normal(out, shape[0] // groups, 2, 2), bias, (1, 1), (1, rng.choice([1, 2])), (1, 1), groups)


@st.composite
def graphs(draw: st.DrawFn) -> tuple[Graph, set[int]]:
    """Random chains with branches that are added again, and a random choice of nodes to keep."""
    rng = random.Random(draw(st.integers(0, 2**31)))
    generator = torch.Generator().manual_seed(rng.randrange(2**31))
    nodes = [Node("input", Input(), (), (2, 3, 3))]

    def add(op: Operator, *inputs: int) -> None:
        out = op.forward(*(torch.zeros(1, *nodes[j].shape, dtype=torch.float64) for j in inputs))
        nodes.append(Node(f"n{len(nodes)}", op, inputs, tuple(out.shape[1:])))

    for _ in range(draw(st.integers(1, 10))):
        last = len(nodes) - 1
        partners = [j for j in range(last) if nodes[j].shape == nodes[last].shape]
        if partners and rng.random() < 0.3:
            add(Add(), last, rng.choice(partners))
        else:
            add(_operator(rng, generator, nodes[last].shape), last)
    return Graph(tuple(nodes)), {i for i in range(len(nodes)) if rng.random() < 0.2}


@settings(deadline=None, max_examples=100)
@given(graphs())
def test_folding_changes_no_value(case: tuple[Graph, set[int]]):
    graph, keep = case
    folded, moved = fold(graph, keep)
    assert keep | {0, graph.output} <= moved.keys()
    assert moved[graph.output] == folded.output
    assert len(folded.nodes) <= len(graph.nodes)
    x = torch.randn(3, 2, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    before, after = graph.forward(x, range(len(graph.nodes))), folded.forward(x, range(len(folded.nodes)))
    for old, new in moved.items():
        scale = float(before[old].abs().max()) + 1
        torch.testing.assert_close(after[new], before[old], rtol=1e-9, atol=1e-9 * scale)
        assert folded.nodes[new].shape == graph.nodes[old].shape
    for i, node in enumerate(folded.nodes):
        assert all(j < i for j in node.inputs)
        assert tuple(after[i].shape[1:]) == node.shape


def test_what_is_merged():
    network = load(residual(), (2, 8, 8))
    graph = network.graph_as(torch.float64, "cpu")
    folded, moved = fold(graph)
    labels = [node.op.label for node in folded.nodes[1:]]
    assert labels == [
        "Convolution", "ReLU", "Convolution", "Add", "ReLU", "MaxPool", "AveragePool", "Reshape", "Dense", "ReLU",
        "Dense", "ReLU", "Dense",
    ]  # fmt: skip
    assert folded.nodes[moved[network.position("features.0")]].inputs == (0,)
    kept, moved = fold(graph, {network.position("div"), network.position("features.2.conv")})
    assert [node.op.label for node in kept.nodes[1:4]] == ["Scale", "Convolution", "ReLU"]
    assert kept.nodes[moved[network.position("div")]].name == "div"


def test_a_normalisation_reaches_the_first_dense_layer_through_a_flatten():
    class Normalised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.fc = nn.Linear(12, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(((x - torch.tensor([[[0.3]], [[0.5]], [[0.1]]])) / 0.25).flatten(1))

    network = load(Normalised().double().eval(), (3, 2, 2))
    folded, _ = fold(network.graph)
    assert [node.op.label for node in folded.nodes[1:]] == ["Reshape", "Dense"]
    x = torch.rand(5, 3, 2, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(folded.forward(x)[folded.output], network.original(x, ["fc"])["fc"].detach())


@pytest.mark.parametrize(("sizes", "layers"), [((6, 8, 2), 1), ((6, 2, 6), 2)])
def test_dense_layers_are_multiplied_where_that_does_not_grow(sizes: tuple[int, int, int], layers: int):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(sizes[0], sizes[1]), nn.Linear(sizes[1], sizes[2])).double().eval()
    folded, _ = fold(load(model, (sizes[0],)).graph)
    assert len(folded.nodes) - 1 == layers


# --- scales at loading ------------------------------------------------------------------------------------------------


class _Branches(nn.Module):
    """Batch norms behind a convolution, a dense layer, a sum and a pool; and a convolution that two layers read."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.second, self.shared = nn.Conv2d(3, 3, 3, padding=1, groups=3), nn.BatchNorm2d(3)
        self.pool, self.pooled = nn.AvgPool2d(2), nn.BatchNorm2d(3)
        self.last, self.scored = nn.Linear(12, 4), nn.BatchNorm1d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.first(x)).relu()
        y = self.second(x)
        x = self.shared(y) + y
        return self.scored(self.last(self.pooled(self.pool(x)).relu().flatten(1)))


def test_batch_norms_are_part_of_the_layer_before_them() -> None:
    torch.manual_seed(0)
    model = _Branches().double()
    model(torch.randn(50, 2, 4, 4, dtype=torch.float64))  # statistics of their own
    model.eval()
    net = load(model, (2, 4, 4))
    live = load(model, (2, 4, 4), live=True)
    assert net.layers == live.layers
    op = {name: net.graph.nodes[net.position(name)].op for name in net.layers}
    assert isinstance(op["norm"], Convolution) and isinstance(op["scored"], Dense)
    assert isinstance(op["shared"], Scale) and isinstance(op["pooled"], Scale)
    x = torch.randn(5, 2, 4, 4, dtype=torch.float64)
    ours, theirs = (g.forward(x, range(len(g.nodes))) for g in (net.graph, live.graph))
    for i, value in theirs.items():
        torch.testing.assert_close(ours[i], value, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(ours[net.graph.output], model(x), atol=1e-12, rtol=1e-12)
    # the layers themselves are beside the way from the input to the output
    way = {net.graph.nodes[i].name for i in net.graph.ancestors([net.graph.output])}
    assert {"first", "last"}.isdisjoint(way) and {"second", "norm"} <= way


class Shuffle(nn.Module):
    """Channels shuffled by view, transpose, view; then every other one."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shuffled = x.view(-1, 3, 2, 4, 5).transpose(1, 2).reshape(-1, 6, 4, 5)
        return shuffled.unflatten(1, (3, 2))[:, :, 1].relu()


def test_a_shuffle_of_channels_is_one_choice_of_them():
    net = load(Shuffle().eval(), input_shape=(6, 4, 5))
    graph, x = net.graph, torch.randn(2, 6, 4, 5)
    chosen = graph.nodes[graph.nodes[graph.output].inputs[0]]
    shuffled = graph.nodes[chosen.inputs[0]]
    assert isinstance(shuffled.op, Take) and shuffled.op.indices.tolist() == [0, 2, 4, 1, 3, 5]
    assert isinstance(chosen.op, Take) and chosen.op.indices.tolist() == [1, 3, 5] and shuffled.inputs == (0,)
    torch.testing.assert_close(graph.forward(x)[graph.output], Shuffle()(x))
    # the parts can still be asked for
    every = graph.forward(x, range(len(graph.nodes)))
    assert any(torch.equal(t, x.view(2, 3, 2, 4, 5).transpose(1, 2)) for t in every.values())


def test_what_moves_places_is_no_choice_of_channels():
    class Turned(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(2).transpose(1, 2).reshape(-1, 4, 4, 4).relu()

    graph = load(Turned().eval(), input_shape=(4, 4, 4)).graph
    assert not any(isinstance(node.op, Take) for node in graph.nodes)
