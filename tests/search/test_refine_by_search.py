"""Limits found by search contain whatever the region holds, never grow, and end with every sign decided."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from dual_cases import query_of, random
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import uniform

import clinch as cl
from clinch.bounds.crown import activation_bounds
from clinch.search import refine_by_search
from clinch.search.bound_refinement import BoundRefinement
from clinch.search.refine_by_search import SearchRefinement
from clinch.search.relu_split import branch_and_bound
from clinch.search.root_bounds import root_bounds
from clinch.solver.ledger import Ledger
from clinch.solver.settings import BranchAndBound
from clinch.testing.networks import KINKED, multilayer, residual

pytestmark = pytest.mark.table

LAW = settings(max_examples=3, deadline=None)
SEEDS = st.integers(0, 2**31)
REGIONS = [None, 1.0, 2.0]


def case(make, p, seed, size=1):
    rng = random(seed)
    query = query_of(make(rng), rng, "linear", p, size=size)
    return query, activation_bounds(query.graph, query.region, query.nodes), rng


def sharpened(query, limits, passes=1):
    sharpener = SearchRefinement()
    while sharpener.passes < passes:
        limits = sharpener.step(query, limits)
    return limits


def inside(query, rng, count):
    """Points of the region of the first problem."""
    x = uniform(rng, (count, *query.graph.input_shape))
    first = query.take(torch.zeros(count, dtype=torch.long))
    return x[first.region.contains(x)]


@pytest.mark.parametrize("p", REGIONS)
@pytest.mark.parametrize("make", KINKED, ids=lambda f: f.__name__)
@given(seed=SEEDS)
@LAW
def test_limits_hold_for_all_inputs_and_never_grow(make, p, seed):
    query, before, rng = case(make, p, seed)
    after = sharpened(query, before)
    x = inside(query, rng, 3000)
    h = query.graph.forward(x, list(before))
    for j in before:
        assert bool((after[j].lower[0] <= h[j] + 1e-9).all()) and bool((after[j].upper[0] >= h[j] - 1e-9).all())
        assert bool((after[j].lower >= before[j].lower).all()) and bool((after[j].upper <= before[j].upper).all())


@pytest.mark.parametrize("seed", range(4))
def test_with_domains_enough_only_signs_that_are_open_stay_open(seed, monkeypatch):
    """What is open then takes both signs at some inputs, found by maximising and minimising the activation itself."""
    monkeypatch.setattr(refine_by_search, "DOMAINS", (5000,))
    query, before, _ = case(multilayer, None, seed)
    after = sharpened(query, before)
    net = query.network
    x = net.input
    for j in after:
        lower, upper = after[j].lower.flatten(), after[j].upper.flatten()
        layer = net[query.graph.nodes[j].name]
        for k in ((lower < 0) & (upper > 0)).nonzero().flatten().tolist():
            for goal in (cl.Minimize, cl.Maximize):
                value = cl.Problem(goal(layer[k]), [x >= -1, x <= 1]).solve(gap=1e-6, time_limit=30).value
                assert (value <= 0) if goal is cl.Minimize else (value >= 0)


def test_searches_decide_signs_that_relaxations_do_not():
    decided = 0
    for seed in range(8):
        query, before, _ = case(residual, None, seed)
        after = sharpened(query, before, passes=2)
        for j in before:
            was, now = (int(((b[j].lower < 0) & (b[j].upper > 0)).sum()) for b in (before, after))
            decided += was - now
    assert decided > 0


def test_a_layer_that_is_broken_off_keeps_what_it_found_and_is_searched_again():
    query, before, _ = case(residual, 2.0, 1)
    expected = sharpened(query, before)
    parts, limits, calls = SearchRefinement(), before, 0
    while parts.passes == 0:
        calls += 1
        asked = itertools.count()
        limits = parts.step(query, limits, stop=lambda asked=asked, most=calls: next(asked) > most)
    assert calls > 10
    for j in expected:
        assert torch.allclose(limits[j].lower, expected[j].lower, atol=0.2)
        assert bool((limits[j].lower >= before[j].lower).all())


def test_a_stop_at_once_leaves_limits_alone_and_passes_end():
    query, before, _ = case(multilayer, None, 5)
    sharpener = SearchRefinement()
    after = sharpener.step(query, before, stop=lambda: True)
    assert all(torch.equal(after[j].lower, before[j].lower) for j in before) and not sharpener.done
    for _ in refine_by_search.DOMAINS:
        layers = itertools.count()
        while sharpener.layer or not next(layers):
            after = sharpener.step(query, after)
    assert sharpener.done


def test_copies_of_a_region_are_searched_once_and_other_problems_keep_their_limits():
    query, _, _ = case(residual, None, 2, size=4)
    limits = BoundRefinement(query, root_bounds(query, Ledger(query)))
    limits.branch(torch.tensor([0, 0, 1, 2, 3]), torch.full((5, 2), -1))
    before = {i: b.lower.clone() for i, b in limits._of_branches.items()}
    limits.by_search(torch.tensor([0, 1, 2]))
    moved = False
    for i, b in limits._of_branches.items():
        assert torch.equal(b.lower[0], b.lower[1]) and torch.equal(b.lower[0], b.lower[2])
        assert torch.equal(b.lower[4], before[i][4])
        moved |= not torch.equal(b.lower[0], before[i][0])
    assert moved


@pytest.mark.parametrize("p", [1.0, 2.0, math.inf])
@pytest.mark.parametrize("seed", range(3))
def test_a_search_that_sharpens_at_once_finds_the_same_optimum(p, seed):
    rng = random(seed)
    query = query_of(residual(rng), rng, "distance", p)
    values = []
    for at in (10**9, 0):
        ledger = Ledger(query, time_limit=60, gap=1e-5)
        branch_and_bound(query, ledger, BranchAndBound(batch=2, by_search_at=at, by_search_late=at))
        assert bool(ledger.closed.all())
        values.append(float(ledger.value))
    assert values[0] == pytest.approx(values[1], rel=2e-5, abs=1e-6)
