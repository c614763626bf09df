"""Absolute values, extremes, norms, squares and products of expressions: what is stated is what is computed."""

from itertools import pairwise

import pytest
import torch
from torch import nn

import clinch as cl
from clinch.certificates import SavedProof


def mlp(*sizes, seed=0):
    torch.manual_seed(seed)
    layers = [m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1]).double().eval().requires_grad_(False)


F, G = mlp(2, 8, 3, seed=1), mlp(3, 5, 2, seed=2)
NET, OTHER = cl.load(F, input_shape=(2,)), cl.load(G, input_shape=(3,))
x, z = NET.input, NET.output
X0 = torch.tensor([0.3, -0.2], dtype=torch.float64)
P = torch.tensor([[2.0, 0.5], [0.5, -1.0]], dtype=torch.float64)
BOX = [x >= -1, x <= 1]
POINTS = torch.cartesian_prod(*[torch.linspace(-1, 1, 201, dtype=torch.float64)] * 2)
Z = F(POINTS)
MIDDLE = float(Z.amin(1).median())
#: points that lie on no limit
SAMPLE = 2 * torch.rand(4000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) - 1

#: what is stated, and the same by hand at points ``(n, 2)`` with outputs ``(n, 3)``
OBJECTIVES = {
    "distance and margin": (
        cl.norm(x - X0, 1) + 3 * (z[0] - z[1]),
        lambda p, y: (p - X0).abs().sum(1) + 3 * (y[:, 0] - y[:, 1]),
    ),
    "l2 minus norm": (
        cl.norm(x - X0, 2) - 0.5 * cl.norm(z, cl.inf),
        lambda p, y: (p - X0).norm(dim=1) - 0.5 * y.abs().amax(1),
    ),
    "weights": (
        2 * cl.norm(x - X0, 1, weights=[1, 3]) / 4 + 1,
        lambda p, y: ((p - X0).abs() @ torch.tensor([1.0, 3.0]).double()) / 2 + 1,
    ),
    "squares": (cl.sum_squares(x - X0) + z[0], lambda p, y: (p - X0).square().sum(1) + y[:, 0]),
    "quadratic": (cl.quad_form(x, P) - z[1], lambda p, y: ((p @ P) * p).sum(1) - y[:, 1]),
    "largest": (cl.max(z) + x[0], lambda p, y: y.amax(1) + p[:, 0]),
    "of several": (
        cl.min(z[0], z[1] + x[0], 0.3) - cl.max(x[1], -0.5),
        lambda p, y: torch.stack([y[:, 0], y[:, 1] + p[:, 0], 0.3 + 0 * y[:, 0]]).amin(0) - p[:, 1].clamp(min=-0.5),
    ),
    "absolute value": (abs(z[0] - z[1]) - abs(x).sum(), lambda p, y: (y[:, 0] - y[:, 1]).abs() - p.abs().sum(1)),
    "products": (x[0] * z[1] + x[1] ** 3 + x @ x, lambda p, y: p[:, 0] * y[:, 1] + p[:, 1] ** 3 + (p * p).sum(1)),
    "before a network": (
        OTHER(cl.stack([x[0], abs(x[1]), cl.max(z)]))[0],
        lambda p, y: G(torch.stack([p[:, 0], p[:, 1].abs(), y.amax(1)], 1))[:, 0],
    ),
    "shapes": (
        cl.max(cl.concatenate([x, z[:2]]).reshape(2, 2) * 2.0).reshape(()) + z.mean(),
        lambda p, y: 2 * torch.cat([p, y[:, :2]], 1).amax(1) + y.mean(1),
    ),
}

#: conditions, and whether they hold by hand
CONDITIONS = {
    "all below": (cl.max(z) <= -0.05, lambda p, y: y.amax(1) <= -0.05),
    "one above": (cl.max(z, x[0]) >= 0.35, lambda p, y: ((y >= 0.35) | (p[:, :1] >= 0.35)).all(1)),
    "below an expression": (cl.max(z) <= x[0], lambda p, y: y.amax(1) <= p[:, 0]),
    "not above": (~(cl.min(z) >= MIDDLE), lambda p, y: y.amin(1) <= MIDDLE - cl.MARGIN),
    "close": (abs(z[0] - z[1]) <= 0.02, lambda p, y: (y[:, 0] - y[:, 1]).abs() <= 0.02),
    "apart": (cl.abs(z[0] - z[1]) >= 0.2, lambda p, y: (y[:, 0] - y[:, 1]).abs() >= 0.2),
    "l1 of outputs": (cl.norm(z[:2], 1) <= 0.2, lambda p, y: y[:, :2].abs().sum(1) <= 0.2),
    "l2 of a map": (cl.norm(P @ x - X0, 2) <= 0.5, lambda p, y: (p @ P - X0).norm(dim=1) <= 0.5),
    "outside": (cl.norm(x, 2) >= 1.2, lambda p, y: p.norm(dim=1) >= 1.2),
    "not inside": (~(cl.norm(x, 1) <= 1.5), lambda p, y: p.abs().sum(1) >= 1.5 + cl.MARGIN),
    "norms compared": (
        cl.norm(x, 1) <= 2 * cl.norm(x - X0, 2),
        lambda p, y: p.abs().sum(1) <= 2 * (p - X0).norm(dim=1),
    ),
    "two balls": (
        (cl.norm(x - X0, 2) <= 0.2) | (cl.norm(x + X0, 1) <= 0.2),
        lambda p, y: ((p - X0).norm(dim=1) <= 0.2) | ((p + X0).abs().sum(1) <= 0.2),
    ),
}


@pytest.mark.parametrize("stated", OBJECTIVES)
def test_objectives_are_what_they_say(stated):
    expression, by_hand = OBJECTIVES[stated]
    problem = cl.Problem(cl.Minimize(expression), BOX)
    objective, _ = problem.query.evaluate(POINTS[::97])
    torch.testing.assert_close(objective, by_hand(POINTS, Z)[::97])


@pytest.mark.parametrize("stated", CONDITIONS)
def test_conditions_are_what_they_say(stated):
    condition, by_hand = CONDITIONS[stated]
    query = cl.Problem(cl.Minimize(z[2]), [*BOX, condition]).query
    objective, atoms = query.evaluate(SAMPLE)
    holds = (query.violation(atoms) <= 0) & query.region.contains(SAMPLE)
    assert torch.equal(holds, by_hand(SAMPLE, F(SAMPLE))) and 0 < int(holds.sum()) < len(SAMPLE)
    torch.testing.assert_close(objective, F(SAMPLE)[:, 2])


def closed(problem, grid):
    """Solved, no worse than the best grid point, and with a bound that no grid point passes."""
    found = problem.solve(time_limit=20)
    assert found.status is cl.Status.OPTIMAL
    assert found.bound - 1e-9 <= found.value <= float(grid) + 1e-3 * abs(float(grid)) + 1e-6
    return found


@pytest.mark.parametrize("stated", ["distance and margin", "squares", "quadratic", "absolute value"])
def test_objectives_close(stated):
    expression, by_hand = OBJECTIVES[stated]
    closed(cl.Problem(cl.Minimize(expression), BOX), by_hand(POINTS, Z).amin())


@pytest.mark.parametrize("stated", ["one above", "apart", "l2 of a map", "outside"])
def test_conditions_close(stated):
    condition, by_hand = CONDITIONS[stated]
    closed(cl.Problem(cl.Minimize(z[2]), [*BOX, condition]), Z[by_hand(POINTS, Z), 2].amin())


def test_alternatives_too_many_to_multiply_out_are_functions():
    """Thirty boxes, each with a condition on outputs: 5^30 clauses as a conjunction."""
    corners = [(a / 5 - 1, b / 3 - 1) for a in range(5) for b in range(6)]
    y = F(SAMPLE)
    alternatives, holds = None, torch.zeros(len(SAMPLE), dtype=torch.bool)
    for a, b in corners:
        one = (x[0] >= a) & (x[0] <= a + 0.1) & (x[1] >= b) & (x[1] <= b + 0.1) & (z[0] >= z[1])
        alternatives = one if alternatives is None else alternatives | one
        corner = torch.tensor([a, b], dtype=torch.float64)
        holds |= ((corner <= SAMPLE) & (corner + 0.1 >= SAMPLE)).all(1) & (y[:, 0] >= y[:, 1])
    query = cl.Problem(cl.Maximize(z[2]), [*BOX, alternatives]).query
    assert query.atoms.count == 30
    _, atoms = query.evaluate(SAMPLE)
    assert torch.equal(query.violation(atoms) <= 0, holds) and bool(holds.any())


def test_a_function_of_the_same_is_there_once():
    problem = cl.Problem(cl.Minimize(abs(x).sum() + z[0]), [*BOX, abs(x)[1] >= 0.5])
    assert [one.network.name for one in problem.network.applications] == ["Sequential", "abs"]


def test_the_problem_is_written_as_mathematics():
    v, w = cl.Variable(2, name="v"), cl.Variable(2, name="w")
    stated = [v >= -1, v <= 1, w >= 0, w <= 1, v[0].integer(), NET(v).argmax() != 2]
    text = cl.Problem(cl.Minimize(cl.norm(NET(v) - OTHER(NET(w))[0], 1) - v[1]), stated).explain()
    for line in (
        "minimise    output[0] - v[1]",
        "subject to  lower <= x <= 1, element by element",
        "            v[0] in {-1, 0, 1}",
        "where       v is a variable of shape (2,)",
        "            Sequential#2 = Sequential(w)",
        "            norm = norm(Sequential + A·Sequential#3)",
    ):
        assert line in text, text


@pytest.mark.parametrize("p", [1, 2, float("inf")])
def test_norms_of_activations_have_certificates(p):
    closest = cl.Problem(cl.Minimize(cl.norm(z - 5, p)), BOX).solve(certificate=True)
    assert isinstance(closest.certificate, SavedProof), closest.notes
    exact = float(torch.linalg.vector_norm(Z - 5, p, dim=1).amin())
    assert exact * 0.99 <= closest.certificate.report.bound <= exact * (1 + 1e-9)
