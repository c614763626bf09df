import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from clinch.backends.convex import DistanceCost, LinearCost, minimise_over_polyhedron
from clinch.errors import BackendError

KINDS = ("linear", 1.0, 2.0, math.inf)


def case(seed, kind, weighted, feasible):
    rng = np.random.default_rng(seed)
    n, m = int(rng.integers(1, 9)), int(rng.integers(1, 7))
    lower, upper = -rng.uniform(0.1, 1, n), rng.uniform(0.1, 1, n)
    rows = rng.normal(size=(m, n))
    inside = lower + (upper - lower) * rng.uniform(size=n)
    limits = rows @ inside + (rng.uniform(0, 0.2, m) if feasible else -rng.uniform(0, 3, m))
    weights = rng.uniform(0.5, 2, n) * (rng.uniform(size=n) > 0.15) if weighted else None
    center = rng.normal(size=n)
    objective = LinearCost(rng.normal(size=n)) if kind == "linear" else DistanceCost(center, kind, weights)
    return objective, lower, upper, rows, limits


def cost(objective, x):
    if isinstance(objective, LinearCost):
        return float(objective.cost @ x)
    off = (x - objective.center) * (1.0 if objective.weights is None else objective.weights)
    return 0.5 * float(off @ off) if objective.p == 2 else float(np.linalg.norm(off, objective.p))


def dual(objective, lower, upper, row):
    """min over the box of cost(x) + row·x, by means of its own for each objective."""
    if isinstance(objective, LinearCost):
        total = objective.cost + row
        return float(np.minimum(total * lower, total * upper).sum())
    n, center = len(lower), objective.center
    w = np.ones(n) if objective.weights is None else objective.weights
    if objective.p == math.inf:  # a linear program in x and the largest deviation
        a = np.block([[np.diag(w), -np.ones((n, 1))], [-np.diag(w), -np.ones((n, 1))]])
        b = np.concatenate([w * center, -w * center])
        limits = [*zip(lower, upper), (0, None)]
        return linprog(np.append(row, 1.0), A_ub=a, b_ub=b, bounds=limits).fun
    corners = [lower, upper, np.clip(center, lower, upper)]
    if objective.p == 1:
        return float(np.min([w * np.abs(x - center) + row * x for x in corners], axis=0).sum())
    flat = np.divide(row, w * w, out=np.zeros(n), where=w > 0)
    corners.append(np.clip(center - flat, lower, upper))
    return float(np.min([0.5 * (w * (x - center)) ** 2 + row * x for x in corners], axis=0).sum())


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000), st.sampled_from(KINDS), st.booleans(), st.booleans())
def test_point_and_multipliers_meet_or_a_ray_proves_that_nothing_is_feasible(seed, kind, weighted, feasible):
    objective, lower, upper, rows, limits = case(seed, kind, weighted, feasible)
    result = minimise_over_polyhedron(objective, lower, upper, rows, limits)
    if result.point is None:
        assert result.ray is not None and (result.ray >= 0).all()
        row = result.ray @ rows
        assert np.minimum(row * lower, row * upper).sum() - result.ray @ limits > 0
        return
    assert (result.point >= lower).all() and (result.point <= upper).all()
    assert (rows @ result.point - limits).max() <= 1e-6
    assert (result.multipliers >= 0).all()
    value = cost(objective, result.point)
    bound = dual(objective, lower, upper, result.multipliers @ rows) - result.multipliers @ limits
    assert bound == pytest.approx(value, abs=2e-6)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000))
def test_feasible_cases_get_a_point(seed):
    for kind in KINDS:
        assert minimise_over_polyhedron(*case(seed, kind, False, True)).point is not None


def test_an_image_sized_problem_ends_at_the_optimum():
    rng = np.random.default_rng(0)
    n, m = 784, 70
    rows, center = 0.05 * rng.normal(size=(m, n)), rng.uniform(size=n) * (rng.uniform(size=n) < 0.3)
    limits = rows @ np.clip(center + 0.2 * rng.normal(size=n), 0, 1)
    objective = DistanceCost(center, 2.0)
    result = minimise_over_polyhedron(objective, np.zeros(n), np.ones(n), rows, limits)
    bound = dual(objective, np.zeros(n), np.ones(n), result.multipliers @ rows) - result.multipliers @ limits
    assert cost(objective, result.point) == pytest.approx(bound, abs=1e-9)


def test_dependent_rows_are_no_obstacle():
    one = np.ones(3)
    rows = np.vstack([-one, -one, -2 * one, np.zeros(3)])
    result = minimise_over_polyhedron(DistanceCost(0 * one, 2.0), -one, one, rows, np.array([-1.5, -1.5, -3.0, 0.0]))
    assert result.point == pytest.approx(0.5 * one)


def test_no_time_gives_no_point():
    objective, lower, upper, rows, limits = case(3, 1.0, False, True)
    rows, limits = np.vstack([rows, -rows]), np.append(limits, limits + 10)  # one row alone is closed form
    for p in (1.0, math.inf):
        distance = DistanceCost(objective.center, p)
        assert minimise_over_polyhedron(distance, lower, upper, rows, limits, time_limit=0.0).point is None


def test_not_a_number_is_refused():
    objective, lower, upper, rows, limits = case(3, 2.0, False, True)
    with pytest.raises(BackendError, match="NaN"):
        minimise_over_polyhedron(objective, lower, upper, rows * np.nan, limits)
    with pytest.raises(BackendError, match="p = 3"):
        minimise_over_polyhedron(
            DistanceCost(objective.center, 3.0), lower, upper, np.tile(rows, (2, 1)), np.tile(limits, 2)
        )
