"""bound <= exact <= attack, and every exact engine agrees with brute force, on random networks and problems."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from problems import KINDS, NORMS, uniform

import clinch as cl
from clinch.bounds.crown import activation_bounds
from clinch.bounds.interval import interval_bounds
from clinch.bounds.objective import objective_bound
from clinch.solver.solution import Status
from clinch.testing.brute_force import brute_force
from clinch.testing.networks import ENCODABLE, KINKED

pytestmark = pytest.mark.table

LAW = settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.too_slow])
SEEDS = st.integers(0, 2**31)
TOLERANCE = 2e-6


def close(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=1e-4, abs_tol=1e-5) or a == b


def exact_value(problem: cl.Problem) -> float:
    return float(brute_force(problem.query))


def minimised(problem: cl.Problem, number: float | None) -> float:
    """A solution's number in the minimising sense; infinity where there is none."""
    return math.inf if number is None or math.isnan(number) else number * problem.query.sense


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("make", KINKED, ids=lambda f: f.__name__)
@given(seed=SEEDS, p=st.sampled_from(NORMS))
@example(seed=429, p=math.inf)  # limits that became sharper than a split once contradicted it unnoticed
@LAW
def test_bound_exact_attack(make, kind, seed, p):
    rng = torch.Generator().manual_seed(seed)
    net = make(rng)
    problem = KINDS[kind](net, rng, p)
    exact = exact_value(problem)
    bound = float(objective_bound(problem.query))
    attack = problem.solve(time_limit=1, solver="attack")
    search = problem.solve(time_limit=20, gap=1e-4, solver="branch_and_bound")
    assert bound <= exact + TOLERANCE
    assert minimised(problem, attack.value) >= exact - TOLERANCE
    if exact == math.inf:
        assert search.status is Status.INFEASIBLE
        return
    assert search.status is Status.OPTIMAL
    assert minimised(problem, search.bound) <= exact + TOLERANCE
    assert math.isclose(minimised(problem, search.value), exact, rel_tol=1e-3, abs_tol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("make", ENCODABLE, ids=lambda f: f.__name__)
@given(seed=SEEDS, p=st.sampled_from((1.0, math.inf)))
@example(seed=248924, p=math.inf)  # limits that follow from a clause once made the clause redundant
@LAW
def test_milp_is_exact(make, kind, seed, p):
    rng = torch.Generator().manual_seed(seed)
    problem = KINDS[kind](make(rng), rng, p)
    exact = exact_value(problem)
    found = problem.solve(time_limit=20, gap=1e-4, solver="milp")
    if exact == math.inf:
        assert found.status is Status.INFEASIBLE
        return
    assert found.status is Status.OPTIMAL
    assert minimised(problem, found.bound) <= exact + TOLERANCE
    assert math.isclose(minimised(problem, found.value), exact, rel_tol=1e-3, abs_tol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("make", ENCODABLE, ids=lambda f: f.__name__)
@given(seed=SEEDS, p=st.sampled_from(NORMS))
@LAW
def test_everything_together(make, kind, seed, p):
    rng = torch.Generator().manual_seed(seed)
    problem = KINDS[kind](make(rng), rng, p)
    exact = exact_value(problem)
    solution = problem.solve(time_limit=6, gap=1e-3)
    assert minimised(problem, solution.value) >= exact - TOLERANCE
    assert minimised(problem, solution.bound) <= exact + TOLERANCE
    assert solution.status in ((Status.INFEASIBLE,) if exact == math.inf else (Status.OPTIMAL, Status.FEASIBLE))


@pytest.mark.parametrize("make", ENCODABLE, ids=lambda f: f.__name__)
@given(seed=SEEDS, p=st.sampled_from(NORMS))
@LAW
def test_samples_lie_inside_every_bound(make, seed, p):
    rng = torch.Generator().manual_seed(seed)
    net = make(rng)
    graph = net.graph_as(torch.float64, "cpu")
    x0 = uniform(rng, (2, *net.input_shape))
    region = cl.bounds.ball(x0, 0.5, p, lower=-1, upper=1)
    nodes = range(1, len(graph.nodes))
    which = torch.arange(2).repeat(2000)
    shrink = uniform(rng, (4000, *[1] * len(net.input_shape)), 0.0)
    x = (x0[which] + 0.5 * shrink * uniform(rng, (4000, *net.input_shape))).clamp(-1, 1)
    inside = region.take(which).contains(x)
    assert bool(inside.any())
    for limits in (interval_bounds(graph, region), activation_bounds(graph, region, nodes, include_wanted=True)):
        for node, h in graph.forward(x, limits).items():
            low, high = limits[node].take(which)
            fits = ((h >= low - 1e-9) & (h <= high + 1e-9)).flatten(1).all(1)
            assert bool((fits | ~inside).all()), graph.nodes[node].name


@pytest.mark.parametrize("make", ENCODABLE, ids=lambda f: f.__name__)
@given(seed=SEEDS)
@LAW
def test_a_degenerate_box_gives_the_forward_value(make, seed):
    rng = torch.Generator().manual_seed(seed)
    net = make(rng)
    x0 = uniform(rng, (3, *net.input_shape))
    z = net.graph.forward(x0)[net.graph.output]
    point = cl.bounds.box(x0, x0)
    assert torch.allclose(cl.bounds.interval(net, point), z, atol=1e-9)
    assert torch.allclose(cl.bounds.crown(net, point), z, atol=1e-9)


@pytest.mark.parametrize("make", ENCODABLE, ids=lambda f: f.__name__)
@given(seed=SEEDS, p=st.sampled_from(NORMS))
@LAW
def test_a_smaller_region_has_no_smaller_bound(make, seed, p):
    rng = torch.Generator().manual_seed(seed)
    net = make(rng)
    x0 = uniform(rng, (2, *net.input_shape))
    small, large = (cl.bounds.ball(x0, r, p, lower=-1, upper=1) for r in (0.2, 0.5))
    assert bool((cl.bounds.interval(net, small) >= cl.bounds.interval(net, large) - 1e-9).all())


@given(seed=SEEDS, p=st.sampled_from(NORMS))
@LAW
def test_an_infeasible_problem_is_proven_infeasible(seed, p):
    rng = torch.Generator().manual_seed(seed)
    net = KINKED[0](rng)
    z = net.output
    highest = cl.Problem(cl.Maximize(z[0]), [net.input >= -1, net.input <= 1]).solve(time_limit=20)
    assume(highest.status is Status.OPTIMAL)
    x0 = uniform(rng, net.input_shape)
    impossible = [net.input >= -1, net.input <= 1, z[0] >= float(highest.bound) + 0.1]
    solution = cl.Problem(cl.Minimize(cl.norm(net.input - x0, p)), impossible).solve(time_limit=20)
    assert solution.status is Status.INFEASIBLE
