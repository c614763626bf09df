import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings

from clinch.geometry.halfspace import halfspace_distance

sys.path.insert(0, str(Path(__file__).parent))
from geometry_cases import Case, cases, linear_program, slsqp, supports

INF = math.inf


def solve(case: Case):
    rows, lower, upper, center, _, weights = case.tensors()
    constant = torch.tensor([[case.constant]], dtype=torch.float64)
    found = halfspace_distance(rows, constant, lower, upper, center, case.p, weights)
    return float(found.distance), found.point[0, 0].numpy(), float(found.multiplier)


def weighted_norm(case: Case, x):
    moved = np.where(case.scale == 0, 0, (x - case.center) * case.scale)
    return float(np.linalg.norm(moved, case.p)) if case.p else float((case.scale * (x != case.center)).sum())


def least(case: Case) -> float:
    corner = np.where(case.row > 0, case.lower, np.where(case.row < 0, case.upper, 0))
    return float(np.where(case.row == 0, 0.0, case.row * corner).sum()) + case.constant


def reference(case: Case) -> float:
    if case.p == 0:
        found = []
        for size, a, b in supports(case):
            corner = np.where(case.row > 0, a, np.where(case.row < 0, b, 0))
            if np.where(case.row == 0, 0.0, case.row * corner).sum() + case.constant <= 0:
                found.append(size)
        return min(found, default=INF)
    if case.p == 2:
        w2 = case.scale**2
        behind = {
            "type": "ineq",
            "fun": lambda x: -(case.row @ x + case.constant),
            "jac": lambda x: -case.row,
        }
        best = slsqp(
            lambda x: float((w2 * (x - case.center) ** 2).sum()), lambda x: 2 * w2 * (x - case.center), behind, case
        )
        assume(best is not None)
        return math.sqrt(best)
    run = linear_program(case, np.zeros_like(case.row), 1.0, None, True)
    return run.fun if run.status == 0 else INF


@settings(max_examples=100, deadline=None)
@given(cases())
def test_equals_an_independent_solver(case):
    margin = least(case)
    assume(abs(margin) > 1e-6)
    distance, point, multiplier = solve(case)
    if margin > 0:
        assert distance == INF
        return
    assert multiplier >= 0
    expected = reference(case)
    tolerance = {0.0: 1e-9, 2.0: 1e-4}.get(case.p, 1e-6)
    assert distance == pytest.approx(expected, abs=tolerance, rel=tolerance)
    assert (point >= case.lower - 1e-9).all() and (point <= case.upper + 1e-9).all()
    assert case.row @ point + case.constant <= 1e-8 * (1 + abs(case.row * point).sum())
    assert weighted_norm(case, point) == pytest.approx(distance, rel=1e-7, abs=1e-7)


@settings(max_examples=80, deadline=None)
@given(cases(norms=(1.0, 2.0, INF), infinite=False))
def test_the_multiplier_proves_the_distance(case):
    """The Lagrangian at the multiplier is minimised over the box by an independent solver and gives the distance."""
    assume(least(case) < -1e-6)
    distance, _, t = solve(case)
    if case.p == 2:
        w2 = case.scale**2
        towards = np.where(w2 > 0, case.center - t * case.row / np.where(w2 > 0, w2, 1), 0)
        corner = np.where(case.row > 0, case.lower, case.upper)
        x = np.where(w2 > 0, np.clip(towards, case.lower, case.upper), corner)
        dual = 0.5 * (w2 * (x - case.center) ** 2).sum() + t * (case.row @ x + case.constant)
        assert dual == pytest.approx(0.5 * distance**2, rel=1e-6, abs=1e-9)
    else:
        run = linear_program(case, t * case.row, 1.0, None, False)
        assert run.fun + t * case.constant == pytest.approx(distance, rel=1e-6, abs=1e-7)


@settings(max_examples=60, deadline=None)
@given(cases())
def test_satisfied_inequality_costs_only_the_way_to_the_box(case):
    case.row = np.zeros_like(case.row)
    case.constant = -1.0
    distance, point, multiplier = solve(case)
    assert multiplier == 0
    assert np.allclose(point, np.clip(case.center, case.lower, case.upper))
    assert distance == pytest.approx(weighted_norm(case, point))
    case.constant = 1.0
    assert solve(case)[0] == INF


@pytest.mark.parametrize("p", [1.0, 2.0, INF])
def test_gradients(p):
    generator = torch.Generator().manual_seed(2)
    rows = torch.randn(2, 3, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    constant = 1 + torch.rand(2, 3, generator=generator, dtype=torch.float64)
    constant.requires_grad_()
    box = torch.full((2, 5), -0.5, dtype=torch.float64), torch.full((2, 5), 3.0, dtype=torch.float64)
    center = torch.zeros(2, 5, dtype=torch.float64)

    def distance(r, c):
        return halfspace_distance(r, c, *box, center, p).distance

    assert distance(rows, constant).isfinite().all()
    assert torch.autograd.gradcheck(distance, (rows, constant))


def test_batched_shapes_and_dtype():
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(4, 6, generator=generator)
    center = torch.rand(4, 6, generator=generator)
    constant = 0.3 - (rows * center).sum(1)
    for p in (0.0, 1.0, 2.0, INF):
        one = halfspace_distance(rows, constant, torch.zeros(4, 6), torch.ones(4, 6), center, p)
        three = rows[:, None].expand(-1, 3, -1), constant[:, None].expand(-1, 3)
        many = halfspace_distance(*three, torch.zeros(4, 6), torch.ones(4, 6), center, p)
        assert one.distance.shape == (4,) and one.point.shape == (4, 6) and one.point.dtype == torch.float32
        assert many.distance.shape == (4, 3) and torch.equal(many.point[:, 1], one.point)


def test_counting_with_unequal_weights_is_a_lower_bound():
    random = np.random.default_rng(2)
    for _ in range(30):
        weights = random.uniform(0.3, 1, 4)
        case = Case(random.normal(size=4), 1.0, np.full(4, -1.0), np.ones(4), np.zeros(4), 0.0, 0.0, weights)
        if least(case) < 0:
            distance, point, _ = solve(case)
            assert distance <= reference(case) + 1e-9
            assert case.row @ point + case.constant <= 1e-9


def test_unbounded_box_is_the_closed_form():
    generator = torch.Generator().manual_seed(7)
    rows = torch.randn(3, 8, generator=generator, dtype=torch.float64)
    center = torch.randn(3, 8, generator=generator, dtype=torch.float64)
    constant = 2 - (rows * center).sum(1)
    free = torch.full((3, 8), INF, dtype=torch.float64)
    for p, q in ((1.0, INF), (2.0, 2.0), (INF, 1.0)):
        distance = halfspace_distance(rows, constant, -free, free, center, p).distance
        assert torch.allclose(distance, 2 / torch.linalg.vector_norm(rows, ord=q, dim=1))
    assert (halfspace_distance(rows, constant, -free, free, center, 0.0).distance == 1).all()
