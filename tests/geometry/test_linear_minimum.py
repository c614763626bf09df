import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings

from clinch.geometry.knapsack import fill
from clinch.geometry.linear_minimum import linear_minimum, minimum_over
from clinch.geometry.region import Ball, Region

sys.path.insert(0, str(Path(__file__).parent))
from geometry_cases import Case, cases, linear_program, slsqp, supports

INF = math.inf


def solve(case: Case):
    rows, lower, upper, center, radius, weights = case.tensors()
    value, point = linear_minimum(rows, lower, upper, Ball(center, radius, case.p, weights))
    return float(value), point[0, 0].numpy()


def box_minimum(row, lower, upper):
    corner = np.where(row > 0, lower, np.where(row < 0, upper, 0))
    return float(np.where(row == 0, 0.0, row * corner).sum())


def weighted_norm(case: Case, x):
    moved = np.where(case.scale == 0, 0, (x - case.center) * case.scale)
    return float(np.linalg.norm(moved, case.p)) if case.p else float((case.scale * (x != case.center)).sum())


def reference(case: Case):
    """Independent minimum, infinity where nothing is feasible."""
    if case.p == 0:
        found = [box_minimum(case.row, a, b) for size, a, b in supports(case) if size <= case.radius + 1e-12]
        return min(found, default=INF)
    if case.p == 2:
        base = np.clip(case.center, case.lower, case.upper)
        gap = weighted_norm(case, base) - case.radius
        assume(abs(gap) > 1e-3)  # SLSQP cannot tell a touching ball from a missed one
        if gap > 0:
            return INF
        free = (case.scale == 0) & (case.row != 0)
        assume(np.isfinite(np.where(case.row > 0, case.lower, case.upper)[free]).all())
        w2 = case.scale**2
        inside = {
            "type": "ineq",
            "fun": lambda x: case.radius**2 - (w2 * (x - case.center) ** 2).sum(),
            "jac": lambda x: -2 * w2 * (x - case.center),
        }
        # the ball bounds every element it counts; SLSQP gets lost in a box of thousands of radii
        reach = np.where(case.scale > 0, case.radius / np.where(case.scale > 0, case.scale, 1), INF)
        lower, upper = np.maximum(case.lower, case.center - reach), np.minimum(case.upper, case.center + reach)
        best = slsqp(lambda x: float(case.row @ x), lambda x: case.row, inside, replace(case, lower=lower, upper=upper))
        assume(best is not None)
        return best
    run = linear_program(case, case.row, 0.0, case.radius, False)
    return run.fun if run.status == 0 else INF


@settings(max_examples=100, deadline=None)
@given(cases())
def test_equals_an_independent_solver(case):
    expected = reference(case)
    value, point = solve(case)
    if expected == INF:
        assert value == INF
    elif expected < -1e3:
        assert value <= expected * (1 - 1e-6)
    else:
        assert value == pytest.approx(expected, abs=2e-5 * (1 + abs(case.row).sum()))
    if math.isfinite(value):
        assert (point >= case.lower - 1e-12).all() and (point <= case.upper + 1e-12).all()
        assert weighted_norm(case, point) <= case.radius * (1 + 1e-9) + 1e-9
        assert value <= case.row @ point + 1e-9 * (1 + abs(case.row @ point))
        assert value == pytest.approx(case.row @ point, rel=1e-8, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(cases())
def test_no_feasible_point_does_better(case):
    value, _ = solve(case)
    assume(value < INF)
    random = np.random.default_rng(0)
    low, high = np.clip(case.lower, -50, 50), np.clip(case.upper, -50, 50)
    x = random.uniform(low, high, (200, len(case.row)))
    base = np.clip(case.center, case.lower, case.upper)
    for share in (1.0, 0.3, 0.01):
        for point in base + share * (x - base):
            if weighted_norm(case, point) <= case.radius:
                assert case.row @ point >= value - 1e-9 * (1 + abs(value))


@pytest.mark.parametrize("p", [0.0, 1.0, 2.0, INF])
def test_gradient_is_the_minimiser(p):
    generator = torch.Generator().manual_seed(3)
    rows = torch.randn(2, 3, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    center = torch.rand(2, 6, generator=generator, dtype=torch.float64)
    ball = Ball(center, torch.tensor([2.0, 1.0] if p == 0 else [0.7, 0.4], dtype=torch.float64), p)
    box = torch.zeros(2, 6, dtype=torch.float64), torch.ones(2, 6, dtype=torch.float64)
    value, point = linear_minimum(rows, *box, ball)
    (gradient,) = torch.autograd.grad(value.sum(), rows)
    assert torch.equal(gradient, point)
    assert torch.autograd.gradcheck(lambda r: linear_minimum(r, *box, ball)[0], rows)
    assert torch.autograd.gradcheck(lambda r: minimum_over(Region(*box, (ball,)), r), rows)
    assert torch.autograd.gradcheck(lambda r: minimum_over(Region(*box), r), rows)


@pytest.mark.parametrize("p", [0.0, 1.0, 2.0, INF])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_blocks_give_what_single_rows_give(p, dtype, monkeypatch):
    generator = torch.Generator().manual_seed(4)
    rows = torch.randn(5, 7, 12, generator=generator, dtype=dtype)
    lower, upper = torch.zeros(5, 12, dtype=dtype), torch.ones(5, 12, dtype=dtype)
    ball = Ball(torch.rand(5, 12, generator=generator, dtype=dtype), torch.full((5,), 2.0, dtype=dtype), p)
    whole = linear_minimum(rows, lower, upper, ball)
    for block in (1, 30, 100):
        monkeypatch.setattr("clinch.geometry.linear_minimum.BLOCK", block)
        parts = linear_minimum(rows, lower, upper, ball)
        assert parts[0].dtype == dtype
        for a, b in zip(whole, parts):
            assert torch.allclose(a, b, rtol=1e-5 if dtype == torch.float32 else 1e-12, atol=1e-6)


def test_zero_times_infinity_is_zero():
    rows = torch.tensor([[[0.0, 1.0]]])
    lower, upper = torch.tensor([[-INF, 0.5]]), torch.tensor([[INF, INF]])
    assert linear_minimum(rows, lower, upper)[0].item() == 0.5
    assert minimum_over(Region(lower, upper), rows).item() == 0.5
    assert linear_minimum(-rows, lower, upper)[0].item() == -INF
    for p in (0.0, 1.0, 2.0):
        ball = Ball(torch.zeros(1, 2), torch.tensor([2.0]), p, torch.tensor([[0.0, 1.0]]))
        assert linear_minimum(rows, lower, upper, ball)[0].item() == pytest.approx(0.5)


def test_infinite_radius_is_the_box_alone():
    generator = torch.Generator().manual_seed(5)
    rows = torch.randn(1, 4, 6, generator=generator)
    lower, upper = torch.zeros(1, 6), torch.ones(1, 6)
    alone = linear_minimum(rows, lower, upper)[0]
    for p in (0.0, 1.0, 2.0, INF):
        ball = Ball(torch.full((1, 6), 0.3), torch.tensor([INF]), p)
        assert torch.allclose(linear_minimum(rows, lower, upper, ball)[0], alone)


def test_several_balls_take_the_best_bound():
    rows = torch.tensor([[[1.0, 1.0]]])
    zero, one = torch.zeros(1, 2), torch.tensor([1.0])
    balls = Ball(zero, one, 1.0), Ball(zero, one * 5, 2.0)
    value = minimum_over(Region(zero - 10, zero + 10, balls), rows)
    assert value.item() == pytest.approx(-1.0)


def test_rows_shared_by_all_problems_stay_a_view():
    generator = torch.Generator().manual_seed(6)
    rows = torch.randn(1, 4, 6, generator=generator).expand(3, -1, -1)
    lower = -torch.rand(3, 6, generator=generator)
    upper = torch.rand(3, 6, generator=generator)
    assert torch.allclose(minimum_over(Region(lower, upper), rows), linear_minimum(rows, lower, upper)[0], atol=1e-6)


def test_unequal_counting_weights_give_a_lower_bound():
    random = np.random.default_rng(1)
    for _ in range(30):
        case = Case(
            random.normal(size=4), 0.0, np.full(4, -1.0), np.ones(4), np.zeros(4), 1.5, 0.0, random.uniform(0.3, 1, 4)
        )
        assert solve(case)[0] <= reference(case) + 1e-12


def test_nan_rows_end_and_stay_nan():
    rows = torch.full((1, 1, 3), torch.nan)
    for p in (0.0, 1.0, 2.0, INF):
        ball = Ball(torch.zeros(1, 3), torch.ones(1), p)
        assert linear_minimum(rows, -torch.ones(1, 3), torch.ones(1, 3), ball)[0].isnan().all() or p == 0


def test_fill_spends_the_budget_in_order():
    spent = fill(torch.tensor([[1.0, 3.0, 2.0]]), torch.tensor([[5.0, 1.0, 2.0]]), torch.tensor([2.5]))
    assert spent.tolist() == [[0.0, 1.0, 1.5]]
    many = fill(torch.rand(2, 500), torch.ones(2, 500), torch.tensor([300.0, 2.0]))
    assert many.sum(1).tolist() == [300.0, 2.0]
