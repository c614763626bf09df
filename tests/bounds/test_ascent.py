"""Ascent of the dual function: never below its start, never past what a domain holds, and worth its steps."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from dual_cases import OBJECTIVES, domains_of, members, query_of, random, relaxed_of
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import uniform

from clinch.bounds.ascent import SLOWEST, ascend
from clinch.bounds.dual import DualFunction, Multipliers, evaluate
from clinch.testing.networks import KINKED, multilayer, residual

pytestmark = pytest.mark.table

LAW = settings(max_examples=3, deadline=None)
SEEDS = st.integers(0, 2**31)
NAMES = [f"{kind}-{p}" for kind, p in OBJECTIVES]


def case(make, kind, p, seed, count=8, size=2):
    rng = random(seed)
    relaxed = relaxed_of(query_of(make(rng), rng, kind, p, size=size))
    return relaxed, domains_of(relaxed, rng, count), rng


@pytest.mark.parametrize(("kind", "p"), OBJECTIVES, ids=NAMES)
@pytest.mark.parametrize("make", KINKED, ids=lambda f: f.__name__)
@given(seed=SEEDS)
@LAW
def test_never_below_the_start_and_never_past_what_a_domain_holds(make, kind, p, seed):
    relaxed, d, rng = case(make, kind, p, seed)
    x = uniform(rng, (300, *relaxed.query.graph.input_shape))
    inside = members(relaxed, d, x)
    before = evaluate(relaxed, d).bound
    after = ascend(relaxed, d, 15).domains.bound
    assert bool((after >= before).all())
    for k in range(len(d)):
        value, _ = relaxed.query.take(d.problem[k : k + 1].expand(len(x))).evaluate(x)
        least = float(torch.where(inside[k], value, torch.inf).min())
        assert not float(after[k]) > least + 1e-9 * (1 + abs(least))


@pytest.mark.parametrize(("kind", "p"), OBJECTIVES, ids=NAMES)
@given(seed=SEEDS)
@LAW
def test_what_is_returned_is_what_its_multipliers_prove(kind, p, seed):
    relaxed, d, _ = case(multilayer, kind, p, seed)
    ascent = ascend(relaxed, d, 10)
    least, most = (function := DualFunction(relaxed, d)).limits
    found = ascent.domains
    m = Multipliers(torch.minimum(torch.maximum(found.alpha, least), most), found.beta, found.mu)
    again = function(m)
    for _ in range(10):
        again = function(m, again.start)
    assert bool((again.bound >= found.bound - 1e-7).all())
    if p != 2.0:
        # p = 2 may end with a worse multiplier of the ball than the best one
        assert torch.allclose(again.bound, found.bound, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_a_parents_bound_is_kept(steps):
    relaxed, d, _ = case(residual, "distance", math.inf, 0)
    d = replace(d, bound=torch.full_like(d.bound, 99.0))
    assert ascend(relaxed, d, steps).domains.bound.tolist() == [99.0] * len(d)


@pytest.mark.parametrize(("kind", "p"), OBJECTIVES, ids=NAMES)
def test_steps_pay(kind, p):
    """Over many domains the sum of finite bounds rises by much more than rounding."""
    relaxed, d, _ = case(residual, kind, p, 4, count=40)
    one, many = (ascend(relaxed, d, steps).domains.bound for steps in (1, 30))
    both = torch.isfinite(one) & torch.isfinite(many)
    assert float((many - one)[both].sum()) > 1e-2 or bool((torch.isinf(many) & ~torch.isinf(one)).any())


def test_a_domain_without_points_is_closed_by_the_ascent():
    """Both an atom and a split that contradicts it: the bound of a distance becomes infinite."""
    relaxed, d, rng = case(multilayer, "distance", 2.0, 7, count=200)
    x = uniform(rng, (2000, *relaxed.query.graph.input_shape))
    empty = ~members(relaxed, d, x).any(1)
    after = ascend(relaxed, d, 60).domains.bound
    assert bool((~torch.isinf(after[~empty])).all())
    assert float(torch.isinf(after[empty]).double().mean()) > 0.3


def test_domains_at_their_target_are_left_alone_and_a_stop_is_obeyed():
    relaxed, d, _ = case(residual, "linear", None, 5, count=12)
    first = ascend(relaxed, d, 0).domains.bound
    settled = ascend(relaxed, d, 20, target=torch.full_like(first, -1e9))
    assert torch.allclose(settled.domains.bound, first, rtol=1e-5, atol=1e-5)  # of multipliers in single precision
    stopped = ascend(relaxed, d, 20, stop=lambda: True)
    assert bool((stopped.domains.bound >= first - 1e-5).all())
    assert bool(stopped.point.isfinite().all())


def test_multipliers_stay_within_their_limits():
    relaxed, d, _ = case(residual, "distance", 1.0, 6, count=20)
    found = ascend(relaxed, d, 25).domains
    assert bool((found.beta >= 0).all() and (found.mu >= 0).all())
    assert bool((found.beta[found.split == 0] == 0).all())
    assert bool((found.mu[~found.allowed(relaxed.query.atoms.count)] == 0).all())
    assert bool(((found.alpha >= relaxed.floor) & (found.alpha <= 1)).all())


@pytest.mark.parametrize(("kind", "p"), OBJECTIVES, ids=NAMES)
def test_steps_that_are_far_too_long_shorten_themselves(kind, p):
    """From good multipliers long steps lose; domains return from them, and are then slower than at first."""
    relaxed, d, _ = case(residual, kind, p, 4, count=40)
    d = ascend(relaxed, d, 40).domains
    fresh = replace(d, bound=torch.full_like(d.bound, -math.inf), pace=torch.ones_like(d.pace))
    start = ascend(relaxed, fresh, 0).domains.bound
    found = ascend(relaxed, fresh, 30, step_size=50.0)
    open_ = torch.isfinite(start)
    assert bool((found.domains.bound >= start - 1e-5).all())
    assert bool((found.domains.pace <= 1).all() and (found.domains.pace >= SLOWEST).all())
    assert float(found.domains.pace[open_].mean()) < 0.9


def test_stalled_domains_are_those_that_no_step_improved():
    relaxed, d, _ = case(residual, "distance", math.inf, 4, count=40)
    ascent = ascend(relaxed, d, 12)
    before = evaluate(relaxed, d).bound
    after = evaluate(relaxed, ascent.domains).bound
    assert bool((after >= before - 1e-5).all())
    same = torch.isclose(after, before, rtol=1e-5, atol=1e-6) | (after == before)
    assert bool(same[ascent.stalled].all()) and not bool(ascent.stalled.all())
