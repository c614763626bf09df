"""``solve(bounds=[...])``: limits of layers over what was searched."""

from __future__ import annotations

import json

import pytest
import torch

import clinch as cl
from clinch.errors import ProblemError, UnknownLayer
from clinch.network.network import Network
from clinch.network.ops.base import Operator
from clinch.testing.networks import dense, multilayer, network_of


def nearest(net: Network, x0: torch.Tensor) -> cl.Problem:
    x, z = net.input, net.output
    value = net.graph.forward(x0.reshape(-1, 3))[net.graph.output]
    label = value.argmax(1) if x0.dim() == 2 else int(value.argmax())
    return cl.Problem(cl.Minimize(cl.norm(x - x0, 2)), [x >= -2, x <= 2, z.argmax() != label])


def test_limits_hold_for_every_input_no_worse_than_the_value() -> None:
    rng = torch.Generator().manual_seed(0)
    net = multilayer(rng)
    x0 = 2 * torch.rand(3, generator=rng, dtype=torch.float64) - 1
    s = nearest(net, x0).solve(time_limit=10, bounds=["relu1", "relu2", "fc3"])
    assert set(s.bounds) == {"relu1", "relu2", "fc3"} and s.status is cl.Status.OPTIMAL
    step = torch.randn(2000, 3, generator=rng, dtype=torch.float64)
    share = float(s.value) * torch.rand(2000, 1, generator=rng, dtype=torch.float64) ** (1 / 3)
    points = torch.cat([s.x[None], (x0 + share * step / step.norm(dim=1, keepdim=True)).clamp(-2, 2)])
    for name, limits in s.bounds.items():
        node = net.position(name)
        values = net.graph.forward(points, [node])[node]
        assert limits.lower.shape == values.shape[1:]
        assert bool((values >= limits.lower - 1e-9).all() and (values <= limits.upper + 1e-9).all())
        assert bool((limits.upper - limits.lower <= 4 * (values.amax(0) - values.amin(0)) + 1e-6).any())
    text = json.loads(json.dumps(s.to_dict()))
    assert text["bounds"]["relu1"]["lower"] == s.bounds["relu1"].lower.tolist()


def test_a_batch_has_limits_of_each_problem_and_nothing_comes_unasked() -> None:
    rng = torch.Generator().manual_seed(1)
    net = multilayer(rng)
    x0 = 2 * torch.rand(4, 3, generator=rng, dtype=torch.float64) - 1
    problem = nearest(net, x0)
    assert problem.solve(time_limit=0.5).bounds == {}
    assert problem.solve(time_limit=0.5, bounds=["relu2"]).bounds["relu2"].upper.shape == (4, 4)


def test_without_time_interval_limits_are_given() -> None:
    net = multilayer(torch.Generator().manual_seed(2))
    s = nearest(net, torch.zeros(3, dtype=torch.float64)).solve(time_limit=0, bounds=["relu1"])
    assert bool(torch.isfinite(s.bounds["relu1"].upper).all())


class Unbounded(Operator):
    """A function without any rule."""

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return inputs[0].softmax(1)


def test_a_network_without_bounds_says_so() -> None:
    rng = torch.Generator().manual_seed(3)
    net = network_of([("fc1", dense(rng, 3, 3), (0,)), ("softmax", Unbounded(), (1,))], (3,))
    problem = cl.Problem(cl.Minimize(net.output[0]), [net.input >= 0, net.input <= 1])
    s = problem.solve(time_limit=1, bounds=["softmax"])
    assert s.bounds == {} and any("no limits of layers" in note for note in s.notes)


def test_names_are_checked_before_work_is_spent() -> None:
    net = multilayer(torch.Generator().manual_seed(4))
    problem = nearest(net, torch.zeros(3, dtype=torch.float64))
    with pytest.raises(UnknownLayer, match="no layer 'relu9'"):
        problem.solve(bounds=["relu9"])
    with pytest.raises(ProblemError, match=r"give a list of layers, such as \['relu1'\]"):
        problem.solve(bounds="relu1")
