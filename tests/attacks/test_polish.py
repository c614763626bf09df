import itertools
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from clinch.attacks import attack, polish
from clinch.attacks.local_search import forward_on, pattern_at, polish_from
from clinch.backends.convex import DistanceCost, minimise_over_polyhedron
from clinch.solver.check_points import check_points
from clinch.solver.ledger import Ledger

sys.path.insert(0, str(Path(__file__).parent))
from attack_cases import mlp, other_class
from test_minimise import linear_query

INF = math.inf


def brute_force(problem):
    """The optimum over all sign patterns and atoms of a net with one hidden layer (nodes 2, 3, 4)."""
    nodes = problem.graph.nodes
    first, last = nodes[2].op, nodes[4].op
    w, b = first.weight.numpy(), first.bias.numpy()
    atoms = next(iter(problem.atoms.coefficients.values()))[0].numpy()
    best = INF
    for sides in itertools.product([False, True], repeat=len(b)):
        on = np.array(sides)
        out = last.weight.numpy() * on
        signs = np.where(on, -1.0, 1.0)
        for row, constant in zip(atoms, problem.atoms.constant[0].numpy()):
            a = np.vstack([(row @ out @ w)[None], signs[:, None] * w])
            limits = np.concatenate([[-(row @ (out @ b + last.bias.numpy()) + constant)], -signs * b])
            lower, upper = problem.region.lower[0].numpy(), problem.region.upper[0].numpy()
            center, p = problem.objective.center[0].numpy(), problem.objective.p
            point = minimise_over_polyhedron(DistanceCost(center, p), lower, upper, a, limits).point
            if point is not None:
                best = min(best, float(np.linalg.norm(point - center, p)))
    return best


@pytest.mark.parametrize("p", [1.0, 2.0, INF])
@pytest.mark.parametrize("seed", [20, 21, 22])
def test_polished_attack_is_the_optimum_of_a_small_network(p, seed):
    net = mlp([5, 6, 3], seed=seed)
    x0 = torch.rand(1, 5, generator=torch.Generator().manual_seed(seed))
    problem = other_class(net, x0, p, margin=0.05, lower=-2.0, upper=2.0)
    ledger = Ledger(problem)
    attack(problem, ledger)
    before = float(ledger.value)
    polish(problem, ledger)
    best = brute_force(problem)
    assert best * (1 - 1e-6) <= float(ledger.value) <= before
    assert float(ledger.value) <= best * 1.001
    assert bool(check_points(problem, ledger.x, torch.arange(1)).feasible)


@pytest.mark.parametrize("p", [1.0, 2.0, INF])
def test_a_bad_start_gets_much_better(p):
    net = mlp([12, 20, 20, 4], seed=23)
    x0 = torch.rand(3, 12, generator=torch.Generator().manual_seed(9))
    problem = other_class(net, x0, p)
    rough, good = Ledger(problem), Ledger(problem)
    generator = torch.Generator().manual_seed(10)
    tries = torch.rand(300, 12, generator=generator)
    for b in range(3):
        rough.offer(tries, "noise", torch.full((300,), b))
    noise = rough.value.clone()
    polish(problem, rough)
    attack(problem, good)
    assert bool((rough.value < 0.9 * noise).all())
    assert bool((rough.value >= 0.5 * good.value).all())


def test_only_the_named_problems_move():
    net = mlp([12, 20, 20, 4], seed=24)
    x0 = torch.rand(3, 12, generator=torch.Generator().manual_seed(11))
    problem = other_class(net, x0, 2.0)
    ledger = Ledger(problem)
    for b in range(3):
        ledger.offer(torch.rand(300, 12, generator=torch.Generator().manual_seed(b)), "noise", torch.full((300,), b))
    before = ledger.value.clone()
    polish(problem, ledger, torch.tensor([1]))
    assert ledger.value[1] < before[1]
    assert torch.equal(ledger.value[[0, 2]], before[[0, 2]])


@pytest.mark.parametrize("p", [1.0, 2.0, INF])
def test_a_start_just_short_of_its_goal_is_brought_there(p):
    net = mlp([12, 20, 20, 4], seed=29)
    x0 = torch.rand(1, 12, generator=torch.Generator().manual_seed(13))
    problem = other_class(net, x0, p, margin=0.1)
    good, from_short = Ledger(problem), Ledger(problem)
    attack(problem, good)
    short = x0 + 0.97 * (good.x - x0)
    assert not check_points(problem, short, torch.arange(1)).feasible.any()
    polish_from(problem, from_short, short, torch.arange(1))
    assert float(from_short.value) <= 1.02 * float(good.value)


def test_without_incumbent_nothing_happens():
    net = mlp([4, 6, 3], seed=25)
    problem = other_class(net, torch.rand(2, 4, generator=torch.Generator().manual_seed(1)), 2.0)
    ledger = Ledger(problem)
    polish(problem, ledger)
    assert bool(torch.isinf(ledger.value).all()) and ledger.queries == 0


@pytest.mark.parametrize("p", [1.0, 2.0, INF])
def test_smooth_networks_are_linearised_again_and_again(p):
    net = mlp([8, 16, 16, 3], seed=26, smooth=True)
    x0 = torch.rand(3, 8, generator=torch.Generator().manual_seed(12))
    problem = other_class(net, x0, p, lower=-3.0, upper=3.0)
    assert not problem.graph.bends_only_at_kinks(problem.nodes)
    ledger = Ledger(problem)
    for b in range(3):
        noise = 6 * torch.rand(300, 8, generator=torch.Generator().manual_seed(b)) - 3
        ledger.offer(noise, "noise", torch.full((300,), b))
    before = ledger.value.clone()
    polish(problem, ledger)
    reference = Ledger(problem)
    attack(problem, reference)
    assert bool((ledger.value < before).all())
    assert bool((ledger.value >= 0.99 * reference.value).all())
    polish(problem, reference)
    assert bool(torch.isfinite(reference.value).all())


def test_linear_objective_ends_in_a_local_optimum():
    net = mlp([4, 10, 10, 1], seed=27)
    problem = linear_query(net, torch.ones(1), -1.0, 1.0)
    ledger = Ledger(problem)
    ledger.offer(torch.zeros(1, 4), "middle")
    polish(problem, ledger)
    x = ledger.x.double()
    around = (x + 1e-4 * torch.randn(500, 4, generator=torch.Generator().manual_seed(0)).double()).clamp(-1, 1)
    nearby = problem.graph.forward(around)[problem.graph.output].amin()
    assert float(ledger.value) <= float(nearby) + 1e-5


def test_piece_agrees_with_the_network_on_it():
    net = mlp([6, 10, 10, 3], seed=28)
    graph = net.graph_as(torch.float64, "cpu")
    x = torch.rand(1, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    pattern = pattern_at(graph, x, [graph.output])
    near = x + 1e-9 * torch.ones_like(x)
    here = forward_on(graph, near, pattern, [graph.output])[graph.output]
    assert torch.allclose(here, graph.forward(near)[graph.output], atol=1e-12)
    far = forward_on(graph, x + 5, pattern, [graph.output])[graph.output]
    step = forward_on(graph, x + 10, pattern, [graph.output])[graph.output]
    start = graph.forward(x)[graph.output]
    assert torch.allclose(step - far, far - start)
