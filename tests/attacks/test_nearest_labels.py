"""The default minimum-norm attack: within its budget, close to the proven optimum, and honest about both recipes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import clinch as cl
from clinch.attacks.core.best_points import BestPoints
from clinch.attacks.core.classification import ClassQuery
from clinch.attacks.core.objective import AttackObjective
from clinch.attacks.minimum_norm.sparse import greedy_sparsify, swapped


def small(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    layers = nn.Flatten(), nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4)
    return nn.Sequential(*layers).eval().requires_grad_(False)


def inputs(model: nn.Module, count: int, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.rand(count, 2, 3, generator=torch.Generator().manual_seed(seed))
    return x, model(x).argmax(1)


@pytest.mark.parametrize("p", [1.0, 2.0, math.inf])
@pytest.mark.parametrize("passes", [120, 600])
def test_near_the_proven_optimum(p, passes):
    model = small(0)
    x, y = inputs(model, 5)
    net = cl.load(model, input_shape=(2, 3))
    found = cl.attacks.nearest(net, x, y, norm=p, passes=passes)
    for i in range(len(x)):
        other = [net.input >= 0, net.input <= 1, net.output.argmax(margin=0) != int(y[i])]
        exact = cl.Problem(cl.Minimize(cl.norm(net.input - x[i], p)), other).solve(gap=1e-4, time_limit=60)
        assert float(found.distance[i]) >= exact.bound - 1e-6
        if math.isfinite(exact.value):
            assert bool(found.success[i]) and float(found.distance[i]) <= 1.1 * exact.value


@pytest.mark.parametrize("p", [0.0, 1.0, 2.0, math.inf])
@pytest.mark.parametrize("passes", [60, 100, 240, 500])
def test_the_budget_holds_for_every_input(p, passes):
    model = small(2)
    x, y = inputs(model, 7)
    found = cl.attacks.nearest(model, x, y, norm=p, passes=passes)
    assert int(found.passes.max()) <= passes
    assert int(found.passes.max()) > 0.5 * passes or p == 0


def test_the_ball_takes_over_where_the_linearisation_misleads(monkeypatch):
    """A steep and short step hides the way: far from it the slope promises what never comes."""
    calls: list[str] = []
    module = __import__("sys").modules["clinch.attacks.minimum_norm.nearest"]
    for name in ("_balls", "_follow"):
        original = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, f=original, n=name: (calls.append(n), f(*a))[1])

    class Bent(nn.Module):
        def forward(self, x):
            h = x.flatten(1).sum(1)
            rise = h - 1.5 * (h - 3.3).clamp(min=0)  # the slope turns round on the way to the linear boundary
            return torch.stack([3.5 - rise, 0 * h], 1)

    x = torch.full((3, 2, 3), 0.5)
    cl.attacks.nearest(Bent().eval(), x, torch.zeros(3, dtype=torch.long), norm=2.0, passes=100)
    assert calls == ["_balls"]
    calls.clear()
    model = small(1)
    cl.attacks.nearest(model, *inputs(model, 4), norm=2.0, passes=100)
    assert calls == ["_follow"]


def test_elements_are_put_back_while_the_goal_is_reached():
    """f_1 − f_0 = 2·x_0 + x_1 + x_2 − 1.5: with all three changed x_0 alone suffices."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(3, 2)).eval().requires_grad_(False)
    model[1].weight.copy_(torch.tensor([[0.0, 0.0, 0.0], [2.0, 1.0, 1.0]]))
    model[1].bias.copy_(torch.tensor([0.0, -1.5]))
    goal = AttackObjective(ClassQuery(model, torch.zeros(2, 1, 3), torch.zeros(2, dtype=torch.long), p=0))
    track = BestPoints(goal)
    rows = goal.todo
    z = torch.ones(2, 1, 3)
    track.update(z, rows, goal.look(z, rows))
    greedy_sparsify(track, rows, torch.full_like(rows, 20))
    assert track.distance.tolist() == [1.0, 1.0] and track.x[:, 0, 0].tolist() == [1.0, 1.0]


def test_too_few_passes_are_named():
    model = small(0)
    with pytest.raises(cl.ClinchError, match="too few"):
        cl.attacks.nearest(model, *inputs(model, 2), passes=10)


@pytest.mark.parametrize("p", [0.0, 1.0, 2.0, math.inf])
def test_more_passes_never_raise_a_distance(p):
    """Small rungs, more classes than are looked at, and a network whose points are often short by a rounding."""
    torch.manual_seed(3)
    layers = nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 40)
    model = nn.Sequential(*layers).eval().requires_grad_(False)
    x = torch.rand(6, 8, generator=torch.Generator().manual_seed(4))
    y, last = model(x).argmax(1), None
    for passes in (60, 120, 240):
        found = cl.attacks.nearest(model, x, y, norm=p, passes=passes, settings={"both": 120})
        assert last is None or bool((found.distance <= last).all())
        last = found.distance


def test_what_was_settled_stays_where_a_nearer_point_fails_the_check():
    model = small(2)
    x, y = inputs(model, 2)
    points = BestPoints(AttackObjective(ClassQuery(model, x, y, p=2.0)))
    far = cl.attacks.nearest(model, x, y, norm=2).x
    everyone = torch.arange(2)
    points.update(far, everyone, points.objective.look(far, everyone))
    points.settle()
    before = points.result()
    # said to reach the goal, which a nearer point does not
    points.update(x + 0.9 * (far - x), everyone, torch.full((2,), -1.0))
    assert bool(before.success.all()) and torch.equal(points.result().distance, before.distance)


def test_two_elements_give_way_to_one():
    """Elements 0 and 1 reach the goal together, as does element 2 alone: no single one can be put back."""
    model = nn.Linear(4, 2)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.0, 0, 0, 0], [0.6, 0.6, 1.1, 0.1]]))
        model.bias.copy_(torch.tensor([1.0, 0.0]))
    x, everyone = torch.zeros(1, 4), torch.tensor([0])
    for passes, left in ((7, 2), (8, 1)):  # two restored one by one, one gradient, four trials
        points = BestPoints(AttackObjective(ClassQuery(model.eval(), x, torch.tensor([0]), p=0.0)))
        points.update(torch.tensor([[1.0, 1, 0, 0]]), everyone, torch.tensor([-0.2]))
        before = int(points.objective.forward + points.objective.backward)
        swapped(points, everyone, torch.tensor([passes]), 4)
        assert points.distance.tolist() == [left]
        assert int(points.objective.forward + points.objective.backward) - before <= passes
        assert left == 2 or points.x.tolist() == [[0.0, 0, 1, 0]]
