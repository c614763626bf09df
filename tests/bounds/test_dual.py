"""The dual function: a lower bound of what a domain holds, whatever the multipliers, and its gradient."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from dual_cases import OBJECTIVES, domains_of, members, query_of, random, relaxed_of
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import uniform
from torch import Tensor

from clinch.bounds.domains import Domains, Relaxed
from clinch.bounds.dual import DualFunction, Multipliers, evaluate
from clinch.query import Distance
from clinch.testing.networks import ENCODABLE, multilayer, residual

pytestmark = pytest.mark.table

LAW = settings(max_examples=3, deadline=None)
SEEDS = st.integers(0, 2**31)
NAMES = [f"{kind}-{p}" for kind, p in OBJECTIVES]


def packed(d: Domains) -> Tensor:
    return torch.cat([d.alpha, d.beta, d.mu], 1)


def within(function: DualFunction, d: Domains) -> Tensor:
    """The domains' multipliers, slopes brought into their limits."""
    least, most = function.limits
    return torch.cat([torch.minimum(torch.maximum(d.alpha, least), most), d.beta, d.mu], 1)


@pytest.mark.parametrize(("kind", "p"), OBJECTIVES, ids=NAMES)
@pytest.mark.parametrize("make", ENCODABLE, ids=lambda f: f.__name__)
@given(seed=SEEDS)
@LAW
def test_no_multipliers_pass_what_a_domain_holds(make, kind, p, seed):
    rng = random(seed)
    query = query_of(make(rng), rng, kind, p, size=2)
    relaxed = relaxed_of(query)
    d = domains_of(relaxed, rng, 8)
    x = uniform(rng, (400, *query.graph.input_shape))
    inside = members(relaxed, d, x)
    bound = evaluate(relaxed, d).bound
    for k in range(len(d)):
        value, _ = query.take(d.problem[k : k + 1].expand(len(x))).evaluate(x)
        least = float(torch.where(inside[k], value, torch.inf).min())
        assert not float(bound[k]) > least + 1e-9 * (1 + abs(least)), (k, float(bound[k]), least)


def test_the_domains_above_hold_points():
    held = []
    for seed in range(6):
        rng = random(seed)
        relaxed = relaxed_of(query_of(multilayer(rng), rng, "linear", None))
        d = domains_of(relaxed, rng, 20)
        held.append(members(relaxed, d, uniform(rng, (400, 3))).any(1))
    assert float(torch.cat(held).double().mean()) > 0.2


def differences(relaxed: Relaxed, d: Domains, at: Tensor, step: float = 1e-6) -> tuple[Tensor, Tensor]:
    """Slopes of the bound by every multiplier to the right and to the left, each ``(D, 2U + K)``."""
    function = DualFunction(relaxed, d)
    here = settled(function, Multipliers.unpack(at, relaxed.width))
    sides = []
    for sign in (1, -1):
        slopes = []
        for j in range(at.shape[1]):
            moved = at.clone()
            moved[:, j] += sign * step
            slopes.append((settled(function, Multipliers.unpack(moved, relaxed.width)) - here) / (sign * step))
        sides.append(torch.stack(slopes, 1))
    return sides[0], sides[1]


def settled(function: DualFunction, m: Multipliers) -> Tensor:
    """The bound after enough steps of a concretisation that follows its best multiplier."""
    found = function(m)
    for _ in range(6):
        found = function(m, found.start)
    return found.bound


@pytest.mark.parametrize(
    ("kind", "p"), [("linear", None), ("linear", 1.0), ("linear", 2.0), ("distance", 1.0), ("distance", 2.0)]
)
@pytest.mark.parametrize("make", [multilayer, residual], ids=lambda f: f.__name__)
def test_the_gradient_is_the_slope_of_the_bound(make, kind, p):
    """Up to a positive factor for each domain, which is one for linear objectives."""
    rng = random(0)
    relaxed = relaxed_of(query_of(make(rng), rng, kind, p))
    d = domains_of(relaxed, rng, 80)
    function = DualFunction(relaxed, d)
    at = within(function, d)
    m = Multipliers.unpack(at, relaxed.width)
    start = None
    for _ in range(6):
        start = function(m, start).start
    dual = function(m, start, gradient=True)
    assert dual.gradient is not None
    right, left = differences(relaxed, d, at)
    # the slope of an element that is split has one admissible value: nothing is said about moving it
    free = torch.ones_like(at, dtype=torch.bool)
    free[:, : relaxed.width] = d.split == 0
    right, left, gradient = (torch.where(free, t, 0.0) for t in (right, left, dual.gradient))
    usable = torch.isfinite(dual.bound) & (right.norm(dim=1) > 1e-4)
    if kind == "distance":
        usable &= dual.bound > 1e-6
    # the function has corners, where there is no slope
    usable &= (right - left).norm(dim=1) <= 1e-4 * (1 + right.norm(dim=1))
    assert int(usable.sum()) >= 8
    slope, gradient = ((right + left) / 2)[usable], gradient[usable]
    factor = (slope * gradient).sum(1, keepdim=True) / gradient.square().sum(1, keepdim=True).clamp(min=1e-30)
    error = (slope - factor * gradient).norm(dim=1) / slope.norm(dim=1)
    assert bool((error < 1e-4).all()), error
    assert bool((factor > 0).all())
    if kind == "linear":
        assert torch.allclose(factor, torch.ones_like(factor), atol=1e-4)


@pytest.mark.parametrize(("kind", "p"), OBJECTIVES, ids=NAMES)
def test_a_distance_is_the_same_for_multiples_of_the_multipliers(kind, p):
    rng = random(1)
    relaxed = relaxed_of(query_of(multilayer(rng), rng, kind, p))
    d = domains_of(relaxed, rng, 12)
    scaled = replace(d, beta=7 * d.beta, mu=7 * d.mu)
    one, seven = evaluate(relaxed, d).bound, evaluate(relaxed, scaled).bound
    same = torch.allclose(one, seven, rtol=1e-7, atol=1e-9)
    assert same == isinstance(relaxed.query.objective, Distance)


@pytest.mark.parametrize(("kind", "p"), [("distance", 2.0), ("linear", 1.0)])
def test_some_domains_are_the_same_domains(kind, p):
    rng = random(2)
    relaxed = relaxed_of(query_of(residual(rng), rng, kind, p, size=3))
    d = domains_of(relaxed, rng, 9)
    function, index = DualFunction(relaxed, d), torch.tensor([8, 1, 1, 4])
    at = within(function, d)
    whole = function(Multipliers.unpack(at, relaxed.width), gradient=True)
    part = function.take(index)(Multipliers.unpack(at[index], relaxed.width), gradient=True)
    for name in ("bound", "point", "rows", "gradient"):
        assert torch.allclose(getattr(part, name), getattr(whole, name)[index], rtol=1e-12, atol=1e-12), name


def test_multipliers_of_nothing_prove_nothing_about_a_distance():
    rng = random(3)
    relaxed = relaxed_of(query_of(multilayer(rng), rng, "distance", math.inf))
    d = domains_of(relaxed, rng, 4)
    d = replace(d, beta=torch.zeros_like(d.beta), mu=torch.zeros_like(d.mu))
    assert evaluate(relaxed, d).bound.tolist() == [0.0] * 4
