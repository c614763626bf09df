"""Limits of the second layer by lines in the matrix are those by rows, and hold."""

import pytest
import torch

from clinch.bounds import narrow, refine
from clinch.bounds.crown import activation_bounds
from clinch.geometry.region import Region
from clinch.network.ops.dense import Dense
from clinch.network.ops.relu import LeakyReLU
from clinch.network.ops.s_shaped import Tanh
from clinch.testing.networks import dense, network_of


def narrow_network(rng, bend, bias=True):
    """3 inputs, two layers of 12, one output."""
    bottom, top = dense(rng, 3, 12), dense(rng, 12, 12)
    if not bias:
        bottom, top = Dense(bottom.weight), Dense(top.weight)
    layers = [("fc1", bottom, (0,)), ("bend1", bend, (1,)), ("fc2", top, (2,)), ("bend2", bend, (3,)),
              ("fc3", dense(rng, 12, 1), (4,))]  # fmt: skip
    return network_of(layers, (3,))


def boxes(rng, count):
    lower = torch.rand(count, 3, generator=rng, dtype=torch.float64) * 2 - 1
    return Region(lower, lower + 1.5 * torch.rand(count, 3, generator=rng, dtype=torch.float64))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("bend", [LeakyReLU(), LeakyReLU(0.1), Tanh()], ids=["relu", "leaky", "tanh"])
def test_they_are_the_limits_by_rows(bend, bias, monkeypatch):
    rng = torch.Generator().manual_seed(3)
    graph, region = narrow_network(rng, bend, bias).graph, boxes(rng, 40)
    monkeypatch.setattr(narrow, "PIECE", 7 * 12 * 3)
    calls = []
    monkeypatch.setattr(refine, "narrow_bounds", lambda *a: calls.append(narrow.narrow_bounds(*a)) or calls[-1])
    found = activation_bounds(graph, region)
    assert calls == [True]
    monkeypatch.setattr(refine, "narrow_bounds", lambda *_: False)
    by_rows = activation_bounds(graph, region)
    for j, limits in by_rows.items():
        assert torch.allclose(found[j].lower, limits.lower, rtol=0, atol=1e-12)
        assert torch.allclose(found[j].upper, limits.upper, rtol=0, atol=1e-12)


def test_they_hold_at_random_inputs():
    rng = torch.Generator().manual_seed(4)
    graph, region = narrow_network(rng, LeakyReLU()).graph, boxes(rng, 30)
    limits = activation_bounds(graph, region)[3]
    share = torch.rand(500, 30, 3, generator=rng, dtype=torch.float64).round(decimals=1)
    for x in region.lower + share * (region.upper - region.lower):
        z = graph.forward(x, [3])[3]
        assert bool(((z >= limits.lower - 1e-9) & (z <= limits.upper + 1e-9)).all())


def test_gradients_go_by_rows():
    rng = torch.Generator().manual_seed(5)
    graph, region = narrow_network(rng, LeakyReLU()).graph, boxes(rng, 5)
    lower = region.lower.clone().requires_grad_()
    activation_bounds(graph, Region(lower, region.upper))[3].lower.sum().backward()
    assert lower.grad is not None and bool((lower.grad != 0).any())
