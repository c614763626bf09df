"""Limits from linear programs: never looser, and no point of the problem lies outside."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from exact_cases import CLAUSES, generator, query
from hypothesis import given, settings
from hypothesis import strategies as st

from clinch.backends import highs
from clinch.bounds.crown import activation_bounds, limits_of_forms
from clinch.encoding.query_program import encode
from clinch.search.milp.milp import milp
from clinch.search.milp.obbt import obbt
from clinch.testing.networks import ENCODABLE, leaky, multilayer


def always():
    return math.inf


def made(seed, make, clauses, kind="distance inf"):
    rng = generator(seed)
    q = query(make(rng), rng, kind, clauses)
    bounds = activation_bounds(q.graph, q.region, q.nodes)
    return q, bounds, encode(q, 0, bounds, form_limits=limits_of_forms)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.sampled_from(ENCODABLE), st.sampled_from(CLAUSES))
def test_limits_are_never_looser_and_hold_for_every_point(seed, make, clauses):
    q, bounds, encoding = made(seed, make, clauses)
    sharper = obbt(q.graph, encoding, bounds, highs.load, always)
    share = torch.rand(400, *q.graph.input_shape, generator=generator(seed), dtype=torch.float64)
    x = q.region.lower + share * (q.region.upper - q.region.lower)
    if q.clauses:
        x = x[q.violation(q.evaluate(x)[1]) <= 0]
    values = q.graph.forward(x, list(sharper))
    for node, (lower, upper) in sharper.items():
        assert bool((lower >= bounds[node].lower).all()) and bool((upper <= bounds[node].upper).all())
        assert bool(((values[node] >= lower - 1e-9) & (values[node] <= upper + 1e-9)).all())


def test_something_is_gained():
    gained = 0.0
    for seed in range(8):
        for make in (multilayer, leaky):
            q, bounds, encoding = made(seed, make, "any")
            sharper = obbt(q.graph, encoding, bounds, highs.load, always)
            gained += sum(float((bounds[j].upper - sharper[j].upper).sum()) for j in bounds)
    assert gained > 0.5


class Liar:
    """A model whose multipliers are noise."""

    def __init__(self, program):
        self.model, self.rng = highs.load(program), np.random.default_rng(0)

    def change_cost(self, cost):
        self.model.change_cost(cost)

    def solve(self):
        outcome = self.model.solve()
        return replace(outcome, duals=self.rng.normal(size=len(outcome.duals)) if outcome.duals is not None else None)


@pytest.mark.parametrize("seed", range(5))
def test_a_lying_solver_costs_sharpness_only(seed):
    q, bounds, encoding = made(seed, multilayer, "none")
    sharper = obbt(q.graph, encoding, bounds, Liar, always)
    x = q.region.lower + torch.rand(500, *q.graph.input_shape, dtype=torch.float64, generator=generator(seed)) * (
        q.region.upper - q.region.lower
    )
    for node, h in q.graph.forward(x, list(sharper)).items():
        assert bool(((h >= sharper[node].lower - 1e-9) & (h <= sharper[node].upper + 1e-9)).all())


def test_without_time_the_limits_stay():
    q, bounds, encoding = made(0, multilayer, "any")
    sharper = obbt(q.graph, encoding, bounds, highs.load, lambda: 0.0)
    assert all(torch.equal(sharper[j].lower, bounds[j].lower) for j in bounds)


def test_the_engine_is_exact_with_tightened_limits():
    q, _, _ = made(3, multilayer, "any")
    ledger = milp(q, gap=1e-7)
    assert bool(ledger.closed.all())
