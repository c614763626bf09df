"""The best steps of a linear model for every p >= 1: closed forms, CVXPY as the oracle, and what lies around them."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clinch.geometry.directions import steepest_direction
from clinch.geometry.halfspace import halfspace_distance
from clinch.geometry.linear_minimum import linear_minimum
from clinch.geometry.norms import norm, norm_of
from clinch.geometry.projection import project_into
from clinch.geometry.region import Ball, Region

INF = math.inf
NORMS = st.sampled_from([1.0, 1.25, 1.5, 2.0, 3.0, 7.5, INF])
NUMBER = st.floats(-3, 3).map(lambda v: round(v, 3))
ROOM = st.one_of(st.just(INF), st.floats(0, 2).map(lambda v: round(v, 2)))


def best_step(rows, radius, lower, upper, p):
    """Values and steps of least ``<g, η>`` in box and ball."""
    return linear_minimum(rows, lower, upper, Ball(torch.zeros_like(lower), radius, p))


def least_step(rows, need, lower, upper, p):
    """Lengths and steps of the shortest way to ``need + <g, η> <= 0``."""
    return halfspace_distance(rows, need, lower, upper, torch.zeros_like(lower), p)[:2]


@st.composite
def steps(draw, boxed=True):
    """gradient (1, 1, n), limits (1, n) around 0, p."""
    size = draw(st.integers(1, 5))
    row = torch.tensor(draw(st.lists(NUMBER, min_size=size, max_size=size)), dtype=torch.float64)
    ends = st.lists(ROOM if boxed else st.just(INF), min_size=size, max_size=size)
    lower, upper = (torch.tensor(draw(ends), dtype=torch.float64) for _ in range(2))
    return row[None, None], -lower[None], upper[None], draw(NORMS)


@given(steps(boxed=False), st.floats(0.01, 5))
def test_without_limits_the_steps_are_proposition_2_and_equation_8(case, radius):
    row, lower, upper, p = case
    direction = steepest_direction(row[0], p)
    length = norm_of(p).dual_value(row)
    if float(length) == 0:
        return
    assert torch.allclose(norm(direction, p), torch.ones(1, dtype=torch.float64))
    assert torch.allclose((row[0] * direction).sum(-1), length[0])
    value, step = best_step(row, torch.tensor([radius], dtype=torch.float64), lower, upper, p)
    assert torch.allclose(value, -radius * length, rtol=1e-9)
    assert torch.allclose(norm(step[0], p), torch.tensor(radius, dtype=torch.float64))
    distance, step = least_step(row, torch.full((1, 1), radius, dtype=torch.float64), lower, upper, p)
    assert torch.allclose(distance, radius / length, rtol=1e-9)
    assert torch.allclose((row * step).sum(-1), torch.tensor(-radius, dtype=torch.float64))


@settings(max_examples=60)
@given(steps(), st.floats(0.05, 3))
def test_the_best_step_in_a_box_is_cvxpys(case, radius):
    cp = pytest.importorskip("cvxpy")
    row, lower, upper, p = case
    value, step = best_step(row, torch.tensor([radius], dtype=torch.float64), lower, upper, p)
    eta = step[0]
    assert bool(((eta >= lower) & (eta <= upper)).all()) and float(norm(eta, p)) <= radius * (1 + 1e-9)
    assert torch.allclose((row[0] * eta).sum(-1), value[0], atol=1e-9)
    variable = cp.Variable(row.shape[-1])
    limits = [cp.norm(variable, p) <= radius, *box(variable, lower, upper)]
    best = cp.Problem(cp.Minimize(row.numpy()[0, 0] @ variable), limits).solve(solver="CLARABEL")
    assert float(value) == pytest.approx(best, abs=1e-5)


@settings(max_examples=60)
@given(steps(), st.floats(0.05, 6))
def test_the_shortest_step_in_a_box_is_cvxpys(case, need):
    cp = pytest.importorskip("cvxpy")
    row, lower, upper, p = case
    length, step = least_step(row, torch.full((1, 1), need, dtype=torch.float64), lower, upper, p)
    eta = step[0, 0]
    assert bool(((eta >= lower[0]) & (eta <= upper[0])).all())
    most = torch.where(row == 0, 0.0, row.abs() * torch.where(row > 0, -lower, upper)).sum()
    assert bool(length.isfinite()) == (float(most) >= need * (1 - 1e-12))
    if float(length) == INF:
        return
    assert float(row[0, 0] @ eta) == pytest.approx(-need, rel=1e-9)
    assert float(norm(eta[None], p)) == pytest.approx(float(length), rel=1e-7)
    variable = cp.Variable(row.shape[-1])
    limits = [row.numpy()[0, 0] @ variable <= -need * (1 - 1e-9), *box(variable, lower, upper)]
    assert float(length) == pytest.approx(cp.Problem(cp.Minimize(cp.norm(variable, p)), limits).solve(), rel=1e-4)


def box(variable, lower, upper):
    for i, (a, b) in enumerate(zip(lower[0].tolist(), upper[0].tolist())):
        if a > -INF:
            yield variable[i] >= a
        if b < INF:
            yield variable[i] <= b


@given(steps(), st.sampled_from([1.5, 3.0, 7.5]), st.floats(0.01, 3), st.integers(0, 1000))
def test_points_drawn_into_a_ball_of_real_p_lie_inside_and_stay(case, p, radius, seed):
    _, lower, upper, _ = case
    lower, upper = lower.float(), upper.float()
    center = torch.zeros_like(lower)
    region = Region(lower, upper).within(Ball(center, torch.tensor([radius]), p))
    z = torch.from_numpy(np.random.default_rng(seed).normal(0, 3, lower.shape)).float()
    inside = project_into(region, z)
    assert bool(region.contains(inside).all())
    assert torch.equal(project_into(region, inside), inside)
    assert torch.equal(project_into(region, center), center)


def test_gradients_of_any_size_and_zero_gradients():
    box_ = torch.full((1, 2), INF)
    for scale in (1e-30, 1.0, 1e30):
        for p in (1.0, 1.5, 2.0, 3.0, INF):
            row = scale * torch.tensor([[[3.0, -4.0]]])
            step = best_step(row, torch.tensor([2.0]), -box_, box_, p)[1]
            assert torch.allclose(norm(step[0], p), torch.tensor([2.0])), (scale, p)
    zero = torch.zeros(1, 1, 2)
    for p in (1.0, 1.5, 2.0, INF):
        assert not best_step(zero, torch.tensor([2.0]), -box_, box_, p)[1].any()
        length, step = least_step(zero, torch.ones(1, 1), -box_, box_, p)
        assert float(length) == INF and not step.any()


def test_weights_of_the_dual_norm():
    row, weights = torch.tensor([[2.0, 3.0]]), torch.tensor([[2.0, 0.0]])
    assert float(norm_of(2).dual_value(row, weights)) == INF
    assert float(norm_of(INF).dual_value(row * torch.tensor([[1.0, 0.0]]), weights)) == 1.0
