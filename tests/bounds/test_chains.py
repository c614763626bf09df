"""Chains of layers that are seldom: affine ones in a row, kinks that are all off."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

import clinch as cl


def chain(affine: int) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 8), *[nn.Linear(8, 8) for _ in range(affine)], nn.ReLU(), nn.Linear(8, 2)).eval()


@pytest.mark.parametrize("affine", [1, 2])
@pytest.mark.parametrize("bound", [cl.bounds.crown, cl.bounds.alpha_crown], ids=["crown", "alpha"])
def test_affine_layers_in_a_row_are_not_passed(affine: int, bound):
    net = cl.load(chain(affine), (3,))
    points = torch.rand(3000, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64) * 2 - 1
    graph = net.graph_as(torch.float64, "cpu")
    region = cl.bounds.box(-torch.ones(1, 3), torch.ones(1, 3))
    least = graph.forward(points)[graph.output].amin(0)
    assert bool((bound(net, region)[0] <= least).all())
    for layer, limits in cl.bounds.layer_limits(net, region).items():
        value = graph.forward(points, [net.position(layer)])[net.position(layer)]
        assert bool((limits.lower <= value).all() & (value <= limits.upper).all())


def test_a_layer_that_is_off_throughout_is_no_obstacle():
    torch.manual_seed(1)
    sizes, beside = (3, 8, 8, 8, 2), nn.Linear(3, 8)
    layers = [nn.Linear(a, b) for a, b in pairwise(sizes)]
    with torch.no_grad():
        layers[1].bias -= 100

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers, self.beside = nn.ModuleList(layers), beside

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            off = self.layers[1](self.layers[0](x).relu()).relu()
            return self.layers[3]((self.layers[2](off) + self.beside(x)).relu())

    net = cl.load(Net().eval(), (3,))
    region = cl.bounds.box(-torch.ones(1, 3), torch.ones(1, 3))
    below = cl.bounds.alpha_crown(net, region)[0]
    points = torch.rand(3000, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64) * 2 - 1
    graph = net.graph_as(torch.float64, "cpu")
    assert bool((below <= graph.forward(points)[graph.output].amin(0)).all())
