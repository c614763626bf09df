"""Inputs without limits, and numbers that are none: nothing may be claimed that NaN or infinity only seem to say."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from bound_cases import BOUNDS, NETWORKS, values

import clinch as cl
from clinch.bounds.crown import activation_bounds
from clinch.bounds.regions import box
from clinch.network.graph import Graph
from clinch.network.network import Network
from clinch.network.ops.base import Interval
from clinch.network.ops.convolution import Convolution
from clinch.network.ops.dense import Dense
from clinch.network.ops.relu import LeakyReLU
from clinch.testing.networks import convolutional, leaky, multilayer, residual

pytestmark = pytest.mark.table

INF = math.inf
WITHOUT_LP = [name for name in BOUNDS if name != "lp"]


@pytest.mark.parametrize("limits", [(-INF, INF), (-INF, 0.5), (-0.5, INF)])
@pytest.mark.parametrize("make", NETWORKS)
@pytest.mark.parametrize("name", WITHOUT_LP)
def test_no_point_of_an_unbounded_box_lies_below_a_bound(name: str, make, limits: tuple[float, float]) -> None:
    rng = torch.Generator().manual_seed(0)
    for free in (1, None):
        net = make(rng)
        lower, upper = (torch.full((2, *net.input_shape), side, dtype=torch.float64) for side in limits)
        if free is not None:  # all but the first element are bounded
            lower.flatten(1)[:, free:], upper.flatten(1)[:, free:] = -0.5, 0.5
        points = torch.randn(400, *lower.shape, generator=rng, dtype=torch.float64)
        points = (points * 10 ** (6 * torch.rand(400, *[1] * lower.dim(), generator=rng) - 1)).clamp(lower, upper)
        c = torch.randn(2, 4, net.graph.nodes[net.graph.output].size, generator=rng, dtype=torch.float64)
        bound = BOUNDS[name](net, box(lower, upper), c)
        least = values(net, points, c).amin(0)
        assert not bool(bound.isnan().any())
        assert bool((bound <= least + 1e-9 * (1 + least.abs())).all())


@pytest.mark.parametrize("make", [multilayer, leaky, residual])
def test_limits_of_activations_hold_without_limits_of_the_input(make) -> None:
    rng = torch.Generator().manual_seed(1)
    net = make(rng)
    lower = torch.tensor([[-INF, -1.0, 0.0]], dtype=torch.float64)
    region = box(lower, torch.tensor([[INF, 1.0, INF]], dtype=torch.float64))
    points = (1e3 * torch.randn(500, 3, generator=rng, dtype=torch.float64)).clamp(region.lower[0], region.upper[0])
    limits = activation_bounds(net.graph, region, include_wanted=True)
    found = net.graph.forward(points, limits)
    for j, (low, high) in limits.items():
        assert not bool((low.isnan() | high.isnan()).any())
        assert bool((found[j] >= low - 1e-9).all() and (found[j] <= high + 1e-9).all())


@pytest.mark.parametrize("slope", [0.0, 0.2])
@pytest.mark.parametrize("limits", [(-INF, 2.0), (-3.0, INF), (-INF, INF), (-INF, -1.0), (1.0, INF), (-3.0, 2.0)])
def test_lines_of_a_relu_hold_over_half_lines(slope: float, limits: tuple[float, float]) -> None:
    op = LeakyReLU(slope)
    lower, upper = (torch.tensor([[side]], dtype=torch.float64) for side in limits)
    lines = op.relax([Interval(lower, upper)], ())
    x = torch.linspace(-1e4, 1e4, 20001, dtype=torch.float64).clamp(lower, upper)
    assert bool((lines.lower_slope * x + lines.lower_offset <= op.forward(x) + 1e-9).all())
    assert bool((op.forward(x) <= lines.upper_slope * x + lines.upper_offset + 1e-9).all())
    assert bool(torch.isfinite(lines.upper_offset).all()) == (limits != (-INF, INF))


def test_a_search_without_limits_of_the_input_claims_nothing_false() -> None:
    """Every value is taken: no bound is finite, and a norm to make small has an optimum that sampling cannot beat."""
    for make in (multilayer, residual):
        net = make(torch.Generator().manual_seed(0))
        free = cl.Problem(cl.Minimize(net.output[0]), []).solve(time_limit=0.3)
        assert free.bound == -INF and free.status is not cl.Status.OPTIMAL
        x0 = torch.zeros(3, dtype=torch.float64)
        nearest = cl.Problem(cl.Minimize(cl.norm(net.input - x0, 2)), [net.output[0] <= -5.0]).solve(time_limit=1)
        assert nearest.status in (cl.Status.OPTIMAL, cl.Status.FEASIBLE) and float(nearest.bound) <= float(
            nearest.value
        )


def spoiled(net: Network, layer: str) -> Network:
    """The network with one weight of a layer NaN. (Networks that are loaded are refused.)"""
    nodes = list(net.graph.nodes)
    i = net.position(layer)
    op = nodes[i].op
    assert isinstance(op, Dense | Convolution)
    weight = op.weight.clone()
    weight.view(-1)[0] = math.nan
    nodes[i] = replace(nodes[i], op=replace(op, weight=weight))
    return Network(Graph(tuple(nodes)), net.original, dtype=torch.float64, device="cpu", name="spoiled")


@pytest.mark.parametrize(
    "make, layer",
    [(multilayer, "fc1"), (multilayer, "fc2"), (leaky, "fc1"), (residual, "fc1"), (convolutional, "conv")],
)
@pytest.mark.parametrize("name", WITHOUT_LP)
def test_a_weight_that_is_no_number_proves_nothing(name: str, make, layer: str) -> None:
    net = spoiled(make(torch.Generator().manual_seed(2)), layer)
    region = box(torch.zeros(2, *net.input_shape), torch.ones(2, *net.input_shape))
    bound = BOUNDS[name](net, region)
    assert not bool((bound > -INF).any())


def test_limits_that_are_no_numbers_do_not_count() -> None:
    nan, three = torch.tensor([math.nan, 1.0]), torch.tensor([3.0, 3.0])
    unknown, known = Interval(nan, three), Interval(-three, three)
    for both in (unknown.intersect(known), known.intersect(unknown)):
        assert torch.equal(both.lower, torch.tensor([-3.0, 1.0])) and torch.equal(both.upper, three)


def test_a_relu_within_unknown_limits_is_open() -> None:
    nan = torch.full((1, 1), math.nan, dtype=torch.float64)
    lines = LeakyReLU().relax([Interval(nan, nan)], ())
    assert float(lines.upper_offset) == INF
