"""Linear conditions of the inputs: attacks stay on them, and meet what a MILP proves to be the nearest."""

import math

import pytest
import torch
from torch import nn

import clinch as cl
from clinch.attacks.core.problem_query import planes_of
from clinch.solver.check_points import check_points


def small(seed: int, size: int = 8) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(size, 10), nn.ReLU(), nn.Linear(10, 3)).eval().requires_grad_(False)


def network(seed: int, size: int = 8):
    model = small(seed, size)
    x0 = 0.2 + 0.6 * torch.rand(size)
    return cl.load(model, input_shape=(size,)), x0, int(model(x0[None]).argmax())


def problem(seed: int, p: float) -> cl.Problem:
    net, x0, y = network(seed)
    x = net.input
    kept = x.sum() == float(x0.sum())
    return cl.Problem(cl.Minimize(cl.norm(x - x0, p)), [x >= 0, x <= 1, kept, net.output.argmax() != y])


def test_conditions_of_the_input_leave_the_clauses():
    net, x0, y = network(0)
    x = net.input
    held = [x.sum() == 4.0, x[0] + x[1] <= 1.0, x[2] - x[3] >= -0.5, net.output.argmax() != y]
    query = cl.Problem(cl.Minimize(cl.norm(x - x0, 2)), [x >= 0, x <= 1, *held]).query
    rest, planes = planes_of(query)
    assert planes is not None and rest.clauses == 1 and set(rest.atoms.coefficients) == {net.graph.output}
    assert planes.rows.shape[1] == 3 and planes.equal.sum() == 1
    assert planes_of(rest)[1] is None


@pytest.mark.parametrize(
    "p", [pytest.param(1.0, marks=pytest.mark.slow), pytest.param(2.0, marks=pytest.mark.slow), math.inf]
)
def test_an_equal_sum_is_kept_and_the_nearest_point_found(p):
    seed = 6
    stated = problem(seed, p)
    alone, all_ = stated.solve(solver="attack", time_limit=20), stated.solve(time_limit=20, gap=1e-3)
    assert alone.status.name == "FEASIBLE" and all_.status.name == "OPTIMAL"
    assert all_.bound <= alone.value <= 1.02 * all_.value
    found = cl.attacks.nearest(stated)
    assert bool(found.success.all()) and float(found.value) <= 1.15 * all_.value


def test_elements_that_are_few_make_up_for_each_other():
    found = cl.attacks.nearest(problem(6, 0.0))
    query = problem(6, 0.0).query
    assert bool(found.success.all()) and int(found.value) <= 4
    assert bool(check_points(query, found.x, torch.tensor([0])).feasible.all())


@pytest.mark.parametrize("name", ["pgd", "apgd", "frank_wolfe", "ddn", "fab", "deepfool"])
def test_other_attacks_stay_on_them_too(name):
    stated, attack = problem(6, 2.0), getattr(cl.attacks, name)
    more = {"eps": 1.2} if name in ("pgd", "apgd", "frank_wolfe") else {"steps": 40}
    more |= {"norm": 2} if name in ("pgd", "apgd", "frank_wolfe", "fab", "deepfool") else {}
    found = attack(stated, **more)
    assert bool(found.success.all()), found.reason
    assert bool(check_points(stated.query, found.x, torch.tensor([0])).feasible.all())


def test_a_simplex_and_a_batch_of_sums():
    net, _, _ = network(3)
    x = net.input
    shares = cl.Problem(cl.Maximize(net.output[0]), [x >= 0, x <= 1, x.sum() == 1.0])
    best = shares.solve(solver="attack", time_limit=20)
    corners = float(small(3)(torch.eye(8))[:, 0].max())
    assert best.value >= corners - 1e-5 and abs(float(best.x.double().sum()) - 1) <= 1e-6
    found = cl.attacks.minimise(shares, steps=40)
    assert bool(found.success.all())
