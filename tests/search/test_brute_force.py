import math
from dataclasses import replace

import pytest
import torch
from exact_cases import generator, query

from clinch.errors import ProblemError, UnsupportedByEngine
from clinch.geometry.region import Ball, Region
from clinch.network.ops.relu import LeakyReLU
from clinch.query import Distance, Forms, FormsNorm, Linear, Query
from clinch.testing.brute_force import brute_force
from clinch.testing.networks import ENCODABLE, dense, multilayer, network_of

pytestmark = pytest.mark.table


def test_a_grid_of_points_is_never_better_and_comes_close():
    for seed, make in enumerate(ENCODABLE):
        rng = generator(seed)
        net = make(rng)
        q = query(net, rng, "linear", "none")
        share = torch.rand(20_000, *net.input_shape, generator=rng, dtype=torch.float64).round(decimals=1)
        points = q.region.lower + share * (q.region.upper - q.region.lower)
        sampled = q.objective.value(points, net.graph.forward(points, q.nodes))
        best = brute_force(q)
        assert best <= float(sampled.min()) + 1e-7
        assert best >= float(sampled.min()) - 0.3 * float(sampled.max() - sampled.min())


@pytest.mark.parametrize("p", [0.0, 1.0, 2.0, math.inf])
def test_the_distance_to_a_half_space_is_known(p):
    # relu(x) >= 1 in each of two coordinates that start at zero
    net = network_of([("relu", LeakyReLU(), (0,))], (2,))
    shape = (1, 2)
    region = Region(torch.full(shape, -2.0, dtype=torch.float64), torch.full(shape, 2.0, dtype=torch.float64))
    atoms = Forms({1: -torch.eye(2, dtype=torch.float64)[None]}, torch.ones(1, 2, dtype=torch.float64))
    objective = Distance(torch.zeros(shape, dtype=torch.float64), p)
    one, both = torch.tensor([0, 0]), torch.tensor([0, 1])
    assert brute_force(Query(net, net.graph, region, objective, atoms, one)) == pytest.approx(1.0)
    expected = {0.0: 2.0, 1.0: 2.0, 2.0: math.sqrt(2), math.inf: 1.0}[p]
    assert brute_force(Query(net, net.graph, region, objective, atoms, both)) == pytest.approx(expected)


def test_infeasible_is_infinity():
    rng = generator(7)
    assert brute_force(query(multilayer(rng), rng, "linear", "impossible")) == math.inf


def test_what_is_too_large_is_refused():
    rng = generator(0)
    net = network_of([("fc", dense(rng, 3, 13), (0,)), ("relu", LeakyReLU(), (1,))], (3,))
    with pytest.raises(ProblemError, match="12"):
        brute_force(query(net, rng, "linear", "none"))


def test_a_norm_made_large_is_convex_only_for_1_and_infinity():
    rng = generator(0)
    q = query(multilayer(rng), rng, "norm 1", "none")
    with pytest.raises(UnsupportedByEngine, match="p = 1 or inf"):
        brute_force(replace(q, objective=replace(q.objective, p=2.0, scale=-1.0)))
    linear = replace(q, objective=Linear(q.objective.forms.select(torch.tensor([0]))))
    assert math.isfinite(brute_force(linear))


def samples(q, rng, count=40_000):
    share = torch.rand(count, *q.graph.input_shape, generator=rng, dtype=torch.float64)
    x = q.region.lower + share * (q.region.upper - q.region.lower)
    for ball in q.region.balls:
        x = x[ball.distance(x) <= ball.radius]
    values, atoms = q.evaluate(x)
    return values[q.violation(atoms) <= 0]


@pytest.mark.parametrize("p, scale", [(1.0, 1.0), (2.0, 1.0), (math.inf, 1.0), (1.0, -1.0), (math.inf, -1.0)])
def test_no_sample_beats_a_norm_of_activations_and_some_come_close(p, scale):
    looked_at = 0
    for seed in range(3):
        rng = generator(seed)
        q = query(multilayer(rng), rng, "norm 1", "each")
        weights = torch.tensor([[0.5, 2.0]], dtype=torch.float64)
        q = replace(q, objective=FormsNorm(q.objective.forms, p, scale, weights))
        best, seen = brute_force(q), samples(q, rng)
        if not len(seen):
            continue
        looked_at += 1
        assert best <= float(seen.min()) + 1e-6
        assert best >= float(seen.min()) - 0.1 * max(1.0, abs(best))
    assert looked_at


@pytest.mark.parametrize("kind", ["linear", "distance 1", "distance 2", "distance inf"])
@pytest.mark.parametrize("p", [1.0, 2.0])
def test_no_sample_in_a_ball_is_better_and_some_come_close(kind, p):
    looked_at = 0
    for seed in range(3):
        rng = generator(seed)
        q = query(multilayer(rng), rng, kind, "any")
        lower, upper = q.region.lower, q.region.upper
        radius = torch.tensor([0.6], dtype=torch.float64)
        balls = (Ball((lower + upper) / 2, radius, p), Ball(upper, radius + 0.9, p))
        q = replace(q, region=Region(lower, upper, balls))
        best, seen = brute_force(q), samples(q, rng)
        if not len(seen):
            continue
        looked_at += 1
        assert best <= float(seen.min()) + 1e-6
        assert best >= float(seen.min()) - 0.1 * max(1.0, abs(best))
    assert looked_at
