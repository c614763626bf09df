"""The last step of the dual function: never above the exact answer, and equal to it where it promises to be."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from dual_cases import normal, random
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import uniform

from clinch.bounds.concretise import Concretised, Concretiser
from clinch.geometry.halfspace import halfspace_distance
from clinch.geometry.linear_minimum import flatten_ball, linear_minimum
from clinch.geometry.region import Ball, Region
from clinch.query import Distance, Forms, Linear, Query
from clinch.testing.networks import convolutional, multilayer

pytestmark = pytest.mark.table

LAW = settings(max_examples=25, deadline=None)
SEEDS = st.integers(0, 2**31)
DISTANCES = (0.0, 1.0, 2.0, math.inf)
#: more input elements than the largest coefficients of p = 1 that are looked at first
WIDE = 40


def query_over(rng: torch.Generator, size: int, n: int, kind: str, p: float | None, *, awkward: bool) -> Query:
    """B problems over an input of n elements; awkward: degenerate limits, centres at a limit or outside, weights."""
    net = multilayer(rng)
    center = uniform(rng, (size, n))
    lower = center - torch.rand(size, n, generator=rng, dtype=torch.float64)
    upper = center + torch.rand(size, n, generator=rng, dtype=torch.float64)
    weights = None
    if awkward:
        fixed = torch.rand(size, n, generator=rng) < 0.2
        lower, upper = torch.where(fixed, center, lower), torch.where(fixed, center, upper)
        center = center + 0.4 * normal(rng, size, n)
        weights = torch.rand(size, n, generator=rng, dtype=torch.float64).round(decimals=1)
    none = Forms({}, torch.zeros(size, 0, dtype=torch.float64))
    balls = ()
    objective: Distance | Linear = Linear(Forms({}, torch.zeros(size, 1, dtype=torch.float64)))
    if kind == "distance":
        objective = Distance(center, float(p), weights)  # type: ignore[arg-type]
    elif p is not None:
        radius = (
            torch.full((size,), 2.0, dtype=torch.float64) if p == 0 else torch.rand(size, generator=rng).double() + 0.1
        )
        balls = (Ball(center, radius, p, weights),)
    return Query(net, net.graph, Region(lower, upper, balls), objective, none, torch.zeros(0, dtype=torch.long))


def exact(query: Query, problem: torch.Tensor, rows: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
    lower, upper = query.region.lower[problem], query.region.upper[problem]
    if isinstance(query.objective, Distance):
        d = query.objective.take(problem)
        return halfspace_distance(rows, offset, lower, upper, d.center, d.p, d.weights).distance
    ball = flatten_ball(query.region.balls[0].take(problem)) if query.region.balls else None
    return linear_minimum(rows.unsqueeze(1), lower, upper, ball)[0][:, 0] + offset


def rows_for(rng: torch.Generator, count: int, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    rows = normal(rng, count, n)
    rows = torch.where(torch.rand(count, n, generator=rng) < 0.2, 0.0, rows)
    return rows, 0.5 * normal(rng, count) * rows.abs().sum(1) ** 0.5


def followed(query: Query, problem: torch.Tensor, rows: torch.Tensor, offset: torch.Tensor) -> list[Concretised]:
    """A first call, and further ones for the same rows that start where the last one ended."""
    concretise = Concretiser(query).on(problem)
    found = [concretise(rows, offset, None)]
    for _ in range(3):
        found.append(concretise(rows, offset, found[-1].start))
    return found


def near(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a == b) | ((a - b).abs() <= 1e-7 * (1 + b.abs()))


@pytest.mark.parametrize("awkward", [False, True], ids=["plain", "awkward"])
@pytest.mark.parametrize("p", DISTANCES)
@given(seed=SEEDS, n=st.sampled_from([1, 3, WIDE]), size=st.sampled_from([1, 3]))
@LAW
def test_distances_never_pass_the_exact_ones(p, awkward, seed, n, size):
    rng = random(seed)
    query = query_over(rng, size, n, "distance", p, awkward=awkward)
    problem = torch.randint(size, (6,), generator=rng)
    rows, offset = rows_for(rng, 6, n)
    reference = exact(query, problem, rows, offset)
    for found in followed(query, problem, rows, offset):
        assert bool((found.bound <= reference + 1e-7 * (1 + reference)).all()), (found.bound, reference)
        assert found.bound.isnan().sum() == 0
    if p != math.inf:
        # the tangent of p = infinity loses something on purpose
        assert bool(near(found.bound, reference).all()), (found.bound, reference)


@given(seed=SEEDS, n=st.sampled_from([1, 4]))
@LAW
def test_the_largest_move_is_exact_where_the_box_is_the_incumbents_ball(seed, n):
    rng = random(seed)
    query = query_over(rng, 1, n, "distance", math.inf, awkward=False)
    assert isinstance(query.objective, Distance)
    center, radius = query.objective.center, 0.1 + float(uniform(rng, (), 0, 1))
    query = replace(query, region=Region(center - radius, center + radius))
    problem = torch.zeros(6, dtype=torch.long)
    rows, offset = rows_for(rng, 6, n)
    (found, *_) = followed(query, problem, rows, offset)
    assert bool(near(found.bound, exact(query, problem, rows, offset)).all())


@pytest.mark.parametrize("awkward", [False, True], ids=["plain", "awkward"])
@pytest.mark.parametrize("p", [None, *DISTANCES])
@given(seed=SEEDS, n=st.sampled_from([1, 3, WIDE]), size=st.sampled_from([1, 3]))
@LAW
def test_linear_minima_are_those_of_geometry(p, awkward, seed, n, size):
    rng = random(seed)
    query = query_over(rng, size, n, "linear", p, awkward=awkward)
    problem = torch.randint(size, (6,), generator=rng)
    rows, offset = rows_for(rng, 6, n)
    reference = exact(query, problem, rows, offset)
    for found in followed(query, problem, rows, offset):
        slack = 1e-7 * (1 + reference.abs().nan_to_num(posinf=0.0))
        assert bool((found.bound <= reference + slack).all()), (found.bound, reference)
    # each call is one Newton step: after a cold start and three more the number is the minimum
    assert bool(near(found.bound, reference).all()), (found.bound, reference)


@pytest.mark.parametrize("p", [None, 1.0, 2.0])
@given(seed=SEEDS)
@LAW
def test_linear_minima_lie_below_every_point_of_the_region(p, seed):
    rng = random(seed)
    query = query_over(rng, 1, 4, "linear", p, awkward=False)
    rows, offset = rows_for(rng, 5, 4)
    share = torch.rand(200, 4, generator=rng, dtype=torch.float64)
    x = query.region.lower + share * (query.region.upper - query.region.lower)
    x = x[query.take(torch.zeros(200, dtype=torch.long)).region.contains(x)]
    for found in followed(query, torch.zeros(5, dtype=torch.long), rows, offset):
        assert bool((found.bound.unsqueeze(1) <= rows @ x.T + offset.unsqueeze(1) + 1e-9).all())


@pytest.mark.parametrize("p", [1.0, 2.0, math.inf])
@given(seed=SEEDS)
@LAW
def test_any_start_is_a_bound(p, seed):
    """A start that belongs to other rows costs tightness, never soundness."""
    rng = random(seed)
    query = query_over(rng, 1, 4, "distance", p, awkward=False)
    problem = torch.zeros(6, dtype=torch.long)
    concretise = Concretiser(query).on(problem)
    rows, offset = rows_for(rng, 6, 4)
    start = concretise(*rows_for(rng, 6, 4), None).start
    start = None if start is None else start * 10 ** normal(rng, 6)
    reference = exact(query, problem, rows, offset)
    assert bool((concretise(rows, offset, start).bound <= reference + 1e-7 * (1 + reference)).all())


@pytest.mark.parametrize(("kind", "p"), [("distance", 2.0), ("distance", 1.0), ("linear", 2.0), ("linear", None)])
def test_some_domains_are_the_same_domains(kind, p):
    rng = random(0)
    query = query_over(rng, 3, 4, kind, p, awkward=False)
    problem = torch.tensor([2, 0, 1, 1])
    rows, offset = rows_for(rng, 4, 4)
    concretise, index = Concretiser(query).on(problem), torch.tensor([3, 0])
    whole = concretise(rows, offset, None)
    part = concretise.take(index)(rows[index], offset[index], None)
    assert torch.equal(part.bound, whole.bound[index]) and torch.equal(part.point, whole.point[index])


def test_where_nothing_is_bounded_nothing_is_claimed():
    net = convolutional(random(0))
    infinite = torch.full((1, 1, 3, 3), torch.inf, dtype=torch.float64)
    none = Forms({}, torch.zeros(1, 0, dtype=torch.float64))
    objective = Linear(Forms({}, torch.zeros(1, 1, dtype=torch.float64)))
    query = Query(net, net.graph, Region(-infinite, infinite), objective, none, torch.zeros(0, dtype=torch.long))
    found = Concretiser(query).on(torch.zeros(1, dtype=torch.long))(
        torch.ones(1, 9, dtype=torch.float64), torch.zeros(1, dtype=torch.float64), None
    )
    assert float(found.bound) == -math.inf
