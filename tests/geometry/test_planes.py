"""Projections onto box and linear conditions: against an independent solver, and on points of a narrow dtype."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize

from clinch.geometry.planes import Planes
from clinch.geometry.projection import project_into
from clinch.geometry.region import Ball, Region


def drawn(seed: int, size: int, count: int, problems: int) -> tuple[Planes, torch.Tensor, torch.Tensor]:
    """Conditions that a point of the unit box meets, equalities and others, that point, and one to project."""
    g = torch.Generator().manual_seed(seed)
    rows = torch.randn(problems, count, size, generator=g, dtype=torch.float64)
    inner = torch.rand(problems, size, generator=g, dtype=torch.float64)
    sums, kind = (rows @ inner.unsqueeze(2)).squeeze(2), torch.randint(0, 3, (problems, count), generator=g)
    lower = torch.where(kind == 2, -torch.inf, sums)
    upper = torch.where(kind == 1, sums + 0.1, sums)
    return Planes(rows, lower, upper), inner, 2 * torch.randn(problems, size, generator=g, dtype=torch.float64)


@given(st.integers(0, 10**6), st.integers(3, 9), st.integers(1, 3))
def test_no_point_is_nearer(seed, size, count):
    planes, _, z = drawn(seed, size, count, problems=1)
    box = torch.zeros_like(z), torch.ones_like(z)
    found = planes.project(z, *box)
    assert float(planes.excess(found).abs().max()) < 1e-9 and bool(((found >= 0) & (found <= 1)).all())
    # nothing of the set lies further in the direction of z: a linear program says so
    way, a = (z - found)[0].numpy(), planes.rows[0].numpy()
    rows, limits = np.vstack([a, -a]), np.hstack([planes.upper[0].numpy(), -planes.lower[0].numpy()])
    known = np.isfinite(limits)
    most = optimize.linprog(-way, rows[known], limits[known] + 1e-9, bounds=[(0, 1)] * size)
    assert most.status == 0 and -most.fun <= way @ found[0].numpy() + 1e-6
    assert torch.equal(planes.project(found, *box), found)


@pytest.mark.parametrize("p", [0.0, 1.0, 2.0])
def test_with_a_ball_points_lie_in_all_three(p):
    planes, inner, z = drawn(1, 8, 2, problems=5)
    radius = torch.full((5,), 3.0 if p == 0 else 0.4, dtype=torch.float64)
    region = Region(torch.zeros_like(z), torch.ones_like(z), (Ball(inner, radius, p),), planes)
    found = project_into(region, z)
    assert bool((found >= 0).all() and (found <= 1).all())
    if p:
        assert bool(region.contains(found).all())
    else:  # three elements may not do for two rows and a box
        assert bool(((found != inner).sum(1) <= 3).all())


def test_a_euclidean_ball_is_exact():
    planes = Planes(torch.ones(1, 1, 3).double(), torch.ones(1, 1).double(), torch.ones(1, 1).double())
    center = torch.tensor([[0.5, 0.3, 0.2]]).double()
    ball = Ball(center, torch.tensor([0.1]).double(), 2.0)
    region = Region(torch.zeros(1, 3).double(), torch.ones(1, 3).double(), (ball,), planes)
    toward = torch.tensor([[2.0, -1.0, -1.0]]).double()
    found = project_into(region, center + 5 * toward + 3.0)
    assert torch.allclose(found, center + 0.1 * toward / toward.norm(), atol=1e-4)


@pytest.mark.parametrize(("q", "taken"), [(1.0, 2.0), (2.0, 4.0), (torch.inf, 5.5)])
def test_the_gradient_of_an_equal_sum_loses_median_mean_or_middle(q, taken):
    g = torch.tensor([[0.0, 1.0, 2.0, 6.0, 11.0]])
    ones = Planes(torch.ones(1, 1, 5).double(), torch.ones(1, 1).double(), torch.ones(1, 1).double())
    found = ones.tangent(g, q)
    assert float((g - found).amax() - (g - found).amin()) < 1e-5
    assert abs(float((g - found)[0, 0]) - taken) < 0.4


@given(st.integers(0, 10**6))
def test_rounded_points_are_moved_back(seed):
    planes, inner, _ = drawn(seed, 40, 2, problems=4)
    wide = Planes(planes.rows, planes.lower - 1e-7, planes.upper + 1e-7)
    x = planes.project(inner, torch.zeros_like(inner), torch.ones_like(inner)).float()
    low, high = torch.zeros(1, 40), torch.ones(1, 40)
    settled = wide.settled(x, low, high, x + 0.5, False)
    assert float(wide.excess(settled).abs().max()) == 0 and float((settled - x).abs().max()) < 1e-4


def test_shared_rows_and_units():
    sums = torch.tensor([[1.0], [2.0]]).double()
    planes, box = Planes(torch.ones(1, 1, 2).double(), sums, sums), (torch.zeros(2, 2), torch.full((2, 2), 3.0))
    assert torch.allclose(planes.project(torch.zeros(2, 2), *box).sum(1), torch.tensor([1.0, 2.0]))
    assert planes.scaled(torch.tensor([2.0, 4.0])).sums(torch.ones(2, 2)).flatten().tolist() == [4.0, 8.0]
    assert planes.take(torch.tensor([1, 1])).upper.flatten().tolist() == [2.0, 2.0]
