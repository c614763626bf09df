"""CROWN as it is computed, in batches, blocks, patches and pieces, is CROWN as it is written."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from bound_cases import NORMS
from plain_crown import lower_limits, plain_limits
from torch import Tensor, nn

import clinch as cl
from clinch.bounds import backward, ends, patches, refine, vectors
from clinch.bounds.crown import activation_bounds, form_bounds, relaxations_from
from clinch.bounds.interval import interval_bounds
from clinch.geometry.region import Region
from clinch.network.network import Network
from clinch.network.ops.add import Add
from clinch.network.ops.base import Interval
from clinch.network.ops.convolution import Convolution
from clinch.network.ops.relu import LeakyReLU
from clinch.network.ops.shape import Reshape
from clinch.query import Forms
from clinch.testing.networks import KINKED, dense, network_of

pytestmark = pytest.mark.table

Make = Callable[[torch.Generator], Network]


def convolution(
    rng: torch.Generator, inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1
) -> Convolution:
    weight = torch.randn(outputs, inputs, kernel, kernel, generator=rng, dtype=torch.float64)
    weight *= (2 / (inputs * kernel**2)) ** 0.5
    bias = 0.1 * torch.randn(outputs, generator=rng, dtype=torch.float64)
    return Convolution(weight, bias, (stride,) * 2, (padding,) * 2, (dilation,) * 2, 1)


def stacked(
    rng: torch.Generator,
    strides: tuple[int, int, int] = (1, 2, 1),
    padding: int = 1,
    kernel: int = 3,
    dilation: int = 1,
) -> Network:
    """Three convolutions and two dense layers on a 1 × 9 × 9 image: windows are smaller than layers."""
    first, second, third = strides
    layers = [
        ("conv1", convolution(rng, 1, 2, kernel, first, padding, dilation), (0,)), ("relu1", LeakyReLU(), (1,)),
        ("conv2", convolution(rng, 2, 3, kernel, second, padding), (2,)), ("relu2", LeakyReLU(0.1), (3,)),
        ("conv3", convolution(rng, 3, 2, 2, third, 0), (4,)), ("relu3", LeakyReLU(), (5,)),
    ]  # fmt: skip
    size = network_of(list(layers), (1, 9, 9)).graph.nodes[-1].size
    layers += [
        ("flatten", Reshape((size,)), (6,)), ("fc1", dense(rng, size, 5), (7,)), ("relu4", LeakyReLU(), (8,)),
        ("fc2", dense(rng, 5, 3), (9,)),
    ]  # fmt: skip
    return network_of(layers, (1, 9, 9), "stacked")


def deep(rng: torch.Generator) -> Network:
    """Five dense layers, wide enough that some elements are dead, some active and some open."""
    sizes = [6, 20, 16, 16, 12, 4]
    layers = []
    for k, (a, b) in enumerate(itertools.pairwise(sizes)):
        layers.append((f"fc{k}", dense(rng, a, b), (2 * k,)))
        if k < len(sizes) - 2:
            layers.append((f"relu{k}", LeakyReLU(), (2 * k + 1,)))
    return network_of(layers, (6,), "deep")


def residual_blocks(rng: torch.Generator) -> Network:
    """Two blocks, so that rows meet on their way back more than once."""
    layers = [
        ("fc1", dense(rng, 4, 10), (0,)), ("relu1", LeakyReLU(), (1,)), ("fc2", dense(rng, 10, 10), (2,)),
        ("add1", Add(), (3, 1)), ("relu2", LeakyReLU(), (4,)), ("fc3", dense(rng, 10, 10), (5,)),
        ("relu3", LeakyReLU(), (6,)), ("fc4", dense(rng, 10, 10), (7,)), ("add2", Add(), (8, 4)),
        ("relu4", LeakyReLU(), (9,)), ("fc5", dense(rng, 10, 3), (10,)),
    ]  # fmt: skip
    return network_of(layers, (4,), "residual blocks")


WITHOUT_POOL: tuple[Make, ...] = (*KINKED, deep, residual_blocks, stacked)


def around(rng: torch.Generator, net: Network, p: float, size: int = 3, radius: float = 0.2) -> Region:
    """Balls that no box cuts: their minimum has a closed form. Of different sizes, so that elements differ in state."""
    center = torch.randn(size, *net.input_shape, generator=rng, dtype=torch.float64)
    share = 0.2 + torch.rand(size, generator=rng, dtype=torch.float64)
    scale = radius * center[0].numel() ** (1 / p) / 2 if p < math.inf else radius
    return cl.bounds.ball(center, scale * share, p)


def assert_same(found: dict[int, Interval], other: dict[int, Interval], atol: float = 1e-10) -> None:
    assert set(found) == set(other)
    for j in found:
        for a, b in zip(found[j], other[j]):
            torch.testing.assert_close(a, b, atol=atol, rtol=0)


# --- the same as written out -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("make", WITHOUT_POOL)
def test_limits_and_bounds_are_those_of_dense_matrices(make: Make, p: float) -> None:
    rng = torch.Generator().manual_seed(0)
    net = make(rng)
    graph, region = net.graph, around(rng, net, p)
    found = activation_bounds(graph, region)
    c = torch.randn(3, 4, graph.nodes[-1].size, generator=rng, dtype=torch.float64)
    bound = cl.bounds.crown(net, region, c)
    for b in range(region.size):
        one = region.take(slice(b, b + 1))
        limits = plain_limits(graph, one)
        for j, both in found.items():
            for side, plain in zip(both, limits[j]):
                torch.testing.assert_close(side[b].flatten(), plain, atol=1e-9, rtol=1e-9)
        expected = lower_limits(graph, one, limits, graph.output, c[b])
        torch.testing.assert_close(bound[b], expected, atol=1e-9, rtol=1e-9)


def test_all_kinds_of_elements_occur() -> None:
    """What the comparison above is worth: each of dead, active and open elements in a later layer."""
    rng = torch.Generator().manual_seed(0)
    for make in (deep, residual_blocks, stacked):
        net = make(rng)
        limits = activation_bounds(net.graph, around(rng, net, math.inf))
        lower, upper = (torch.cat([t.flatten() for t in side]) for side in zip(*list(limits.values())[1:]))
        for state in ((lower < 0) & (upper > 0), lower >= 0, upper <= 0):
            assert int(state.sum()) > 3


@pytest.mark.parametrize("make", WITHOUT_POOL)
def test_within_the_same_limits_no_bound_differs(make: Make) -> None:
    """With limits that CROWN alone gives, without intervals, the bound is CROWN's: it is limits that differ otherwise.

    Tighter limits need not give a tighter bound: the slope of a lower line jumps where ``u = −l``, and a chord over a
    shorter range lies higher outside of it, where linear forms of an inner layer may reach.
    """
    rng = torch.Generator().manual_seed(1)
    net = make(rng)
    graph, region = net.graph, around(rng, net, math.inf)
    size = graph.nodes[-1].size
    plain = [plain_limits(graph, region.take(slice(b, b + 1)), only_open=False) for b in range(region.size)]
    read = list(activation_bounds(graph, region))
    held = {}
    for j in read:
        sides = (torch.stack([limits[j][side] for limits in plain]) for side in (0, 1))
        held[j] = Interval(*(t.reshape(-1, *graph.nodes[j].shape) for t in sides))
    eye = torch.eye(size, dtype=torch.float64)
    forms = Forms({graph.output: eye.reshape(1, size, -1)}, torch.zeros(region.size, size, dtype=torch.float64))
    found = form_bounds(graph, forms, region, relaxations_from(graph, held, forms.nodes))
    for b in range(region.size):
        expected = lower_limits(graph, region.take(slice(b, b + 1)), plain[b], graph.output, eye)
        torch.testing.assert_close(found[b], expected, atol=1e-9, rtol=1e-9)


# --- patches ---------------------------------------------------------------------------------------------------------


def without_patches(monkeypatch: pytest.MonkeyPatch, run: Callable[[], dict[int, Interval]]) -> dict[int, Interval]:
    with monkeypatch.context() as m:
        m.setattr(refine, "patch_bounds", lambda *arguments: False)
        return run()


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("kernel, dilation", [(1, 1), (2, 1), (3, 1), (2, 2)])
@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("strides", [(1, 1, 1), (2, 1, 1), (1, 2, 1), (1, 1, 2)])
def test_patches_are_the_rows_they_stand_for(
    strides: tuple[int, int, int], padding: int, kernel: int, dilation: int, p: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = torch.Generator().manual_seed(2)
    net = stacked(rng, strides, padding, kernel, dilation)
    region = around(rng, net, p)
    used: list[bool] = []
    patch_bounds = patches.patch_bounds

    def noting(*arguments) -> bool:
        used.append(patch_bounds(*arguments))
        return used[-1]

    monkeypatch.setattr(refine, "patch_bounds", noting)
    by_patches = activation_bounds(net.graph, region)
    assert any(used)
    assert_same(by_patches, without_patches(monkeypatch, lambda: activation_bounds(net.graph, region)))


@pytest.mark.parametrize("rows", [0, 10**9])
def test_windows_through_a_matrix_or_by_themselves(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = torch.Generator().manual_seed(3)
    net = stacked(rng)
    region = around(rng, net, math.inf)
    monkeypatch.setattr(vectors, "ENOUGH_ROWS", rows)
    found = activation_bounds(net.graph, region)
    assert_same(found, without_patches(monkeypatch, lambda: activation_bounds(net.graph, region)))


# --- blocks, batches, effort -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("make", [deep, residual_blocks, stacked])
def test_small_blocks_change_nothing(make: Make, p: float, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = torch.Generator().manual_seed(4)
    net = make(rng)
    region = around(rng, net, p, size=4)
    c = torch.randn(4, 5, net.graph.nodes[-1].size, generator=rng, dtype=torch.float64)
    whole = activation_bounds(net.graph, region), cl.bounds.crown(net, region, c)
    for limit in (40, 700):
        monkeypatch.setattr(backward, "BLOCK", limit)
        monkeypatch.setattr(patches, "PIECE", limit)
        monkeypatch.setattr(ends, "PIECE", limit)
        monkeypatch.setattr(ends, "LARGEST_PIECE", limit)
        assert_same(activation_bounds(net.graph, region), whole[0])
        torch.testing.assert_close(cl.bounds.crown(net, region, c), whole[1])


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("make", WITHOUT_POOL)
def test_a_batch_is_its_problems_one_by_one(make: Make, p: float) -> None:
    rng = torch.Generator().manual_seed(5)
    net = make(rng)
    region = around(rng, net, p, size=5)
    together = activation_bounds(net.graph, region)
    for b in range(region.size):
        alone = activation_bounds(net.graph, region.take(slice(b, b + 1)))
        assert_same({j: limits.take(slice(b, b + 1)) for j, limits in together.items()}, alone)


@pytest.mark.parametrize("make", [deep, residual_blocks])
def test_only_open_elements_are_carried_back(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = torch.Generator().manual_seed(6)
    net = make(rng)
    region = around(rng, net, math.inf, size=1)
    counts: list[int] = []
    bounds_at = backward.bounds_at

    def counting(graph, forms, end, relaxations) -> Tensor:
        counts.append(forms.count)
        return bounds_at(graph, forms, end, relaxations)

    monkeypatch.setattr(refine, "bounds_at", counting)
    # the quick way of narrow networks takes all elements at once
    monkeypatch.setattr(refine, "narrow_bounds", lambda *arguments: False)
    limits = activation_bounds(net.graph, region)
    expected, decided = [], 0
    interval = {0: Interval(region.lower, region.upper)}
    for i, node in enumerate(net.graph.nodes[1:], 1):
        interval[i] = net.graph.interval(i, [interval[j] for j in node.inputs])
        if i in limits:
            low, high = interval[i]
            is_open = (low < 0) & (high > 0)
            kept = ~is_open
            assert torch.equal(limits[i].lower[kept], low[kept]) and torch.equal(limits[i].upper[kept], high[kept])
            expected += [2 * int(is_open.sum())] if i > 1 and bool(is_open.any()) else []
            decided += int(kept.sum())
            interval[i] = limits[i]
    assert counts == expected and decided > 0


def test_what_stops_keeps_the_limits_of_intervals() -> None:
    rng = torch.Generator().manual_seed(7)
    for make in (deep, stacked):
        net = make(rng)
        region = around(rng, net, math.inf)
        stopped = activation_bounds(net.graph, region, stop=lambda: True)
        plain = interval_bounds(net.graph, region)
        assert_same(stopped, {j: plain[j] for j in stopped}, atol=0)
        asked = itertools.count()
        half_way = activation_bounds(net.graph, region, stop=lambda asked=asked: next(asked) >= 2)
        full = activation_bounds(net.graph, region)
        for j in full:
            assert bool((half_way[j].lower >= stopped[j].lower).all() and (half_way[j].upper <= stopped[j].upper).all())


# --- gradients -------------------------------------------------------------------------------------------------------


def test_gradients_through_patches_are_those_through_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(8)
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Conv2d(2, 2, 3, stride=2), nn.ReLU(), nn.Flatten(),
        nn.Linear(18, 4), nn.ReLU(), nn.Linear(4, 2),
    ).double().eval()  # fmt: skip
    net = cl.load(model, input_shape=(1, 8, 8), live=True)
    region = cl.bounds.ball(torch.randn(2, 1, 8, 8, dtype=torch.float64), 0.1, math.inf)

    def gradients() -> list[Tensor]:
        bound = cl.bounds.crown(net, region)
        return list(torch.autograd.grad(bound.sum(), list(model.parameters())))

    by_patches = gradients()
    monkeypatch.setattr(refine, "patch_bounds", lambda *arguments: False)
    for a, b in zip(by_patches, gradients()):
        assert bool((a != 0).any())
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-7)
