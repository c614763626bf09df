"""The search for the fewest changed elements, against enumeration."""

import math
from dataclasses import replace

import pytest
import torch
from exact_cases import CLAUSES, close, generator, normal, query
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from clinch.errors import UnsupportedByEngine
from clinch.geometry.region import Ball, Region
from clinch.network.ops.relu import LeakyReLU
from clinch.query import Distance
from clinch.search import l0_search as counting
from clinch.search.engines import ENGINES
from clinch.search.l0_search import count_envelope, fewest_changes
from clinch.solver.ledger import Ledger
from clinch.solver.settings import Count
from clinch.testing.brute_force import brute_force
from clinch.testing.networks import dense, leaky, multilayer, network_of, residual

SEEDS = st.integers(0, 10_000)


def wider(rng):
    """6 inputs, two layers of 4, 3 outputs."""
    layers = [
        ("fc1", dense(rng, 6, 4), (0,)), ("relu1", LeakyReLU(), (1,)), ("fc2", dense(rng, 4, 4), (2,)),
        ("relu2", LeakyReLU(), (3,)), ("fc3", dense(rng, 4, 3), (4,)),
    ]  # fmt: skip
    return network_of(layers, (6,), "wider")


def counted(seed, make, clauses):
    """A query whose count is made of whole weights in half of the cases."""
    rng = generator(seed)
    q = query(make(rng), rng, "distance 0", clauses)
    assert isinstance(q.objective, Distance)
    if seed % 2 and q.objective.weights is not None:
        q = replace(q, objective=replace(q.objective, weights=(2 * q.objective.weights).round()))
    return q


@settings(deadline=None, max_examples=12)
@given(SEEDS, st.sampled_from([multilayer, leaky, residual, wider]), st.sampled_from(CLAUSES))
def test_the_count_equals_enumeration(seed, make, clauses):
    q = counted(seed, make, clauses)
    ledger = Ledger(q, time_limit=20, gap=1e-5)
    fewest_changes(q, ledger)
    best = brute_force(q)
    assert close(best, float(ledger.value))
    assert close(best, float(ledger.bound), 1e-4)


@settings(deadline=None, max_examples=40)
@given(SEEDS, st.sampled_from([multilayer, wider]))
def test_the_envelope_is_never_above_the_count(seed, make):
    q = counted(seed, make, "none")
    rng = generator(seed + 1)
    if seed % 3 == 0:  # some centres outside the box
        q = replace(q, objective=replace(q.objective, center=q.objective.center + (normal(rng, 1, 1) > 0).double()))
    envelope, constant = count_envelope(q)
    share = torch.rand(200, *q.graph.input_shape, generator=rng, dtype=torch.float64)
    x = q.region.lower + share.round(decimals=1) * (q.region.upper - q.region.lower)
    unchanged = torch.rand(x.shape, generator=rng) < 0.5
    x = torch.where(unchanged, q.objective.center.clamp(q.region.lower, q.region.upper), x)
    repeated = replace(q.objective, weights=None if q.objective.weights is None else q.objective.weights)
    count, distance = repeated.value(x, {}), envelope.objective.value(x, {})
    assert bool((distance + constant <= count + 1e-9).all())
    corners = torch.where(share < 0.5, q.region.lower, q.region.upper)
    assert bool((envelope.objective.value(corners, {}) <= q.objective.value(corners, {}) + 1e-9).all())


@pytest.mark.slow
def test_elements_are_branched_on_where_the_envelope_is_not_enough(monkeypatch):
    searched = []
    whole = counting.CountSearch.bound

    def watched(self, parts, fresh):
        searched.append(len(parts))
        return whole(self, parts, fresh)

    monkeypatch.setattr(counting.CountSearch, "bound", watched)
    for seed in range(8, 60):
        q = counted(2 * seed, wider, "mixed")
        ledger = Ledger(q, time_limit=20, gap=1e-5)
        fewest_changes(q, ledger)
        assert close(brute_force(q), float(ledger.value))
        if len(searched) > 1:
            return
        searched.clear()
    raise AssertionError("no problem was branched on: this test looks at nothing")


@pytest.mark.slow
def test_a_batch_is_solved_problem_by_problem():
    q = counted(4, wider, "any")
    rng = generator(9)
    lower, upper = q.region.lower.repeat(4, 1), q.region.upper.repeat(4, 1)
    center = torch.where(torch.rand(4, 6, generator=rng) < 0.5, lower, upper)
    batch = q.take(torch.zeros(4, dtype=torch.long))
    batch = replace(batch, region=Region(lower, upper), objective=Distance(center, 0.0))
    ledger = Ledger(batch, time_limit=20, gap=1e-5)
    fewest_changes(batch, ledger)
    assert bool(ledger.closed.all())
    for b in range(4):
        assert close(brute_force(batch, b), float(ledger.value[b]))


@pytest.mark.slow
@settings(deadline=None, max_examples=3)
@given(SEEDS)
def test_a_ball_that_counts_is_relaxed_and_its_points_are_checked(seed):
    q = counted(2 * seed, wider, "any")
    q = replace(q, objective=replace(q.objective, weights=None))
    free = brute_force(q)
    assume(math.isfinite(free))
    for radius in (free - 1, free, free + 1):
        ball = Ball(q.objective.center, torch.tensor([radius], dtype=torch.float64), 0.0)
        inside = replace(q, region=Region(q.region.lower, q.region.upper, (ball,)))
        ledger = Ledger(inside, time_limit=20, gap=1e-5)
        fewest_changes(inside, ledger)
        expected = free if radius >= free else math.inf
        assert float(ledger.bound) <= expected and float(ledger.value) >= expected


def test_no_time_gives_no_answer_and_no_error():
    q = counted(3, wider, "any")
    ledger = Ledger(q, time_limit=0)
    fewest_changes(q, ledger)
    assert not ledger.history


def test_other_objectives_are_refused():
    rng = generator(0)
    q = query(multilayer(rng), rng, "distance 1", "any")
    with pytest.raises(UnsupportedByEngine, match="p = 0"):
        ENGINES["count"].run(q, Ledger(q), 0, Count())
