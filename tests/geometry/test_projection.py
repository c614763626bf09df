import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import optimize

from clinch.geometry.directions import linear_maximiser, steepest_direction
from clinch.geometry.projection import project, project_into
from clinch.geometry.region import Ball, Region

sys.path.insert(0, str(Path(__file__).parent))
from geometry_cases import Case, _finite, cases, supports

INF = math.inf


def weighted_norm(case: Case, x):
    moved = (x - case.center) * case.scale
    return float(np.linalg.norm(moved, case.p)) if case.p else float((case.scale * (x != case.center)).sum())


def solve(case: Case, z):
    _, lower, upper, center, radius, weights = case.tensors()
    ball = Ball(center, radius, case.p, weights)
    return project(torch.from_numpy(z)[None], lower, upper, ball)[0].numpy()


def reference(case: Case, z) -> float:
    """Squared distance from z to box ∩ ball by an independent solver."""
    if case.p == 0:
        return min(((np.clip(z, a, b) - z) ** 2).sum() for size, a, b in supports(case) if size <= case.radius + 1e-12)
    n, eye = len(z), np.eye(len(z))
    w = np.diag(case.scale)
    limits = list(zip(_finite(case.lower), _finite(case.upper)))
    base = np.clip(case.center, case.lower, case.upper)
    if case.p == 2:
        constraints = [
            {
                "type": "ineq",
                "fun": lambda x: case.radius**2 - ((w @ (x - case.center)) ** 2).sum(),
                "jac": lambda x: -2 * w @ w @ (x - case.center),
            }
        ]
        run = optimize.minimize(
            lambda x: ((x - z) ** 2).sum(), base, jac=lambda x: 2 * (x - z), bounds=limits, constraints=constraints,
            method="SLSQP", options={"maxiter": 500, "ftol": 1e-15},
        )  # fmt: skip
        return run.fun
    # p = 1 and inf as a quadratic program over (x, t)
    size = n if case.p == 1 else 1
    each = -eye if case.p == 1 else -np.ones((n, 1))
    a = np.vstack([np.hstack([w, each]), np.hstack([-w, each]), np.hstack([np.zeros((1, n)), np.ones((1, size))])])
    b = np.concatenate([w @ case.center, -w @ case.center, [case.radius]])
    start = np.concatenate([base, (w @ abs(base - case.center)) if case.p == 1 else [case.radius]])
    run = optimize.minimize(
        lambda v: ((v[:n] - z) ** 2).sum(), start, jac=lambda v: np.concatenate([2 * (v[:n] - z), np.zeros(size)]),
        bounds=limits + [(0, None)] * size,
        constraints=[{"type": "ineq", "fun": lambda v: b - a @ v, "jac": lambda v: -a}],
        method="SLSQP", options={"maxiter": 500, "ftol": 1e-15},
    )  # fmt: skip
    return run.fun


@settings(max_examples=100, deadline=None)
@given(cases(), st.integers(0, 2**32 - 1))
def test_projection(case, seed):
    case.radius += 0.05 if case.p else 0
    base = np.clip(case.center, case.lower, case.upper)
    assume(weighted_norm(case, base) < case.radius - 1e-2 or (case.p == 0 and weighted_norm(case, base) <= case.radius))
    z = case.center + np.random.default_rng(seed).normal(size=len(case.row)) * 2
    x = solve(case, z)
    assert (x >= case.lower).all() and (x <= case.upper).all()
    assert weighted_norm(case, x) <= case.radius * (1 + 1e-15)
    assert ((x - z) ** 2).sum() <= reference(case, z) + 1e-6
    again = solve(case, x)
    assert np.array_equal(again, x)


@settings(max_examples=100, deadline=None)
@given(cases(), st.integers(0, 2**32 - 1), st.sampled_from([torch.float32, torch.float64]))
def test_a_feasible_point_stays_bit_for_bit(case, seed, dtype):
    _, lower, upper, center, radius, weights = (t if t is None else t.to(dtype) for t in case.tensors())
    ball = Ball(center, radius, case.p, weights)
    region = Region(lower, upper, (ball,))
    z = center + torch.randn(center.shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    x = project(z, lower, upper, ball)
    assume(bool(region.contains(x)))
    assert torch.equal(project(x, lower, upper, ball), x)
    assert torch.equal(project_into(region, x), x)


def test_an_empty_intersection_gives_the_nearest_point_of_the_box():
    lower, upper = torch.full((1, 2), 3.0), torch.full((1, 2), 4.0)
    for p in (0.0, 1.0, 2.0, INF):
        ball = Ball(torch.zeros(1, 2), torch.tensor([1.0]), p)
        x = project(torch.full((1, 2), 9.0), lower, upper, ball)
        assert bool(((x >= lower) & (x <= upper)).all())
        if p:
            assert torch.allclose(x, lower)


@pytest.mark.parametrize("p", [0.0, 1.0, 2.0, INF])
def test_batches_are_singles(p):
    generator = torch.Generator().manual_seed(8)
    x = torch.randn(6, 1, 4, 5, generator=generator)
    lower, upper = torch.zeros(6, 1, 4, 5), torch.ones(6, 1, 4, 5)
    ball = Ball(torch.rand(6, 1, 4, 5, generator=generator), torch.tensor([0.0, 1.0, 2.0, 3.0, 0.3, 99.0]), p)
    whole = project(x, lower, upper, ball)
    for i in range(6):
        one = torch.tensor([i])
        assert torch.allclose(whole[one], project(x[one], lower[one], upper[one], ball.take(one)), atol=1e-6)
    assert torch.equal(whole[5], x[5].clamp(0, 1))


def test_several_balls_are_met_together():
    zero = torch.zeros(1, 3, dtype=torch.float64)
    balls = Ball(zero, torch.tensor([1.0], dtype=torch.float64), 2.0), Ball(zero + 1, torch.tensor([2.0]).double(), 1.0)
    region = Region(zero - 5, zero + 5, balls)
    x = project_into(region, zero - 4)
    assert float(balls[0].distance(x)) <= 1 + 1e-9 and float(balls[1].distance(x)) <= 2 + 1e-6


@pytest.mark.parametrize("p", [1.0, 2.0, INF])
@pytest.mark.parametrize("weighted", [False, True])
def test_steepest_direction_reaches_the_dual_norm(p, weighted):
    generator = torch.Generator().manual_seed(9)
    g = torch.randn(3, 2, 4, generator=generator, dtype=torch.float64)
    w = 0.5 + torch.rand(3, 2, 4, generator=generator, dtype=torch.float64) if weighted else None
    v = steepest_direction(g, p, w)
    scaled = (v if w is None else v * w).flatten(1)
    dual = (g if w is None else g / w).flatten(1)
    q = {1.0: INF, 2.0: 2.0, INF: 1.0}[p]
    assert torch.allclose(torch.linalg.vector_norm(scaled, ord=p, dim=1), torch.ones(3, dtype=torch.float64))
    assert torch.allclose((g * v).flatten(1).sum(1), torch.linalg.vector_norm(dual, ord=q, dim=1))
    assert not steepest_direction(torch.zeros(1, 4), p).any()


def test_linear_maximiser_is_the_ball_step_where_the_box_is_wide():
    g = torch.tensor([[[3.0, -4.0]]])
    box = torch.full((1, 1, 2), 10.0)
    for p in (1.0, 2.0, INF):
        ball = Ball(torch.zeros(1, 1, 2), torch.tensor([2.0]), p)
        assert torch.allclose(linear_maximiser(g, -box, box, ball), 2 * steepest_direction(g, p))
