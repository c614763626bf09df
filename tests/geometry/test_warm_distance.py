"""The warm-started distance against the general one: a lower bound always, and equal once its steps have settled."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clinch.geometry.halfspace import halfspace_distance
from clinch.geometry.warm_distance import COLD_STEPS, applies, warm_distance


def case(seed: int, count: int = 20, size: int = 6):
    rng = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, size, generator=rng, dtype=torch.float64)
    rows[:, 0] *= (torch.rand(count, generator=rng) < 0.5).double()
    low = -torch.rand(1, size, generator=rng, dtype=torch.float64)
    high = torch.rand(1, size, generator=rng, dtype=torch.float64)
    low[0, 1], high[0, 2] = 0.0, 0.0
    need = 2 * torch.randn(count, generator=rng, dtype=torch.float64)
    # some half-spaces touch the box in a corner only
    corner = torch.where(rows > 0, low, high)
    need[:5] = -(rows * corner).sum(1)[:5]
    return rows, need, low, high, rng


def reference(rows, need, low, high, p):
    zero = torch.zeros_like(rows)
    return halfspace_distance(rows, need, low.expand_as(rows), high.expand_as(rows), zero, p).distance


@pytest.mark.parametrize("p", [2.0, math.inf])
@given(seed=st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_a_cold_start_settles_at_the_distance(p, seed):
    rows, need, low, high, _ = case(seed)
    assert applies(p, low, high)
    found = warm_distance(rows, need, need.abs() * 1e-14, low, high, p, None, COLD_STEPS)
    expected = reference(rows, need, low, high, p)
    assert torch.equal(found.bound == math.inf, expected == math.inf)
    near = torch.isfinite(expected)
    assert torch.allclose(found.bound[near], expected[near], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("p", [2.0, math.inf])
@given(seed=st.integers(0, 2**31), steps=st.integers(1, 3), scale=st.floats(0, 5))
@settings(max_examples=60, deadline=None)
def test_any_start_gives_a_lower_bound_and_a_point_of_the_box(p, seed, steps, scale):
    rows, need, low, high, rng = case(seed)
    start = scale * torch.rand(len(rows), generator=rng, dtype=torch.float64)
    found = warm_distance(rows, need, need.abs() * 1e-14, low, high, p, start, steps)
    assert bool((found.bound <= reference(rows, need, low, high, p) * (1 + 1e-9) + 1e-9).all())
    assert bool(((found.delta >= low) & (found.delta <= high)).all())
    again = warm_distance(rows, need, need.abs() * 1e-14, low, high, p, found.start, 20)
    expected = reference(rows, need, low, high, p)
    near = torch.isfinite(expected)
    assert torch.allclose(again.bound[near], expected[near], rtol=1e-5, atol=1e-7)


def test_it_declines_what_it_cannot_do():
    box = torch.ones(1, 2, dtype=torch.float64)
    assert not applies(1.0, -box, box)
    assert not applies(2.0, -box * math.inf, box)
    assert not applies(2.0, 0.5 * box, box)
