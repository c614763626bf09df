"""Batches whose problems have limits of their own and linear conditions on the input: critics of many states."""

import torch
from torch import nn

import clinch as cl
from clinch.attacks.core.arguments import lowering_objective


def test_actions_of_many_states_under_a_linear_condition():
    torch.manual_seed(0)
    net = cl.load(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 1)).eval(), input_shape=(4,))
    states = torch.randn(5, 2, dtype=torch.float64)
    lower, upper = (torch.cat([states, side * torch.ones(5, 2)], 1) for side in (-1, 1))
    x = net.input
    condition = [x >= lower, x <= upper, x[2] + x[3] <= 0.5]
    found = cl.Problem(cl.Maximize(net.output[0]), condition).solve(time_limit=20, gap=1e-2)
    assert all(status is cl.Status.OPTIMAL for status in found.status)
    assert bool((found.x[:, 2:].sum(1) <= 0.5).all()) and torch.equal(found.x[:, :2].double(), states.float().double())
    graph = net.graph_as(torch.float64, "cpu")
    steps = torch.linspace(-1, 1, 21, dtype=torch.float64)
    grid = torch.cartesian_prod(steps, steps)
    grid = grid[grid.sum(1) <= 0.5]
    for b in range(5):
        points = torch.cat([states[b].expand(len(grid), 2), grid], 1)
        values = graph.forward(points)[graph.output]
        assert float(values.max()) <= float(found.bound[b]) + 1e-9


def test_points_of_some_of_the_problems_are_settled_on_their_planes():
    net = cl.load(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 1)).eval(), input_shape=(4,))
    x, lower = net.input, torch.rand(5, 4, dtype=torch.float64) - 2
    stated = cl.Problem(cl.Maximize(net.output[0]), [x >= lower, x <= lower + 2, x[2] + x[3] <= 0.5])
    objective, some = lowering_objective(stated), torch.tensor([1, 3])
    assert objective.settled(objective.x[some], some).shape == (2, 4)
