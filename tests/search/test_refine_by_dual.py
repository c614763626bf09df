"""Limits inside a branch contain whatever meets the branch's conditions, and never grow."""

from __future__ import annotations

import math

import pytest
import torch
from dual_cases import query_of, random, relaxed_of
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import uniform

from clinch.bounds.crown import activation_bounds
from clinch.bounds.domains import relax_query
from clinch.network.ops.base import Interval
from clinch.search.refine_by_dual import refine_by_dual
from clinch.testing.networks import KINKED, multilayer, residual

LAW = settings(max_examples=3, deadline=None)
SEEDS = st.integers(0, 2**31)
CASES = [("distance", 1.0), ("distance", math.inf), ("linear", None), ("linear", 2.0)]
CHOICE = torch.tensor([[0, 2], [1, 2], [-1, 2]])


def case(make, kind, p, seed):
    """A query of three branches: an atom of the disjunction each, and one that leaves it open."""
    rng = random(seed)
    query = query_of(make(rng), rng, kind, p).take(torch.zeros(3, dtype=torch.long))
    return query, relaxed_of(query), activation_bounds(query.graph, query.region, query.nodes), rng


def allowed(query, x, branch: int, target: float) -> torch.Tensor:
    """``(N,)`` the points that meet a branch's conditions and are better than the target."""
    one = query.take(torch.full((len(x),), branch))
    value, atoms = one.evaluate(x)
    good = one.region.contains(x)
    for clause, atom in enumerate(CHOICE[branch].tolist()):
        of_clause = query.clause == clause
        good &= (atoms[:, of_clause].amin(1) <= 0) if atom < 0 else (atoms[:, atom] <= 0)
    return good & ((value < target) if query.objective.nodes else torch.ones_like(good))


@pytest.mark.parametrize(("kind", "p"), CASES, ids=[f"{kind}-{p}" for kind, p in CASES])
@pytest.mark.parametrize("make", KINKED, ids=lambda f: f.__name__)
@given(seed=SEEDS)
@LAW
def test_limits_hold_for_all_that_meets_the_conditions(make, kind, p, seed):
    query, relaxed, bounds, rng = case(make, kind, p, seed)
    x = uniform(rng, (1500, *query.graph.input_shape))
    first = query.take(torch.zeros(len(x), dtype=torch.long))
    value = first.evaluate(x)[0][first.region.contains(x)]
    target = torch.full((3,), float(value.median()), dtype=torch.float64)
    limits = refine_by_dual(relaxed, bounds, CHOICE, torch.arange(3), target, steps=8)
    nodes = [query.graph.nodes[k.node].inputs[0] for k in relaxed.kinks]
    h = query.graph.forward(x, nodes)
    for branch in range(3):
        good = allowed(query, x, branch, float(target[branch]))
        for j in nodes:
            assert bool((limits[j].lower[branch] <= h[j][good] + 1e-9).all())
            assert bool((limits[j].upper[branch] >= h[j][good] - 1e-9).all())
        if bool(good.any()):  # limits of a branch without points may say anything
            for j in bounds:
                assert bool((limits[j].lower[branch] >= bounds[j].lower[branch]).all())
                assert bool((limits[j].upper[branch] <= bounds[j].upper[branch]).all())


@pytest.mark.parametrize(("kind", "p"), [("distance", 1.0), ("linear", None)])
def test_conditions_cut_limits(kind, p):
    """Over some problems a good part of the width goes, and most where more is asked for."""
    width = {"before": 0.0, "open": 0.0, "after": 0.0}
    for seed in range(6):
        query, relaxed, bounds, rng = case(residual, kind, p, seed)
        x = uniform(rng, (300, *query.graph.input_shape))
        value, _ = query.take(torch.zeros(len(x), dtype=torch.long)).evaluate(x)
        for name, target in (("open", math.inf), ("after", float(value.quantile(0.2)))):
            aim = torch.full((3,), target, dtype=torch.float64)
            limits = refine_by_dual(relaxed, bounds, CHOICE, torch.arange(3), aim)
            width[name] += sum(float((limits[j].upper - limits[j].lower).sum()) for j in bounds)
        width["before"] += sum(float((b.upper - b.lower).sum()) for b in bounds.values())
    assert width["open"] < 0.95 * width["before"]
    if kind == "linear":
        assert width["after"] < 0.95 * width["open"]


def test_a_layer_without_open_elements_is_passed_over():
    query, relaxed, bounds, _ = case(multilayer, "linear", None, 2)
    first = relaxed.query.graph.nodes[relaxed.kinks[0].node].inputs[0]
    decided = {j: Interval(b.lower.clamp(min=0), b.upper.clamp(min=1)) if j == first else b for j, b in bounds.items()}
    layout = {k.node: k.which for k in relaxed.kinks}
    target = torch.full((3,), math.inf, dtype=torch.float64)
    limits = refine_by_dual(relax_query(query, decided, layout), decided, CHOICE, torch.arange(3), target)
    assert torch.equal(limits[first].lower, decided[first].lower)


def test_other_branches_and_a_stop_leave_limits_alone():
    _, relaxed, bounds, _ = case(multilayer, "distance", 2.0, 1)
    target = torch.full((3,), math.inf, dtype=torch.float64)
    some = refine_by_dual(relaxed, bounds, CHOICE, torch.tensor([1]), target)
    none = refine_by_dual(relaxed, bounds, CHOICE, torch.arange(3), target, stop=lambda: True)
    changed = False
    for j in bounds:
        for new, old, stopped in zip(some[j], bounds[j], none[j]):
            assert torch.equal(new[[0, 2]], old[[0, 2]]) and torch.equal(stopped, old)
            changed |= not torch.equal(new[1], old[1])
    assert changed
