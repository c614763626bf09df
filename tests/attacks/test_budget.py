"""The attacks inside a ball: what is particular to each of them, beyond what every attack must do."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import clinch as cl
from clinch.attacks import apgd, frank_wolfe, pgd, worst
from clinch.attacks.apgd import _checkpoints
from clinch.attacks.core.arguments import objective_of, radius_of
from clinch.attacks.core.best_points import BestPoints
from clinch.attacks.core.losses import cross_entropy, least_candidates, run_loss
from clinch.attacks.core.restarts import End, Start, starts
from clinch.geometry.directions import sparse_direction, with_room
from clinch.geometry.region import Region
from clinch.io.data import DataError, mnist, model_file

pytestmark = pytest.mark.table


def mlp(seed: int = 0, size: int = 20, classes: int = 6) -> nn.Module:
    torch.manual_seed(seed)
    layers = nn.Flatten(), nn.Linear(size, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, classes)
    return nn.Sequential(*layers).eval().requires_grad_(False)


def images(model: nn.Module, count: int = 40, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.rand(count, 4, 5, generator=torch.Generator().manual_seed(seed))
    return x, model(x).argmax(1)


# --- the pieces ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [None, torch.tensor([1, 0, 2])])
def test_cross_entropy_and_its_gradient_where_the_network_is_certain(target):
    z = torch.tensor([[18.0, -1.0, 0.0], [0.5, 0.25, 1.0], [-8.0, 9.0, 0.0]], requires_grad=True)
    y = torch.tensor([0, 1, 1])
    own, sign = (y, -1.0) if target is None else (target, 1.0)
    exact = z.detach().double().requires_grad_()
    expected = sign * torch.nn.functional.cross_entropy(exact, own, reduction="none")
    (slope,) = torch.autograd.grad(expected.sum(), exact)
    loss = cross_entropy(z, y, target)
    (found,) = torch.autograd.grad(loss.sum(), z)
    assert torch.allclose(loss.double(), expected, rtol=1e-4, atol=0)
    # the label's share too, which 1 − softmax loses in float32
    assert torch.allclose(found.double(), slope, rtol=1e-4, atol=0)


def test_sparse_directions_are_the_largest_elements_in_equal_shares():
    g = torch.tensor([[3.0, -4.0, 1.0, 0.0], [0.0, 0.0, -2.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    found = sparse_direction(g, torch.tensor([2, 3, 1]))
    assert found.tolist() == [[0.5, -0.5, 0.0, 0.0], [0.0, 0.0, -1.0, 0.0], [0.0] * 4]
    assert sparse_direction(g[:0], torch.zeros(0)).shape == (0, 4)


def test_elements_at_their_limit_have_no_room():
    x = torch.tensor([[0.0, 0.0, 1.0, 1.0, 0.5]])
    g = torch.tensor([[1.0, -1.0, 1.0, -1.0, 2.0]])
    region = Region(torch.zeros(1, 5), torch.ones(1, 5))
    assert with_room(g, x, region).tolist() == [[0.0, -1.0, 1.0, 0.0, 2.0]]


def test_lanes_are_aimed_at_the_nearest_classes():
    model = mlp()
    x, y = images(model, 5)
    goal = objective_of(model, x, y)
    rows, aims = least_candidates(goal, goal.todo, 3)
    logits = model(x)
    others = logits.scatter(1, y[:, None], -torch.inf).topk(3).indices
    assert rows.tolist() == list(range(5)) * 3 and aims.tolist() == others.t().flatten().tolist()
    z = x[rows].requires_grad_()
    loss = run_loss(goal.query, "margin", aims)
    assert loss is not None
    value = loss(goal.answer(z, rows), rows, torch.arange(len(rows)))
    wanted = (model(z).gather(1, y[rows, None]) - model(z).gather(1, aims[:, None])).flatten()
    assert torch.allclose(value, wanted)


def test_classes_that_do_not_exist_have_no_lane():
    model = mlp(classes=3)
    x, y = images(model, 4)
    rows, aims = least_candidates(objective_of(model, x, y), torch.arange(4), 9)
    assert len(rows) == 8 and not bool((aims == y[rows]).any())


def test_starts_are_inputs_times_targets_times_restarts_inside_the_ball():
    model = mlp()
    x, y = images(model, 5)
    goal = objective_of(model, x, y, norm=2.0)
    radius = radius_of(goal, torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5]))
    start = starts(BestPoints(goal), radius, targets=2, restarts=3)
    assert torch.bincount(start.indices).tolist() == [6] * 5
    assert bool((goal.distance(start.z, start.indices) <= radius[start.indices]).all())
    assert torch.equal(start.z[:10], x[start.indices[:10]]) and bool((start.z[10:] != x[start.indices[10:]]).any())


def test_the_closest_lanes_of_each_input():
    rows, aims = torch.tensor([2, 0, 2, 0, 2]), torch.tensor([10, 11, 12, 13, 14])
    z = torch.zeros(5, 1)
    end = End(Start(rows, aims, z), z, torch.tensor([3.0, 1.0, 2.0, 5.0, 0.0]))
    assert sorted(end.closest(2).aims.tolist()) == [11, 12, 13, 14]
    assert sorted(end.closest(1).aims.tolist()) == [11, 14]


def test_checkpoints_are_those_of_the_paper():
    assert sorted(_checkpoints(100))[:8] == [22, 41, 57, 70, 80, 87, 93, 99]


# --- the attacks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_pgd_does_not_wait_for_an_element_without_room(p):
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 2)).eval().requires_grad_(False)
    model[1].weight.copy_(torch.tensor([[9.0, 1.0, 1.0, 1.0, 1.0, 1.0], [0.0] * 6]))
    model[1].bias.copy_(torch.tensor([-1.6, 0.0]))
    x = torch.tensor([[[0.0, 0.5, 0.5, 0.5, 0.5, 0.5]]])
    # the first element gains most and is at its limit; two of the others are enough
    found = pgd(model, x, torch.tensor([0]), eps=2.0 if p == 0 else 1.0, norm=p, steps=40)
    assert bool(found.success) and float(found.x[0, 0, 0]) == 0


@pytest.mark.parametrize(("p", "eps"), [(0.0, 3.0), (1.0, 0.6), (2.0, 0.25), (math.inf, 0.08)])
def test_worst_finds_at_least_what_single_attacks_do(p, eps):
    model = mlp(2)
    x, y = images(model, 24)
    singles = [pgd, frank_wolfe] if p == 0 else [pgd, frank_wolfe, apgd]
    best = worst(model, x, y, eps=eps, norm=p, passes=1000)
    assert 0 < int(best.success.sum()) < len(x), "a radius that tells attacks apart"
    for attack in singles:
        assert int(best.success.sum()) >= int(attack(model, x, y, eps=eps, norm=p).success.sum())
    assert int(best.passes.max()) <= 1000


def test_inputs_leave_as_soon_as_they_fall():
    model = mlp(2)
    x, y = images(model)
    found = worst(model, x, y, eps=0.08)
    assert float(found.passes[found.success].double().mean()) < 0.5 * float(found.passes.max())
    alone = worst(model, x[:1], y[:1], eps=0.08)
    assert bool(alone.success) == bool(found.success[0])


def test_restarts_and_targets_find_more_for_more_passes():
    model = mlp(2)
    x, y = images(model)
    one = apgd(model, x, y, eps=0.08, steps=20, loss="dlr")
    many = apgd(model, x, y, eps=0.08, steps=20, loss="dlr", targets=5, restarts=2)
    assert int(many.success.sum()) >= int(one.success.sum())
    lost = ~many.success
    assert bool((many.forward[lost] == 1 + 10 * 21).all()) and bool((many.backward[lost] == 10 * 20).all())


@pytest.mark.parametrize(
    ("attack", "arguments", "message"),
    [
        (apgd, {"norm": 0}, "no step for norm=0"),
        (apgd, {"targets": -1}, "targets=-1"),
        (frank_wolfe, {"average": 1.0}, "average=1.0"),
        (frank_wolfe, {"steps": 0}, "steps=0"),
        (pgd, {"share": 0.0}, "share=0.0"),
        (worst, {"passes": 10}, "too few"),
    ],
)
def test_settings_without_meaning_are_named(attack, arguments, message):
    model = mlp()
    x, y = images(model, 2)
    with pytest.raises(cl.ClinchError, match=message):
        attack(model, x, y, eps=0.1, **arguments)


@pytest.mark.data
def test_worst_on_mnist_finds_what_targeted_apgd_does_for_fewer_passes():
    try:
        net, data = cl.load(str(model_file("mnist_dnn4.onnx"))), mnist("test")
    except DataError as error:
        pytest.skip(str(error))
    x, y = data.x[2000:2080], data.y[2000:2080]
    found = worst(net, x, y, eps=0.1)
    other = apgd(net, x, y, eps=0.1, loss="dlr", targets=9)
    assert int(found.success.sum()) >= int(other.success.sum())
    assert float(found.passes.double().mean()) < float(other.passes.double().mean())
