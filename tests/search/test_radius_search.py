"""Balls that hold nothing feasible: never past the true distance, right where relaxations are exact."""

import math
from dataclasses import replace

import pytest
import torch
from exact_cases import generator, query
from torch import nn

import clinch as cl
from clinch.bounds.certified_radius import certified_radius, crown_ball, loose
from clinch.certificates import SavedProof
from clinch.errors import UnsupportedByEngine
from clinch.network.ops.relu import LeakyReLU
from clinch.query import Forms
from clinch.search.engines import ENGINES
from clinch.search.radius_search import balls_first
from clinch.solver.ledger import Ledger
from clinch.solver.settings import Radius
from clinch.testing.brute_force import brute_force
from clinch.testing.networks import dense, max_pooled, multilayer, network_of, residual

INF = torch.tensor([torch.inf], dtype=torch.float64)
ZERO = torch.zeros(1, dtype=torch.float64)


def outputs(net, x):
    return net.graph.forward(x, [net.graph.output])[net.graph.output]


#: brute force over two layers of kinks, a sum and a max pool
SMALL = (multilayer, residual, max_pooled)
NORMS = (0.0, 1.0, 2.0, 3.0, math.inf)


def away(q):
    """The query with conditions that its centre misses by 0.2."""
    nearest = q.objective.center.clamp(q.region.lower, q.region.upper)
    missed = q.violation(q.evaluate(nearest)[1])
    return replace(q, atoms=Forms(q.atoms.coefficients, q.atoms.constant - missed + 0.2))


@pytest.mark.parametrize("clauses", ["any", "mixed"])
@pytest.mark.parametrize("p", ["0", "1", "2", "inf"])
def test_no_ball_reaches_past_the_nearest_point(p, clauses):
    for seed, make in enumerate(SMALL):
        rng = generator(seed)
        net = make(rng)
        if p == "0" and net.input.size > 6:  # brute force enumerates the changed elements
            continue
        q = away(query(net, rng, f"distance {p}", clauses))
        best = brute_force(q)
        for high in (INF, torch.tensor([best], dtype=torch.float64)):
            low = float(certified_radius(q, ZERO, high))
            assert 0 <= low <= best + 1e-7


@pytest.mark.parametrize("p", NORMS)
def test_behind_affine_layers_alone_the_radius_is_the_distance(p):
    rng = generator(3)
    net = network_of([("fc", dense(rng, 4, 3), (0,))], (4,))
    x, z = net.input, net.output
    x0 = torch.rand(2, 4, generator=rng, dtype=torch.float64)
    problem = cl.Problem(cl.Minimize(cl.norm(x - x0, p)), [x >= -3, x <= 3, (z[0] >= 4) | (z[1] >= 4)])
    exact = problem.solve(solver="milp", gap=1e-7) if p in (0, 1, math.inf) else problem.solve(gap=1e-6)
    low = certified_radius(problem.query, torch.zeros(2, dtype=torch.float64), torch.as_tensor(exact.value))
    assert torch.allclose(low, torch.as_tensor(exact.value), rtol=1e-4)


def test_problems_of_a_batch_do_not_disturb_each_other():
    rng = generator(5)
    net = multilayer(rng)
    x, z = net.input, net.output
    x0 = 2 * torch.rand(4, 3, generator=rng, dtype=torch.float64) - 1
    problem = cl.Problem(cl.Minimize(cl.norm(x - x0, 2)), [x >= -1, x <= 1, z[0] >= z[1] + 2])
    high = torch.tensor([0.7, torch.inf, 2.0, 0.1], dtype=torch.float64)
    together = certified_radius(problem.query, torch.zeros(4, dtype=torch.float64), high)
    for b in range(4):
        alone = certified_radius(problem.query.take(torch.tensor([b])), ZERO, high[b : b + 1])
        assert torch.allclose(alone, together[b : b + 1], rtol=1e-9)


def test_an_input_that_meets_the_conditions_itself_has_no_ball():
    net = multilayer(generator(1))
    x, z = net.input, net.output
    x0 = torch.zeros(3, dtype=torch.float64)
    problem = cl.Problem(
        cl.Minimize(cl.norm(x - x0, 2)), [x >= -1, x <= 1, z[0] <= float(outputs(net, x0[None])[0, 0]) + 1]
    )
    assert float(certified_radius(problem.query, ZERO, INF)) == 0.0


def test_without_limits_of_the_input_balls_grow_until_one_is_not_free():
    net = network_of([("fc", dense(generator(2), 2, 1), (0,))], (2,))
    x, z = net.input, net.output
    problem = cl.Problem(cl.Minimize(cl.norm(x, 2)), z[0] >= 300)
    low, value = float(certified_radius(problem.query, ZERO, INF)), float(problem.solve().value)
    assert 0.9 * value < low <= value * (1 + 1e-9)


KINDS = {
    "gelu": lambda: nn.Sequential(nn.Linear(3, 5), nn.GELU(), nn.Linear(5, 2)),
    "sigmoid": lambda: nn.Sequential(nn.Linear(3, 5), nn.Sigmoid(), nn.Linear(5, 2)),
    "layer norm": lambda: nn.Sequential(nn.Linear(3, 5), nn.LayerNorm(5), nn.ReLU(), nn.Linear(5, 2)),
    "max pool": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 3)), nn.Conv1d(1, 3, 2), nn.MaxPool1d(2), nn.Flatten(), nn.Linear(3, 2)
    ),
    "convolutional": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 3)), nn.Conv1d(1, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(6, 2)
    ),
}


@pytest.mark.parametrize(("kind", "p"), list(zip(KINDS, (1, 2, cl.inf, 2, cl.inf))))
def test_any_network_with_relaxations_has_balls_that_no_sample_refutes(kind, p):
    torch.manual_seed(4)
    net = cl.load(KINDS[kind]().double().eval(), input_shape=(3,))
    x, z = net.input, net.output
    x0 = torch.tensor([0.1, -0.2, 0.3], dtype=torch.float64)
    at = outputs(net, x0[None])[0]
    margin = float(at[0] - at[1]) + 0.4
    problem = cl.Problem(cl.Minimize(cl.norm(x - x0, p)), [x >= -1, x <= 1, z[0] - z[1] >= margin])
    solution = problem.solve(solver="radius", time_limit=1, gap=0.1)
    assert solution.bound > 0
    samples = 2 * torch.rand(20_000, 3, dtype=torch.float64) - 1
    values = outputs(net, samples)
    reached = samples[values[:, 0] - values[:, 1] >= margin]
    if len(reached):
        assert float(torch.linalg.vector_norm(reached - x0, p, dim=1).min()) >= float(solution.bound) - 1e-7


@pytest.mark.parametrize("p", ["1", "2", "inf"])
def test_with_a_search_inside_the_balls_the_bound_comes_up_to_the_incumbent(p):
    for seed in range(1):
        rng = generator(seed)
        q = away(query(multilayer(rng), rng, f"distance {p}", "any"))
        best = brute_force(q)
        ledger = Ledger(q, time_limit=20, gap=1e-3, enough=None)
        ENGINES["attack"].run(q, ledger, 0, ENGINES["attack"].settings())
        ENGINES["radius"].run(q, ledger, 0, Radius(pace=0.5))
        assert float(ledger.bound) <= best + 1e-7
        assert not math.isfinite(best) or float(ledger.bound) >= 0.99 * best - 1e-9


def test_a_point_found_inside_a_ball_is_the_new_incumbent():
    rng = generator(0)
    net = multilayer(rng)
    q = away(query(net, rng, "distance 2", "any"))
    best = brute_force(q)
    assert 1e-3 < best < math.inf
    ledger = Ledger(q, time_limit=20, gap=1e-3)
    ENGINES["radius"].run(q, ledger, 0, Radius(pace=1.0))
    assert float(ledger.value) >= best - 1e-6 and float(ledger.bound) <= best + 1e-7


def test_only_where_relaxations_say_nothing_balls_come_first():
    rng = generator(0)
    layers, size = [], 6
    for i in range(6):
        layers += [(f"fc{i}", dense(rng, size, size), (2 * i,))]
        layers += [(f"relu{i}", LeakyReLU(), (2 * i + 1,))]
    deep = network_of([*layers, ("out", dense(rng, size, 1), (12,))], (size,))
    x0 = torch.rand(1, size, generator=rng, dtype=torch.float64)
    at = float(outputs(deep, x0)[0, 0])
    q = cl.Problem(cl.Minimize(cl.norm(deep.input - x0[0], 2)), [deep.output[0] >= at + 0.1]).query
    near, far = torch.tensor([0.01], dtype=torch.float64), torch.tensor([50.0], dtype=torch.float64)
    assert not bool(loose(q, crown_ball(q, near)))
    assert bool(loose(q, crown_ball(q, far)))


def test_other_objectives_have_no_balls():
    net = multilayer(generator(1))
    problem = cl.Problem(cl.Minimize(net.output[0]), [net.input >= -1, net.input <= 1])
    ledger = Ledger(problem.query)
    assert not balls_first(problem.query, ledger, Radius())
    with pytest.raises(UnsupportedByEngine, match="state a distance"):
        problem.solve(solver="radius")


def test_a_bound_from_balls_has_a_certificate():
    rng = generator(2)
    net = multilayer(rng)
    x, z = net.input, net.output
    x0 = torch.rand(2, 3, generator=rng, dtype=torch.float64)
    problem = cl.Problem(cl.Minimize(cl.norm(x - x0, 2)), [x >= -1, x <= 1, z[0] >= z[1] + 1])
    solution = problem.solve(solver="radius", time_limit=10, certificate=True)
    assert isinstance(solution.certificate, list)
    for proof, bound in zip(solution.certificate, torch.as_tensor(solution.bound).tolist()):
        assert isinstance(proof, SavedProof) and proof.report.bound >= bound - 1e-4 * max(1.0, bound)


def test_nothing_is_claimed_where_nothing_is_asked():
    net = multilayer(generator(1))
    q = cl.Problem(cl.Minimize(cl.norm(net.input, 2)), [net.input >= -1, net.input <= 1]).query
    assert float(certified_radius(q, ZERO, INF)) == 0.0
