"""Where a layer has several relaxations the best of some is taken, and where none is to choose nothing changes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import clinch as cl
from clinch.bounds import choices
from clinch.bounds.crown import activation_bounds, form_bounds, relaxations_from
from clinch.bounds.rows import layer_forms


class Gates(nn.Module):
    """A product of two layers, a smooth function, a step, and ReLUs."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.a, self.b, self.c = nn.Linear(3, 5), nn.Linear(3, 5), nn.Linear(5, 4)
        self.out = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        z = self.c(self.a(x).relu() * nn.functional.gelu(self.b(x)))
        return self.out(torch.cat([z[:, :2].relu(), torch.sign(z[:, 2:])], 1))


def plain(net: cl.Network, region) -> Tensor:
    graph, node, blocks = layer_forms(net, region, None, None)
    relaxations = relaxations_from(graph, activation_bounds(graph, region, [node]), [node])
    return torch.cat([form_bounds(graph, forms, region, relaxations) for forms in blocks], 1)


@settings(max_examples=4, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.05, 0.3, 1.0]))
def test_the_best_is_never_looser_and_passed_by_no_point(seed: int, eps: float):
    model = Gates(seed).double().eval()
    net = cl.load(model, input_shape=(3,))
    x = torch.randn(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    region = cl.bounds.ball(x, eps, float("inf"))
    best = cl.bounds.crown(net, region)
    assert bool((best >= plain(net, region) - 1e-9).all())
    moves = eps * (2 * torch.rand(400, 1, 3, dtype=torch.float64) - 1)
    moves[200:] = moves[200:].sign() * eps
    values = model((x + moves).flatten(0, 1)).reshape(400, 2, 2)
    assert bool((best <= values.amin(0) + 1e-9).all())


def test_alpha_is_nowhere_below_the_best():
    net = cl.load(Gates(3).double().eval(), input_shape=(3,))
    region = cl.bounds.ball(torch.zeros(1, 3, dtype=torch.float64), 0.3, float("inf"))
    assert bool((cl.bounds.alpha_crown(net, region, steps=3) >= cl.bounds.crown(net, region) - 1e-9).all())


def test_steps_of_independent_inputs_are_bounded_exactly():
    model = nn.Sequential(nn.Hardtanh(-3, 3), Steps(), nn.Linear(3, 1, bias=False)).double().eval()
    model[2].weight.data = torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64)
    net = cl.load(model, input_shape=(3,))
    region = cl.bounds.box(torch.tensor([[-1.0, -0.2, 0.3]]), torch.tensor([[0.1, 1.0, 0.5]]))
    torch.testing.assert_close(cl.bounds.crown(net, region), torch.tensor([[-2.5]], dtype=torch.float64))


class Steps(nn.Module):
    """The sign."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.sign(x)


def test_networks_of_relus_leave_no_choice(monkeypatch: pytest.MonkeyPatch):
    net = cl.load(nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)).eval(), input_shape=(3,))
    graph = net.graph_as(torch.float64, "cpu")
    assert not choices.choices(graph, range(len(graph.nodes)))
    monkeypatch.setattr(choices, "CHEAP", 0)
    smooth = cl.load(Gates(0).double().eval(), input_shape=(3,))
    region = cl.bounds.box(torch.zeros(1, 3), torch.ones(1, 3))
    torch.testing.assert_close(cl.bounds.crown(smooth, region), plain(smooth, region), rtol=0, atol=0)
