"""Networks are functions of expressions of variables: what is stated is what is computed, and is closed and checked."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

import clinch as cl
from clinch.errors import NetworkError, ProblemError, ShapeError
from clinch.modeling.joint import JointNetwork


def mlp(*sizes, seed=0, dtype=torch.float64):
    torch.manual_seed(seed)
    layers = [m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1]).to(dtype).eval().requires_grad_(False)


@pytest.fixture
def f():
    return mlp(3, 6, 2, seed=1)


@pytest.fixture
def g():
    return mlp(2, 5, 3, seed=2)


def box(*variables, low=0.0, high=1.0):
    return [limit for v in variables for limit in (v >= low, v <= high)]


def value_at(problem, x):
    """Objective and atoms of the stated problem at inputs of its network."""
    objective, atoms = problem.query.evaluate(x)
    return objective * problem.query.sense, atoms


def test_values_are_those_of_the_modules_applied_by_hand(f, g):
    net, other = cl.load(f, input_shape=(3,)), cl.load(g, input_shape=(2,))
    a, b = cl.Variable((2, 3), name="a"), cl.Variable(2, name="b")
    matrix, shift = torch.randn(3, 2, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    first = net(a[0] + 2 * a[1] - shift)
    second = net(matrix @ b + a[1][torch.tensor([2, 0, 1])])
    third = other(first - 0.5 * second["1"][:2] + b)
    objective = third[0] - 3 * second[1] + first["0"][4] + b[1]
    problem = cl.Problem(cl.Minimize(objective), [*box(a, b), third.argmax() == 1])
    x = torch.rand(5, 8, dtype=torch.float64)
    u, v = x[:, :6].reshape(-1, 2, 3), x[:, 6:]
    one = f(u[:, 0] + 2 * u[:, 1] - shift)
    inner = v @ matrix.T + u[:, 1][:, [2, 0, 1]]
    two = f(inner)
    three = g(one - 0.5 * f[:2](inner)[:, :2] + v)
    expected = three[:, 0] - 3 * two[:, 1] + f[0](u[:, 0] + 2 * u[:, 1] - shift)[:, 4] + v[:, 1]
    torch.testing.assert_close(value_at(problem, x)[0], expected)
    names = ["Sequential.2", "Sequential#2.1", "Sequential#3.2"]
    found = problem.network.original(x, names)
    for name, known in zip(names, (one, f[:2](inner), three)):
        torch.testing.assert_close(found[name], known)


def test_a_network_of_one_variable_is_the_network_itself(f):
    net, x = cl.load(f, input_shape=(3,)), cl.Variable(3)
    z = net(x)
    assert z.network.input_shape == (3,) and len(z.network.graph.nodes) == len(net.graph.nodes)
    limits = box(x)
    plain = cl.Problem(cl.Maximize(net.output[0]), box(net.input)).solve(time_limit=20)
    joint = cl.Problem(cl.Maximize(z[0]), limits).solve(time_limit=20)
    assert joint.status is plain.status is cl.Status.OPTIMAL
    assert joint.value == pytest.approx(plain.value, rel=2e-3)
    torch.testing.assert_close(joint[x], joint.x)


def test_what_is_applied_twice_to_the_same_is_there_once(f):
    net, x = cl.load(f, input_shape=(3,)), cl.Variable(3)
    same = net(x + 0.5) - net(x + 0.5)
    assert len(same.network.applications) == 1
    problem = cl.Problem(cl.Minimize((net(x) + net(2 * x))[0]), [*box(x), net(2 * x)[1] >= 0, net(x)["1"][0] >= 0])
    assert len(problem.network.applications) == 2


def test_a_network_behind_another_reads_its_input_as_the_short_form(f, g):
    net, other = cl.load(f, input_shape=(3,)), cl.load(g, input_shape=(2,))
    z = other(net.output)
    problem = cl.Problem(cl.Maximize(z[0]), box(net.input))
    x = torch.rand(4, 3, dtype=torch.float64)
    torch.testing.assert_close(value_at(problem, x)[0], g(f(x))[:, 0])


def test_images_go_through_convolutions_shifted_scaled_and_permuted():
    torch.manual_seed(3)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2)).double().eval()
    net, d, x0 = cl.load(model, input_shape=(1, 4, 4)), cl.Variable((1, 4, 4)), torch.rand(1, 4, 4, dtype=torch.float64)
    gain = cl.Variable((1, 1, 1), name="gain")
    objective = net(x0 + d)[0] - net(-1.5 * d + x0)[1] + net(d + gain * x0)[1]
    problem = cl.Problem(cl.Minimize(objective), box(d, gain, low=-1.0))
    x = torch.rand(3, 17, dtype=torch.float64)
    images, gains = x[:, :16].reshape(3, 1, 4, 4), x[:, 16].reshape(3, 1, 1, 1)
    by_hand = model(x0 + images)[:, 0] - model(-1.5 * images + x0)[:, 1] + model(images + gains * x0)[:, 1]
    torch.testing.assert_close(value_at(problem, x)[0], by_hand)


def test_one_perturbation_for_several_images_is_closed_and_checked(f):
    net, d = cl.load(f, input_shape=(3,)), cl.Variable(3, name="d")
    images = torch.tensor([[0.2, 0.7, 0.4], [0.6, 0.3, 0.5]], dtype=torch.float64)
    classes = f(images).argmax(1).tolist()
    other = [net(x + d).argmax() != c for x, c in zip(images, classes)]
    solution = cl.Problem(cl.Minimize(cl.norm(d, cl.inf)), [*box(d, low=-3, high=3), *other]).solve(time_limit=30)
    assert solution.status is cl.Status.OPTIMAL
    found = solution[d]
    assert float(found.abs().max()) == pytest.approx(solution.value)
    assert all(int(f(x + found).argmax()) != c for x, c in zip(images, classes))


@pytest.mark.parametrize("p", [1, 2, 3, cl.inf])
def test_the_norm_of_a_difference_cuts_the_region(f, p):
    net, x, y = cl.load(f, input_shape=(3,)), cl.Variable(3, name="x"), cl.Variable(3, name="y")
    problem = cl.Problem(cl.Maximize(net(x)[0] - net(y)[0]), [*box(x, y), cl.norm(y - x, p) <= 0.2])
    assert problem.query.region.balls or p == cl.inf
    solution = problem.solve(time_limit=1.0)
    a, b = solution[x], solution[y]
    assert float((a - b).norm(p=p)) <= 0.2 * (1 + 1e-9)
    assert bool(((a >= 0) & (a <= 1) & (b >= 0) & (b <= 1)).all())
    assert float(f(a)[0] - f(b)[0]) == pytest.approx(solution.value)
    starts = torch.rand(2000, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    moves = torch.rand(2000, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) - 0.5
    moves = moves * (0.2 / torch.linalg.vector_norm(moves, p, dim=1, keepdim=True))
    ends = starts + moves
    inside = ((ends >= 0) & (ends <= 1)).all(1)
    assert float((f(starts)[inside, 0] - f(ends)[inside, 0]).max()) <= solution.bound + 1e-9


def test_the_largest_difference_of_two_copies_is_closed():
    net, x, y = cl.load(mlp(3, 12, 1, seed=14), input_shape=(3,)), cl.Variable(3), cl.Variable(3)
    near = cl.norm(x - y, cl.inf) <= 0.1
    solution = cl.Problem(cl.Maximize(net(x)[0] - net(y)[0]), [*box(x, y), near]).solve(time_limit=60)
    assert solution.status is cl.Status.OPTIMAL


def test_the_least_difference_that_changes_the_class(f):
    net, x, y = cl.load(f, input_shape=(3,)), cl.Variable(3, name="x"), cl.Variable(3, name="y")
    apart = [net(x)[0] >= net(x)[1] + 0.3, net(y)[0] <= net(y)[1] - 0.3]
    solution = cl.Problem(cl.Minimize(cl.norm(x - y, 2)), [*box(x, y, low=-2, high=2), *apart]).solve(solver="attack")
    assert solution.bound <= solution.value == pytest.approx(float((solution[x] - solution[y]).norm()), rel=1e-6)


def test_float32_models_are_given_the_numbers_that_a_solution_shows():
    model = mlp(3, 6, 2, seed=1, dtype=torch.float32)
    net, x, y = cl.load(model, input_shape=(3,)), cl.Variable(3), cl.Variable(3)
    problem = cl.Problem(cl.Maximize(net(x)[0] - net(y)[0]), [*box(x, y), cl.norm(x - y, 1) <= 0.2])
    solution = problem.solve(time_limit=0.5)
    assert solution[x].dtype == solution[y].dtype == torch.float32
    with torch.no_grad():
        by_hand = model(solution[x].unsqueeze(0))[0, 0] - model(solution[y].unsqueeze(0))[0, 0]
    assert float(by_hand) == pytest.approx(solution.value, abs=1e-6)


def test_conditions_are_named_by_their_variables(f):
    net, x, y = cl.load(f, input_shape=(3,)), cl.Variable(3, name="x"), cl.Variable((1, 3), name="y")
    problem = cl.Problem(cl.Minimize(net(x)[0] + net(y[0])[0]), [*box(x, y), x[2] + y[0, 1] <= 0.5])
    assert problem.query.labels == ("x[2] + y[0, 1] <= 0.5",)
    assert problem.network.layers[1:5] == ["x flat", "x", "y flat", "y"]
    assert "6 inputs" in problem.explain()


def test_a_solution_knows_its_variables_by_themselves_alone(f):
    net, x = cl.load(f, input_shape=(3,)), cl.Variable(3, name="x")
    solution = cl.Problem(cl.Minimize(net(x)[0]), box(x)).solve(time_limit=0.2)
    assert solution.to_dict()["variables"]["x"] == solution[x].tolist()
    with pytest.raises(ProblemError, match=r"no such variable\. It has: x\."):
        solution[cl.Variable(3)]
    plain = cl.Problem(cl.Minimize(net.output[0]), box(net.input)).solve(time_limit=0.2)
    with pytest.raises(ProblemError, match=r"its input is solution\.x"):
        plain[x]


def test_a_batch_of_problems_has_a_value_of_each_variable_for_each(f):
    net, x = cl.load(f, input_shape=(3,)), cl.Variable(3)
    x0 = torch.rand(2, 3, dtype=torch.float64)
    solution = cl.Problem(cl.Maximize(net(x)[0]), [cl.norm(x - x0, cl.inf) <= 0.1]).solve(time_limit=1)
    assert solution[x].shape == (2, 3) and bool(((solution[x] - x0).abs() <= 0.1 + 1e-9).all())


@pytest.mark.parametrize(
    ("write", "error", "words"),
    [
        (lambda net, x: net(x[:2]), ShapeError, r"takes inputs of shape \(3,\); this expression has shape \(2,\)"),
        (lambda net, x: net(torch.ones(3)), ProblemError, "applied to a Tensor. Give an expression of variables"),
        (lambda net, x: net(x - x), ProblemError, "applied to a constant"),
        (lambda net, x: net(x + torch.ones(5, 3)), ProblemError, "for 5 problems at once. Make what"),
        (lambda net, x: cl.Variable((3, 0)), ShapeError, "no shape"),
        (lambda net, x: cl.Variable("three"), ShapeError, "no shape"),
        (lambda net, x: net(x)["nothing"], cl.ClinchError, "no layer 'nothing'"),
        (
            lambda net, x: net(x)[0] + cl.load(mlp(3, 2, dtype=torch.float32), input_shape=(3,))(x)[0],
            ProblemError, "one dtype and device",
        ),
        (
            lambda net, x: net.output[0] + cl.load(mlp(3, 2), input_shape=(3,)).output[0],
            ProblemError, r"each with an input of its own. Apply both to one variable: x = cl.Variable\(shape\)",
        ),
        (
            lambda net, x: cl.load(mlp(3, 2), input_shape=(3,), live=True)(x),
            ProblemError, "live=True",
        ),
    ],
)  # fmt: skip
def test_what_has_no_meaning_is_refused_in_one_line(f, write, error, words):
    with pytest.raises(error, match=words) as raised:
        write(cl.load(f, input_shape=(3,)), cl.Variable(3))
    assert "\n" not in str(raised.value)


def test_a_module_that_is_trained_again_is_refused(f):
    net, x = cl.load(f, input_shape=(3,)), cl.Variable(3)
    problem = cl.Problem(cl.Minimize(net(x)[0]), box(x))
    f.train()
    with pytest.raises(NetworkError, match=r"eval\(\)"):
        problem.solve(time_limit=1)
    assert isinstance(problem.network, JointNetwork) and math.isfinite(problem.query.region.upper.max())
