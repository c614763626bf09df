"""Discrete inputs in every engine, beside enumeration; and the certificate of their bounds."""

import itertools

import pytest
import torch
from torch import nn

import clinch as cl
from clinch.certificates import SavedProof

#: the values of the discrete inputs of :func:`stated`
WHOLE, LISTED = range(-1, 3), (-0.75, 0.25, 1.0)


def model(seed):
    torch.manual_seed(seed)
    layers = [nn.Linear(7, 10), nn.ReLU(), nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 2)]
    return nn.Sequential(*layers).eval()


def network(seed):
    return cl.load(model(seed), input_shape=(7,))


def stated(net):
    """A category, a whole number, a list, a semi-continuous input and a plain one, under a linear condition."""
    x = net.input
    return [
        x[:3].one_hot(), x[3] >= -1, x[3] <= 2, x[3].integer(), x[4].among(LISTED), x[5:] >= -1, x[5:] <= 1,
        (x[5] == 0) | (x[5] >= 0.5), x[3] + x[6] <= 2.2,
    ]  # fmt: skip


def enumerated(net, objective):
    """The optimum, from one problem for each choice of values."""
    x, best = net.input, float("inf")
    for h, k, v, off in itertools.product(range(3), WHOLE, LISTED, (True, False)):
        fixed = torch.tensor([*torch.eye(3)[h].tolist(), k, v])
        fifth = [x[5] == 0] if off else [x[5] >= 0.5, x[5] <= 1]
        conditions = [x[:5] == fixed, *fifth, x[6] >= -1, x[6] <= min(1.0, 2.2 - k)]
        solution = cl.Problem(objective, conditions).solve(gap=1e-6, time_limit=20)
        best = min(best, float(solution.value))
    return best


@pytest.fixture(scope="module")
def optimum():
    net = network(3)
    return enumerated(net, cl.Minimize(net.output[0]))


@pytest.mark.parametrize("solver", [None, "branch_and_bound", "input_split", "general_split", "milp"])
def test_the_optimum_of_every_engine_is_that_of_enumeration(solver, optimum):
    net = network(3)
    problem = cl.Problem(cl.Minimize(net.output[0]), stated(net))
    solution = problem.solve(solver=solver, gap=1e-5, time_limit=60)
    assert solution.value == pytest.approx(optimum, abs=2e-5)
    assert solution.bound <= optimum + 1e-6
    assert solution.bound >= optimum - 1e-3
    x = solution.x
    assert sorted(x[:3].tolist()) == [0, 0, 1]
    assert float(x[3]) in WHOLE
    assert float(x[4]) in LISTED
    assert float(x[5]) == 0 or float(x[5]) >= 0.5


@pytest.mark.parametrize("p", [1, 2, float("inf")])
def test_distances_to_discrete_inputs(p):
    net, x0 = network(8), torch.tensor([1, 0, 0, 0, 0.25, 0, 0.3])
    label = int(model(8)(x0[None]).argmax())
    conditions = [*stated(net), net.output.argmax() != label]
    problem = cl.Problem(cl.Minimize(cl.norm(net.input - x0, p)), conditions)
    exact = problem.solve(solver="input_split", gap=1e-3, time_limit=60)
    assert exact.status == cl.Status.OPTIMAL
    found = problem.solve(solver="attack")
    assert exact.bound <= found.value < float("inf")
    assert float(found.x[4]) in LISTED
    other = problem.solve(solver="milp", gap=1e-3, time_limit=5)
    assert other.bound <= exact.value * (1 + 1e-6)
    assert exact.bound <= other.value * (1 + 1e-6)


@pytest.mark.parametrize("seed", range(6))
def test_boxes_that_are_cut_down_to_points_are_bounded_anew(seed):
    """All inputs are discrete, so that enumeration is exact, and few, so that many boxes end at a point."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 1)).eval()
    points = torch.cartesian_prod(*[torch.tensor([0.0, 1.0, 2.0])] * 5)
    points = points[points @ torch.tensor([1.0, 2, 1, -1, 1]) <= 2]
    net = cl.load(model, input_shape=(5,))
    x = net.input
    conditions = [x >= 0, x <= 2, x.integer(), x[0] + 2 * x[1] + x[2] - x[3] + x[4] <= 2]
    solution = cl.Problem(cl.Minimize(net.output[0]), conditions).solve(solver="input_split", gap=1e-6)
    assert solution.status == cl.Status.OPTIMAL
    assert solution.value == pytest.approx(float(model(points).detach().min()), abs=1e-5)


def test_eight_bits_for_each_pixel():
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3)).eval()
    torch.manual_seed(0)
    image = torch.randint(0, 256, (6,))
    label = int(model((image / 255)[None]).argmax())
    net = cl.load(model, input_shape=(6,))
    x = net.input
    conditions = [x >= 0, x <= 1, (255 * x).integer(), net.output.argmax() != label]
    solution = cl.Problem(cl.Minimize(cl.norm(x - image / 255, cl.inf)), conditions).solve(time_limit=60)
    assert solution.status == cl.Status.OPTIMAL
    assert solution.value * 255 == pytest.approx(129, abs=0.01)  # so says a mixed-integer program
    assert torch.equal((solution.x * 255).round() / 255, solution.x)


def test_nothing_left_is_proven():
    net = network(3)
    # feasible with a continuous fourth input alone
    conditions = [*stated(net), net.input[3] + net.input[6] >= 2.1, net.input[3] <= 1]
    for solver in (None, "input_split", "milp"):
        solution = cl.Problem(cl.Minimize(net.output[0]), conditions).solve(solver=solver, time_limit=60)
        assert solution.status == cl.Status.INFEASIBLE


@pytest.mark.parametrize("solver", [None, "input_split"])
def test_bounds_have_certificates(solver):
    net = network(3)
    solution = cl.Problem(cl.Minimize(net.output[0]), stated(net)).solve(solver=solver, certificate=True, time_limit=60)
    assert isinstance(solution.certificate, SavedProof), solution.notes
    assert solution.certificate.report.bound == pytest.approx(solution.bound, abs=1e-4)
