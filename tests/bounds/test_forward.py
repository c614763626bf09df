"""Symbols carried forward hold, tighten only, and are what rows give behind one layer of kinks."""

import pytest
import torch

from clinch.bounds import ends, forward, refine
from clinch.bounds.crown import activation_bounds, relaxations_from
from clinch.bounds.forward import Symbols
from clinch.bounds.interval import interval_bounds
from clinch.bounds.symbols import affine_symbols, symbols_of
from clinch.geometry.region import Region
from clinch.network.ops.add import Add, Subtract
from clinch.network.ops.average_pool import AveragePool
from clinch.network.ops.convolution import Convolution
from clinch.network.ops.max_pool import MaxPool
from clinch.network.ops.relaxation import Relaxation
from clinch.network.ops.relu import LeakyReLU
from clinch.network.ops.s_shaped import Tanh
from clinch.network.ops.scale import Scale
from clinch.network.ops.select import Pad
from clinch.network.ops.shape import Reshape
from clinch.network.ops.trigonometric import Sin
from clinch.testing.networks import dense, network_of

from .bound_cases import NETWORKS, inside

RELU = LeakyReLU()


def convolution(rng, channels, outputs, padding):
    kernel = torch.randn(outputs, channels, 3, 3, generator=rng, dtype=torch.float64) / 5
    bias = torch.randn(outputs, generator=rng, dtype=torch.float64)
    return Convolution(kernel, bias, (1, 1), (padding, padding), (1, 1), 1)


def lifted(rng, bend=RELU):
    """4 inputs as an image: dense, padding, convolution, bend, a sum of branches, pools, dense layers."""
    factors = torch.tensor([-1.0, 2.0, 0.5], dtype=torch.float64).reshape(3, 1, 1)
    layers = [
        ("lift", dense(rng, 4, 32), (0,)), ("image", Reshape((2, 4, 4)), (1,)),
        ("pad", Pad((1, 1, 1, 1), value=0.5), (2,)), ("conv", convolution(rng, 2, 3, 0), (3,)), ("bend1", bend, (4,)),
        ("conv2", convolution(rng, 3, 3, 1), (5,)), ("add", Add(), (4, 6)), ("bend2", bend, (7,)),
        ("max", MaxPool((2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1)), (8,)),
        ("scale", Scale(factors, torch.tensor(0.1, dtype=torch.float64)), (9,)),
        ("mean", AveragePool((2, 2), (1, 1), (1, 1)), (10,)), ("flat", Reshape((27,)), (11,)),
        ("fc1", dense(rng, 27, 12), (12,)), ("bend3", bend, (13,)), ("minus", Subtract(), (13, 14)),
        ("fc2", dense(rng, 12, 3), (15,)),
    ]  # fmt: skip
    return network_of(layers, (4,))


def plain(rng):
    """4 inputs as an image, two convolutions, two dense layers."""
    layers = [
        ("lift", dense(rng, 4, 32), (0,)), ("image", Reshape((2, 4, 4)), (1,)),
        ("conv", convolution(rng, 2, 3, 1), (2,)), ("bend1", RELU, (3,)),
        ("conv2", convolution(rng, 3, 3, 1), (4,)), ("bend2", RELU, (5,)), ("flat", Reshape((48,)), (6,)),
        ("fc1", dense(rng, 48, 12), (7,)), ("bend3", RELU, (8,)),
        ("fc2", dense(rng, 12, 3), (9,)),
    ]  # fmt: skip
    return network_of(layers, (4,))


def region_of(rng, net, size=3, radius=0.4, fixed=0):
    """Boxes in which some elements do not move."""
    centre = torch.randn(size, *net.input_shape, generator=rng, dtype=torch.float64)
    half = radius * torch.rand(centre.shape, generator=rng, dtype=torch.float64)
    if fixed:
        half = half.flatten(1).index_fill(1, torch.randperm(half[0].numel(), generator=rng)[:fixed], 0.0)
    half = half.reshape(centre.shape)
    return Region(centre - half, centre + half)


@pytest.fixture(autouse=True)
def always(monkeypatch):
    monkeypatch.setattr(forward, "ENOUGH_OPEN", 0)
    monkeypatch.setattr(forward, "ENOUGH_WORK", 0)


@pytest.mark.parametrize("by_rows", [False, True])
@pytest.mark.parametrize("bend", [RELU, LeakyReLU(-0.5), Tanh(), Sin()], ids=["relu", "bent", "tanh", "sin"])
def test_no_value_leaves_them(bend, by_rows, monkeypatch):
    if by_rows:
        for kind in (Relaxation, *Relaxation.__subclasses__()):
            monkeypatch.setattr(kind, "symbolic", Relaxation.symbolic)
    rng = torch.Generator().manual_seed(1)
    net = lifted(rng, bend)
    graph, region = net.graph, region_of(rng, net, fixed=1)
    limits = interval_bounds(graph, region)
    symbols = Symbols(graph, region, limits, relaxations_from(graph, limits, [graph.output]))
    symbols.held[0] = symbols_of(region, 1)  # type: ignore[assignment]
    symbols.at(graph.output)
    assert not symbols.rough
    x = inside(rng, region, 200)
    first = symbols.held[0]
    e = torch.einsum("bkn,sbn->sbk", first.middle[:, 1:], x - first.middle[:, 0])
    e = e / (first.middle[:, 1:] ** 2).sum(2).clamp(min=1e-300)
    e = torch.cat([torch.ones_like(e[..., :1]), e], 2)
    values = graph.forward(x.flatten(0, 1), range(len(graph.nodes)))
    for i, held in symbols.held.items():
        y = values[i].reshape(*x.shape[:2], -1)
        middle, half = held.middle.flatten(2), held.half.flatten(2)
        off = (y - torch.einsum("sbk,bkn->sbn", e, middle)).abs()
        room = torch.einsum("sbk,bkn->sbn", e[..., : half.shape[1]], half)
        assert bool((off <= room + 1e-12).all()), graph.nodes[i].name
        low, high = (t.flatten(1) for t in held.limits())
        assert bool(((low <= y) & (y <= high)).all())


def with_and_without(graph, region, monkeypatch):
    found = activation_bounds(graph, region)
    with monkeypatch.context() as patch:
        patch.setattr(forward, "symbols_of", lambda *_: None)
        patch.setattr(ends, "affine_symbols", lambda *_: None)
        return found, activation_bounds(graph, region)


@pytest.mark.parametrize("make", [*NETWORKS, lifted, plain])
def test_limits_are_never_wider_than_by_rows(make, monkeypatch):
    rng = torch.Generator().manual_seed(2)
    net = make(rng)
    graph, region = net.graph, region_of(rng, net)
    found, rows = with_and_without(graph, region, monkeypatch)
    x = inside(rng, region, 300)
    for j, (lower, upper) in rows.items():
        y = graph.forward(x.flatten(0, 1), [j])[j].unflatten(0, x.shape[:2])
        assert bool(((found[j].lower - 1e-12 <= y) & (y <= found[j].upper + 1e-12)).all())
        signs_only = all(node.op.splits_at_zero for node in graph.nodes if j in node.inputs and not node.op.affine)
        for mine, theirs, way in ((found[j].lower, lower, 1), (found[j].upper, upper, -1)):
            decided = (
                (mine * way >= 0) & (theirs * way >= 0) if signs_only else torch.zeros_like(mine, dtype=torch.bool)
            )
            decided |= (found[j].lower >= 0) | (found[j].upper <= 0) if signs_only else decided
            assert bool(((way * (mine - theirs) >= -1e-9) | decided).all())


def test_no_row_is_carried_back_behind_one_layer_of_kinks(monkeypatch):
    rng = torch.Generator().manual_seed(3)
    net = plain(rng)
    graph, region = net.graph, region_of(rng, net)
    asked = []
    monkeypatch.setattr(forward, "refined", lambda g, j, *a: asked.append(g.nodes[j].name) or refine.refined(g, j, *a))
    found, rows = with_and_without(graph, region, monkeypatch)
    assert asked == ["fc1", "conv", "conv2", "fc1"]
    second = graph.names["conv2"]
    open_ = (rows[second].lower < 0) & (rows[second].upper > 0)
    assert bool(open_.any())
    for mine, theirs in zip(found[second], rows[second]):
        assert torch.allclose(mine[open_], theirs[open_], rtol=0, atol=1e-10)


def test_rows_end_at_the_last_affine_layer():
    rng = torch.Generator().manual_seed(4)
    net = lifted(rng)
    graph, region = net.graph, region_of(rng, net)
    limits = activation_bounds(graph, region)
    end = ends.end_of(graph, [graph.output], region, relaxations_from(graph, limits, [graph.output]))
    assert graph.nodes[end.node].name == "conv"
    conv = graph.names["conv"]
    symbols = affine_symbols(graph, conv, region)
    assert symbols is not None
    rows = torch.randn(3, 5, *graph.nodes[conv].shape, generator=rng, dtype=torch.float64)
    found = ends.AtSymbols(conv, symbols.middle.flatten(2)).least(rows)
    carried, offset = rows, 0.0
    for i in range(conv, 0, -1):
        back, constant = graph.relax(i, []).backward(carried)
        carried, offset = back[0], offset + constant
    assert torch.allclose(found, ends.AtInput(region).least(carried) + offset, rtol=0, atol=1e-10)


def test_many_free_inputs_and_infinite_limits_have_no_symbols():
    low, high = torch.zeros(2, 300), torch.ones(2, 300)
    assert symbols_of(Region(low, high), 300) is None
    found = symbols_of(Region(low, high.index_fill(1, torch.arange(7, 300), 0.0)), 300)
    assert found is not None and found.middle.shape == (2, 8, 300)
    assert symbols_of(Region(low[:, :3], high[:, :3] / 0), 3) is None
    assert symbols_of(Region(low, low), 300) is None
