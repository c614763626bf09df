"""A norm that is one file among the norms is one everywhere: p between 1 and infinity in attacks, bounds, search."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import clinch as cl
import clinch.attacks as A
from clinch.errors import UnsupportedByEngine
from clinch.geometry.norms import norm_of

NORMS = [1.5, 3.0]


def linear(seed: int = 0, classes: int = 4) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, classes)).eval()


def small(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 3)).eval()


def exact(net: nn.Sequential, x: torch.Tensor, y: torch.Tensor, p: float) -> torch.Tensor:
    """Distances to the nearest other class of a linear classifier: gaps over dual norms."""
    (layer,) = net
    logits = net(x).detach().double()
    gap = logits.gather(1, y.unsqueeze(1)) - logits
    slope = layer.weight.detach().double()[y].unsqueeze(1) - layer.weight.detach().double()
    steepness = (slope.abs() ** (p / (p - 1))).sum(2) ** (1 - 1 / p)
    return (gap / steepness).scatter(1, y.unsqueeze(1), math.inf).amin(1)


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize(
    "attack, budget",
    [
        (A.nearest, {"passes": 80}),
        (A.fmn, {"steps": 100}),
        (A.fab, {"steps": 20}),
        (A.deepfool, {}),
    ],
)
def test_minimum_norm_attacks_reach_the_closed_form(attack, budget, p):
    net = linear()
    x = torch.rand(3, 6, generator=torch.Generator().manual_seed(1))
    y = net(x).argmax(1)
    found = attack(net, x, y, norm=p, bounds=None, **budget)
    assert bool(found.success.all())
    wanted = exact(net, x, y, p)
    assert torch.allclose(found.distance, norm_of(p).of((found.x - x).double()), rtol=1e-4)
    assert bool((found.distance >= wanted * (1 - 1e-4)).all() and (found.distance <= 1.2 * wanted).all())


@pytest.mark.parametrize("p", NORMS)
def test_proximal_steps_take_any_norm(p):
    net = linear()
    x = torch.rand(2, 6, generator=torch.Generator().manual_seed(1))
    y = net(x).argmax(1)
    found = A.pdpgd(net, x, y, norm=p, bounds=None, steps=80)
    assert bool(found.success.all() and (found.distance >= exact(net, x, y, p) * (1 - 1e-4)).all())


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("attack", [A.pgd, A.apgd, A.frank_wolfe])
def test_attacks_in_a_ball_find_what_is_there_and_nothing_else(attack, p):
    net = linear(2, classes=2)
    x = torch.rand(3, 6, generator=torch.Generator().manual_seed(1))
    y = net(x).argmax(1)
    wanted = exact(net, x, y, p)
    assert bool(attack(net, x, y, eps=1.1 * wanted, norm=p, bounds=None).success.all())
    assert not attack(net, x, y, eps=0.98 * wanted, norm=p, bounds=None).success.any()


@pytest.mark.parametrize("p", NORMS)
def test_bounds_in_a_ball_are_dual_norms(p):
    net, x = linear(3), torch.rand(2, 6, generator=torch.Generator().manual_seed(4))
    rows = torch.eye(4).expand(2, 4, 4)
    low = cl.bounds.crown(cl.load(net, input_shape=(6,)), cl.bounds.ball(x, 0.1, p), rows)
    weight = net[0].weight.detach().double()
    steepness = (weight.abs() ** (p / (p - 1))).sum(1) ** (1 - 1 / p)
    assert torch.allclose(low, net.double()(x.double()).detach() - 0.1 * steepness, atol=1e-6)


@pytest.mark.parametrize("p", NORMS)
def test_solve_proves_distances_and_milp_says_why_not(p):
    model = small(8)
    net = cl.load(model, input_shape=(3,))
    x0 = torch.tensor([[0.2, 0.7, 0.4]])
    other = net.output.argmax() != int(model(x0).argmax())
    box = [net.input >= 0, net.input <= 1]
    problem = cl.Problem(cl.Minimize(cl.norm(net.input - x0[0], p)), [*box, other])
    solution = problem.solve(time_limit=30)
    assert solution.status is cl.Status.OPTIMAL
    grid = torch.cartesian_prod(*[torch.linspace(0, 1, 41)] * 3)
    there = grid[model(grid).argmax(1) != model(x0).argmax()]
    best = float(norm_of(p).of(there - x0).min())
    assert solution.bound <= best and solution.value <= best + 0.05
    with pytest.raises(UnsupportedByEngine, match=f"not p = {p:g}. Use solver='branch_and_bound'"):
        problem.solve(solver="milp")


@pytest.mark.parametrize("written", ["l2", "L2", 2, 2.0])
def test_all_spellings_are_one_norm(written):
    net = linear()
    x = torch.rand(2, 6, generator=torch.Generator().manual_seed(1))
    y = net(x).argmax(1)
    assert torch.equal(A.nearest(net, x, y, norm=written).x, A.nearest(net, x, y, norm=2).x)
    loaded = cl.load(net, input_shape=(6,))
    assert cl.norm(loaded.input, written).p == 2.0
    assert cl.bounds.ball(x, 0.1, written).balls[0].p == 2.0


@pytest.mark.parametrize("p", NORMS)
def test_objectives_in_a_ball_and_norms_of_outputs_are_proven(p):
    model = small(8)
    net, x0 = cl.load(model, input_shape=(3,)), torch.tensor([0.2, 0.7, 0.4])
    box = [net.input >= 0, net.input <= 1]
    grid = torch.cartesian_prod(*[torch.linspace(0, 1, 41)] * 3)
    outputs = model(grid).detach()
    near = norm_of(p).of(grid - x0) <= 0.2
    asked = [
        (net.output[0], [cl.norm(net.input - x0, p) <= 0.2], outputs[near, 0]),
        (cl.norm(net.output, p), [], norm_of(p).of(outputs)),
    ]
    for objective, ball, values in asked:
        solution = cl.Problem(cl.Minimize(objective), [*box, *ball]).solve(time_limit=30)
        best = float(values.min())
        assert solution.status is cl.Status.OPTIMAL
        assert solution.bound <= best + 1e-6 and best - 0.05 <= solution.value <= best + 1e-6


def test_what_an_engine_takes_is_said_before_work():
    net = cl.load(small(8), input_shape=(3,))
    problem = cl.Problem(cl.Minimize(cl.norm(net.input, 3)), [net.input >= 0, net.input <= 1])
    lines = {line.split()[0]: line for line in problem.explain().splitlines() if line.strip()}
    assert "no: MILP takes distances with p = 0, 1, 2 or inf, not p = 3" in lines["milp"]
    assert lines["branch_and_bound"].split()[1] == "yes"
