import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from clinch.attacks import attack, bisection, nearest
from clinch.geometry.halfspace import halfspace_distance
from clinch.geometry.region import Ball
from clinch.query import Forms
from clinch.solver.check_points import check_points
from clinch.solver.ledger import Ledger

sys.path.insert(0, str(Path(__file__).parent))
from attack_cases import mlp, network, other_class, query

pytestmark = pytest.mark.table

INF = math.inf
NORMS = [0.0, 1.0, 2.0, INF]


def linear_classifier(seed, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    layer = nn.Linear(24, 4)
    layer.weight.data = torch.randn(4, 24, generator=generator)
    layer.bias.data = torch.randn(4, generator=generator)
    return network([layer], (2, 3, 4), dtype), torch.rand(5, 2, 3, 4, generator=generator)


def closed_form(problem):
    """The nearest of all atoms, each a half-space in the box."""
    dense = problem.network.graph_as(torch.float64, "cpu").nodes[-1].op
    rows = next(iter(problem.atoms.coefficients.values())) @ dense.weight
    constant = (next(iter(problem.atoms.coefficients.values())) @ dense.bias) + problem.atoms.constant
    flat = [t.flatten(1) for t in (problem.region.lower, problem.region.upper, problem.objective.center)]
    return halfspace_distance(rows, constant, *flat, problem.objective.p).distance.amin(1)


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("box", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_linear_classifier_is_closed_form(p, box, dtype):
    net, x0 = linear_classifier(1, dtype)
    limits = {} if box else {"lower": -INF, "upper": INF}
    problem = other_class(net, x0, p, margin=1e-3, **limits)
    best = closed_form(problem)
    assert bool(torch.isfinite(best).all()) and bool((best > 0).all())
    for method in (nearest, bisection):
        found = method(problem)
        assert bool(found.success.all())
        assert found.x.dtype == dtype
        assert bool(check_points(problem, found.x, torch.arange(5)).feasible.all())
        assert bool((found.value >= best * (1 - 1e-6)).all())
        assert bool((found.value <= best * 1.01 + 1e-9).all()), (method, found.value / best)


@pytest.mark.parametrize("p", NORMS)
def test_same_seed_same_points(p):
    net = mlp([10, 16, 16, 4], seed=2)
    x0 = torch.rand(3, 10, generator=torch.Generator().manual_seed(0))
    problem = other_class(net, x0, p)
    for method in (nearest, bisection):
        first, second = method(problem, seed=5), method(problem, seed=5)
        assert torch.equal(first.x, second.x) and torch.equal(first.value, second.value)


@pytest.mark.parametrize("p", NORMS)
def test_a_batch_does_as_well_as_single_problems(p):
    net = mlp([10, 16, 16, 4], seed=3)
    x0 = torch.rand(4, 10, generator=torch.Generator().manual_seed(1))
    problem = other_class(net, x0, p, margin=0.01)
    together = nearest(problem).value
    alone = torch.cat([nearest(problem.take(torch.tensor([b]))).value for b in range(4)])
    assert bool(torch.isfinite(together).all())
    tolerance = 1.0 if p == 0 else 0.02 * alone
    assert bool(((together - alone).abs() <= tolerance).all()), (together, alone)


def test_feasible_centre_is_distance_zero_at_once():
    net = mlp([6, 8, 3], seed=4)
    x0 = torch.rand(2, 6, generator=torch.Generator().manual_seed(2))
    already = query(net, x0, torch.zeros(1, 3), -torch.ones(2, 1), [0], 2.0)
    for method in (nearest, bisection):
        found = method(already)
        assert bool(found.success.all()) and not found.value.any()
    ledger = Ledger(already, gap=0.0)
    attack(already, ledger)
    assert not ledger.value.any() and ledger.rejected == 0


@pytest.mark.parametrize("p", NORMS)
def test_constant_network_has_no_point_and_does_not_crash(p):
    layer = nn.Linear(6, 3)
    layer.weight.data.zero_()
    layer.bias.data = torch.tensor([1.0, 0.0, -1.0])
    problem = other_class(network([layer], (6,)), torch.rand(2, 6, generator=torch.Generator().manual_seed(3)), p)
    for method in (nearest, bisection):
        found = method(problem)
        assert not found.success.any() and bool(torch.isinf(found.value).all())


@pytest.mark.parametrize("p", [0.0, 2.0, INF])
def test_overflowing_network_never_succeeds(p):
    net = mlp([6, 8, 3], seed=5)
    huge = [nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)]
    for layer in (huge[0], huge[2]):
        layer.weight.data = torch.full_like(layer.weight, 3e38)
        layer.bias.data.zero_()
    broken = network(huge, (6,))
    x0 = torch.rand(2, 6, generator=torch.Generator().manual_seed(4))
    rows = torch.tensor([[1.0, -1.0, 0.0], [0.0, 1.0, -1.0]])
    problem = query(broken, x0, rows, torch.ones(2, 2), [0, 0], p)
    found = nearest(problem)
    assert not found.success.any()
    assert nearest(other_class(net, x0, p)).success.all()


def test_switched_off_neuron_is_found():
    """The wanted neuron is off at the centre, so that its gradient there is zero."""
    first = nn.Linear(4, 2)
    first.weight.data = torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, -1.0]])
    first.bias.data = torch.tensor([-1.2, -0.5])
    net = network([first, nn.ReLU(), nn.Linear(2, 2)], (4,))
    x0 = torch.full((1, 4), 0.25)
    problem = query(net, x0, torch.tensor([[-1.0, 0.0]]), torch.tensor([[0.3]]), [0], 2.0, node=3)
    best = (1.5 - 0.5) / math.sqrt(2)
    for method in (nearest, bisection):
        found = method(problem)
        assert bool(found.success.all()) and float(found.value) == pytest.approx(best, rel=0.01)


def test_other_clauses_hold_too():
    """Leave the box of a hidden neuron while the class stays: one clause with a choice and several without."""
    net = mlp([12, 16, 12, 4], seed=6)
    x0 = torch.rand(4, 12, generator=torch.Generator().manual_seed(5))
    graph = net.graph_as(torch.float64, "cpu")
    h = graph.forward(x0.double(), [5])[5]
    outside = torch.cat([-torch.eye(12), torch.eye(12)])
    hidden = query(net, x0, outside, torch.cat([h + 0.3, -h + 0.2], 1), [0] * 24, 2.0, node=5)
    same = other_class(net, x0, 2.0)
    output = next(iter(same.atoms.coefficients))
    rows = -same.atoms.coefficients[output]
    pad = torch.zeros(4, 24, 4, dtype=torch.float64), torch.zeros(4, 3, 12, dtype=torch.float64)
    watched = torch.cat([hidden.atoms.coefficients[5].expand(4, -1, -1), pad[1]], 1)
    atoms = Forms(
        {5: watched, output: torch.cat([pad[0], rows], 1)},
        torch.cat([hidden.atoms.constant, torch.full((4, 3), 1e-3, dtype=torch.float64)], 1),
    )
    problem = replace(hidden, atoms=atoms, clause=torch.tensor([0] * 24 + [1, 2, 3]))
    found, reference = nearest(problem, passes=3000), bisection(problem, starts=3)
    assert bool(found.success.all())
    assert bool((found.value <= reference.value * 1.03).all()), (found.value, reference.value)
    assert bool(check_points(problem, found.x, torch.arange(4)).feasible.all())


def test_a_ball_in_the_region_is_respected():
    net = mlp([10, 16, 16, 4], seed=7)
    x0 = torch.rand(3, 10, generator=torch.Generator().manual_seed(6))
    free = nearest(other_class(net, x0, 1.0))
    ball = Ball(x0.double(), torch.full((3,), 10.0, dtype=torch.float64), 2.0)
    wide = nearest(other_class(net, x0, 1.0, balls=(ball,)))
    assert torch.allclose(free.value, wide.value, rtol=0.02)
    tight = Ball(x0.double(), torch.full((3,), 1e-4, dtype=torch.float64), 2.0)
    assert not nearest(other_class(net, x0, 1.0, balls=(tight,))).success.any()


@pytest.mark.parametrize("p", [1.0, 2.0, INF])
def test_weights_and_free_elements(p):
    net, x0 = linear_classifier(8)
    problem = other_class(net, x0, p)
    weights = torch.full(x0.shape, 2.0, dtype=torch.float64)
    doubled = replace(problem, objective=replace(problem.objective, weights=weights))
    one, two = nearest(problem).value, nearest(doubled).value
    assert torch.allclose(2 * one, two, rtol=0.01)
    free = replace(problem, objective=replace(problem.objective, weights=torch.zeros_like(weights)))
    assert not nearest(free).value.any()


def test_time_limit_leaves_points_behind():
    net = mlp([30, 40, 40, 10], seed=9)
    x0 = torch.rand(6, 30, generator=torch.Generator().manual_seed(7))
    problem = other_class(net, x0, 2.0)
    attack(problem, Ledger(problem), passes=60)  # torch loads some of itself when it is first used
    ledger = Ledger(problem, time_limit=1.0)
    attack(problem, ledger, passes=1_000_000)
    assert bool(torch.isfinite(ledger.value).all())
    over = Ledger(problem, time_limit=0.0)
    attack(problem, over)
    whole = Ledger(problem)
    attack(problem, whole)
    assert over.queries < whole.queries / 10


def test_attack_reports_to_the_ledger():
    net = mlp([10, 16, 16, 4], seed=10)
    x0 = torch.rand(3, 10, generator=torch.Generator().manual_seed(8))
    problem = other_class(net, x0, 2.0)
    ledger = Ledger(problem)
    attack(problem, ledger, seed=1)
    alone = nearest(problem, seed=1)
    # with a ledger the runners-up are polished as well
    assert bool((ledger.value <= alone.value * (1 + 1e-6)).all())
    assert torch.allclose(ledger.value, alone.value, rtol=0.02)
    assert "attack" in {event.who for event in ledger.history}
    assert bool((alone.forward > 0).all()) and bool((alone.backward > 0).all())
