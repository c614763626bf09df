"""Minima over box ∩ half-spaces: never above the linear program's, and near it."""

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from clinch.geometry.tied_minimum import tied_minimum


def problem(seed, count, n, conditions):
    rng = torch.Generator().manual_seed(seed)
    rows, at = (torch.randn(count, n, generator=rng, dtype=torch.float64) for _ in range(2))
    lower, upper = at - torch.rand(count, n, generator=rng).double(), at + torch.rand(count, n, generator=rng).double()
    sides = torch.randn(count, conditions, n, generator=rng, dtype=torch.float64)
    sides[torch.rand(sides.shape, generator=rng) < 0.3] = 0.0
    inside = lower + torch.rand(count, n, generator=rng).double() * (upper - lower)
    limits = -(sides @ inside.unsqueeze(2)).squeeze(2) - 0.1
    return rows, torch.randn(count, generator=rng, dtype=torch.float64), sides, limits, lower, upper


def optimum(rows, offset, sides, limits, lower, upper):
    box = np.stack([lower.numpy(), upper.numpy()], 1)
    return linprog(rows.numpy(), A_ub=sides.numpy(), b_ub=-limits.numpy(), bounds=box).fun + float(offset)


@pytest.mark.parametrize(("n", "conditions"), [(2, 1), (5, 1), (4, 3), (6, 8)])
def test_it_is_a_lower_limit_and_one_condition_is_exact(n, conditions):
    given = problem(n, 12, n, conditions)
    found = tied_minimum(*given)
    best = torch.tensor([optimum(*(t[k] for t in given)) for k in range(12)], dtype=torch.float64)
    alone = tied_minimum(given[0], given[1], given[2][:, :0], given[3][:, :0], *given[4:]).least
    assert bool((found.least <= best + 1e-9).all())
    assert bool((found.least >= alone - 1e-12).all())
    if conditions == 1:
        assert torch.allclose(found.least, best, atol=1e-9)
    else:
        assert float(((found.least - alone) / (best - alone).clamp(min=1e-9)).median()) > 0.5


def test_rows_are_below_the_form_where_the_conditions_hold():
    rows, offset, sides, limits, lower, upper = problem(3, 6, 4, 5)
    found = tied_minimum(rows, offset, sides, limits, lower, upper)
    share = torch.rand(500, 6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = lower + share * (upper - lower)
    met = (torch.einsum("dkn,sdn->sdk", sides, x) + limits <= 0).all(2)
    form, below = (rows * x).sum(2) + offset, (found.rows * x).sum(2) + found.offset
    assert bool(met.any())
    assert bool((below <= form + 1e-9)[met].all())


def test_contradictory_conditions_lift_the_minimum_or_leave_it():
    box = torch.zeros(1, 2, dtype=torch.float64), torch.ones(1, 2, dtype=torch.float64)
    sides = torch.tensor([[[1.0, 1.0], [-1.0, -1.0]]], dtype=torch.float64)
    limits = torch.tensor([[-0.5, 1.5]], dtype=torch.float64)  # the sum is at most .5 and at least 1.5
    found = tied_minimum(sides[:, 0], limits[:, 0], sides, limits, *box)
    assert float(found.least) > 0.9
