"""Leaves: their bound is the optimum of the affine piece, whatever was said by the solver that suggested it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from dual_cases import query_of, random, relaxed_of
from problems import uniform

from clinch.backends.convex import ConvexResult
from clinch.bounds.domains import Domains, Relaxed, fresh_domains
from clinch.geometry.region import Ball, Region
from clinch.query import Distance, Forms, Query
from clinch.search import affine_leaf as module
from clinch.search.affine_leaf import is_convex, solve_leaf
from clinch.search.milp.milp import milp
from clinch.testing.brute_force import brute_force
from clinch.testing.networks import KINKED, multilayer

pytestmark = pytest.mark.table

CASES = [
    ("distance", 1.0), ("distance", 2.0), ("distance", math.inf), ("linear", None), ("linear", 1.0), ("linear", 2.0)
]  # fmt: skip
IN_BALLS = (("linear", 1.0), ("linear", 2.0))
SEEDS = range(2)


def case(make, kind: str, p: float | None, seed: int) -> tuple[Relaxed, Domains, Query]:
    """A leaf that holds a random point, and the same piece as a query of its own."""
    rng = random(seed)
    query = query_of(make(rng), rng, kind, p)
    if isinstance(query.objective, Distance) and p == math.inf:
        # as in a search, whose box is the incumbent's ball
        query = replace(query, region=Region(query.objective.center - 0.9, query.objective.center + 0.9))
    relaxed = relaxed_of(query)
    x = query.region.lower + uniform(rng, (1, *query.graph.input_shape), 0, 1) * (
        query.region.upper - query.region.lower
    )
    before = query.graph.forward(x, [query.graph.nodes[k.node].inputs[0] for k in relaxed.kinks])
    signs = [
        torch.where(before[query.graph.nodes[k.node].inputs[0]].flatten(1)[:, k.which] >= 0, 1, -1)
        for k in relaxed.kinks
    ]
    split = torch.cat(signs, 1).to(torch.int8) * relaxed.unstable
    choice = torch.tensor([[int(torch.randint(2, (1,), generator=rng)), 2]])
    leaf = fresh_domains(relaxed, torch.zeros(1, dtype=torch.long), choice, split.to(torch.int8))
    return relaxed, leaf, piece(relaxed, leaf)


def piece(relaxed: Relaxed, leaf: Domains) -> Query:
    """The query with the leaf's chosen atoms and the signs of its splits as clauses of one atom."""
    query, rows, constants = relaxed.query, {}, []
    chosen = leaf.choice[0]
    nodes = sorted({*query.atoms.nodes, *(query.graph.nodes[k.node].inputs[0] for k in relaxed.kinks)})
    count = len(chosen) + int((leaf.split != 0).sum())
    for j in nodes:
        rows[j] = torch.zeros(1, count, *query.graph.nodes[j].shape, dtype=torch.float64)
        if j in query.atoms.coefficients:
            rows[j][:, : len(chosen)] = query.atoms.coefficients[j][:, chosen]
    constants = torch.zeros(1, count, dtype=torch.float64)
    constants[:, : len(chosen)] = query.atoms.constant[:, chosen]
    row = len(chosen)
    for kink in relaxed.kinks:
        j = query.graph.nodes[kink.node].inputs[0]
        for place, side in zip(kink.which.tolist(), leaf.split[0, kink.columns].tolist()):
            if side:
                rows[j].flatten(2)[0, row, place] = -side
                row += 1
    return replace(query, atoms=Forms(rows, constants), clause=torch.arange(count))


@pytest.mark.parametrize(
    ("make", "kind", "p"),
    # enumeration is slow in balls
    [(make, kind, p) for make in KINKED for kind, p in CASES if make is multilayer or (kind, p) not in IN_BALLS],
)
def test_the_bound_is_the_optimum_of_the_piece(make, kind, p):
    held, empty = 0, 0
    for seed in range(40):
        if held == 1:
            break
        relaxed, leaf, whole = case(make, kind, p, seed)
        exact = brute_force(whole)
        if exact == math.inf and empty == 1:
            continue
        solved, points = solve_leaf(relaxed, leaf, math.inf, 10.0)
        if exact == math.inf:
            # that there is no point is proven under a distance only: other objectives have no infinite bound
            assert kind == "linear" or float(solved.bound) == math.inf
            assert not points
            empty += 1
            continue
        held += 1
        assert math.isclose(float(solved.bound), exact, rel_tol=1e-5, abs_tol=1e-5)
        value, atoms = whole.evaluate(points[0])
        assert bool((atoms <= 1e-6).all()) and math.isclose(float(value), exact, rel_tol=1e-5, abs_tol=1e-5)
        if p != 2.0:
            ledger = milp(whole, time_limit=20)
            assert float(ledger.bound) <= float(solved.bound) + 1e-5 * (1 + abs(exact))
            assert float(solved.bound) <= float(ledger.value) + 1e-5 * (1 + abs(exact))
    assert held == 1


def test_tightened_points_satisfy_the_atoms_exactly():
    """The first point lies on its constraints; the further ones lie inside by a few rounding errors."""
    relaxed, leaf, whole = next(
        found for found in (case(multilayer, "distance", 1.0, s) for s in range(20)) if brute_force(found[2]) < math.inf
    )
    _, points = solve_leaf(relaxed, leaf, math.inf, 10.0)
    assert len(points) == 3
    chosen = len(leaf.choice[0])
    assert all(bool((whole.evaluate(x)[1][:, :chosen] <= 0).all()) for x in points[1:])
    assert not solve_leaf(relaxed, leaf, -math.inf, 10.0)[1][1:]


class Liar:
    """In place of a solver library."""

    def __init__(self, point, multipliers, ray) -> None:
        self.point, self.multipliers, self.ray = point, multipliers, ray

    def __call__(self, cost, *arguments, **options) -> ConvexResult:
        limits = arguments[3] if len(arguments) == 4 else arguments[-1]
        count = len(limits)
        rng = np.random.default_rng(0)
        multipliers = {"huge": 1e6 * rng.random(count), "negative": -rng.random(count), "nan": np.full(count, np.nan)}
        return ConvexResult(
            None if self.point is None else np.full(3, self.point),
            multipliers[self.multipliers],
            None if self.ray is None else multipliers[self.ray],
        )


@pytest.mark.parametrize(("kind", "p"), [("distance", 2.0), ("distance", math.inf), ("linear", None), ("linear", 2.0)])
@pytest.mark.parametrize(
    "liar", [Liar(0.0, "huge", None), Liar(None, "negative", "huge"), Liar(math.nan, "nan", "nan")]
)
def test_a_solver_that_lies_proves_nothing(monkeypatch, liar, kind, p):
    for name in ("minimise_over_polyhedron", "minimise_in_ball"):
        monkeypatch.setattr(module, name, liar)
    for seed in SEEDS:
        relaxed, leaf, whole = case(multilayer, kind, p, seed)
        solved, points = solve_leaf(relaxed, leaf, math.inf, 10.0)
        assert not float(solved.bound) > brute_force(whole) + 1e-6
        assert all(bool(x.isfinite().all()) for x in points)


def test_what_is_convex():
    rng = random(0)
    distance, linear = (
        query_of(multilayer(rng), rng, kind, None if kind == "linear" else 1.0) for kind in ("distance", "linear")
    )
    center = torch.zeros(1, 3, dtype=torch.float64)
    radius = torch.ones(1, dtype=torch.float64)
    assert is_convex(distance) and is_convex(linear)
    assert not is_convex(replace(distance, objective=Distance(center, 0.0)))
    counted = replace(linear, region=replace(linear.region, balls=(Ball(center, radius, 0.0),)))
    masked = replace(
        linear, region=replace(linear.region, balls=(Ball(center, radius, 2.0, torch.tensor([[1.0, 0, 1]])),))
    )
    assert not is_convex(counted) and not is_convex(masked)
    # a ball of another kind is left out under a distance
    assert is_convex(replace(distance, region=counted.region))
