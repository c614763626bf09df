"""α-CROWN of networks of any function: never below CROWN, above it somewhere, and passed by nothing."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clinch.bounds import alpha_crown, box, crown, interval
from clinch.network.network import Network
from clinch.network.ops.base import Operator
from clinch.network.ops.functions import Exp, Power
from clinch.network.ops.piecewise import Floor, Hardswish
from clinch.network.ops.relu import LeakyReLU
from clinch.network.ops.s_shaped import Sigmoid, Tanh
from clinch.network.ops.smooth_activations import ELU, GELU, Mish, SiLU, Softplus
from clinch.network.ops.trigonometric import Sin
from clinch.testing.networks import dense, network_of

OPERATORS: dict[str, Operator] = {
    "abs": LeakyReLU(-1.0), "elu": ELU(), "exp": Exp(), "floor": Floor(), "gelu": GELU(), "hardswish": Hardswish(),
    "mish": Mish(), "sigmoid": Sigmoid(), "silu": SiLU(), "sin": Sin(), "softplus": Softplus(), "square": Power(2.0),
    "tanh": Tanh(),
}  # fmt: skip


def network(op: Operator, seed: int) -> Network:
    rng = torch.Generator().manual_seed(seed)
    return network_of(
        [("fc1", dense(rng, 3, 8), (0,)), ("act1", op, (1,)), ("fc2", dense(rng, 8, 8), (2,)),
         ("act2", op, (3,)), ("fc3", dense(rng, 8, 3), (4,))], (3,),
    )  # fmt: skip


def least_found(net: Network, lower: torch.Tensor, upper: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    """The least of ``c · output`` over samples, corners and descents from the best of them, ``(B, R)``."""
    graph = net.graph_as(torch.float64, "cpu")
    generator = torch.Generator().manual_seed(1)
    share = torch.rand(400, *lower.shape, generator=generator, dtype=torch.float64)
    share[:100] = share[:100].round()
    x = torch.lerp(lower, upper, share)
    values = graph.forward(x.flatten(0, 1))[graph.output].unflatten(0, x.shape[:2]) @ c.T
    best, which = values.min(0)
    point = torch.stack([x[which[:, r], torch.arange(len(lower))] for r in range(len(c))], 1)
    for step in range(20):
        point = point.detach().requires_grad_()
        found = (graph.forward(point.flatten(0, 1))[graph.output].unflatten(0, point.shape[:2]) * c).sum(2)
        best = torch.minimum(best, found.detach())
        (gradient,) = torch.autograd.grad(found.sum(), point)
        step_size = 0.3 * 0.8**step * (upper - lower).unsqueeze(1)
        moved = point - step_size * gradient.sign()
        point = torch.maximum(torch.minimum(moved, upper.unsqueeze(1)), lower.unsqueeze(1))
    return best


@pytest.mark.parametrize("name", OPERATORS)
@settings(deadline=None, max_examples=2)
@given(seed=st.integers(0, 2**31))
def test_bounds_are_ordered_and_passed_by_nothing(name: str, seed: int):
    net = network(OPERATORS[name], seed)
    rng = torch.Generator().manual_seed(seed)
    centre, radius = torch.randn(4, 3, generator=rng, dtype=torch.float64), torch.tensor([[0.0], [0.05], [0.3], [1.0]])
    lower, upper = centre - radius, centre + radius
    region, c = box(lower, upper), torch.cat([torch.eye(3), -torch.eye(3)]).double()
    by_crown, by_alpha = crown(net, region, c), alpha_crown(net, region, c, steps=10)
    least = least_found(net, lower, upper, c)
    room = 1e-9 * (1 + least.abs())
    assert bool((by_alpha >= by_crown - room).all())
    assert bool((by_alpha <= least + room).all())
    assert bool((interval(net, region, c) <= least + room).all())


@pytest.mark.parametrize("name", [name for name in OPERATORS if name != "floor"])
def test_mixtures_help(name: str):
    net = network(OPERATORS[name], 5)
    x = torch.zeros(1, 3, dtype=torch.float64)
    region, c = box(x - 0.7, x + 0.7), torch.cat([torch.eye(3), -torch.eye(3)]).double()
    gained = alpha_crown(net, region, c) - crown(net, region, c)
    assert float(gained.max()) > 1e-3
